//! The world outside, with a moment before each call and one after; a look at whether the journal knows of it; and a
//! command for what happens there.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use indelible_core::{Aggregate, Apply, Category, Context, Event, Events, Handle, Repository};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run::child;
use crate::{
    Act, Call, Failure, Perform, Saga, Sagas,
    testing::{outside::Outside, store::Moments},
};

pub(super) struct Watched<S: Saga> {
    pub outside: Outside,
    pub moments: Arc<Moments>,
    pub sagas: Sagas<S>,
    pub ledgers: Repository<Ledger>,
    pub children: BTreeMap<String, S>,
}

impl<S: Saga> Perform<S> for Watched<S> {
    async fn perform(&self, effect: S::Effect, call: &Call) -> Result<Value, Failure> {
        self.moments.pass("before a call").await;
        let journal = self.sagas.load(call.saga()).await.map_err(Failure::unsure)?;
        let track = journal.past().track(call.step());
        if track.and_then(|track| track.on_its(call.act())).is_none() {
            self.outside.fault(format!("{} was called before the journal said so", call.key()));
        }
        if call.act() == Act::Undo && track.is_some_and(|track| !track.may_have_happened()) {
            self.outside.fault(format!("{} was called, and there is nothing to undo", call.key()));
        }
        let answer = match self.children.get(call.step()) {
            Some(about) => {
                let id = child(call.saga(), call.step());
                match call.act() {
                    Act::Do => self.sagas.child(call, &id, about.clone()).await,
                    Act::Undo => self.sagas.cancel_child(call, &id).await,
                }
            }
            None => {
                if self.outside.happens(call) {
                    let ledger = Ledger::id(call.saga(), call.step());
                    self.ledgers.execute(ledger, Bring(call.key().into())).with(call.command()?).await?;
                }
                Perform::<S>::perform(&self.outside, effect, call).await
            }
        };
        self.moments.pass("after a call").await;
        answer
    }
}

/// What was brought about, as the log knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(crate = indelible_core)]
pub(super) enum LedgerEvent {
    Brought { key: String },
}

/// What was brought about for a step, each time that it was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub brought: Vec<Brought>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Brought {
    pub key: String,
}

impl Aggregate for Ledger {
    const CATEGORY: Category = Category::from_static("crash_ledger");
    type Id = String;
    const STATE: &'static str = "1";
}

impl Apply for Ledger {
    type Event = LedgerEvent;
    fn apply(&mut self, event: &LedgerEvent) {
        let LedgerEvent::Brought { key } = event;
        self.brought.push(Brought { key: key.clone() });
    }
}

pub(super) struct Bring(String);

impl Handle<Bring> for Ledger {
    type Error = Infallible;
    fn handle(&self, Bring(key): &Bring, _: &Context<Self>) -> Result<Events<LedgerEvent>, Infallible> {
        Ok(LedgerEvent::Brought { key: key.clone() }.into())
    }
}

impl Ledger {
    /// The ledger of a step.
    pub fn id(saga: &str, step: &str) -> String {
        format!("{saga}/{step}")
    }
}
