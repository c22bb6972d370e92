//! What every measurement shares: the events, the shape of a subject, and one round of one job in a process of its own.
//!
//! The program `indelible-bench` starts itself, and the programs in `peers/`, once for every round: [`answer`] takes the
//! job from the command line and prints what it measured, one line of JSON each.

#![expect(missing_docs, reason = "for the programs of this directory alone")]

use anyhow::{Context as _, Result};

pub mod event;
pub mod job;
pub mod machine;
#[cfg(feature = "stores")]
mod read_model;
mod round;
pub mod subject;

pub use round::run;
#[cfg(feature = "stores")]
pub use round::run_read_model;

use job::{Job, Measured};
use subject::Subject;

/// The job of a process that was started for one: what stands behind `round` on its command line.
///
/// # Errors
/// Where it is none.
pub fn job() -> Result<Option<Job>> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some("round") {
        return Ok(None);
    }
    let job = args.next().context("which job?")?;
    serde_json::from_str(&job).map(Some).with_context(|| format!("no job: {job}"))
}

/// Does a job, and prints what it measured.
///
/// # Errors
/// Whatever the subject could not do.
pub fn answer<S: Subject>(job: &Job) -> Result<()> {
    say(run::<S>(job)?)
}

/// Does a job to a read model, and prints what it measured.
///
/// # Errors
/// Whatever the subject could not do.
#[cfg(feature = "stores")]
pub fn answer_read_model(job: &Job) -> Result<()> {
    say(run_read_model(job)?)
}

fn say(measured: Vec<Measured>) -> Result<()> {
    for measured in measured {
        println!("{}", serde_json::to_string(&measured)?);
    }
    Ok(())
}

/// The whole of a program for somebody else's store.
///
/// # Errors
/// As [`answer`].
pub fn peer<S: Subject>() -> Result<()> {
    answer::<S>(&job()?.context("./dev bench … --peers starts this")?)
}
