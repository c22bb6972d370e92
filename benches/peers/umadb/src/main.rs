//! UmaDB's engine in this process, without its server: its writer thread takes all appends that wait and commits them
//! together, by its default options, which sync before they answer. An expected version is a condition: no event of the stream's tag after the last one that the caller knows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Subject},
};
use tokio::sync::{mpsc, oneshot, watch};
use umadb_core::{
    io_shell::io_shell,
    mvcc::{Mvcc, StorageOptions},
    writer_thread_blocking::writer_thread_blocking,
    writer_thread_pipelining::writer_thread_pipelining,
    writer_thread_request::WriterThreadRequest,
};
use umadb_dcb::{DcbAppendCondition, DcbEvent, DcbQuery, DcbQueryItem};

/// As its server has it.
const REQUESTS_MAX: usize = 1_024;
const BATCH_EVENTS_MAX: usize = 2_048;

/// From here on its pipelined writer was the quicker one, below it the other.
const PIPELINED_CALLERS_MIN: u32 = 256;

struct Uma {
    requests: mpsc::Sender<WriterThreadRequest>,
    writer: thread::JoinHandle<()>,
    /// By stream.
    last_positions: Vec<AtomicU64>,
}

impl Subject for Uma {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, log: Log, callers: u32) -> Result<Self> {
        let pipelined = callers >= PIPELINED_CALLERS_MIN;
        let options =
            StorageOptions { pipelined_writer: pipelined, ..StorageOptions::default() }.db_path(place.directory()?);
        let mvcc = Arc::new(Mvcc::new(false, options)?);
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let (head, _) = watch::channel(None);
        let writer = if pipelined {
            let (io, operations) = mpsc::unbounded_channel();
            let (file, page) = (mvcc.db_path.clone(), mvcc.page_size);
            thread::spawn(move || io_shell::start_io_uring_thread(file, page, operations));
            thread::spawn(move || writer_thread_pipelining(io, mvcc, queue, head, BATCH_EVENTS_MAX))
        } else {
            thread::spawn(move || writer_thread_blocking(mvcc, queue, head, BATCH_EVENTS_MAX))
        };
        // Of a log that was filled before, all that is known is where it ends.
        let last_positions = (0..log.streams()).map(|_| AtomicU64::new(log.events)).collect();
        Ok(Self { requests, writer, last_positions })
    }

    async fn append(&self, Append { stream, events, .. }: Append) -> Result<()> {
        let last = &self.last_positions[stream as usize];
        let tag = format!("account:{stream}");
        let query = DcbQuery::new().item(DcbQueryItem::new().tags([tag.as_str()]));
        let condition = DcbAppendCondition::new(query).after(Some(last.load(Relaxed)));
        let event =
            |data| DcbEvent { event_type: "Transferred".into(), tags: vec![tag.clone()], data, ..DcbEvent::default() };
        let (answer, answered) = oneshot::channel();
        let request = WriterThreadRequest::Append {
            events: events.into_iter().map(event).collect(),
            condition: Some(condition),
            tracking_info: None,
            response_tx: answer,
            cancel: None,
        };
        self.requests.send(request).await.map_err(|_| anyhow!("the writer has ended"))?;
        last.store(answered.await.context("the writer has ended")??, Relaxed);
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.requests.send(WriterThreadRequest::Shutdown).await.map_err(|_| anyhow!("the writer has ended"))?;
        self.writer.join().map_err(|_| anyhow!("the writer panicked"))
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Uma>()
}
