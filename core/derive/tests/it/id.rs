//! Ids of aggregates.

use indelible_core::AggregateId;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, AggregateId)]
struct Name(String);

#[derive(Clone, Debug, PartialEq, AggregateId)]
struct Number(u64);

#[derive(Clone, Debug, PartialEq, AggregateId)]
struct Random(Uuid);

#[test]
fn ids_are_printed_and_parsed_as_what_they_wrap() {
    assert_eq!(Name::from("ada".to_owned()).to_string(), "ada");
    assert_eq!("ada".parse(), Ok(Name("ada".into())));
    assert_eq!(format!("{:>3}", Number::from(7)), "  7");
    assert_eq!("7".parse(), Ok(Number(7)));
    assert!("seven".parse::<Number>().is_err());
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    assert_eq!(uuid.parse::<Random>().unwrap().to_string(), uuid);
    assert_eq!(Random::from(Uuid::nil()), Random(Uuid::nil()));
}

#[test]
fn they_serve_as_ids() {
    fn id(_: impl AggregateId) {}
    id(Name("ada".into()));
    id(Number(7));
}
