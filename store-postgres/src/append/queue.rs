//! What waits for the sequencer, in the order in which it was handed over, and the group that it makes of it.

use std::time::Duration;

use indelible_core::StoreError;
use tokio::{sync::mpsc, task};

use super::{Waiting, group::Group};

/// What is handed to the sequencer, with its room in the queue until it is answered.
pub(crate) enum Job {
    Append(Waiting),
    /// Answers what came before, and ends.
    Close,
}

pub(super) struct Queue {
    jobs: mpsc::UnboundedReceiver<Job>,
    /// What goes next.
    group: Group,
    /// What can't go with it.
    held: Option<Waiting>,
    is_closing: bool,
    patience: Duration,
}

impl Queue {
    pub(super) fn new(jobs: mpsc::UnboundedReceiver<Job>, patience: Duration) -> Self {
        Self { jobs, group: Group::default(), held: None, is_closing: false, patience }
    }

    /// What goes next: all that waits, as soon as something does; `None` where nothing ever will. (Two halves by turns, so
    /// that callers are answered while the server writes the others', were slower at 64 and 256 callers and no quicker at
    /// 1,024: what a batch costs by itself was paid twice.) May be dropped, and asked again.
    pub(super) async fn next(&mut self) -> Option<Group> {
        if self.group.waiting.is_empty() && self.held.is_none() && !self.is_closing {
            match self.jobs.recv().await {
                Some(job) => self.add(job),
                None => self.is_closing = true,
            }
        }
        self.let_others_come().await;
        self.take();
        let group = std::mem::take(&mut self.group);
        (!self.is_closing || !group.waiting.is_empty()).then_some(group)
    }

    /// Takes what is there, as far as it can go together.
    fn take(&mut self) {
        if let Some(held) = self.held.take() {
            self.add(Job::Append(held));
        }
        while !self.is_closing
            && self.held.is_none()
            && !self.group.is_full()
            && let Ok(job) = self.jobs.try_recv()
        {
            self.add(job);
        }
    }

    /// Refuses those who can't be answered in time any more: while the server was away, those before them have used up
    /// their patience.
    fn add(&mut self, job: Job) {
        match job {
            Job::Append(waiting) if waiting.handed_over.elapsed() > self.patience => {
                let what = format!("no server took the appends before this one within {:?}", self.patience);
                let _ = waiting.answer.send(Err(StoreError::Unavailable { what, source: None }));
            }
            Job::Append(waiting) => self.held = self.group.take(waiting).err().map(|held| *held),
            Job::Close => self.is_closing = true,
        }
    }

    /// Those who were answered just now often have the next append at hand. Gives them their turn, as long as each turn
    /// brings more: otherwise half of the callers would always wait for the batch of the other half. A lone caller gains
    /// by it, too (0.34 ms an append instead of 0.55): it keeps the runtime's threads awake.
    async fn let_others_come(&self) {
        let mut waiting = 0;
        loop {
            task::yield_now().await;
            if self.jobs.len() <= waiting {
                break;
            }
            waiting = self.jobs.len();
        }
    }

    /// Refuses all that is left.
    pub(super) fn close(mut self, error: impl Fn() -> StoreError) {
        self.jobs.close();
        let left = std::iter::from_fn(|| self.jobs.try_recv().ok());
        let left = self.held.map(Job::Append).into_iter().chain(left);
        let refuse = |waiting: Waiting| drop(waiting.answer.send(Err(error())));
        self.group.waiting.into_iter().for_each(refuse);
        for job in left {
            if let Job::Append(waiting) = job {
                refuse(waiting);
            }
        }
    }
}
