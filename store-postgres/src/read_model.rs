//! The read model on PostgreSQL: the user's own tables, in one transaction with the checkpoint, shared by any number of
//! workers.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deadpool::managed::{Object, Pool};
use indelible_core::{Position, StreamId, Token};
use indelible_projections::{
    Advance, Claim, DeadLetter, Done, LetterEnd, Partition, PartitionRow, Projection, ProjectionId, ReadModel,
    ReadModelError, Registration, Roster, VersionRow, Want, Wish, WorkerId, WorkerRow,
};
use tokio::time::timeout;
use tokio_postgres::Row;

use crate::{
    OpenError,
    connect::Connector,
    open::find_patiently,
    sql::{ModelStatements, quoted},
};

mod options;

mod batch;
mod params;
mod tx;

#[cfg(feature = "sagas")]
mod agenda;
mod leases;
mod letters;
mod operators;
mod query;
mod versions;

mod error;
mod open;
#[cfg(feature = "sagas")]
mod overview;
mod pool;

pub use options::ModelOptions;
pub use params::Params;
pub use query::PostgresSnapshot;
pub use tx::PostgresTx;

use error::About;
use open::ModelSchema;
use pool::{Link, Links};

/// How many connections there are beside those of batches.
const CONNECTIONS_ASIDE: usize = 2;

/// Read models in a PostgreSQL database: that of the store, or another.
///
/// ```
/// # use indelible_core::{Aggregate, Apply, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum AccountEvent { Booked { cents: i64 } }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "account")]
/// # struct Account {}
/// # impl Apply for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
/// use indelible_postgres::{PostgresModel, PostgresTx};
/// use indelible_projections::{Cause, Envelope, Project, Projection, Wants};
///
/// struct Balances;
///
/// impl Projection for Balances {
///     const NAME: &'static str = "balances";
///     type Event = AccountEvent;
///     fn wants() -> Wants<AccountEvent> {
///         Wants::of::<Account>()
///     }
/// }
///
/// impl Project<PostgresModel> for Balances {
///     const SETUP: &'static str = "CREATE TABLE balances (account text PRIMARY KEY, cents bigint NOT NULL)";
///
///     async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
///         let AccountEvent::Booked { cents } = envelope.event;
///         let upsert = "INSERT INTO balances VALUES ($1, $2)
///                       ON CONFLICT (account) DO UPDATE SET cents = balances.cents + excluded.cents";
///         Ok(tx.execute(upsert, (envelope.recorded.stream.id(), cents)).await?)
///     }
/// }
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// # use indelible_projections::Worker;
/// # let store = indelible_core::store::memory::MemoryStore::new();
/// let model = PostgresModel::open("postgresql://shop@localhost/shop").await?;
/// let running = Worker::new(&store).add(&model, Balances).start().await?;
/// let mut views = model.query::<Balances>().await?;
/// let row = views.query_opt("SELECT cents FROM balances WHERE account = $1", ("ada",)).await?;
/// let cents: Option<i64> = row.map(|row| row.get(0));
/// # Ok(()) }
/// ```
///
/// # What is in the database
///
/// Each version of a projection has a schema of its own, `read_models_balances_1`, which its setup makes tables in, and
/// its handlers find them in. Behind it they find what is in `public`. The schema `read_models`, or the one that was
/// [chosen](ModelOptions::schema), has a view of each table of the current versions, by the name of the table: this is what
/// queries read, in any language. When a version takes over, the views change in one transaction. While one is being reset
/// they raise an error (SQLSTATE `INDM4`). Tables named `indelible_…` have no views. A reset empties the tables, also of
/// what the setup put into them.
///
/// The schema also has the tables `indelible_versions`, `indelible_partitions` (checkpoint, epoch and lease, one row a
/// partition), `indelible_dead_letters`, `indelible_discarded`, `indelible_workers`, `indelible_wanted` (what is paused)
/// and `indelible_wishes` (what workers ask of one another for operators), for who wants to look.
///
/// # Roles
///
/// Workers connect as the role that owns all of it, or as members of it that `SET ROLE` to it. It needs the right to create
/// schemas: `GRANT CREATE ON DATABASE shop TO shop_projections`. Other roles query what they are let to, in this version
/// and later ones: `SELECT read_models.indelible_grant_reader('reports')`. No pooler in transaction mode may stand in
/// between, since statements are prepared.
///
/// # Isolation
///
/// Batches of a projection with one partition have nothing beside them, and run at `READ COMMITTED`. Those of several
/// partitions are `SERIALIZABLE`; one that finds itself in another's way is done over, without harm to its events.
///
/// A cheap handle; clones share the connections.
#[derive(Clone)]
pub struct PostgresModel {
    shared: Arc<Shared>,
}

