//! L2: expected versions and consistency conditions, alone and racing.

use tokio::task;

use super::{Harness, fixture::*};
use crate::{
    AnyStore, Append, AppendOutcome, Condition, ExpectedVersion, FailedCondition, Position, Query, QueryItem, ReadLog,
    Version,
};

fn version_failed(name: &str, expected: ExpectedVersion, actual: u64) -> FailedCondition {
    FailedCondition::Version { stream: stream(name), expected, actual: Version::new(actual) }
}

fn query_failed(index: usize, position: u64) -> FailedCondition {
    FailedCondition::Query { index, position: Position::new(position) }
}

/// Each way of expecting a version, of a stream that is not there and of one that is.
pub(super) async fn l2_expected_versions_are_kept(h: &mut dyn Harness) {
    use ExpectedVersion::{Any, Exists, NoStream};
    let store = h.store();
    let table = [(Any, true, true), (NoStream, true, false), (Exists, false, true), (exact(0), true, false)];
    let table = table.into_iter().chain([(exact(3), false, true), (exact(2), false, false), (exact(4), false, false)]);
    for (n, (expected, without, with)) in table.enumerate() {
        for (there, is_met) in [(0, without), (3, with)] {
            let name = format!("account-{n}-{there}");
            if there > 0 {
                write(&store, &name, there).await;
            }
            let append = Append::to(stream(&name), expected, events(2));
            if is_met {
                let versions = versions(&appended(&store, append).await.events);
                assert_eq!(versions, [there as u64 + 1, there as u64 + 2], "{expected:?} at version {there}");
            } else {
                assert_eq!(conflict(&store, append).await, [version_failed(&name, expected, there as u64)]);
                assert_eq!(read_stream(&store, &name).await.len(), there, "{expected:?} at version {there}");
            }
        }
    }
}

/// A stream that an append only checks counts as much, and stays as it is.
pub(super) async fn l2_streams_that_are_only_checked_count(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "bank-1", 2).await;
    let checking = |expected| to("account-1", events(1)).check(stream("bank-1"), expected);
    assert_eq!(conflict(&store, checking(exact(1))).await, [version_failed("bank-1", exact(1), 2)]);
    let no_stream = ExpectedVersion::NoStream;
    assert_eq!(conflict(&store, checking(no_stream)).await, [version_failed("bank-1", no_stream, 2)]);
    appended(&store, checking(exact(2))).await;
    appended(&store, to("account-1", events(1)).check(stream("nowhere-1"), no_stream)).await;
    assert_eq!(store.stream_head(&stream("bank-1")).await.unwrap().version, Version::new(2));
    assert_eq!(store.stream_head(&stream("nowhere-1")).await.unwrap().version, Version::NONE);
}

/// What is expected of a stream is judged before the append, however many events it writes there.
pub(super) async fn l2_an_expected_version_is_that_before_the_append(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "account-1", 1).await;
    let append = Append::new()
        .event(stream("account-1"), event("First"))
        .write(stream("account-2"), ExpectedVersion::NoStream, events(2))
        .event(stream("account-1"), event("Second"))
        .check(stream("account-1"), exact(1));
    assert_eq!(versions(&appended(&store, append).await.events), [2, 1, 2, 3]);
}

/// A conflict names every condition that failed, as the append names them: streams, then queries.
pub(super) async fn l2_every_failed_condition_is_named(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "account-1", 2).await;
    appended(&store, to("account-2", [tagged("Opened", &["owner:ada"])])).await;
    let none = |query| Condition::none_after(query, Position::START);
    let append = Append::new()
        .write(stream("account-2"), exact(5), events(1))
        .check(stream("account-1"), exact(2))
        .check(stream("account-9"), ExpectedVersion::Exists)
        .check(stream("account-1-x"), ExpectedVersion::NoStream)
        .write(stream("account-0"), exact(1), events(1))
        .require(none(with_tags(&["owner:bob"])))
        .require(none(with_tags(&["owner:ada"])))
        .require(none(with_types(&[("account", "Happened")])));
    let expected = [
        version_failed("account-2", exact(5), 1),
        version_failed("account-9", ExpectedVersion::Exists, 0),
        version_failed("account-0", exact(1), 0),
        query_failed(1, 3),
        query_failed(2, 1),
    ];
    assert_eq!(conflict(&store, append).await, expected);
    assert_eq!(head(&store).await.get(), 3, "a conflict writes nothing");
}

