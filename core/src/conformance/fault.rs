//! Faults: what a process writes that is struck down, what it says of that, and the judge of what is left.
//!
//! The process runs a [`Work`] on the store and says what it does, a line each; whoever started it takes that down in a
//! [`Journal`], strikes, opens what is left, and has it [judged](judge_store). How a store's process is started and what
//! strikes it are up to the store's own tests.

#[cfg(unix)]
mod child;
mod workload;

mod journal;
mod judge;

mod report;

#[cfg(unix)]
pub use child::{Running, say, skip};
pub use journal::{Ending, Journal, Sent};
pub use judge::{Verdict, judge_reads, judge_store};
pub use report::{Line, counts, seeded};
pub use workload::{Kind, Name, Say, Work};
