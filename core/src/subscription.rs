//! Subscriptions: the log from a place on, first the past, then the present (L7).
//!
//! There is no seam to get wrong. Positions are gapless and become visible in order, so a subscription only ever reads
//! pages of the log up to the published head, and sleeps on that head when it has seen all. A slow subscriber holds one
//! page of a few hundred events, slows nobody, and loses nothing.
//!
//! A store that stopped itself and goes on may have lost what was delivered. Its [`published`](EventStore::published) ends
//! when it stops; whatever is answered after that counts only where it still has not gone on. Where it has, it must prove the
//! last place that was looked at (L11), and is asked anew.

use std::{
    panic,
    sync::{Arc, Mutex, PoisonError},
    vec,
};

use futures::{
    FutureExt, Stream,
    future::{self, BoxFuture},
    stream,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinSet, coop::consume_budget},
};
use tracing::Instrument;

use crate::{EventStore, Filter, Page, Position, ReadLog, RecordedEvent, StoreError, Token};

/// The most events that a subscription holds, unless it is told otherwise: there may be thousands of subscriptions.
const PAGE_EVENTS: usize = 256;

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// The first event of the log.
    #[default]
    Beginning,
    /// The first event that is published after the subscription started.
    Now,
    /// The first event after this place, usually a checkpoint.
    After(Token),
}

/// What a subscription delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The next event.
    Event(RecordedEvent),
    /// Every event up to here that is wanted was delivered. A filtered subscription says so behind each page that
    /// ends with events it doesn't want, so that its checkpoint moves on.
    Progress(Token),
    /// The past is through: all that was published is delivered. Said each time it becomes true again, and when a store
    /// goes on that had stopped.
    CaughtUp(Token),
}

impl Delivery {
    /// The event, where it is one.
    pub fn into_event(self) -> Option<RecordedEvent> {
        match self {
            Self::Event(event) => Some(event),
            Self::Progress(_) | Self::CaughtUp(_) => None,
        }
    }
}

/// A subscription to a store.
///
/// ```
/// # use indelible_core::{*, store::memory::MemoryStore};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = MemoryStore::new();
/// let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await?;
/// match subscription.next().await? {
///     Delivery::Event(event) => println!("{} in {}", event.event_type, event.stream),
///     Delivery::Progress(token) => println!("looked as far as {token}"),
///     Delivery::CaughtUp(token) => println!("live from {token} on"),
/// }
/// # Ok(()) }
/// ```
pub struct Subscription<S: ?Sized> {
    store: Arc<S>,
    filter: Filter,
    page_events: usize,
    published: watch::Receiver<Position>,
    /// The last place that was looked at.
    looked_to: Token,
    /// Whether there is more to be read than a page.
    is_far: bool,
    state: State,
}

enum State {
    /// Events up to the published head may not have been read yet.
    Behind,
    /// The store is asked, and answers even to a subscriber that gives up waiting and comes back.
    Asking(Asked),
    /// A page is being delivered, which looked as far as the position where that is not its last event's.
    Delivering(vec::IntoIter<RecordedEvent>, Option<Position>),
    /// All that was published up to `looked_to` is delivered, and the subscriber knows.
    Live,
}

enum Answer {
    /// What is wanted of the log, up to this head.
    Page(Page<Position>, Position),
    Progress(Token),
    CaughtUp,
    Stopped,
    /// The store had stopped, and goes on.
    GoesOn(watch::Receiver<Position>),
}

/// In a lock that nobody ever waits for: a subscription can be shared so, which a future by itself can't.
type Asked = Mutex<BoxFuture<'static, Result<Answer, StoreError>>>;

/// Asks in a task of its own, so that the store is through with the answer whether the subscriber comes back for it or
/// not: what is only asked when somebody looks would keep a connection until then. It ends with the subscription.
fn ask(question: impl Future<Output = Result<Answer, StoreError>> + Send + 'static) -> Asked {
    let Ok(runtime) = Handle::try_current() else { return Mutex::new(Box::pin(question)) };
    let mut task = JoinSet::new();
    task.spawn_on(question.in_current_span(), &runtime);
    Mutex::new(Box::pin(async move {
        match task.join_next().await {
            Some(Ok(answer)) => answer,
            Some(Err(error)) if error.is_panic() => panic::resume_unwind(error.into_panic()),
            _ => Err(StoreError::stopped("the runtime ends")),
        }
    }))
}

/// Asks for little: what is in memory is answered at once, without a task.
fn ask_for_little(question: impl Future<Output = Result<Answer, StoreError>> + Send + 'static) -> Asked {
    let mut question = Box::pin(question);
    match question.as_mut().now_or_never() {
        Some(answer) => Mutex::new(Box::pin(future::ready(answer))),
        None => ask(question),
    }
}

impl<S: EventStore> Subscription<S> {
    /// Subscribes to the events that a filter lets through.
    ///
    /// # Errors
    /// [`StoreError::Diverged`] when the token to start from is not of this log, [`StoreError::Invalid`] for a filter
    /// with an item that names nothing, and those of the store, which is asked where to start but for the beginning.
    pub async fn new(store: S, filter: impl Into<Filter>, from: StartFrom) -> Result<Self, StoreError> {
        Self::shared(Arc::new(store), filter, from).await
    }
}