/// What a condition's query finds: types, tags, and any of its items; the position named is the first.
pub(super) async fn l2_conditions_find_what_their_query_matches(h: &mut dyn Harness) {
    let store = h.store();
    let log = Append::new()
        .event(stream("course-1"), tagged("Defined", &["course:1"]))
        .event(stream("course-2"), tagged("Defined", &["course:2"]))
        .event(stream("student-1"), tagged("Subscribed", &["course:1", "student:1"]))
        .event(stream("student-2"), tagged("Subscribed", &["course:1", "student:2"]))
        .event(stream("student-1"), event("Defined"));
    appended(&store, log).await;
    let both = |types: &[(&str, &str)], tags: &[&str]| {
        let item = QueryItem::types(types.iter().map(|(category, name)| of_type(category, name)));
        Query::new([tags.iter().fold(item, |item, text| item.and_tag(tag(text)))])
    };
    let table = [
        (with_types(&[("student", "Defined")]), Some(5)),
        (with_types(&[("course", "Subscribed")]), None),
        (with_types(&[("course", "Subscribed"), ("student", "Subscribed")]), Some(3)),
        (with_tags(&["course:2"]), Some(2)),
        (with_tags(&["course:1", "student:2"]), Some(4)),
        (with_tags(&["course:2", "student:2"]), None),
        (with_tags(&["course"]), None),
        (with_tags(&["course:1"]), Some(1)),
        (both(&[("student", "Subscribed")], &["course:1"]), Some(3)),
        (both(&[("course", "Defined")], &["student:1"]), None),
        (with_tags(&["course:9"]).or(with_tags(&["student:2"])).or(with_types(&[("student", "Defined")])), Some(4)),
        (with_tags(&["course:9"]).or(with_tags(&["student:9"])), None),
    ];
    for (n, (query, found)) in table.into_iter().enumerate() {
        let condition = Condition::none_after(query.clone(), Position::START);
        let append = to(&format!("other-{n}"), events(1)).require(condition);
        match found {
            Some(position) => {
                assert_eq!(conflict(&store, append).await, [query_failed(0, position)], "{query:?}");
            }
            None => {
                appended(&store, append).await;
            }
        }
    }
}

/// A condition looks behind `after` only, up to the head.
pub(super) async fn l2_conditions_look_after_a_position(h: &mut dyn Harness) {
    let store = h.store();
    for _ in 0..3 {
        appended(&store, to("seat-1", [tagged("Taken", &["course:1"])])).await;
    }
    let after = |position| {
        let condition = Condition::none_after(with_tags(&["course:1"]), Position::new(position));
        to("seat-2", events(1)).require(condition)
    };
    for position in 0..3 {
        assert_eq!(conflict(&store, after(position)).await, [query_failed(0, position + 1)], "after {position}");
    }
    invalid(&store, after(4)).await;
    assert_eq!(head(&store).await.get(), 3, "a condition beyond the head writes nothing");
    appended(&store, after(3)).await;
}

/// The events of the append that carries a condition don't count for it.
pub(super) async fn l2_an_appends_own_events_dont_count(h: &mut dyn Harness) {
    let store = h.store();
    let claim = || {
        let condition = Condition::none_after(with_tags(&["name:ada"]), Position::START);
        to("user-1", [tagged("Named", &["name:ada"]), tagged("Named", &["name:ada"])]).require(condition)
    };
    appended(&store, claim()).await;
    assert_eq!(conflict(&store, claim()).await, [query_failed(0, 1)]);
}

/// As many items as an append may have, in one condition and in many.
pub(super) async fn l2_all_items_of_a_condition_count(h: &mut dyn Harness) {
    let store = h.store();
    appended(&store, to("a-1", [tagged("Named", &["n:99"])])).await;
    let items: Vec<_> = (0..100).map(|n| QueryItem::tags([tag(&format!("n:{n}"))])).collect();
    let one = to("a-2", events(1)).require(Condition::none_after(Query::new(items.clone()), Position::START));
    assert_eq!(conflict(&store, one).await, [query_failed(0, 1)]);
    let many = items.into_iter().fold(to("a-2", events(1)), |append, item| {
        append.require(Condition::none_after(Query::new([item]), Position::START))
    });
    assert_eq!(conflict(&store, many).await, [query_failed(99, 1)]);
}

/// Writers that race for each version of one stream: it is won once.
pub(super) async fn l2_each_version_is_won_once(h: &mut dyn Harness) {
    const VERSIONS: u64 = 30;
    let handles = [h.store(), h.another().await];
    let won = race(16, |n| {
        let store = handles[n % 2].clone();
        async move {
            let mut won = Vec::new();
            loop {
                let version = store.stream_head(&stream("hot-1")).await.unwrap().version;
                if version.get() >= VERSIONS {
                    return won;
                }
                let append = Append::to(stream("hot-1"), ExpectedVersion::Exact(version), events(1));
                match store.append(append).await.unwrap() {
                    AppendOutcome::Appended(appended) => {
                        assert_eq!(appended.events[0].version, version.plus(1), "another version than expected");
                        won.push(appended.events[0].version.get());
                    }
                    AppendOutcome::Conflict(failed) => match &failed[..] {
                        [FailedCondition::Version { actual, .. }] if *actual > version => task::yield_now().await,
                        other => panic!("lost version {version} for {other:?}"),
                    },
                }
            }
        }
    });
    let mut won = won.await.concat();
    won.sort_unstable();
    assert_eq!(won, (1..=VERSIONS).collect::<Vec<_>>(), "each version is won by one writer");
}

