//! An append that was handed over, and its caller, who may go away: it is not cancelled by that (L10).

use std::sync::{Arc, Weak};

use indelible_core::{Append, EventStore as _};
use tokio::{
    runtime::Handle as Runtime,
    sync::oneshot::{self, error::RecvError},
};

use super::Verdict;
use crate::{RocksStore, store::Handle};

/// Waits for the sequencer's verdict. Where nobody waits any more and it is to be looked at again, a task does that.
pub(crate) struct HandedOver<'a> {
    store: &'a RocksStore,
    append: &'a Arc<Append>,
    /// There until it was heard.
    verdict: Option<oneshot::Receiver<Verdict>>,
}

impl<'a> HandedOver<'a> {
    pub(crate) fn new(store: &'a RocksStore, append: &'a Arc<Append>, verdict: oneshot::Receiver<Verdict>) -> Self {
        Self { store, append, verdict: Some(verdict) }
    }

    pub(crate) async fn verdict(mut self) -> Result<Verdict, RecvError> {
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
        // It keeps no store open.
        let store: Weak<Handle> = Arc::downgrade(self.store.handle());
        let append = Arc::clone(self.append);
        runtime.spawn(async move {
            if let Ok(Verdict::LookAgain) = verdict.await
                && let Some(handle) = store.upgrade()
            {
                // Who could be told what it comes to has gone.
                let _ = RocksStore::of(handle).append(Arc::unwrap_or_clone(append)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use indelible_core::{ContentType, EventType, ExpectedVersion, NewEvent, Position};
    use tokio::time::{sleep, timeout};

    use super::*;

    /// Neither what is to be looked at again nor the store's end depends on a caller who has gone away.
    #[tokio::test]
    async fn who_goes_away_cancels_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
        let append = Arc::new(Append::to("a-1".parse().unwrap(), ExpectedVersion::Any, [event]));
        let (answer, verdict) = oneshot::channel();
        let (_unanswered, other) = oneshot::channel();
        for verdict in [verdict, other] {
            let mut waiting = Box::pin(HandedOver::new(&store, &append, verdict).verdict());
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
}
