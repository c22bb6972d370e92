//! Enums over several categories.

use indelible_core::Event;

#[derive(Clone, Event)]
enum Mixed {
    #[event(category = "course")]
    Course(CourseEvent),
    Left,
}

#[derive(Clone, Event)]
enum Fields {
    #[event(category = "course")]
    Course { event: CourseEvent },
}

#[derive(Clone, Event)]
enum Two {
    #[event(category = "course")]
    Course(CourseEvent, u8),
}

#[derive(Clone, Event)]
enum Twice {
    #[event(category = "course")]
    Course(CourseEvent),
    #[event(category = "course")]
    Other(CourseEvent),
}

#[derive(Clone, Event)]
enum Dash {
    #[event(category = "night-course")]
    Course(CourseEvent),
}

#[derive(Clone, Event)]
enum OwnName {
    #[event(category = "course", name = "Course")]
    Course(CourseEvent),
}

#[derive(Clone, Event)]
#[event(codec = json)]
enum OwnCodec {
    #[event(category = "course")]
    Course(CourseEvent),
}

#[derive(Clone, Event)]
enum OwnTag {
    #[event(category = "course")]
    Course(#[event(tag = "course")] CourseEvent),
}

fn main() {}
