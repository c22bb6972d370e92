//! A transaction as handlers write to it: statements are sent as they come, and nobody waits for their answers before
//! something depends on them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use deadpool::managed::Object;
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use indelible_projections::{Advance, ProjectionId, ReadModelError};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};
use tokio_postgres::{Client, Error, Row, Statement, error::SqlState};

use super::{
    error::About,
    params::{Encoded, Params},
    pool::{Link, Links},
};

/// The most statements, and about the most bytes of their parameters, that wait for their answers.
const PENDING_MAX: usize = 1_024;
const PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long what a transaction has sent may take when it is undone; then it is cut short.
const UNDO_TIME: Duration = Duration::from_secs(1);

/// A batch's transaction, in the schema of its projection's version: `INSERT INTO balances …` writes to that version's
/// table, of whatever name the schema is.
///
/// Writes are *queued*: they are sent at once, one behind the other and all behind the fenced checkpoint, and their
/// answers are awaited by the next read, or by the commit. So a write that the server refuses fails what comes after it.
/// Statements are prepared once a connection. Transaction control is the runner's.
pub struct PostgresTx {
    /// There until it is dropped.
    link: Option<Object<Links>>,
    home: Arc<str>,
    about: About,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// The first thing that the server said no to. Nothing of the transaction will be.
    failure: Option<Arc<Error>>,
    /// Something was asked whose answer nobody has heard yet.
    is_asking: bool,
    pub(super) writes: u64,
    pub(super) began: Instant,
    /// The step that it is to take, if it is a batch.
    pub(super) advance: Option<Advance>,
}

/// A statement under way.
struct Pending {
    answer: BoxFuture<'static, Result<u64, Error>>,
    bytes: usize,
}

impl PostgresTx {
    pub(super) fn begin(mut link: Object<Links>, home: Arc<str>, about: About, begin: &'static str) -> Self {
        link.is_clean = false;
        let client = link.client();
        let mut tx = Self {
            link: Some(link),
            home,
            about,
            pending: VecDeque::new(),
            pending_bytes: 0,
            failure: None,
            is_asking: false,
            writes: 0,
            began: Instant::now(),
            advance: None,
        };
        tx.queue(0, async move { client.batch_execute(begin).await.map(|()| 0) });
        tx
    }

    /// Queues a statement that writes. To be awaited, since the first use of a statement prepares it, and since it waits
    /// where too much is under way.
    ///
    /// ```no_run
    /// # use indelible_postgres::PostgresTx;
    /// # async fn handle(tx: &mut PostgresTx, account: &str, cents: i64) -> Result<(), indelible_projections::Cause> {
    /// tx.execute(
    ///     "INSERT INTO balances (account, cents) VALUES ($1, $2)
    ///      ON CONFLICT (account) DO UPDATE SET cents = balances.cents + excluded.cents",
    ///     (account, cents),
    /// )
    /// .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Rejected`](ReadModelError::Rejected) for a statement that cannot be prepared, and parameters that don't fit; that
    /// of an earlier statement.
    pub async fn execute(&mut self, sql: &str, params: impl Params) -> Result<(), ReadModelError> {
        let (statement, encoded) = self.prepared(sql, &params).await?;
        let client = self.client()?;
        self.writes += 1;
        self.queue(encoded.bytes, async move { client.execute_raw(&statement, encoded.values).await });
        if self.pending.len() >= PENDING_MAX || self.pending_bytes >= PENDING_BYTES_MAX {
            self.settle(PENDING_MAX / 2, PENDING_BYTES_MAX / 2).await;
        }
        self.sound()
    }