impl<S: EventStore + ?Sized> Subscription<S> {
    /// As [`new`](Subscription::new), for a store behind a pointer.
    ///
    /// # Errors
    /// As [`new`](Subscription::new).
    pub async fn shared(store: Arc<S>, filter: impl Into<Filter>, from: StartFrom) -> Result<Self, StoreError> {
        let filter = filter.into();
        filter.validate()?;
        let published = store.published();
        let looked_to = match from {
            StartFrom::Beginning => Token::start(store.id()),
            StartFrom::Now => {
                let head = *published.borrow();
                match published.has_changed() {
                    Ok(_) => store.token(head).await?,
                    // Of a store that is just being opened again it says nothing.
                    Err(_) => store.head().await?,
                }
            }
            StartFrom::After(token) => {
                store.check(&token).await?;
                token
            }
        };
        let (page_events, is_far, state) = (PAGE_EVENTS, true, State::Behind);
        Ok(Self { store, filter, page_events, published, looked_to, is_far, state })
    }

    /// Reads and holds up to so many events at a time, instead of 256: where there is much to catch up with, more are
    /// quicker.
    #[must_use]
    pub fn pages_of(self, events: usize) -> Self {
        Self { page_events: events.max(1), ..self }
    }

    /// The next delivery. Waits, without polling, when there is none yet. May be dropped and called again: nothing is
    /// lost, and what the store was asked it goes on answering, so that a subscriber who never waits long gets on.
    ///
    /// # Errors
    /// Those of the store; a later call tries again from the same place. [`StoreError::Stopped`] when the store was
    /// closed, or has stopped; [`StoreError::Diverged`] when it goes on without what was delivered.
    pub async fn next(&mut self) -> Result<Delivery, StoreError> {
        loop {
            match &mut self.state {
                State::Behind => {
                    let head = *self.published.borrow_and_update();
                    self.state = match self.looked_to.position < head {
                        true => State::Asking(self.ask_page(head)),
                        false if self.published.has_changed().is_err() => {
                            State::Asking(ask_for_little(self.proved(future::ready(Ok(Answer::CaughtUp)))))
                        }
                        false => {
                            self.state = State::Live;
                            return Ok(Delivery::CaughtUp(self.looked_to));
                        }
                    };
                }
                State::Asking(answer) => {
                    // What is answered at once must not keep all others from the thread.
                    consume_budget().await;
                    let answer = answer.get_mut().unwrap_or_else(PoisonError::into_inner).await;
                    self.state = State::Behind;
                    match answer? {
                        Answer::Page(page, head) => {
                            #[cfg(feature = "bugs")]
                            let head = crate::bugs::head_after_page(head, &self.published);
                            self.is_far = page.next.is_some();
                            let looked_to = page.next.map_or(head, Position::before);
                            let silent_to = match page.events.last() {
                                Some(last) if last.position == looked_to => None,
                                _ => Some(looked_to),
                            };
                            self.state = State::Delivering(page.events.into_iter(), silent_to);
                        }
                        Answer::Progress(token) => {
                            self.looked_to = token;
                            return Ok(Delivery::Progress(token));
                        }
                        Answer::CaughtUp => {
                            self.state = State::Live;
                            return Ok(Delivery::CaughtUp(self.looked_to));
                        }
                        Answer::Stopped => {
                            self.state = State::Live;
                            return Err(StoreError::stopped("the store was closed, or has stopped"));
                        }
                        Answer::GoesOn(published) => self.published = published,
                    }
                }
                State::Delivering(events, silent_to) => {
                    if let Some(event) = events.next() {
                        (self.looked_to.position, self.looked_to.event) = (event.position, event.id);
                        return Ok(Delivery::Event(event));
                    }
                    self.state = match *silent_to {
                        Some(position) => State::Asking(self.ask_token(position)),
                        None => State::Behind,
                    };
                }
                State::Live => {
                    #[cfg(feature = "bugs")]
                    crate::bugs::sleep_without_looking(&mut self.published).await;
                    let head = self.published.wait_for(|head| *head > self.looked_to.position).await.map(|head| *head);
                    self.state = State::Asking(match head {
                        Ok(head) => self.ask_page(head),
                        Err(_) => ask_for_little(self.proved(future::ready(Ok(Answer::Stopped)))),
                    });
                }
            }
        }
    }

    fn ask_page(&self, head: Position) -> Asked {
        let from = self.looked_to.position.plus(1);
        let read = ReadLog::matching(self.filter.clone()).from(from).to(head).limit(self.page_events);
        let store = Arc::clone(&self.store);
        let page = self.proved(async move { Ok(Answer::Page(store.read_log(&read).await?, head)) });
        // Who catches up with a log that is in memory would keep all others from the thread.
        if self.is_far { ask(page) } else { ask_for_little(page) }
    }

    fn ask_token(&self, position: Position) -> Asked {
        let store = Arc::clone(&self.store);
        ask_for_little(self.proved(async move { store.token(position).await.map(Answer::Progress) }))
    }

    /// An answer of the log that this was subscribed to, unless that is to be read on from another moment.
    fn proved(
        &self,
        answer: impl Future<Output = Result<Answer, StoreError>> + Send + 'static,
    ) -> impl Future<Output = Result<Answer, StoreError>> + Send + 'static {
        let (store, published, looked_to) = (Arc::clone(&self.store), self.published.clone(), self.looked_to);
        async move {
            let answer = answer.await;
            if published.has_changed().is_ok() {
                return answer;
            }
            let now = store.published();
            store.check(&looked_to).await?;
            if now.same_channel(&published) { answer } else { Ok(Answer::GoesOn(now)) }
        }
    }

    /// The deliveries as a [`Stream`], which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Delivery, StoreError>> + Send {
        stream::unfold(Some(self), |subscription| async move {
            let mut subscription = subscription?;
            let delivery = subscription.next().await;
            let goes_on = delivery.is_ok();
            Some((delivery, goes_on.then_some(subscription)))
        })
    }
}