/// Many who find no stream, and one who makes it.
pub(super) async fn l2_a_stream_is_created_once(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    for round in 0..5 {
        let name = format!("user-{round}");
        let created = race(32, |n| {
            let append = Append::to(stream(&name), ExpectedVersion::NoStream, events(1));
            let store = handles[n % 2].clone();
            async move { matches!(store.append(append).await.unwrap(), AppendOutcome::Appended(_)) }
        });
        assert_eq!(created.await.into_iter().filter(|created| *created).count(), 1, "one of 32 creates a stream");
    }
}

/// Many who find a name free, and one who takes it: only the condition stands between them.
pub(super) async fn l2_a_name_is_taken_once(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    for round in 0..5 {
        let name = format!("name:{round}");
        let taken = race(32, |n| {
            let condition = Condition::none_after(with_tags(&[&name]), Position::START);
            let append = to(&format!("user-{round}-{n}"), [tagged("Registered", &[&name])]).require(condition);
            let store = handles[n % 2].clone();
            async move { matches!(store.append(append).await.unwrap(), AppendOutcome::Appended(_)) }
        });
        assert_eq!(taken.await.into_iter().filter(|taken| *taken).count(), 1, "one of 32 takes a name");
    }
}

/// How many events match, and up to where that was looked at.
async fn count(store: &AnyStore, query: &Query) -> (usize, Position) {
    let upto = head(store).await;
    (read(store, ReadLog::matching(query.clone()).to(upto)).await.len(), upto)
}

/// 64 racers for 30 seats, each on a stream of its own.
pub(super) async fn l2_thirty_seats_are_never_thirty_one(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    let course = with_tags(&["course:1"]);
    let seated = race(64, |n| {
        let (store, course) = (handles[n % 2].clone(), course.clone());
        async move {
            loop {
                let (taken, upto) = count(&store, &course).await;
                if taken >= 30 {
                    return false;
                }
                let append = to(&format!("student-{n}"), [tagged("Subscribed", &["course:1"])])
                    .require(Condition::none_after(course.clone(), upto));
                match store.append(append).await.unwrap() {
                    AppendOutcome::Appended(_) => return true,
                    AppendOutcome::Conflict(failed) => match &failed[..] {
                        [FailedCondition::Query { index: 0, position }] if *position > upto => task::yield_now().await,
                        other => panic!("no seat for {other:?}"),
                    },
                }
            }
        }
    });
    let seated = seated.await.into_iter().filter(|seated| *seated).count();
    assert_eq!(seated, 30, "30 seats are taken, no more and no fewer");
    assert_eq!(count(&handles[0], &course).await.0, 30);
}

/// A course has seats AND a student takes at most 5 courses: one event is tagged with both, and no stream's version
/// could guard it.
pub(super) async fn l2_seats_and_courses_are_kept_at_once(h: &mut dyn Harness) {
    const COURSES: usize = 8;
    const STUDENTS: usize = 6;
    const SEATS: usize = 4;
    const COURSES_MAX: usize = 5;
    let handles = [h.store(), h.another().await];
    let course = |c: usize| format!("course:{c}");
    let student = |s: usize| format!("student:{s}");
    let tries = (0..STUDENTS * COURSES).map(|n| (n % STUDENTS, n / STUDENTS)).collect::<Vec<_>>();
    race(tries.len(), |n| {
        let store = handles[n % 2].clone();
        let (course, student) = (course(tries[n].1), student(tries[n].0));
        async move {
            let (of_course, of_student) = (with_tags(&[&course]), with_tags(&[&student]));
            loop {
                let upto = head(&store).await;
                let taken = read(&store, ReadLog::matching(of_course.clone()).to(upto)).await.len();
                let takes = read(&store, ReadLog::matching(of_student.clone()).to(upto)).await.len();
                if taken >= SEATS || takes >= COURSES_MAX {
                    return;
                }
                let append = to(&format!("subscription-{n}"), [tagged("Subscribed", &[&course, &student])])
                    .require(Condition::none_after(of_course.clone().or(of_student.clone()), upto));
                if let AppendOutcome::Appended(_) = store.append(append).await.unwrap() {
                    return;
                }
                task::yield_now().await;
            }
        }
    })
    .await;
    let events = log(&handles[0]).await;
    let tagged = |text: &str| events.iter().filter(|event| event.tags.contains(&tag(text))).count();
    let seats: Vec<_> = (0..COURSES).map(|c| tagged(&course(c))).collect();
    let takes: Vec<_> = (0..STUDENTS).map(|s| tagged(&student(s))).collect();
    assert!(seats.iter().all(|seats| *seats <= SEATS), "courses with {SEATS} seats were sold out to {seats:?}");
    assert!(takes.iter().all(|takes| *takes <= COURSES_MAX), "students take {takes:?} of at most {COURSES_MAX}");
    for (s, c) in tries {
        let both = events.iter().any(|e| e.tags.contains(&tag(&course(c))) && e.tags.contains(&tag(&student(s))));
        let full = seats[c] == SEATS || takes[s] == COURSES_MAX;
        assert!(both || full, "student {s} was refused course {c} with room for both");
    }
}