    /// Asks, and sees what was queued before. Costs a round trip.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), and what the server refuses.
    pub async fn query(&mut self, sql: &str, params: impl Params) -> Result<Vec<Row>, ReadModelError> {
        let (statement, encoded) = self.prepared(sql, &params).await?;
        let client = self.client()?;
        self.is_asking = true;
        let mut asked = Box::pin(async move {
            let rows = client.query_raw(&statement, encoded.values).await?;
            rows.try_collect::<Vec<Row>>().await
        });
        // Sends it.
        let early = (&mut asked).now_or_never();
        self.settle(0, 0).await;
        let answer = match early {
            Some(answer) => answer,
            None => asked.await,
        };
        self.is_asking = false;
        match answer {
            Ok(rows) => self.sound().map(|()| rows),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// As [`query`](Self::query), for one row or none.
    ///
    /// # Errors
    /// As [`query`](Self::query), and [`Rejected`](ReadModelError::Rejected) for more than one row.
    pub async fn query_opt(&mut self, sql: &str, params: impl Params) -> Result<Option<Row>, ReadModelError> {
        let mut rows = self.query(sql, params).await?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            more => Err(ReadModelError::rejected(sql, format!("one row was asked for, there are {more}"))),
        }
    }

    /// Waits until the server has done what was queued.
    ///
    /// # Errors
    /// What the server refuses.
    pub async fn flush(&mut self) -> Result<(), ReadModelError> {
        self.settle(0, 0).await;
        self.sound()
    }

    /// Several statements without parameters, at once.
    pub(super) async fn batch(&mut self, sql: String) -> Result<(), ReadModelError> {
        let client = self.client()?;
        self.queue(sql.len(), async move { client.batch_execute(&sql).await.map(|()| 0) });
        self.flush().await
    }

    /// Commits, and gives the connection back.
    pub(super) async fn commit(mut self, patience: Duration) -> Result<(), ReadModelError> {
        if self.is_asking {
            let dropped = "a question was dropped before it was answered";
            return Err(ReadModelError::rejected(self.about.told_what(), dropped));
        }
        let client = self.client()?;
        // What failed before makes a rollback of it.
        self.queue(0, async move { client.batch_execute("COMMIT").await.map(|()| 0) });
        if timeout(patience, self.settle(0, 0)).await.is_err() {
            return Err(ReadModelError::unavailable(self.about.told_what(), "the server doesn't answer"));
        }
        if let Some(mut link) = self.link.take() {
            link.is_clean = true;
        }
        self.sound()
    }

    /// What has made it useless by itself.
    pub(super) fn trouble(&self) -> Option<ReadModelError> {
        let told = match &self.failure {
            Some(error) => self.about.told(error),
            None if self.client().is_ok_and(|client| client.is_closed()) => {
                ReadModelError::unavailable(self.about.told_what(), "the connection is lost")
            }
            None => return None,
        };
        (told.is_retryable() || matches!(told, ReadModelError::Fenced { .. })).then_some(told)
    }

    pub(super) fn projection(&self) -> Option<ProjectionId> {
        self.about.projection.clone()
    }

    pub(super) fn is_about(&mut self, projection: ProjectionId) {
        self.about.projection = Some(projection);
    }

    pub(super) fn client(&self) -> Result<Arc<Client>, ReadModelError> {
        match &self.link {
            Some(link) => Ok(link.client()),
            None => Err(ReadModelError::unavailable(self.about.told_what(), "it is over")),
        }
    }

    async fn prepared(&mut self, sql: &str, params: &impl Params) -> Result<(Statement, Encoded), ReadModelError> {
        self.sound()?;
        let Some(link) = &mut self.link else { return Err(ReadModelError::rejected(sql, "it is over")) };
        let statement = match link.known(&self.home, sql) {
            Some(statement) => statement,
            None if is_transaction_control(sql) => {
                return Err(ReadModelError::rejected(
                    sql,
                    "transactions are begun and ended by who runs the projection",
                ));
            }
            None => {
                self.is_asking = true;
                let prepared = link.prepare(&self.home, sql).await;
                self.is_asking = false;
                match prepared {
                    Ok(statement) => statement,
                    Err(error) => {
                        self.settle(0, 0).await;
                        return Err(self.fail(error));
                    }
                }
            }
        };
        let encoded = params.encode(statement.params()).map_err(|error| ReadModelError::rejected(sql, error))?;
        Ok((statement, encoded))
    }

    /// Sends something behind all that was sent.
    pub(super) fn queue(&mut self, bytes: usize, answer: impl Future<Output = Result<u64, Error>> + Send + 'static) {
        let mut answer = answer.boxed();
        // It is sent when it is first asked how it does.
        match (&mut answer).now_or_never() {
            Some(Err(error)) => drop(self.fail(error)),
            Some(Ok(_)) => {}
            None => {
                self.pending.push_back(Pending { answer, bytes });
                self.pending_bytes += bytes;
            }
        }
    }

    /// Hears answers until so many, and so many bytes, are under way at most. May be dropped and called again.
    async fn settle(&mut self, most: usize, bytes_most: usize) {
        while self.pending.len() > most || self.pending_bytes > bytes_most {
            let Some(first) = self.pending.front_mut() else { return };
            let answer = (&mut first.answer).await;
            self.pending_bytes -= self.pending.pop_front().map_or(0, |first| first.bytes);
            if let Err(error) = answer {
                self.fail(error);
            }
        }
    }

    /// Remembers the first failure, and tells it.
    fn fail(&mut self, error: Error) -> ReadModelError {
        let stale = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::UNDEFINED_OBJECT, SqlState::INVALID_SQL_STATEMENT_NAME];
        if error.code().is_some_and(|code| stale.contains(code))
            && let Some(link) = &mut self.link
        {
            // The tables have become others since.
            link.forget();
        }
        let first = self.failure.get_or_insert_with(|| Arc::new(error));
        self.about.told(first)
    }

    pub(super) fn sound(&self) -> Result<(), ReadModelError> {
        self.failure.as_ref().map_or(Ok(()), |error| Err(self.about.told(error)))
    }
}

impl Drop for PostgresTx {
    fn drop(&mut self) {
        let Some(link) = self.link.take() else { return };
        let pending = std::mem::take(&mut self.pending);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(undo(link, pending))),
            Err(_) => drop(Object::take(link)),
        }
    }
}

/// Rolls back. A connection that doesn't come to that soon is cut.
async fn undo(mut link: Object<Links>, pending: VecDeque<Pending>) {
    let client = link.client();
    let mut rolled_back = Box::pin(async move { client.batch_execute("ROLLBACK").await });
    let early = (&mut rolled_back).now_or_never();
    let settled = timeout(UNDO_TIME, async {
        for under_way in pending {
            let _ = under_way.answer.await;
        }
        match early {
            Some(answer) => answer,
            None => rolled_back.await,
        }
    });
    match settled.await {
        Ok(Ok(())) => link.is_clean = true,
        _ => Link::cut(link, UNDO_TIME).await,
    }
}

fn is_transaction_control(sql: &str) -> bool {
    let first: String = sql.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "PREPARE"].contains(&first.to_ascii_uppercase().as_str())
}
