//! The statements, one a file, the schema that they are for, and how what is asked stands in their parameters.

use indelible_core::QueryItem;

/// A schema's name as it stands in statements. Everything else that comes from outside is a bind parameter.
pub(crate) fn quoted(schema: &str) -> String {
    format!("\"{}\"", schema.replace('"', "\"\""))
}

/// What makes a store, in this order; the version of the schema is how many steps it has gone through. A step that was
/// released never changes: what comes later is a step more.
pub(crate) const MIGRATIONS: &[&[&str]] = &[&[
    include_str!("sql/tables.sql"),
    include_str!("sql/never_changed.sql"),
    include_str!("sql/events.sql"),
    include_str!("sql/item_positions.sql"),
    include_str!("sql/item_kinds.sql"),
    include_str!("sql/first_match.sql"),
    include_str!("sql/append.sql"),
    include_str!("sql/append_foreseen.sql"),
    include_str!("sql/filtered_places.sql"),
    include_str!("sql/grants.sql"),
]];

#[cfg(feature = "projections")]
pub(crate) const MODEL_MIGRATIONS: &[&[&str]] = &[&[
    include_str!("sql/read_model/tables.sql"),
    include_str!("sql/read_model/operators.sql"),
    include_str!("sql/read_model/advance.sql"),
    include_str!("sql/read_model/take.sql"),
    include_str!("sql/read_model/renew.sql"),
    include_str!("sql/read_model/versions_change.sql"),
    include_str!("sql/read_model/grants.sql"),
]];

macro_rules! statements {
    ($type:ident, $folder:literal: $($name:ident)+) => {
        /// The statements for one schema.
        pub(crate) struct $type {
            /// The schema's name, quoted.
            pub(crate) schema: String,
            $(pub(crate) $name: String,)+
        }

        impl $type {
            pub(crate) fn new(schema: &str) -> Self {
                let schema = quoted(schema);
                $(let $name = without_comments(include_str!(concat!($folder, stringify!($name), ".sql")))
                    .replace("indelible.", &format!("{schema}."));)+
                Self { schema, $($name,)+ }
            }
        }
    };
}
statements! {
    Statements, "sql/":
    identity head token follow event stream_head kinds
    page_of_stream page_of_stream_backwards page_of_log page_of_log_backwards page_of_filter
    streams categories
    call_append call_append_foreseen
    load_snapshot save_snapshot delete_snapshot load_checkpoint save_checkpoint
    verify
}
#[cfg(feature = "projections")]
statements! {
    ModelStatements, "sql/read_model/":
    format
    call_advance call_take call_renew release leave stopped workers leases partitions
    versions shown make show take_over drop reset caught_up
    park letters letters_of_stream redriven discard discarded
    want wish wishes answer outcome
}

/// Spares the server reading them at each call.
fn without_comments(statement: &str) -> String {
    let lines: Vec<&str> = statement.lines().filter(|line| !line.starts_with("--")).collect();
    lines.join("\n")
}

/// Positions and versions beyond what the log can hold are as good as the largest.
pub(crate) fn bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What the server counts; nothing that is counted is negative.
pub(crate) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Several names in one value, one a line: no name contains a line's end.
pub(crate) fn lines<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut names = names.peekable();
    names.peek()?;
    let mut lines = String::new();
    for name in names {
        if !lines.is_empty() {
            lines.push('\n');
        }
        lines.push_str(name);
    }
    Some(lines)
}

/// The items of a query, as the functions take them.
#[derive(Default)]
pub(crate) struct Items {
    pub(crate) tags: Vec<Option<String>>,
    pub(crate) categories: Vec<Option<String>>,
    pub(crate) types: Vec<Option<String>>,
}

impl Items {
    pub(crate) fn add(&mut self, item: &QueryItem) {
        self.tags.push(lines(item.all_tags().iter().map(|tag| tag.as_str())));
        self.categories.push(lines(item.any_type().iter().map(|name| name.category.as_str())));
        self.types.push(lines(item.any_type().iter().map(|name| name.event_type.as_str())));
    }
}
