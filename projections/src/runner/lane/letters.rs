//! Events that cannot be handled: tried again, parked, and handled after all (P3).

use std::sync::Arc;

use indelible_core::{Cause, Position, RecordedEvent, Timestamp};

use super::{super::ahead::decode, Lane, Met, trouble::Trouble};
use crate::{DeadLetter, Envelope, LetterEnd, OnFailure, Project, ReadModel};

impl<P: Project<M>, M: ReadModel> Lane<P, M> {
    /// An event could not be handled: again later, or as the projection says.
    pub(super) async fn failed(&mut self, event: &RecordedEvent, error: Arc<str>) -> Result<(), Trouble> {
        self.attempts += 1;
        #[cfg(feature = "bugs")]
        if crate::bugs::is(crate::bugs::Bug::SkipsPoison) {
            let tx = self.begin(self.token(event)).await?;
            self.shared.model.commit(tx).await?;
            self.committed(self.token(event), 0);
            return Ok(());
        }
        let OnFailure::Park { streams_max } = P::ON_FAILURE else { return Err(Trouble::Events(error)) };
        if self.attempts < P::RETRY.attempts_max || self.parked.len() >= streams_max {
            return Err(Trouble::Events(error));
        }
        self.park(event, Some(error.to_string())).await?;
        Arc::make_mut(&mut self.parked).insert(event.stream.clone());
        tracing::warn!(projection = %self.claim.projection, stream = %event.stream, position = %event.position, %error,
            "an event that cannot be handled was parked, and so will be those that follow it in its stream");
        Ok(())
    }

    /// Puts an event among the dead letters, in a transaction of its own.
    pub(super) async fn park(&mut self, event: &RecordedEvent, error: Option<String>) -> Result<(), Trouble> {
        let letter = self.letter(event, error);
        let mut tx = self.begin(self.token(event)).await?;
        self.shared.model.park(&mut tx, &letter).await?;
        self.shared.model.commit(tx).await?;
        self.meters.dead_letters.increment(1);
        self.committed(self.token(event), 0);
        Ok(())
    }

    /// Handles a dead letter after all, or gives it up. Under the partition's owner, so that what comes after it waits.
    pub async fn end_letter(
        &mut self,
        letter: &DeadLetter,
        event: &RecordedEvent,
        end: &LetterEnd,
    ) -> Result<(), Cause> {
        let ended = async {
            let mut redriven = Vec::new();
            if *end == LetterEnd::Redriven {
                let decoded = decode(event.clone()).map_err(|undecodable| Trouble::Events(undecodable.error));
                redriven.push(Envelope { replaying: event.position <= self.claim.replays_to, ..decoded? });
                self.before(&redriven).await?;
            }
            let mut met = Met::default();
            loop {
                let done = self.try_end_letter(&redriven, letter, end).await;
                // The keeper, say, which renews the lease.
                if !met.others(&done).await {
                    return done;
                }
            }
        };
        match ended.await {
            Ok(()) => {}
            Err(Trouble::Events(error)) => return Err(error.to_string().into()),
            Err(trouble) => {
                self.give_way(trouble);
                return Err("the partition could not commit; try again".into());
            }
        }
        let (projection, stream) = (&self.claim.projection, &letter.stream);
        match self.shared.model.letters(projection, Some(stream), Position::START, 1).await {
            Ok(left) if left.is_empty() => _ = Arc::make_mut(&mut self.parked).remove(stream),
            Ok(_) => {}
            // The letter is ended all the same. Which streams have any left is known when the partition is taken again.
            Err(error) => self.give_way(error.into()),
        }
        Ok(())
    }

    async fn try_end_letter(
        &self,
        redriven: &[Envelope<P::Event>],
        letter: &DeadLetter,
        end: &LetterEnd,
    ) -> Result<(), Trouble> {
        let mut tx = self.begin(self.claim.position).await?;
        if !redriven.is_empty() {
            self.handle(redriven, &mut tx).await?;
        }
        self.shared.model.unpark(&mut tx, letter, end).await?;
        Ok(self.shared.model.commit(tx).await?)
    }

    pub(super) fn letter(&self, event: &RecordedEvent, error: Option<String>) -> DeadLetter {
        DeadLetter {
            partition: self.claim.partition,
            event: event.id,
            stream: event.stream.clone(),
            version: event.version,
            position: event.position,
            event_type: event.event_type.clone(),
            attempts: if error.is_some() { self.attempts } else { 0 },
            error,
            parked_at: Timestamp::now(),
        }
    }
}
