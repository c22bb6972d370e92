//! Group commit at its simplest, for subjects that are no store themselves: one thread takes all appends that wait, checks what they expect,
//! writes them with one sync, and answers each caller.

use std::{sync::mpsc, thread};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::sync::oneshot;

use super::Append;
use crate::job::Log;

/// Where groups go.
pub trait Sink: Send + 'static {
    /// Returns when all of it is on the disk.
    fn write(&mut self, group: &[Append]) -> Result<()>;
}

pub struct GroupWriter {
    queue: mpsc::Sender<Job>,
    thread: thread::JoinHandle<()>,
}

type Job = (Append, Answer);
type Answer = oneshot::Sender<Result<(), String>>;

impl GroupWriter {
    /// Serves a log that holds this already.
    pub fn start(sink: impl Sink, log: Log) -> Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let versions = vec![log.versions(); log.streams() as usize];
        let thread = thread::Builder::new().name("writer".into()).spawn(move || serve(sink, versions, &jobs))?;
        Ok(Self { queue, thread })
    }

    pub async fn append(&self, append: Append) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.queue.send((append, answer)).map_err(|_| anyhow!("the writer has ended"))?;
        answered.await.context("the writer has ended")?.map_err(|error| anyhow!(error))
    }

    pub fn close(self) -> Result<()> {
        drop(self.queue);
        self.thread.join().map_err(|_| anyhow!("the writer panicked"))
    }
}

/// Serves until no caller is left, or a write fails.
fn serve(mut sink: impl Sink, mut versions: Vec<u64>, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let (mut group, mut answers) = (Vec::new(), Vec::new());
        for (append, answer) in std::iter::once(first).chain(jobs.try_iter()) {
            match judge(&mut versions, &append) {
                Ok(()) => {
                    group.push(append);
                    answers.push(answer);
                }
                Err(error) => drop(answer.send(Err(error.to_string()))),
            }
        }
        let written = if group.is_empty() { Ok(()) } else { sink.write(&group) };
        let written = written.map_err(|error| format!("{error:#}"));
        // Sending fails where the caller has gone away.
        answers.into_iter().for_each(|answer| drop(answer.send(written.clone())));
        if written.is_err() {
            return;
        }
    }
}

fn judge(versions: &mut Vec<u64>, append: &Append) -> Result<()> {
    let stream = append.stream as usize;
    if versions.len() <= stream {
        versions.resize(stream + 1, 0);
    }
    let version = &mut versions[stream];
    if *version != append.expected {
        bail!("stream {} is at version {version}, not {}", append.stream, append.expected);
    }
    *version += append.events.len() as u64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Ids;

    /// Says how many appends each group has, and writes it when the test says how that ends.
    struct Scripted {
        groups: mpsc::Sender<usize>,
        outcomes: mpsc::Receiver<Result<()>>,
    }

    impl Sink for Scripted {
        fn write(&mut self, group: &[Append]) -> Result<()> {
            self.groups.send(group.len())?;
            self.outcomes.recv()?
        }
    }

    fn start() -> (GroupWriter, mpsc::Receiver<usize>, mpsc::Sender<Result<()>>) {
        let ((groups, sizes), (script, outcomes)) = (mpsc::channel(), mpsc::channel());
        (
            GroupWriter::start(Scripted { groups, outcomes }, Log { events: 0, ids: Ids::V7 }).expect("a thread"),
            sizes,
            script,
        )
    }

    /// Hands an append over now; its answer comes later.
    fn append(writer: &GroupWriter, stream: u32, expected: u64) -> oneshot::Receiver<Result<(), String>> {
        let (answer, answered) = oneshot::channel();
        writer
            .queue
            .send((Append { stream, expected, events: vec![vec![0]], is_rare: false }, answer))
            .expect("a writer");
        answered
    }

    #[test]
    fn what_waits_is_one_group_and_answered_after_its_write() {
        let (writer, sizes, script) = start();
        let mut first = append(&writer, 0, 0);
        assert_eq!(sizes.recv(), Ok(1));
        let second = append(&writer, 0, 1);
        let mut wrong = append(&writer, 0, 1);
        let mut others: Vec<_> = (1..10).map(|stream| append(&writer, stream, 0)).collect();
        assert!(first.try_recv().is_err(), "answered before it was written");

        script.send(Ok(())).expect("a writer");
        assert_eq!(first.blocking_recv(), Ok(Ok(())));
        assert_eq!(sizes.recv(), Ok(10), "all that waited, but for the one that is refused");
        assert!(wrong.try_recv().is_ok_and(|answer| answer.is_err_and(|error| error.contains("at version 2, not 1"))));
        assert!(others.iter_mut().all(|other| other.try_recv().is_err()), "answered before they were written");

        script.send(Ok(())).expect("a writer");
        assert!(others.into_iter().chain([second]).all(|other| other.blocking_recv() == Ok(Ok(()))));
        writer.close().expect("a writer that ends");
    }

    #[test]
    fn a_failed_write_fails_its_whole_group_and_ends_the_writer() {
        let (writer, sizes, script) = start();
        let first = append(&writer, 0, 0);
        assert_eq!(sizes.recv(), Ok(1));
        let group = [append(&writer, 1, 0), append(&writer, 2, 0)];
        script.send(Ok(())).expect("a writer");
        script.send(Err(anyhow!("the disk is full"))).expect("a writer");
        assert_eq!(first.blocking_recv(), Ok(Ok(())));
        for answered in group {
            assert_eq!(answered.blocking_recv(), Ok(Err("the disk is full".into())));
        }
        writer.thread.join().expect("a writer that ends");
    }
}
