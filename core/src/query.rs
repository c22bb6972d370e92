//! Which events: a [`Query`] over types and tags, and a [`Filter`] that also looks at streams.

use crate::{
    Category, Event, EventName, EventType, InvalidInput, NewEvent, QualifiedType, RecordedEvent, StreamId, Tag,
    text::{NAME_BYTES_MAX, check_text},
};

/// The most query items in all conditions of one append, and in one filter.
pub const QUERY_ITEMS_MAX: usize = 100;
/// The most types and tags in all query items of one append, and of one filter.
pub const QUERY_NAMES_MAX: usize = 1_000;

/// One alternative of a [`Query`]: an event that has any of the types *and* all of the tags.
///
/// No types means any type; no tags, whatever tags. At least one of either is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct QueryItem {
    types: Vec<QualifiedType>,
    tags: Vec<Tag>,
}

impl QueryItem {
    /// Events of these types.
    pub fn types(types: impl IntoIterator<Item = QualifiedType>) -> Self {
        Self { types: types.into_iter().collect(), tags: Vec::new() }
    }

    /// Events that carry all of these tags.
    pub fn tags(tags: impl IntoIterator<Item = Tag>) -> Self {
        Self { types: Vec::new(), tags: tags.into_iter().collect() }
    }

    /// That carry this tag too.
    #[must_use]
    pub fn and_tag(mut self, tag: Tag) -> Self {
        self.tags.push(tag);
        self
    }

    /// The types, any of which will do.
    pub fn any_type(&self) -> &[QualifiedType] {
        &self.types
    }

    /// The tags, all of which are needed.
    pub fn all_tags(&self) -> &[Tag] {
        &self.tags
    }

    fn matches(&self, category: &str, event_type: &EventType, tags: &[Tag]) -> bool {
        let typed = |t: &QualifiedType| t.category.as_str() == category && t.event_type == *event_type;
        (self.types.is_empty() || self.types.iter().any(typed)) && self.tags.iter().all(|tag| tags.contains(tag))
    }
}

/// Events by type and tag, whatever their stream: an OR of items, in the sense of
/// [Dynamic Consistency Boundaries](https://dcb.events).
///
/// ```
/// # use indelible_core::{Query, QueryItem, Tag};
/// let query = Query::new([QueryItem::tags([Tag::of("course", "c1")?]), QueryItem::tags([Tag::of("student", "s1")?])]);
/// assert_eq!(query.items().len(), 2);
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct Query {
    items: Vec<QueryItem>,
}

impl Query {
    /// Events that match any of the items.
    pub fn new(items: impl IntoIterator<Item = QueryItem>) -> Self {
        Self { items: items.into_iter().collect() }
    }

    /// Events of these types of an aggregate, named by the derive's constants.
    pub fn types<A: crate::Aggregate>(types: impl IntoIterator<Item = EventName<A::Event>>) -> Self
    where
        A::Event: Event,
    {
        Self::new([QueryItem::types(types.into_iter().map(EventName::of::<A>))])
    }

    /// Events that carry this tag, among those asked for so far: adds it to every item. Of an empty query it makes one
    /// for all events of the tag.
    #[must_use]
    pub fn tagged(mut self, tag: Tag) -> Self {
        if self.items.is_empty() {
            self.items.push(QueryItem::default());
        }
        for item in &mut self.items {
            item.tags.push(tag.clone());
        }
        self
    }

