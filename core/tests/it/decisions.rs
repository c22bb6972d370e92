//! Decisions that no expected version can make: rules over events of many streams.

use std::collections::HashMap;

use futures::{TryStreamExt, future::join_all};
use indelible_core::{
    Aggregate, Apply, CommandContext, CommandError, Decide, DecisionModel, Event, EventStoreExt, Executor,
    InvalidInput, Query, QueryItem, ReadLog, Tag, Writes, store::memory::MemoryStore, testing::given_log,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum CourseEvent {
    Planned {
        #[event(tag)]
        course: String,
        seats: usize,
    },
    Enrolled {
        #[event(tag)]
        course: String,
        #[event(tag)]
        student: String,
    },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "course")]
struct Course {}
impl Apply for Course {
    type Event = CourseEvent;
    fn apply(&mut self, _: &CourseEvent) {}
}

/// A course has a number of seats AND a student takes at most five courses.
#[derive(Clone, Debug)]
struct Enrolment {
    course: String,
    student: String,
    seats: usize,
    taken: usize,
    courses: usize,
}

impl Enrolment {
    fn of(student: impl Into<String>, course: impl Into<String>) -> Self {
        Self { course: course.into(), student: student.into(), seats: 0, taken: 0, courses: 0 }
    }
}

impl Apply for Enrolment {
    type Event = CourseEvent;
    fn apply(&mut self, event: &CourseEvent) {
        match event {
            CourseEvent::Planned { seats, .. } => self.seats = *seats,
            CourseEvent::Enrolled { course, student } => {
                self.taken += usize::from(*course == self.course);
                self.courses += usize::from(*student == self.student);
            }
        }
    }
}

impl DecisionModel for Enrolment {
    fn query(&self) -> Result<Query, InvalidInput> {
        let enrolled = || [CourseEvent::ENROLLED.of::<Course>()];
        Ok(Query::new([
            QueryItem::tags([Tag::of("course", &self.course)?]),
            QueryItem::types(enrolled()).and_tag(Tag::of("student", &self.student)?),
        ]))
    }
}

struct Enrol;
struct Plan {
    seats: usize,
}

#[derive(Debug, PartialEq, thiserror::Error)]
enum Refused {
    #[error("no seat is left")]
    Full,
    #[error("five courses are enough")]
    Busy,
}

impl Decide<Plan> for Enrolment {
    type Error = Refused;
    fn decide(&self, plan: &Plan, _: &CommandContext) -> Result<Writes, Refused> {
        let planned = CourseEvent::Planned { course: self.course.clone(), seats: plan.seats };
        Ok(if self.seats == plan.seats { Writes::none() } else { Writes::to::<Course>(&self.course, planned) })
    }
}

impl Decide<Enrol> for Enrolment {
    type Error = Refused;
    fn decide(&self, _: &Enrol, _: &CommandContext) -> Result<Writes, Refused> {
        if self.taken >= self.seats {
            return Err(Refused::Full);
        }
        if self.courses >= 5 {
            return Err(Refused::Busy);
        }
        let (course, student) = (self.course.clone(), self.student.clone());
        Ok(Writes::to::<Course>(&self.course, CourseEvent::Enrolled { course, student }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thirty_seats_and_five_courses_hold_under_a_race() {
    const STUDENTS: usize = 50;
    const COURSES: usize = 6;
    let store = MemoryStore::new();
    let executor = Executor::new(&store);
    for course in 0..COURSES {
        executor.decide(Enrolment::of("", format!("c{course}")), Plan { seats: 30 }).await.unwrap();
    }
    let racers = (0..STUDENTS * COURSES).map(|n| {
        let executor = executor.clone();
        let model = Enrolment::of(format!("s{}", n % STUDENTS), format!("c{}", n / STUDENTS));
        tokio::spawn(async move { executor.decide(model, Enrol).await })
    });
    let (mut enrolled, mut full, mut busy) = (0, 0, 0);
    for outcome in join_all(racers).await {
        match outcome.unwrap() {
            Ok(_) => enrolled += 1,
            Err(CommandError::Rejected(Refused::Full)) => full += 1,
            Err(CommandError::Rejected(Refused::Busy)) => busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let (mut seats, mut courses) = (HashMap::<String, usize>::new(), HashMap::<String, usize>::new());
    let mut log = store.log(ReadLog::matching(Query::types::<Course>([CourseEvent::ENROLLED])));
    while let Some(event) = log.try_next().await.unwrap() {
        let CourseEvent::Enrolled { course, student } = event.decode().unwrap() else { panic!("filtered") };
        *seats.entry(course).or_default() += 1;
        *courses.entry(student).or_default() += 1;
    }
    assert_eq!(enrolled, seats.values().sum::<usize>());
    assert!(seats.values().all(|taken| *taken == 30), "{seats:?}");
    assert!(courses.values().all(|taken| *taken <= 5), "{courses:?}");
    assert_eq!(enrolled + full + busy, STUDENTS * COURSES);
}

#[tokio::test]
async fn a_model_sees_what_its_transaction_wrote() {
    let executor = Executor::new(&MemoryStore::new());
    let done = executor.transact(|unit| async move {
        unit.decide(Enrolment::of("", "c"), Plan { seats: 1 }).await?;
        unit.decide(Enrolment::of("ada", "c"), Enrol).await?;
        match unit.decide(Enrolment::of("bob", "c"), Enrol).await {
            Err(CommandError::Rejected(Refused::Full)) => Ok(()),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(done.await.unwrap().events().len(), 2);
}

#[tokio::test]
async fn a_decision_that_writes_nothing_says_how_far_it_looked() {
    let executor = Executor::new(&MemoryStore::new());
    let planned = executor.decide(Enrolment::of("", "c"), Plan { seats: 1 }).await.unwrap();
    let unchanged = executor.decide(Enrolment::of("", "c"), Plan { seats: 1 }).await.unwrap();
    assert!(unchanged.is_unchanged());
    assert_eq!(unchanged.token(), planned.token());
}

#[test]
fn the_kit_knows_decision_models() {
    let planned = || {
        let planned = CourseEvent::Planned { course: "c".into(), seats: 1 };
        Writes::to::<Course>("c", planned)
    };
    let enrolled = |student: &str| CourseEvent::Enrolled { course: "c".into(), student: student.into() };
    let ada = || Enrolment::of("ada", "c");
    given_log(planned()).when(ada(), Enrol).then(Writes::to::<Course>("c", enrolled("ada")));
    // What the query doesn't find is not seen: a full course elsewhere.
    let elsewhere = CourseEvent::Enrolled { course: "d".into(), student: "bob".into() };
    given_log(planned().and::<Course>("d", elsewhere))
        .when(ada(), Enrol)
        .then(Writes::to::<Course>("c", enrolled("ada")));
    given_log(planned().and::<Course>("c", enrolled("bob"))).when(ada(), Enrol).then_rejected(Refused::Full);
}
