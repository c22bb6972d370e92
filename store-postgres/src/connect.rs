//! Connections: where to, with which certificates, and what an error says about trying again.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    pin::pin,
    sync::{Arc, Once},
    time::Duration,
};

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod,
};
use futures::{FutureExt, TryStreamExt};
use indelible_core::{Cause, InvalidInput, StoreError};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinHandle},
    time::{self, Instant},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error, Row, Socket, Statement,
    config::SslMode,
    error::SqlState,
    tls::MakeTlsConnect,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{OpenError, Options};

/// How long it waits before it tries again what failed, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// A statement's parameters.
pub(crate) type Params<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// How long a connection may take to come about, where the URL doesn't say.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Statements that are prepared are planned once, perhaps on an empty log, and must be right for one of any size, as the
/// functions are.
const PREPARED_PLANS: &str =
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off";
const PLANS_AS_USUAL: &str = "RESET plan_cache_mode; RESET enable_seqscan; RESET enable_bitmapscan; RESET jit";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Refused(#[from] Error),
    #[error("the server said nothing within {0:?}")]
    Silent(Duration),
}

/// Makes connections.
#[derive(Clone)]
pub(crate) struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
}

impl Connector {
    /// `certificates` are trusted instead of the operating system's; `patience` is how long a network may swallow everything.
    pub(crate) fn new(url: &str, certificates: Option<&Path>, patience: Duration) -> Result<Self, OpenError> {
        // Whoever asks for TLS has names and certificates verified.
        let url = url.replace("sslmode=verify-full", "sslmode=require");
        // What the parser says names an option, and never its value.
        let mut config: Config = url.parse().map_err(|error: Error| InvalidInput::new("URL", error.to_string()))?;
        if config.get_application_name().is_none() {
            config.application_name("indelible");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIME);
        }
        // Of a network that swallows everything, the kernel says nothing for a quarter of an hour.
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(patience);
        }
        let wants_tls = config.get_ssl_mode() != SslMode::Disable;
        let roots = if wants_tls { roots(certificates)? } else { RootCertStore::empty() };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| OpenError::Unreachable { what: "preparing TLS", source: error.into() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config, tls: MakeRustlsConnect::new(tls) })
    }

    /// Asks the server to give up what a connection is doing.
    #[cfg(feature = "projections")]
    pub(crate) async fn cancel(&self, client: &Client) -> Result<(), Error> {
        client.cancel_token().cancel_query(self.tls.clone()).await
    }

    /// A connection of one's own, with what drives it.
    pub(crate) async fn connect(
        &self,
    ) -> Result<(Client, Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>), ConnectError> {
        // The driver's limit ends when the kernel has the connection, and a server that hangs says nothing after that.
        let each = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIME);
        let limit = each.saturating_mul(u32::try_from(self.config.get_hosts().len().max(1)).unwrap_or(u32::MAX));
        let connected = time::timeout(limit, self.config.connect(self.tls.clone())).await;
        Ok(connected.map_err(|_| ConnectError::Silent(limit))??)
    }

    /// The connections that reads share.
    pub(crate) fn pool(&self, options: &Options) -> Result<Pool, OpenError> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(self.config.clone(), self.tls.clone(), recycling);
        let mut pool = Pool::builder(manager)
            .max_size(options.connections)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(options.patience))
            .create_timeout(Some(options.patience));
        if options.prepared {
            pool = pool.post_create(Hook::async_fn(|client: &mut ClientWrapper, _| {
                async move { client.batch_execute(PREPARED_PLANS).await.map_err(HookError::Backend) }.boxed()
            }));
        }
        pool.build().map_err(|error| OpenError::Unreachable { what: "making a pool", source: error.into() })
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, OpenError> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        // A certificate that can't be read is one that is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    let invalid = |reason: String| InvalidInput::new("certificates", format!("in {}: {reason}", file.display()));
    let found = CertificateDer::pem_file_iter(file).map_err(|error| invalid(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() { Err(invalid("there are none".into()).into()) } else { Ok(roots) }
}

/// A connection that ends when this is dropped, whatever it is doing.
pub(crate) struct Session {
    pub(crate) client: Arc<Client>,
    /// Statements that were prepared, by their text.
    prepared: HashMap<String, Statement>,
    driver: AbortHandle,
}

impl Session {
    pub(crate) async fn open(connector: &Connector) -> Result<Self, ConnectError> {
        let (client, connection) = connector.connect().await?;
        // What ends it is told to those who wait for answers.
        let driver: JoinHandle<_> = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client: Arc::new(client), prepared: HashMap::new(), driver: driver.abort_handle() })
    }

    /// A connection whose messages are handed over as they come.
    pub(crate) async fn listening(
        connector: &Connector,
        mut hear: impl FnMut(AsyncMessage) + Send + 'static,
    ) -> Result<Self, ConnectError> {
        let (client, mut connection) = connector.connect().await?;
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                hear(message);
            }
        });
        Ok(Self { client: Arc::new(client), prepared: HashMap::new(), driver: driver.abort_handle() })
    }
}

impl Session {
    /// The statement as it was prepared at its first use.
    pub(crate) async fn prepare(&mut self, statement: &str, params: Params<'_>) -> Result<Statement, Error> {
        if let Some(prepared) = self.prepared.get(statement) {
            return Ok(prepared.clone());
        }
        let types: Vec<Type> = params.iter().map(|(_, name)| name.clone()).collect();
        let prepared = self.client.prepare_typed(statement, &types).await?;
        self.prepared.insert(statement.to_owned(), prepared.clone());
        Ok(prepared)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Pauses that become longer, up to a moment.
pub(crate) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(patience: Duration) -> Self {
        let now = Instant::now();
        // As good as for ever.
        let far = now + Duration::from_secs(30 * 365 * 24 * 3_600);
        Self { until: now.checked_add(patience).unwrap_or(far).min(far), pause: BACKOFF_MIN }
    }

    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Waits a little; `false` where the time is up.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause >= self.until {
            return false;
        }
        time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        true
    }
}

