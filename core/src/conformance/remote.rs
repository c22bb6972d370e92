//! A handle to a store in another process, for stores that processes share: what [`Harness::another`](super::Harness::another)
//! is for.
//!
//! The test starts a process of its own, which opens the store and [serves](serve) it; the [`Remote`] asks there whatever
//! it is asked. So the cases of many writers have writers with nothing in common but the store.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    AnyStore, Append, AppendOutcome, Category, CheckpointStore, EventId, EventStore, InvalidInput, Limits, Page,
    Position, ReadLog, ReadStream, RecordedEvent, Snapshot, SnapshotStore, StoreError, StoreId, StreamHead, StreamId,
    Token, Version,
};

/// How long the other process may take to open its store.
const OPENING_MAX: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
enum Question {
    Append(Append),
    ReadStream(ReadStream),
    ReadLog(ReadLog),
    Event(EventId),
    Head,
    Token(Position),
    StreamHead(StreamId),
    Streams(Option<Category>, Option<StreamId>, usize),
    Categories(Option<Category>, usize),
    LoadSnapshot(StreamId),
    SaveSnapshot(Snapshot),
    DeleteSnapshot(StreamId),
    LoadCheckpoint(String),
    SaveCheckpoint(String, Token),
}

/// What is said in either direction. A question and its answer have the same number; 0 is the published head.
#[derive(Serialize, Deserialize)]
struct Message {
    number: u64,
    body: Vec<u8>,
}

/// A [`StoreError`] without what hangs on its source but the words.
#[derive(Serialize, Deserialize)]
enum Failure {
    Invalid(String, String),
    IdConflict(EventId, Position),
    Overloaded(String),
    Unavailable(String),
    OutcomeUnknown(Append),
    Corrupted(String),
    Diverged(Token, Token),
    Stopped(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Invalid(invalid) => {
                let text = invalid.to_string();
                let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason).to_owned();
                Self::Invalid(invalid.what().to_owned(), reason)
            }
            StoreError::IdConflict { id, position } => Self::IdConflict(id, position),
            StoreError::Overloaded { what } => Self::Overloaded(what),
            StoreError::Unavailable { what, source } => Self::Unavailable(format!("{what}: {source:?}")),
            StoreError::OutcomeUnknown { append, .. } => Self::OutcomeUnknown(*append),
            StoreError::Corrupted { what, source } => Self::Corrupted(format!("{what}: {source:?}")),
            StoreError::Diverged { token, found } => Self::Diverged(token, found),
            StoreError::Stopped { reason } => Self::Stopped(reason),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            // A test's errors are few.
            Failure::Invalid(what, reason) => InvalidInput::new(what.leak(), reason).into(),
            Failure::IdConflict(id, position) => Self::IdConflict { id, position },
            Failure::Overloaded(what) => Self::Overloaded { what },
            Failure::Unavailable(what) => Self::Unavailable { what, source: None },
            Failure::OutcomeUnknown(append) => Self::OutcomeUnknown { append: Box::new(append), source: None },
            Failure::Corrupted(what) => Self::corrupted(what),
            Failure::Diverged(token, found) => Self::Diverged { token, found },
            Failure::Stopped(reason) => Self::stopped(reason),
        }
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("what is asked and answered can be encoded")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    let decoded = bincode::serde::decode_from_slice(bytes, bincode::config::standard());
    decoded.expect("both processes are of one program").0
}

fn send(mut to: &TcpStream, number: u64, body: Vec<u8>) -> io::Result<()> {
    let message = encode(&Message { number, body });
    let mut bytes = (message.len() as u64).to_be_bytes().to_vec();
    bytes.extend(message);
    to.write_all(&bytes)
}

fn receive(mut from: &TcpStream) -> io::Result<Message> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let mut bytes = vec![0; u64::from_be_bytes(len) as usize];
    from.read_exact(&mut bytes)?;
    Ok(decode(&bytes))
}

/// Answers what a [`Remote`] asks that listens at a port, until it is gone. For the process that it has started.
///
/// # Errors
/// Where nobody listens.
pub async fn serve(store: AnyStore, port: u16) -> io::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let (reading, writing) = (stream.try_clone()?, Arc::new(Mutex::new(stream)));
    let published = store.published();
    // What was published is said before what was answered after it.
    let say = move |number, body, published: &watch::Receiver<Position>| {
        let writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens where this fails, and then all ends.
        let _ = send(&writing, 0, encode(&*published.borrow()));
        if number > 0 {
            let _ = send(&writing, number, body);
        }
    };
    let say = Arc::new(say);
    say(0, Vec::new(), &published);
    let hello = encode(&(store.id(), *published.borrow()));
    say(1, hello, &published);
    let (questions, mut asked) = mpsc::unbounded_channel();
    thread::spawn(move || {
        while let Ok(message) = receive(&reading) {
            if questions.send(message).is_err() {
                return;
            }
        }
    });
    let mut moved = published.clone();
    let mut is_open = true;
    loop {
        tokio::select! {
            message = asked.recv() => {
                let Some(Message { number, body }) = message else { return Ok(()) };
                let (store, say, published) = (Arc::clone(&store), Arc::clone(&say), published.clone());
                tokio::spawn(async move { say(number, answer(&store, decode(&body)).await, &published) });
            }
            changed = moved.changed(), if is_open => match changed {
                Ok(()) => say(0, Vec::new(), &published),
                Err(_) => is_open = false,
            }
        }
    }
}

