//! Events of several categories, for decision models.

use indelible_core::{Codec, Event, RecordedEvent, codec::Json};
use serde::{Deserialize, Serialize};

use crate::{CODECS, record};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum CourseEvent {
    Opened {
        #[event(tag)]
        course: String,
    },
    #[event(name = "closed", version = 2, upcast(from = 1, with = same), codec = json)]
    Closed,
}

fn same(value: serde_json::Value) -> serde_json::Value {
    value
}

/// With a stored name that courses have too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(codec = bincode)]
enum StudentEvent {
    Opened { name: String },
}

#[derive(Clone, Debug, PartialEq, Event)]
enum EnrolmentEvent {
    #[event(category = "course")]
    Course(CourseEvent),
    #[event(category = "student")]
    Student(StudentEvent),
}

fn in_stream(stream: &str, event: &impl Event, codec: &dyn Codec) -> RecordedEvent {
    let mut recorded = record(event, codec);
    recorded.stream = stream.parse().unwrap();
    recorded
}

#[test]
fn shapes_carry_their_category() {
    let shapes = EnrolmentEvent::shapes();
    let shapes: Vec<_> = shapes
        .iter()
        .map(|s| (s.category.as_ref().unwrap().as_str(), s.name, s.schema_version, s.codec.map(|c| c.content_type())))
        .map(|(category, name, version, codec)| (category, name, version, codec.map(|name| name.to_string())))
        .collect();
    let (json, bincode) = (Some("application/json".to_owned()), Some("application/x-bincode".to_owned()));
    assert_eq!(
        shapes,
        [("course", "Opened", 1, None), ("course", "closed", 2, json), ("student", "Opened", 1, bincode)]
    );
}

#[test]
fn everything_is_that_of_the_wrapped_event() {
    let opened = CourseEvent::Opened { course: "c1".into() };
    let wrapped = EnrolmentEvent::Course(opened.clone());
    assert_eq!(wrapped.tags(), opened.tags());
    assert_eq!(wrapped.tags().unwrap()[0].as_str(), "course:c1");
    assert_eq!(wrapped.encode(&Json).unwrap(), opened.encode(&Json).unwrap());
    let closed = EnrolmentEvent::Course(CourseEvent::Closed);
    assert_eq!((closed.event_type().as_str(), closed.schema_version()), ("closed", 2));
    let codec = EnrolmentEvent::Student(StudentEvent::Opened { name: "ada".into() }).codec().unwrap();
    assert_eq!(codec.content_type().as_str(), "application/x-bincode");
}

#[test]
fn the_category_of_the_stream_tells_the_variant() {
    let course = CourseEvent::Opened { course: "same".into() };
    let student = StudentEvent::Opened { name: "same".into() };
    for codec in CODECS {
        let decoded: EnrolmentEvent = in_stream("course-1", &course, codec).decode().unwrap();
        assert_eq!(decoded, EnrolmentEvent::Course(course.clone()));
        let decoded: EnrolmentEvent = in_stream("student-course-1", &student, codec).decode().unwrap();
        assert_eq!(decoded, EnrolmentEvent::Student(student.clone()));
    }
}

#[test]
fn other_categories_are_unknown() {
    let error = in_stream("courses-1", &CourseEvent::Closed, &Json).decode::<EnrolmentEvent>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode closed (schema version 2) at version 7 of courses-1: the type is unknown here; \
         known are course.Opened, course.closed, student.Opened"
    );
    let error = in_stream("student-1", &CourseEvent::Closed, &Json).decode::<EnrolmentEvent>().unwrap_err();
    assert!(error.to_string().ends_with("known are Opened"), "{error}");
}
