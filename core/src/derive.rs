//! The derive macros, with the examples that their own crate cannot run; rustdoc shows its tables of attributes below.

/// ```
/// use indelible_core::{Event, EventName};
/// use serde::{Deserialize, Serialize};
/// use serde_json::Value;
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// enum AccountEvent {
///     Opened {
///         #[event(tag)]
///         owner: String,
///     },
///     // Was `Paid` when the first of them were recorded.
///     #[event(name = "Paid", codec = bincode)]
///     Deposited { cents: u64 },
///     #[event(version = 3, upcast(from = 1, with = add_reason), upcast(from = 2, typed = WithdrawnV2))]
///     Withdrawn(Withdrawn),
/// }
///
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
/// struct Withdrawn {
///     cents: u64,
///     reason: Option<String>,
/// }
///
/// /// Version 1 had no reason.
/// fn add_reason(mut withdrawn: Value) -> Value {
///     withdrawn["reason"] = "".into();
///     withdrawn
/// }
///
/// /// In version 2 the empty reason was none.
/// #[derive(Deserialize)]
/// struct WithdrawnV2 {
///     cents: u64,
///     reason: String,
/// }
///
/// impl From<WithdrawnV2> for Withdrawn {
///     fn from(WithdrawnV2 { cents, reason }: WithdrawnV2) -> Self {
///         Self { cents, reason: Some(reason).filter(|reason| !reason.is_empty()) }
///     }
/// }
///
/// let opened = AccountEvent::Opened { owner: "ada".into() };
/// assert_eq!(opened.tags()?[0].as_str(), "owner:ada");
///
/// const DEPOSITED: EventName<AccountEvent> = AccountEvent::DEPOSITED;
/// assert_eq!(DEPOSITED.as_str(), "Paid");
///
/// # use indelible_core::{ContentType, NewEvent, Position, RecordedEvent, Timestamp, Version};
/// # let mut event = NewEvent::new(AccountEvent::WITHDRAWN.event_type(), ContentType::JSON, r#"{"cents":500}"#);
/// # event.schema_version = 1;
/// # let stream = "account-1".parse()?;
/// # let recorded = RecordedEvent::new(event, stream, Version::NONE.plus(1), Position::FIRST, Timestamp::now());
/// assert_eq!((recorded.schema_version, &recorded.data[..]), (1, &br#"{"cents":500}"#[..]));
/// let withdrawn: AccountEvent = recorded.decode()?;
/// assert_eq!(withdrawn, AccountEvent::Withdrawn(Withdrawn { cents: 500, reason: None }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Events of several categories, for a decision model over them:
///
/// ```
/// # use indelible_core::Event;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize, Event)] enum CourseEvent { Opened }
/// # #[derive(Clone, Serialize, Deserialize, Event)] enum StudentEvent { Enrolled }
/// #[derive(Clone, Event)]
/// enum EnrolmentEvent {
///     #[event(category = "course")]
///     Course(CourseEvent),
///     #[event(category = "student")]
///     Student(StudentEvent),
/// }
/// assert_eq!(EnrolmentEvent::shapes()[0].category.as_ref().unwrap().as_str(), "course");
/// ```
pub use indelible_derive::Event;

/// ```
/// use indelible_core::{Aggregate, AggregateId, Apply, Event};
/// use serde::{Deserialize, Serialize};
///
/// # #[derive(Clone, Serialize, Deserialize, Event)]
/// # enum AccountEvent { Deposited { cents: u64 } }
/// #[derive(Clone, AggregateId)]
/// struct AccountId(String);
///
/// #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// #[aggregate(category = "account", id = AccountId, snapshot(every = 100))]
/// struct Account {
///     balance: u64,
/// }
///
/// impl Apply for Account {
///     type Event = AccountEvent;
///     fn apply(&mut self, event: &AccountEvent) {
///         match event {
///             AccountEvent::Deposited { cents } => self.balance += cents,
///         }
///     }
/// }
///
/// assert_eq!(Account::stream(&AccountId("ada".into()))?.as_str(), "account-ada");
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
pub use indelible_derive::Aggregate;

/// ```
/// use indelible_core::AggregateId;
///
/// #[derive(Clone, Copy, Debug, PartialEq, AggregateId)]
/// struct OrderId(u64);
///
/// let id: OrderId = "1001".parse()?;
/// assert_eq!(id, OrderId::from(1001));
/// assert_eq!(id.to_string(), "1001");
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
pub use indelible_derive::AggregateId;
