//! The caller's side of an append: it is judged, handed over to the sequencer, and waited for. What was handed over goes on
//! whether its caller still waits or not, and is not turned away for want of room (L10); only with the store does it end.

use std::sync::Arc;

use indelible_core::{Append, AppendOutcome, Appended, StoreError, StreamId, Token, Version};
use tokio::{
    runtime::Handle as Runtime,
    sync::oneshot::{self, error::RecvError},
    task,
};

use super::{Job, Preparation, Prepared, Verdict, prepare};
use crate::store::Shared;

/// What an event takes in the queue beside its own bytes, and what each name does that an append demands something of.
const OVERHEAD_BYTES: usize = 256;
/// What each of its tags does.
const TAG_BYTES: usize = 32;
/// How often an append is judged at most, because the log went on in a way that asks for it; and when the sequencer begins to
/// judge it to the end, however long that takes.
const ROUNDS_MAX: usize = 16;
const PATIENT_ROUND: usize = 3;

/// An append that its caller wants an answer to.
#[derive(Clone)]
pub(crate) struct Asked {
    append: Arc<Append>,
    /// What it takes in the queue.
    bytes: usize,
    /// All that it demands held here.
    judged: Token,
    /// How often it was judged.
    round: usize,
    is_handed_over: bool,
}

enum Answer {
    Final(AppendOutcome),
    /// It is to be judged anew.
    Again(Asked),
}

impl Asked {
    pub(crate) fn of(shared: &Shared, append: Append) -> Self {
        let (bytes, judged) = (queue_bytes(&append), Token::start(shared.id));
        Self { append: Arc::new(append), bytes, judged, round: 0, is_handed_over: false }
    }

    pub(crate) async fn answer(mut self, shared: &Arc<Shared>) -> Result<AppendOutcome, StoreError> {
        while !self.is_handed_over {
            match self.ask(shared).await? {
                Answer::Final(outcome) => return Ok(outcome),
                Answer::Again(asked) => self = asked,
            }
        }
        let (shared, append) = (Arc::clone(shared), Arc::clone(&self.append));
        let ended = task::spawn(async move { self.go_on(&shared).await }).await;
        ended.unwrap_or_else(|error| Err(unknown(append, StoreError::unavailable("judging it", error))))
    }

    /// Judges an append anew until that is final: in a task, which ends whether somebody waits for it or not.
    async fn go_on(mut self, shared: &Arc<Shared>) -> Result<AppendOutcome, StoreError> {
        loop {
            match self.ask(shared).await? {
                Answer::Final(outcome) => return Ok(outcome),
                Answer::Again(asked) => self = asked,
            }
        }
    }

    async fn ask(mut self, shared: &Arc<Shared>) -> Result<Answer, StoreError> {
        if self.round == ROUNDS_MAX {
            let what = format!("the log went on faster than it was judged, {ROUNDS_MAX} times");
            return Err(StoreError::Overloaded { what });
        }
        let (room, queue) = shared.room(self.bytes, self.is_handed_over).await?;
        let (append, judged) = (Arc::clone(&self.append), self.judged);
        let mut prepared = match shared.look(move |view| prepare(view, &append, judged)).await? {
            Preparation::Done(outcome) => return Ok(Answer::Final(outcome)),
            Preparation::Ready(prepared) => prepared,
        };
        self.judged = prepared.judged;
        prepared.is_judged_patiently = self.round >= PATIENT_ROUND;
        let (answer, verdict) = oneshot::channel();
        if queue.put(Job::Append { prepared, answer, room }).is_err() {
            if shared.with_run(|run| Arc::ptr_eq(&run.queue, &queue))? {
                return Err(shared.stopped());
            }
            // The store was opened again, perhaps on a log that had lost something.
            self.judged = Token::start(shared.id);
            return Ok(Answer::Again(self.again()));
        }
        self.is_handed_over = true;
        match HandedOver::new(shared, &self, verdict).verdict().await {
            Ok(Verdict::Written { prepared, before, recorded_at }) => {
                let Prepared { streams, append: asked, .. } = *prepared;
                drop(asked);
                let version = |stream: &StreamId| -> Result<Version, StoreError> {
                    let head = streams.iter().find(|(named, _)| named == stream);
                    Ok(head.map_or(Version::NONE, |(_, head)| head.version))
                };
                let events = Arc::unwrap_or_clone(self.append).record(before, recorded_at, version)?;
                Ok(Answer::Final(AppendOutcome::Appended(Appended::new(shared.id, events, false))))
            }
            Ok(Verdict::Conflict(failed)) => Ok(Answer::Final(AppendOutcome::Conflict(failed))),
            Ok(Verdict::Failed(error)) => Err(error),
            // It comes before what it is answered with: the group that this position is in is published by now.
            Ok(Verdict::LookAgain) => Ok(Answer::Again(self.again())),
            // No answer: the group's write failed, or the sequencer did. Whether the append is in the log, nobody knows.
            Err(_) => {
                let cause = match shared.has_failed() {
                    true => shared.stopped(),
                    // A thread that panics drops its answers before anyone can say so.
                    false => StoreError::stopped("it panicked"),
                };
                Err(unknown(self.append, cause))
            }
        }
    }

