//! The derive macros of Indelible, re-exported with examples by `indelible` and `indelible-core`.
//!
//! | macro | for | writes |
//! |---|---|---|
//! | [`Event`](macro@Event) | an enum or a struct | stored names, schema versions, upcasting, codecs, tags |
//! | [`Aggregate`](macro@Aggregate) | the state of an aggregate | category, id type, snapshot policy |
//! | [`AggregateId`](macro@AggregateId) | a newtype of an id | `Display`, `FromStr`, `From` |
//! | [`Projection`](macro@Projection) | what takes events into a read model | name, version, events wanted, order, policies |
//!
//! What they refuse they refuse on the user's line, and say what to write instead.

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

mod aggregate;
mod attr;
mod event;
mod id;
mod krate;
mod projection;

/// Makes an enum (or a struct, as an enum of one) the events of an aggregate.
///
/// Each variant is a stored type, its fields are the data. The type also derives `Clone`, `Serialize` and
/// `Deserialize`; serde's attributes on fields count. Each variant gets a constant, `AccountEvent::WITHDRAWN`, which
/// names the type in filters and queries; a variant in capitals (`A`) stands in its own constant's way and gets none.
///
/// | on | `#[event(…)]` | |
/// |---|---|---|
/// | variant, struct | `name = "Withdrawn"` | the stored name; by default the Rust name |
/// | variant, struct | `version = 3` | the schema version that is written; by default 1 |
/// | variant, struct | `upcast(from = 1, with = path)` | from version 1 to 2 on the JSON value: `fn(Value) -> Value`, or `-> Result<Value, E>` |
/// | variant, struct | `upcast(from = 2, typed = WithdrawnV2)` | version 2 decodes as this type, which goes by `Into` to the type of the next version; the last to the payload of a newtype variant, and to the event itself otherwise |
/// | variant, struct, enum | `codec = json`, `bincode`, or the path of a codec | pins the codec; without it the store's default writes |
/// | field | `tag`, `tag = "key"` | the tag `field:value` or `key:value`; `Option` and `Vec` give one for each value |
/// | newtype variant | `category = "course"` | wraps the events of a category, for a decision model over several; then all variants do |
/// | enum, struct | `crate = path` | where `indelible` is, where it can't be found by itself |
///
/// Each version from 1 to the one before today's has one upcaster, those with `with` before those with `typed`. A type
/// that has some with `with` is pinned to JSON, so that a store's default can't make its data unreadable for them.
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    finish(event::expand(&parse_macro_input!(input as DeriveInput)))
}

/// Makes a type the state of an aggregate, whose `Default` is the state before the first event.
///
/// The type also derives `Clone`, `Default`, `Serialize` and `Deserialize`, and has an `impl Apply`.
///
/// | `#[aggregate(…)]` | |
/// |---|---|
/// | `category = "account"` | required: streams are `account-id` |
/// | `id = AccountId` | what tells instances apart; by default `String` |
/// | `snapshot(every = 100)` | takes a snapshot after so many events |
/// | `snapshot(bytes = 65536)` | or after so many bytes of event data |
/// | `snapshot(version = 2)` | makes older snapshots void, when `apply` or a type inside the state changed |
/// | `snapshot(codec = json)` | `json`, `bincode` (the default), or the path of a codec |
/// | `crate = path` | where `indelible` is, where it can't be found by itself |
///
/// Snapshots are void by themselves when the type's own fields, their types as written, or their serde attributes
/// change.
#[proc_macro_derive(Aggregate, attributes(aggregate))]
pub fn aggregate(input: TokenStream) -> TokenStream {
    finish(aggregate::expand(&parse_macro_input!(input as DeriveInput)))
}

/// Gives a newtype such as `struct AccountId(Uuid)` the `Display` and `FromStr` of what it wraps, and `From` it.
///
/// With `Clone` beside it, it serves as an aggregate's id.
#[proc_macro_derive(AggregateId)]
pub fn aggregate_id(input: TokenStream) -> TokenStream {
    finish(id::expand(&parse_macro_input!(input as DeriveInput)))
}

/// Makes a type a projection, as `impl Projection` would. What it makes of an event is written by hand: `impl Project`.
///
/// | `#[projection(…)]` | |
/// |---|---|
/// | `name = "balances"` | required: what it is called in its read model |
/// | `version = 2` | by default 1; another one is built anew |
/// | `of = Account` | takes the events of an aggregate |
/// | `only(DEPOSITED, WITHDRAWN)` | of these types alone |
/// | `events = BankEvent` | or takes all events of an enum over several categories |
/// | `partitions = 4` | the order of each stream, in so many partitions; by default 1; another number takes another version |
/// | `whole_log` | or the order of the whole log |
/// | `park`, `park = 100` | parks what cannot be handled, of up to 1,000 or so many streams a partition; by default it stops |
/// | `retry = Retry::NEVER` | by default `Retry::DEFAULT` |
/// | `crate = path` | where `indelible::projections` is, where it can't be found by itself |
#[proc_macro_derive(Projection, attributes(projection))]
pub fn projection(input: TokenStream) -> TokenStream {
    finish(projection::expand(&parse_macro_input!(input as DeriveInput)))
}

fn finish(expanded: syn::Result<proc_macro2::TokenStream>) -> TokenStream {
    expanded.unwrap_or_else(syn::Error::into_compile_error).into()
}