struct Shared {
    options: ModelOptions,
    statements: ModelStatements,
    /// The connections of batches and snapshots.
    pool: Pool<Links>,
    /// Those of leases and short questions, which must not wait for batches.
    aside: Pool<Links>,
    /// What is the same for every batch of a version.
    homes: Mutex<HashMap<ProjectionId, Home>>,
    /// The views of each projection, as they were when somebody last looked.
    views: Mutex<HashMap<String, Vec<String>>>,
    /// Where its own statements are prepared: outside of any version's schema.
    outside: Arc<str>,
}

/// Where a version's tables are.
#[derive(Clone)]
struct Home {
    /// The search path of its transactions.
    path: Arc<str>,
    partitions: u32,
}

impl PostgresModel {
    /// Opens the read model at a `postgresql://` URL with the default [`ModelOptions`], or makes one there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        ModelOptions::new().open(url).await
    }

    /// Options to open a read model with.
    pub fn options() -> ModelOptions {
        ModelOptions::new()
    }

    async fn start(url: &str, options: ModelOptions) -> Result<Self, OpenError> {
        let connector = Connector::new(url, options.certificates.as_deref(), options.patience)?;
        let statements = ModelStatements::new(&options.schema);
        let schema = ModelSchema { statements: &statements, options: &options };
        find_patiently(&connector, options.patience, &schema).await?;
        let pool = pool::pool(connector.clone(), &options, options.connections)?;
        let aside = pool::pool(connector, &options, CONNECTIONS_ASIDE)?;
        let (homes, views) = (Mutex::default(), Mutex::default());
        let outside = Arc::default();
        Ok(Self { shared: Arc::new(Shared { options, statements, pool, aside, homes, views, outside }) })
    }

    /// A consistent look at what queries see of a projection: its current version.
    ///
    /// # Errors
    /// [`Unknown`](ReadModelError::Unknown) for a projection that never ran here,
    /// [`Rebuilding`](ReadModelError::Rebuilding) while it is being reset, [`Unavailable`](ReadModelError::Unavailable).
    pub async fn query<P: Projection>(&self) -> Result<PostgresSnapshot, ReadModelError> {
        query::snapshot(&self.shared, P::NAME).await
    }

    /// Up to `limit` dead letters that were discarded, by position, those after `after`, with the reasons.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn discarded(
        &self,
        projection: &ProjectionId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<(DeadLetter, String)>, ReadModelError> {
        letters::discarded(&self.shared, projection, after, limit).await
    }
}

impl fmt::Debug for PostgresModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresModel").field(&self.shared.options).finish()
    }
}

impl Shared {
    async fn link(&self, about: &About) -> Result<Object<Links>, ReadModelError> {
        self.pool.get().await.map_err(|error| about.no_connection(error))
    }

    /// One statement of its own, by itself.
    async fn ask(&self, about: About, sql: &str, params: impl Params) -> Result<Vec<Row>, ReadModelError> {
        let mut link = self.aside.get().await.map_err(|error| about.no_connection(error))?;
        // Unless it is answered, it is not used again.
        link.is_clean = false;
        let asked = async {
            let statement = match link.known(&self.outside, sql) {
                Some(statement) => statement,
                None => link.prepare(&self.outside, sql).await.map_err(|error| about.told(&Arc::new(error)))?,
            };
            let encoded = params.encode(statement.params()).map_err(|error| ReadModelError::rejected(sql, error))?;
            let params = encoded.values.iter().map(|value| value as &(dyn tokio_postgres::types::ToSql + Sync));
            let params: Vec<_> = params.collect();
            link.client().query(&statement, &params).await.map_err(|error| about.told(&Arc::new(error)))
        };
        match timeout(self.options.patience, asked).await {
            Ok(answer) => {
                link.is_clean = true;
                answer
            }
            Err(elapsed) => {
                tokio::spawn(Link::cut(link, Duration::from_secs(1)));
                Err(ReadModelError::unavailable(about.told_what(), elapsed))
            }
        }
    }

