//! The agenda of a run, kept and read as a worker does, with a moment before each commit and one after.

use std::sync::Arc;

use futures::TryStreamExt;
use indelible_core::{Aggregate, Cause, EventStore, EventStoreExt, Filter, Position, ReadLog, Token};
use indelible_projections::{Advance, Claim, Envelope, Partition, Project, ProjectionId, Registration, WorkerId};
use tokio::sync::{Notify, mpsc};

use super::run::Run;
use crate::{
    Agenda, AgendaModel, Journal, Saga,
    agenda::{Entry, Work},
};

pub(super) struct Clerk<'r, S: Saga, M> {
    run: &'r Run<'r, S, M>,
    agenda: Agenda<S>,
    claims: Vec<Claim>,
}

impl<'r, S: Saga, M: AgendaModel> Clerk<'r, S, M> {
    /// Takes all partitions, whoever had them.
    pub async fn new(run: &'r Run<'r, S, M>) -> Result<Self, Cause> {
        let projection = ProjectionId::of::<Agenda<S>>();
        let setup = <Agenda<S> as Project<M>>::SETUP;
        let head = run.store.head().await?;
        run.model
            .register(&Registration { projection: projection.clone(), partitions: S::PARTITIONS, head, setup })
            .await?;
        let mut claims = Vec::new();
        for partition in (0..S::PARTITIONS).map(Partition) {
            let claim = run.model.take(&projection, partition, &WorkerId("clerk".into())).await?;
            claims.push(claim.ok_or("a partition is somebody else's")?);
        }
        Ok(Self { run, agenda: Agenda::new(Arc::new(Notify::new()), mpsc::channel(1).0), claims })
    }

    /// Takes in what the journals hold by now.
    pub async fn catch_up(&mut self) -> Result<(), Cause> {
        let from = self.claims.iter().map(|claim| claim.position.position).min().unwrap_or(Position::START);
        let read = ReadLog::matching(Filter::categories([Journal::<S>::CATEGORY])).from(from.plus(1));
        let news: Vec<_> = self.run.store.log(read).try_collect().await?;
        for claim in &mut self.claims {
            let mine = |stream: &_| Partition::of(stream, S::PARTITIONS) == claim.partition;
            let unseen = news.iter().filter(|event| mine(&event.stream) && event.position > claim.position.position);
            let batch: Vec<_> = unseen.cloned().collect();
            let Some(last) = batch.last() else { continue };
            let to = Token { store: claim.position.store, position: last.position, event: last.id };
            let Claim { projection, partition, epoch, position: from, .. } = claim.clone();
            let mut tx = self.run.model.begin(&Advance { projection, partition, epoch, from, to }).await?;
            for mut recorded in batch {
                recorded.recorded_at = self.run.store.recorded_at(&recorded);
                Project::<M>::apply(&self.agenda, &Envelope::decode(recorded, false)?, &mut tx).await?;
            }
            self.run.moments.pass("before a commit of the agenda").await;
            self.run.model.commit(tx).await?;
            claim.position = to;
            self.run.moments.pass("after a commit of the agenda").await;
        }
        Ok(())
    }

    /// What is due of the run.
    pub async fn due(&self) -> Result<Vec<Entry>, Cause> {
        let mut due = Vec::new();
        for (claim, work) in self.claims.iter().flat_map(|claim| Work::ALL.map(|work| (claim, work))) {
            let mut after = None;
            loop {
                let (page, _) = self.run.model.earliest::<S>(claim.partition, work, after.as_ref(), PAGE).await?;
                let (full, last) = (page.len() == PAGE, page.last().cloned());
                due.extend(page.into_iter().filter(|entry| self.run.has(&entry.saga)));
                if !full {
                    break;
                }
                after = last;
            }
        }
        Ok(due)
    }
}

const PAGE: usize = 64;
