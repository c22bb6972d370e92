//! What each append of a batch is told.

use std::{collections::HashMap, convert::Infallible};

use indelible_core::{
    AppendOutcome, Appended, EventId, InvalidInput, Judgement, Position, StoreError, StoreId, Token, judge,
};

use super::{
    Sequencer, Waiting,
    answer::{Answer, Outcome},
    batch::Batch,
    foreseen::Facts,
    known::Recorded,
};
use crate::read::Reader;

/// Tells the callers of a batch that was written as it was foreseen.
pub(super) fn written(store: StoreId, facts: Facts, waiting: Vec<Waiting>) {
    let Facts { mut head, recorded_at, versions, .. } = facts;
    // By streams that an append writes, in the order of their first events: so `record` asks for them.
    let mut versions = versions.into_iter();
    for Waiting { append, answer, .. } in waiting {
        let version = |_: &_| Ok::<_, Infallible>(versions.next().unwrap_or_default());
        let Ok(events) = append.record(head, recorded_at, version);
        head = head.plus(events.len() as u64);
        // Sending fails where the caller has gone away, here and below.
        let _ = answer.send(Ok(AppendOutcome::Appended(Appended::new(store, events, false))));
    }
}

impl Sequencer {
    /// What each append is told, and the head behind the batch, which is published then.
    pub(super) fn told(&self, batch: &Batch<'_>, waiting: &[Waiting], mut answer: Answer) -> Vec<Told> {
        let token = |(position, event)| Token { store: self.shared.id, position, event };
        let before = token(answer.head);
        let mut head = before;
        let mut known: HashMap<usize, Vec<(EventId, Position)>> = HashMap::new();
        for (event, position) in &answer.known {
            let (append, index) = batch.owner(*event);
            known.entry(append).or_default().push((waiting[append].append.events()[index].1.id, *position));
        }
        let mut told = Vec::with_capacity(waiting.len());
        for (index, Waiting { append, .. }) in waiting.iter().enumerate() {
            told.push(match answer.outcomes[index] {
                Outcome::Written => {
                    let events = answer.recorded(batch, index, append);
                    let appended = Appended::new(self.shared.id, events, false);
                    head = appended.token;
                    Told::Answer(Ok(AppendOutcome::Appended(appended)))
                }
                Outcome::Conflict => {
                    let failed = answer.failed(index).into_iter().map(|failed| batch.failed(index, append, &failed));
                    Told::Answer(Ok(AppendOutcome::Conflict(failed.collect())))
                }
                Outcome::BeyondHead => {
                    // The last that failed is the one that ended the judgement.
                    let reason = answer.failed(index).pop().map(|failed| {
                        let condition = &append.conditions()[batch.condition(index, failed.index)];
                        format!("looks after position {}, the head is {}", condition.after, failed.found)
                    });
                    Told::Answer(Err(InvalidInput::new("condition", reason.unwrap_or_default()).into()))
                }
                Outcome::Known => Told::Known(known.remove(&index).unwrap_or_default()),
            });
        }
        self.publisher.publish(head);
        if head != before {
            self.publisher.announce();
        }
        told
    }

    pub(super) fn answer(&self, waiting: Vec<Waiting>, told: Vec<Told>) {
        for (waiting, told) in waiting.into_iter().zip(told) {
            match told {
                Told::Answer(outcome) => drop(waiting.answer.send(outcome)),
                Told::Known(ids) => drop(tokio::spawn(tell_known(self.reader.clone(), waiting, ids))),
            }
        }
    }
}

/// What an append is told.
pub(super) enum Told {
    Answer(Result<AppendOutcome, StoreError>),
    /// Ids of its events were recorded before, there.
    Known(Vec<(EventId, Position)>),
}

/// Answers an append of which an id is recorded already: as a repetition, or not. The log only grows, so that needs no
/// lock.
async fn tell_known(reader: Reader, waiting: Waiting, ids: Vec<(EventId, Position)>) {
    let Waiting { append, answer, room, .. } = waiting;
    let told = async {
        let recorded = Recorded::read(&reader, &append, ids).await?;
        match judge(&append, &recorded)? {
            Judgement::Repeated(events) => Ok(AppendOutcome::Appended(Appended::new(reader.store(), events, true))),
            Judgement::IdConflict(id, position) => Err(StoreError::IdConflict { id, position }),
            other => Err(StoreError::corrupted(format!("an id that was recorded is not: {other:?}"))),
        }
    };
    let told = told.await;
    let _ = answer.send(told);
    drop(room);
}
