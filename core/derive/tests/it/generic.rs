//! Generic events and aggregates.

use std::{fmt::Display, marker::PhantomData};

use indelible_core::{Aggregate, Apply, Event, EventName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{CODECS, comes_back, json, recorded};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum Ledger<T, K = u8>
where
    T: Clone,
{
    Booked {
        #[event(tag)]
        amount: T,
        #[event(tag = "key")]
        keys: Vec<K>,
    },
    #[event(version = 2, upcast(from = 1, typed = T))]
    Noted(Note<T>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note<T> {
    text: T,
}

impl<T> From<T> for Note<T> {
    fn from(text: T) -> Self {
        Self { text }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
struct Marked<T, const N: usize>(PhantomData<T>);

#[derive(Clone, Debug, PartialEq, Event)]
enum Both<A, B> {
    #[event(category = "a")]
    A(A),
    #[event(category = "b")]
    B(B),
}

#[test]
fn generic_events_come_back() {
    comes_back(&Ledger::<u64, String>::Booked { amount: 7, keys: vec!["k".into()] });
    comes_back(&Ledger::<String>::Noted(Note { text: "n".into() }));
    comes_back(&Marked::<u8, 3>(PhantomData));
    for codec in CODECS {
        let old = recorded("Noted", 1, codec.content_type(), codec.encode(&"old").unwrap());
        assert_eq!(old.decode::<Ledger<String>>().unwrap(), Ledger::Noted(Note { text: "old".into() }));
    }
}

#[test]
fn generic_events_have_names_and_tags() {
    const BOOKED: EventName<Ledger<u64>> = Ledger::<u64>::BOOKED;
    assert_eq!(BOOKED.as_str(), "Booked");
    let tags = Ledger::<u64>::Booked { amount: 7, keys: vec![1, 2] }.tags().unwrap();
    assert_eq!(tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["amount:7", "key:1", "key:2"]);
}

#[test]
fn generic_events_of_categories_delegate() {
    let event = Both::<Ledger<u8>, Marked<u8, 1>>::A(Ledger::Noted(Note { text: 1 }));
    assert_eq!(json(&event), r#"{"text":1}"#);
    assert_eq!(Both::<Ledger<u8>, Marked<u8, 1>>::shapes().len(), 3);
}

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "ledger", id = u64)]
struct Book<T> {
    last: Option<T>,
}

impl<T: Clone + Display + Send + Sync + Serialize + DeserializeOwned + 'static> Apply for Book<T> {
    type Event = Ledger<T>;
    fn apply(&mut self, event: &Ledger<T>) {
        if let Ledger::Booked { amount, .. } = event {
            self.last = Some(amount.clone());
        }
    }
}

#[test]
fn generic_aggregates_have_streams() {
    assert_eq!(Book::<u64>::stream(&7).unwrap().as_str(), "ledger-7");
    let mut book = Book::<u64>::default();
    book.apply(&Ledger::Booked { amount: 7, keys: vec![] });
    assert_eq!(book.last, Some(7));
}
