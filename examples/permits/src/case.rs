//! The domain: a case, and the steps that are taken in it.

use std::collections::{BTreeSet, HashMap};

use indelible::{Aggregate, Apply, Context, Event, Events, Handle, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Something that was done, as the source tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Together with its source, what tells this step from all others.
    pub id: String,
    pub source: String,
    /// What was done. Any text: the activities of a log are its own, and no types of ours.
    pub activity: String,
    /// When it was done; the log's own time is when we heard of it.
    pub occurred_at: Timestamp,
    pub data: Data,
}

/// What else the source says of a step: any JSON, kept as it was written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Data(pub Option<Box<RawValue>>);

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_deref().map(RawValue::get) == other.0.as_deref().map(RawValue::get)
    }
}

impl Step {
    /// Who took it, where its data are an object that says so. A name that is no text stands as it was written.
    pub fn resource(&self) -> Option<String> {
        let fields: HashMap<String, &RawValue> = serde_json::from_str(self.data.0.as_deref()?.get()).ok()?;
        match fields.get("resource")?.get() {
            "null" => None,
            text if text.starts_with('"') => serde_json::from_str(text).ok(),
            other => Some(other.to_owned()),
        }
    }

    /// The day on which it was taken, in UTC.
    pub fn day(&self) -> String {
        let time = self.occurred_at.to_string();
        time.split_once('T').map_or(time.as_str(), |(day, _)| day).to_owned()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum CaseEvent {
    StepTaken(Step),
}

/// What the rules need to know of a case.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "case")]
pub struct Case {
    last: Option<Timestamp>,
    /// Sources and ids of its steps.
    taken: BTreeSet<(String, String)>,
}

impl Apply for Case {
    type Event = CaseEvent;

    fn apply(&mut self, CaseEvent::StepTaken(step): &CaseEvent) {
        self.last = Some(step.occurred_at);
        self.taken.insert((step.source.clone(), step.id.clone()));
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("time runs backwards: the case has come to {last} already, and this is of {this}")]
pub struct Backwards {
    last: Timestamp,
    this: Timestamp,
}

impl Handle<Step> for Case {
    type Error = Backwards;

    fn handle(&self, step: &Step, _: &Context<Self>) -> Result<Events<CaseEvent>, Backwards> {
        if self.taken.contains(&(step.source.clone(), step.id.clone())) {
            return Ok(Events::none());
        }
        match self.last {
            Some(last) if step.occurred_at < last => Err(Backwards { last, this: step.occurred_at }),
            _ => Ok(CaseEvent::StepTaken(step.clone()).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use indelible::testing::given;

    use super::*;

    fn time(time: &str) -> Timestamp {
        format!("2026-03-01T{time}Z").parse().expect("a time")
    }

    fn step(id: &str, at: &str) -> Step {
        let (source, activity) = ("/tests".into(), "Receive".into());
        Step { id: id.into(), source, activity, occurred_at: time(at), data: Data::default() }
    }

    fn with_data(data: &str) -> Step {
        let data = Data(Some(RawValue::from_string(data.into()).expect("JSON")));
        Step { data, ..step("1", "08:00:00") }
    }

    #[test]
    fn time_stands_still_or_goes_on() {
        let taken = CaseEvent::StepTaken(step("1", "08:00:00"));
        for later in ["08:00:00", "08:00:00.000001"] {
            given::<Case>([taken.clone()]).when(step("2", later)).then([CaseEvent::StepTaken(step("2", later))]);
        }
        let (last, this) = (time("08:00:00"), time("07:59:59.999999"));
        given::<Case>([taken]).when(step("2", "07:59:59.999999")).then_rejected(Backwards { last, this });
    }

    #[test]
    fn a_step_is_taken_once_however_late_it_is_told_again() {
        let taken = [step("1", "08:00:00"), step("2", "09:00:00")].map(CaseEvent::StepTaken);
        given::<Case>(taken.clone()).when(step("1", "08:00:00")).then([]);
        let other = Step { source: "/elsewhere".into(), ..step("2", "09:00:00") };
        given::<Case>(taken).when(other.clone()).then([CaseEvent::StepTaken(other)]);
    }

    #[test]
    fn data_need_not_name_a_resource() {
        let named = [
            (r#"{"resource":"Ada"}"#, "Ada"),
            (r#"{"resource":"A\u0000\u00e4","a":[1e999]}"#, "A\0ä"),
            (r#"{"resource":"Ada","resource":"Bob"}"#, "Bob"),
            (r#"{"resource":7}"#, "7"),
            (r#"{"resource":""}"#, ""),
        ];
        for (data, resource) in named {
            assert_eq!(with_data(data).resource().as_deref(), Some(resource), "{data}");
        }
        for data in
            ["{}", r#"{"resource":null}"#, r#"{"Resource":"Ada"}"#, "[\"resource\"]", "\"resource\"", "1", "null"]
        {
            assert_eq!(with_data(data).resource(), None, "{data}");
        }
        assert_eq!(step("1", "08:00:00").resource(), None);
    }

    #[test]
    fn a_day_is_that_of_utc() {
        let late = Step { occurred_at: "2026-03-01T00:30:00+02:00".parse().expect("a time"), ..step("1", "08:00:00") };
        assert_eq!(late.day(), "2026-02-28");
    }
}