    fn again(self) -> Self {
        Self { round: self.round + 1, ..self }
    }
}

fn unknown(append: Arc<Append>, cause: StoreError) -> StoreError {
    StoreError::OutcomeUnknown { append: Box::new(Arc::unwrap_or_clone(append)), source: Some(cause.into()) }
}

/// What an append takes in the queue, its events as they are and encoded. The limits count no bytes for what it demands, of
/// which there may be far more.
fn queue_bytes(append: &Append) -> usize {
    let items = append.conditions().iter().flat_map(|condition| condition.query.items());
    let queried: usize = items.map(|item| item.any_type().len() + item.all_tags().len()).sum();
    let tags: usize = append.events().iter().map(|(_, event)| event.tags.len()).sum();
    let overhead = (append.events().len() + append.expected().len() + queried) * OVERHEAD_BYTES;
    2 * append.size() + tags * TAG_BYTES + overhead
}

/// Waits for the sequencer's verdict. Where nobody waits any more and it is to be looked at again, a task does that.
struct HandedOver<'a> {
    shared: &'a Arc<Shared>,
    asked: &'a Asked,
    /// There until it was heard.
    verdict: Option<oneshot::Receiver<Verdict>>,
}

impl<'a> HandedOver<'a> {
    fn new(shared: &'a Arc<Shared>, asked: &'a Asked, verdict: oneshot::Receiver<Verdict>) -> Self {
        Self { shared, asked, verdict: Some(verdict) }
    }

    async fn verdict(mut self) -> Result<Verdict, RecvError> {
        let Some(waiting) = &mut self.verdict else { unreachable!("it is heard once") };
        let verdict = waiting.await;
        self.verdict = None;
        verdict
    }
}

impl Drop for HandedOver<'_> {
    fn drop(&mut self) {
        let Some(verdict) = self.verdict.take() else { return };
        let Ok(runtime) = Runtime::try_current() else { return };
        let (shared, asked) = (Arc::clone(self.shared), self.asked.clone());
        runtime.spawn(async move {
            if let Ok(Verdict::LookAgain) = verdict.await {
                // Who could be told what it comes to has gone.
                let _ = asked.again().go_on(&shared).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use indelible_core::{ContentType, EventStore as _, EventType, ExpectedVersion, NewEvent, Position, Timestamp};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{Options, RocksStore};

    /// Neither what is to be looked at again nor the store's end depends on a caller who has gone away.
    #[tokio::test]
    async fn who_goes_away_cancels_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
        let append = Append::to("a-1".parse().unwrap(), ExpectedVersion::Any, [event]);
        let asked = Asked { is_handed_over: true, ..Asked::of(store.shared(), append) };
        let (answer, verdict) = oneshot::channel();
        let (_unanswered, other) = oneshot::channel();
        for verdict in [verdict, other] {
            let mut waiting = Box::pin(HandedOver::new(store.shared(), &asked, verdict).verdict());
            assert!(futures::poll!(&mut waiting).is_pending());
        }
        assert!(answer.send(Verdict::LookAgain).is_ok(), "somebody still waits");
        let soon = Duration::from_secs(20);
        let mut published = store.published();
        let written = published.wait_for(|head| *head == Position::FIRST);
        timeout(soon, written).await.expect("it is written").unwrap();
        drop(store);
        let reopened = async {
            while RocksStore::open(dir.path()).is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(soon, reopened).await.expect("nobody keeps it open");
    }

    /// What was handed over is not turned away because others wait, too.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_queue_cancels_nothing() {
        use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
        static IS_HELD: AtomicBool = AtomicBool::new(true);
        fn held() -> Timestamp {
            while IS_HELD.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            Timestamp::now()
        }
        let dir = tempfile::tempdir().unwrap();
        let options = Options { clock: held, ..Options::new() };
        let store = options.queue_bytes(1_000).queue_wait(Duration::from_millis(1)).open(dir.path()).unwrap();
        let append = |stream: &str| {
            let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "0".repeat(1_000));
            Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event])
        };
        let mut first = Box::pin(store.append(append("a-1")));
        assert!(futures::poll!(&mut first).is_pending(), "it takes all the room");
        let asked = Asked { is_handed_over: true, ..Asked::of(store.shared(), append("a-2")) };
        let (answer, verdict) = oneshot::channel();
        let mut waiting = Box::pin(HandedOver::new(store.shared(), &asked, verdict).verdict());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(waiting);
        assert!(answer.send(Verdict::LookAgain).is_ok(), "somebody still waits");
        sleep(Duration::from_millis(100)).await;
        IS_HELD.store(false, SeqCst);
        let mut published = store.published();
        let written = published.wait_for(|head| *head == Position::new(2));
        timeout(Duration::from_secs(20), written).await.expect("it is written").unwrap();
    }
}