    fn views(&self) -> MutexGuard<'_, HashMap<String, Vec<String>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn home(&self, projection: &ProjectionId) -> Result<Home, ReadModelError> {
        if let Some(home) = self.homes.lock().unwrap_or_else(PoisonError::into_inner).get(projection) {
            return Ok(home.clone());
        }
        let version = versions::version(self, projection).await?;
        let Some((version, _)) = version else {
            return Err(ReadModelError::Unknown { projection: projection.to_string() });
        };
        Ok(self.remember(&version))
    }

    fn remember(&self, version: &VersionRow) -> Home {
        let schema = quoted(&open::home(&self.options, &version.projection));
        let home = Home { path: format!("{schema}, public, pg_temp").into(), partitions: version.partitions };
        let mut homes = self.homes.lock().unwrap_or_else(PoisonError::into_inner);
        homes.insert(version.projection.clone(), home.clone());
        home
    }

    fn lease_ms(&self) -> i64 {
        i64::try_from(self.options.lease.as_millis()).unwrap_or(i64::MAX)
    }
}

impl ReadModel for PostgresModel {
    type Tx = PostgresTx;
    const PARKS: bool = true;

    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        versions::register(&self.shared, registration).await
    }

    async fn take(
        &self,
        projection: &ProjectionId,
        partition: Partition,
        worker: &WorkerId,
    ) -> Result<Option<Claim>, ReadModelError> {
        leases::take(&self.shared, projection, partition, worker).await
    }

    async fn begin(&self, advance: &Advance) -> Result<PostgresTx, ReadModelError> {
        batch::begin(&self.shared, advance).await
    }

    async fn commit(&self, tx: PostgresTx) -> Result<(), ReadModelError> {
        batch::commit(&self.shared, tx).await
    }

    async fn partitions(&self, projection: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        leases::partitions(&self.shared, projection).await
    }

    async fn stopped(&self, claim: &Claim, error: &str) -> Result<(), ReadModelError> {
        leases::stopped(&self.shared, claim, error).await
    }

    fn trouble(&self, tx: &mut PostgresTx) -> Option<ReadModelError> {
        tx.trouble()
    }

    async fn park(&self, tx: &mut PostgresTx, letter: &DeadLetter) -> Result<(), ReadModelError> {
        letters::park(&self.shared, tx, letter).await
    }

    async fn letters(
        &self,
        projection: &ProjectionId,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadModelError> {
        letters::letters(&self.shared, projection, stream, after, limit).await
    }

    async fn unpark(&self, tx: &mut PostgresTx, letter: &DeadLetter, end: &LetterEnd) -> Result<(), ReadModelError> {
        letters::unpark(&self.shared, tx, letter, end).await
    }

    async fn versions(&self, name: &str) -> Result<Vec<VersionRow>, ReadModelError> {
        versions::versions(&self.shared, name).await
    }

    async fn take_over(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        versions::take_over(&self.shared, projection).await
    }

    async fn drop_version(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        versions::drop_version(&self.shared, projection).await
    }

    async fn reset(&self, projection: &ProjectionId, head: Token) -> Result<(), ReadModelError> {
        versions::reset(&self.shared, projection, head).await
    }

    async fn caught_up(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        versions::caught_up(&self.shared, projection).await
    }

    async fn want(&self, projection: &ProjectionId, want: Want) -> Result<(), ReadModelError> {
        operators::want(&self.shared, projection, want).await
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.shared.options.lease)
    }

    async fn renew(&self, worker: &WorkerRow) -> Result<Roster, ReadModelError> {
        leases::renew(&self.shared, worker).await
    }

    async fn release(&self, claim: &Claim) -> Result<(), ReadModelError> {
        leases::release(&self.shared, claim).await
    }

    async fn leave(&self, worker: &WorkerId, projection: &ProjectionId) -> Result<(), ReadModelError> {
        leases::leave(&self.shared, worker, projection).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, ReadModelError> {
        leases::workers(&self.shared).await
    }

    async fn wish(&self, projection: &ProjectionId, wish: &Wish) -> Result<(), ReadModelError> {
        operators::wish(&self.shared, projection, wish).await
    }

    async fn wishes(&self, projection: &ProjectionId) -> Result<Vec<Wish>, ReadModelError> {
        operators::wishes(&self.shared, projection).await
    }

    async fn answer(&self, projection: &ProjectionId, wish: u64, answer: &Done) -> Result<(), ReadModelError> {
        operators::answer(&self.shared, projection, wish, answer).await
    }

    async fn outcome(
        &self,
        projection: &ProjectionId,
        wish: u64,
        is_last: bool,
    ) -> Result<Option<Done>, ReadModelError> {
        operators::outcome(&self.shared, projection, wish, is_last).await
    }
}