async fn answer(store: &AnyStore, question: Question) -> Vec<u8> {
    fn told<T: Serialize>(answer: Result<T, StoreError>) -> Vec<u8> {
        encode(&answer.map_err(Failure::from))
    }
    match question {
        Question::Append(append) => told(store.append(append).await),
        Question::ReadStream(read) => told(store.read_stream(&read).await),
        Question::ReadLog(read) => told(store.read_log(&read).await),
        Question::Event(id) => told(store.event(id).await),
        Question::Head => told(store.head().await),
        Question::Token(position) => told(store.token(position).await),
        Question::StreamHead(stream) => told(store.stream_head(&stream).await),
        Question::Streams(category, after, limit) => {
            told(store.streams(category.as_ref(), after.as_ref(), limit).await)
        }
        Question::Categories(after, limit) => told(store.categories(after.as_ref(), limit).await),
        Question::LoadSnapshot(stream) => told(store.load_snapshot(&stream).await),
        Question::SaveSnapshot(snapshot) => told(store.save_snapshot(snapshot).await),
        Question::DeleteSnapshot(stream) => told(store.delete_snapshot(&stream).await),
        Question::LoadCheckpoint(reader) => told(store.load_checkpoint(&reader).await),
        Question::SaveCheckpoint(reader, token) => told(store.save_checkpoint(&reader, token).await),
    }
}

/// A store that another process has open, with the default limits. The process ends with it.
pub struct Remote {
    id: StoreId,
    limits: Limits,
    published: watch::Receiver<Position>,
    writing: Mutex<TcpStream>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>,
    next: AtomicU64,
    process: Child,
}

impl Remote {
    /// Starts the process that a command makes of a port: it must [serve] the store there.
    ///
    /// # Panics
    /// Where it doesn't, within half a minute.
    pub fn start(command: impl FnOnce(u16) -> Command) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("a listener has an address").port();
        let mut process = command(port).spawn().expect("a process can be started");
        listener.set_nonblocking(true).expect("a listener can be asked");
        let until = Instant::now() + OPENING_MAX;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    let ended = process.try_wait().expect("a child of ours");
                    assert!(ended.is_none(), "the other process has ended: {ended:?}");
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("the other process does not come: {error}"),
            }
        };
        stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true)).expect("a connection can be set up");
        let hello = loop {
            let message = receive(&stream).expect("the other process says who it is");
            if message.number > 0 {
                break message;
            }
        };
        let (id, head): (StoreId, Position) = decode(&hello.body);
        let (moves, published) = watch::channel(head);
        let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>> = Arc::default();
        let (reading, answered) = (stream.try_clone().expect("a connection can be shared"), Arc::clone(&waiting));
        thread::spawn(move || {
            while let Ok(Message { number, body }) = receive(&reading) {
                if number == 0 {
                    let head: Position = decode(&body);
                    moves.send_if_modified(|published| head > std::mem::replace(published, head.max(*published)));
                } else if let Some(answer) = answered.lock().unwrap_or_else(PoisonError::into_inner).remove(&number) {
                    // Whoever asked may have gone away.
                    let _ = answer.send(body);
                }
            }
            answered.lock().unwrap_or_else(PoisonError::into_inner).clear();
        });
        let (writing, next) = (Mutex::new(stream), AtomicU64::new(2));
        Self { id, limits: Limits::default(), published, writing, waiting, next, process }
    }

    async fn ask<T: DeserializeOwned>(&self, question: Question) -> Result<T, StoreError> {
        let number = self.next.fetch_add(1, Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, answer);
        let body = encode(&question);
        let sent = send(&self.writing.lock().unwrap_or_else(PoisonError::into_inner), number, body);
        sent.map_err(|error| StoreError::unavailable("asking another process", error))?;
        let body = answered.await.map_err(|error| StoreError::unavailable("hearing another process", error))?;
        decode::<Result<T, Failure>>(&body).map_err(StoreError::from)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[async_trait]
impl EventStore for Remote {
    fn id(&self) -> StoreId {
        self.id
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        self.ask(Question::Append(append)).await
    }

    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        self.ask(Question::ReadStream(read.clone())).await
    }

    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        self.ask(Question::ReadLog(read.clone())).await
    }

    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.ask(Question::Event(id)).await
    }

    async fn head(&self) -> Result<Token, StoreError> {
        self.ask(Question::Head).await
    }

    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.ask(Question::Token(position)).await
    }

    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        self.ask(Question::StreamHead(stream.clone())).await
    }

    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.ask(Question::Streams(category.cloned(), after.cloned(), limit)).await
    }

    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.ask(Question::Categories(after.cloned(), limit)).await
    }

    fn published(&self) -> watch::Receiver<Position> {
        let mut published = self.published.clone();
        published.mark_unchanged();
        published
    }
}

#[async_trait]
impl SnapshotStore for Remote {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.ask(Question::LoadSnapshot(stream.clone())).await
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.ask(Question::SaveSnapshot(snapshot)).await
    }

    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.ask(Question::DeleteSnapshot(stream.clone())).await
    }
}

#[async_trait]
impl CheckpointStore for Remote {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        self.ask(Question::LoadCheckpoint(reader.to_owned())).await
    }

    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        self.ask(Question::SaveCheckpoint(reader.to_owned(), token)).await
    }
}
