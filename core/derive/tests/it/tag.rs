//! Tags from fields.

use std::fmt;

use indelible_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Course(u32);

impl fmt::Display for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum Enrolment {
    Enrolled {
        #[event(tag)]
        course: Course,
        seat: u32,
        #[event(tag = "student")]
        who: String,
    },
    Left(#[event(tag = "course")] Course, u32, #[event(tag = "student")] String),
    Merged {
        #[event(tag = "course")]
        into: Course,
        #[event(tag = "course")]
        from: Vec<Course>,
        #[event(tag)]
        teacher: Option<u64>,
        #[event(tag)]
        r#type: Option<Vec<String>>,
    },
    Ended,
}

#[derive(Clone, Serialize, Deserialize, Event)]
struct Graded(#[event(tag = "course")] Course, u8);

fn tags(event: &impl Event) -> Vec<String> {
    event.tags().unwrap().iter().map(|tag| tag.to_string()).collect()
}

#[test]
fn fields_make_tags() {
    let enrolled = Enrolment::Enrolled { course: Course(1), seat: 7, who: "ada".into() };
    assert_eq!(tags(&enrolled), ["course:c1", "student:ada"]);
    assert_eq!(tags(&Enrolment::Left(Course(2), 9, "ada".into())), ["course:c2", "student:ada"]);
    assert_eq!(tags(&Graded(Course(3), 1)), ["course:c3"]);
    assert!(tags(&Enrolment::Ended).is_empty());
}

#[test]
fn options_and_vectors_make_one_for_each_value() {
    let merged = Enrolment::Merged { into: Course(1), from: vec![], teacher: None, r#type: None };
    assert_eq!(tags(&merged), ["course:c1"]);
    let merged = Enrolment::Merged {
        into: Course(1),
        from: vec![Course(2), Course(3)],
        teacher: Some(4),
        r#type: Some(vec!["a".into(), "b:c".into()]),
    };
    assert_eq!(tags(&merged), ["course:c1", "course:c2", "course:c3", "teacher:4", "type:a", "type:b:c"]);
}

#[test]
fn a_value_that_makes_no_tag_is_an_error() {
    for student in ["line\nbreak".to_owned(), "long".repeat(100)] {
        let error = Enrolment::Left(Course(2), 9, student).tags().unwrap_err();
        assert_eq!(error.what(), "tag");
    }
}
