//! What is no id.

use indelible_core::AggregateId;

#[derive(Clone, AggregateId)]
struct Named {
    id: String,
}

#[derive(Clone, AggregateId)]
struct Two(String, u8);

#[derive(Clone, AggregateId)]
enum One {
    Id(String),
}

#[derive(Clone, AggregateId)]
struct Generic<T>(T);

fn main() {}