/// How long a connection may take to be through with what nobody waits for any more.
const GIVEN_UP_TIME: Duration = Duration::from_millis(200);

/// A connection of the pool while it is asked something. One that is given up before it has answered goes back when it is
/// through with that, and is closed where that takes long: those who had it next would wait for that answer.
pub(crate) struct Asked(Option<Object>);

impl Asked {
    pub(crate) fn new(client: Object) -> Self {
        Self(Some(client))
    }

    /// Asks what is about the whole log, and closes the connection.
    pub(crate) async fn query_all(mut self, statement: &str) -> Result<Vec<Row>, Error> {
        let client = Object::take(self.0.take().expect("it is taken out below, and in drop"));
        client.batch_execute(PLANS_AS_USUAL).await?;
        client.query_typed(statement, &[]).await
    }

    /// Asks, and gives the connection back. Rows are made something of as they come, while the server goes on.
    pub(crate) async fn query<T>(
        mut self,
        statement: &str,
        params: Params<'_>,
        how: How,
        made: impl Fn(Row) -> T,
    ) -> Result<Rows<T>, Error> {
        let client = self.0.as_ref().expect("it is taken out below, and in drop");
        let values = params.iter().map(|(value, _)| *value);
        let stream = if how.prepared {
            let types: Vec<Type> = params.iter().map(|(_, name)| name.clone()).collect();
            let statement = client.prepare_typed_cached(statement, &types).await?;
            client.query_raw(&statement, values).await?
        } else {
            client.query_typed_raw(statement, values.zip(params.iter().map(|(_, name)| name.clone()))).await?
        };
        let mut stream = pin!(stream);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = stream.try_next().await? {
            bytes += row.raw_size_bytes();
            rows.push(made(row));
            if bytes > how.bytes_max {
                return Ok(Rows { rows, bytes, is_cut: true });
            }
        }
        drop(self.0.take());
        Ok(Rows { rows, bytes, is_cut: false })
    }
}

/// How a server is asked.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) prepared: bool,
    /// No row is taken behind the one with which it has so many.
    pub(crate) bytes_max: usize,
}

/// What it answers.
pub(crate) struct Rows<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) bytes: usize,
    /// Whether it may have more.
    pub(crate) is_cut: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(client) = self.0.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return drop(Object::take(client)) };
        runtime.spawn(async move {
            // Answers come in the order of questions.
            if !matches!(time::timeout(GIVEN_UP_TIME, client.batch_execute("")).await, Ok(Ok(()))) {
                drop(Object::take(client));
            }
        });
    }
}

/// Asks on a connection of the pool, and again on another where one breaks: reads may be asked twice.
pub(crate) async fn ask<T>(
    pool: &Pool,
    patience: Duration,
    what: &'static str,
    statement: &str,
    params: Params<'_>,
    how: How,
    made: impl Fn(Row) -> T,
) -> Result<Rows<T>, StoreError> {
    let mut patience = Patience::new(patience);
    let until = patience.until();
    let gone = |elapsed| StoreError::unavailable(what, elapsed);
    loop {
        let error: Cause = match time::timeout_at(until, pool.get()).await.map_err(gone)? {
            Ok(client) => {
                let asked = Asked::new(client).query(statement, params, how, &made);
                match time::timeout_at(until, asked).await.map_err(gone)? {
                    Ok(rows) => return Ok(rows),
                    Err(error) if may_pass(&error) => error.into(),
                    Err(error) => return Err(refused(what, error)),
                }
            }
            Err(PoolError::Backend(error)) if may_pass(&error) => error.into(),
            Err(PoolError::Closed) => return Err(StoreError::stopped("it was closed")),
            Err(error) => return Err(StoreError::unavailable(what, error)),
        };
        if !patience.wait().await {
            return Err(StoreError::unavailable(what, error));
        }
    }
}

/// Whether the server may answer if it is asked again: the connection broke, or the server comes or goes.
pub(crate) fn may_pass(error: &Error) -> bool {
    static WARNED: Once = Once::new();
    match error.code() {
        None => true,
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            WARNED.call_once(|| tracing::warn!("the server has no connection left; trying again"));
            true
        }
        Some(code) => {
            // Connection exceptions, the server's shutdown and start, what a crash of another backend does to all, and a
            // replica that is behind.
            let code = code.code();
            code.starts_with("08") || code.starts_with("57P") || matches!(code, "40P01" | "INDE5")
        }
    }
}

/// What the server said no with.
pub(crate) fn refused(what: &str, error: Error) -> StoreError {
    match error.code() {
        Some(code) if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
            StoreError::Corrupted { what: what.into(), source: Some(error.into()) }
        }
        _ => StoreError::unavailable(what, error),
    }
}

/// One cause for many: those who were in a batch together hear the same.
#[derive(Clone, Debug)]
pub(crate) struct SharedCause(Arc<Cause>);

impl SharedCause {
    pub(crate) fn new(cause: impl Into<Cause>) -> Self {
        Self(Arc::new(cause.into()))
    }
}

impl fmt::Display for SharedCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl std::error::Error for SharedCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