    /// These events, or those.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.items.extend(other.items);
        self
    }

    /// The alternatives.
    pub fn items(&self) -> &[QueryItem] {
        &self.items
    }

    /// Whether it matches a recorded event.
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        self.matches_parts(event.stream.category_str(), &event.event_type, &event.tags)
    }

    /// Whether it matches an event that is to be written to a stream.
    pub fn matches_new(&self, stream: &StreamId, event: &NewEvent) -> bool {
        self.matches_parts(stream.category_str(), &event.event_type, &event.tags)
    }

    fn matches_parts(&self, category: &str, event_type: &EventType, tags: &[Tag]) -> bool {
        self.items.iter().any(|item| item.matches(category, event_type, tags))
    }

    /// How many types and tags its items name.
    pub(crate) fn names(&self) -> usize {
        self.items.iter().map(|item| item.types.len() + item.tags.len()).sum()
    }

    /// Refuses a query without items, and items that name neither a type nor a tag, or too many.
    pub(crate) fn validate(&self) -> Result<(), InvalidInput> {
        if self.items.is_empty() {
            return Err(InvalidInput::new("query", "has no items"));
        }
        if self.names() > QUERY_NAMES_MAX {
            return Err(InvalidInput::new("query", format!("names more than {QUERY_NAMES_MAX} types and tags")));
        }
        match self.items.iter().any(|item| item.types.is_empty() && item.tags.is_empty()) {
            true => Err(InvalidInput::new("query item", "names neither a type nor a tag")),
            false => Ok(()),
        }
    }
}

/// Which events of the log a reader wants. All that is named must hold; nothing named is every event.
///
/// Categories, types and tags are served from indexes and cost what they return; a stream prefix may scan the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct Filter {
    categories: Vec<Category>,
    stream_prefix: Option<String>,
    query: Query,
}

impl Filter {
    /// Every event.
    pub fn all() -> Self {
        Self::default()
    }

    /// Events in streams of any of these categories; of none named, all events.
    pub fn categories(categories: impl IntoIterator<Item = Category>) -> Self {
        Self { categories: categories.into_iter().collect(), ..Self::default() }
    }

    /// Events in streams whose name starts so. May scan the log.
    ///
    /// # Errors
    /// [`InvalidInput`] for more than 255 bytes, or control characters.
    pub fn stream_prefix(prefix: impl Into<String>) -> Result<Self, InvalidInput> {
        let prefix = prefix.into();
        check_text("stream prefix", &prefix)?;
        if prefix.len() > NAME_BYTES_MAX {
            return Err(InvalidInput::new("stream prefix", format!("has more than {NAME_BYTES_MAX} bytes")));
        }
        Ok(Self { stream_prefix: Some(prefix), ..Self::default() })
    }

    /// Events that also match this query, in place of another one that was asked for.
    #[must_use]
    pub fn with_query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    /// Events in streams of any of these categories too.
    #[must_use]
    pub fn and_categories(mut self, categories: impl IntoIterator<Item = Category>) -> Self {
        self.categories.extend(categories);
        self
    }

    /// Whether it lets an event through.
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        let category = event.stream.category_str();
        (self.categories.is_empty() || self.categories.iter().any(|c| c.as_str() == category))
            && self.stream_prefix.as_ref().is_none_or(|prefix| event.stream.as_str().starts_with(prefix.as_str()))
            && (self.query.items.is_empty() || self.query.matches(event))
    }

    /// Whether it lets every event through.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// The categories asked for; none means all.
    pub fn any_category(&self) -> &[Category] {
        &self.categories
    }

    /// The prefix asked for.
    pub fn prefix(&self) -> Option<&str> {
        self.stream_prefix.as_deref()
    }

    /// The query asked for; one without items means all.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Refuses items that name neither a type nor a tag, and more than 100 items, 100
    /// categories, or 1,000 types and tags.
    ///
    /// # Errors
    /// [`InvalidInput`], naming what is missing or too many.
    pub fn validate(&self) -> Result<(), InvalidInput> {
        if self.categories.len() > QUERY_ITEMS_MAX {
            return Err(InvalidInput::new("filter", format!("names more than {QUERY_ITEMS_MAX} categories")));
        }
        if self.query.items.len() > QUERY_ITEMS_MAX {
            let reason = format!("has more than {} items", QUERY_ITEMS_MAX);
            return Err(InvalidInput::new("query", reason));
        }
        if self.query.items.is_empty() { Ok(()) } else { self.query.validate() }
    }
}

/// All events of a tag.
impl From<Tag> for Query {
    fn from(tag: Tag) -> Self {
        Self::default().tagged(tag)
    }
}

/// All events of a tag.
impl From<Tag> for Filter {
    fn from(tag: Tag) -> Self {
        Query::from(tag).into()
    }
}

impl From<Query> for Filter {
    fn from(query: Query) -> Self {
        Self::all().with_query(query)
    }
}
