//! Takes a log into the store, chunk by chunk. The cases of a chunk go side by side, each in one append.

use std::{
    fmt,
    io::BufRead,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use indelible::{AnyStore, CommandError, Executor};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    case::{Backwards, Case, Step},
    lines::{Broken, Lines},
};

/// What has become of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    pub lines: u64,
    pub bytes: u64,
    pub appended: u64,
    /// How many had been taken in before.
    pub known: u64,
    /// How many don't parse, or break a rule.
    pub broken: u64,
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, appended, known, broken, .. } = self;
        write!(f, "{lines} lines: {appended} events appended, {known} known already, {broken} broken")
    }
}

/// Takes it in. Tells how far it is after each chunk, with the lines that are broken.
pub async fn import(
    store: &AnyStore,
    log: impl BufRead + Send + 'static,
    mut tell: impl FnMut(&Imported, &[Broken]),
) -> Result<Imported> {
    // The next chunk is read and parsed while this one is appended.
    let (chunks, mut read) = mpsc::channel(1);
    let reader = tokio::task::spawn_blocking(move || {
        let mut lines = Lines::new(log);
        while let Some(chunk) = lines.next_chunk()? {
            if chunks.blocking_send(chunk).is_err() {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    });
    let (cases, mut imported) = (Executor::new(store), Imported::default());
    while let Some(chunk) = read.recv().await {
        let mut broken = chunk.broken;
        let mut steps = 0;
        let mut appends = JoinSet::new();
        for (case, of_case) in chunk.cases {
            steps += of_case.len() as u64;
            appends.spawn(append(cases.clone(), case, of_case));
        }
        let refused_before = broken.len();
        let mut appended = 0;
        while let Some(done) = appends.join_next().await {
            let (events, refused) = done??;
            appended += events;
            broken.extend(refused);
        }
        imported.lines += chunk.lines;
        imported.bytes += chunk.bytes;
        imported.appended += appended;
        imported.known += steps - appended - (broken.len() - refused_before) as u64;
        imported.broken += broken.len() as u64;
        broken.sort_by_key(|broken| broken.line);
        tell(&imported, &broken);
    }
    reader.await??;
    Ok(imported)
}

/// Lets a case take its steps, in one append. Says how many events that made, and which lines broke a rule.
async fn append(cases: Executor, case: String, steps: Vec<(u64, Step)>) -> Result<(u64, Vec<Broken>)> {
    let (steps, refused) = (Arc::new(steps), Arc::new(Mutex::new(Vec::new())));
    let told = refused.clone();
    let taken = cases.transact(move |unit| {
        let (case, steps, told) = (case.clone(), steps.clone(), told.clone());
        async move {
            let mut refused = Vec::new();
            for (line, step) in steps.iter() {
                match unit.execute::<Case, _>(&case, step.clone()).await {
                    // The others are taken all the same.
                    Err(CommandError::Rejected(why)) => refused.push(Broken { line: *line, why: why.to_string() }),
                    other => other?,
                }
            }
            // This may be called again, and the last call counts.
            *told.lock().unwrap_or_else(PoisonError::into_inner) = refused;
            Ok::<_, CommandError<Backwards>>(())
        }
    });
    let taken = taken.await?;
    let refused = std::mem::take(&mut *refused.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((taken.events().len() as u64, refused))
}
