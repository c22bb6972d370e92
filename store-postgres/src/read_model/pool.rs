//! The read model's connections. Each prepares a statement once for every schema that it is used in, since its names
//! mean other tables there.

use std::{collections::HashMap, sync::Arc, time::Duration};

use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, RecycleError, RecycleResult},
};
use tokio_postgres::{Client, Error, Statement};

use super::ModelOptions;
use crate::{
    OpenError,
    connect::{ConnectError, Connector, Session},
};

/// The most statements that a connection remembers. A handler that makes up its statements as it goes starts over.
const STATEMENTS_MAX: usize = 1_000;

pub(super) struct Links {
    connector: Connector,
    lease: Duration,
}

/// A connection.
pub(super) struct Link {
    session: Session,
    connector: Connector,
    statements: HashMap<Arc<str>, HashMap<String, Statement>>,
    count: usize,
    /// Nothing is under way on it. What is not clean is not used again.
    pub(super) is_clean: bool,
}

/// Up to `most` connections.
pub(super) fn pool(connector: Connector, options: &ModelOptions, most: usize) -> Result<Pool<Links>, OpenError> {
    Pool::builder(Links { connector, lease: options.lease })
        .max_size(most)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(options.patience))
        .create_timeout(Some(options.patience))
        .build()
        .map_err(|error| OpenError::Unreachable { what: "making a pool", source: error.into() })
}

impl Manager for Links {
    type Type = Link;
    type Error = ConnectError;

    async fn create(&self) -> Result<Link, ConnectError> {
        let session = Session::open(&self.connector).await?;
        // A process that was stopped in the middle of a transaction must not keep others from its rows for longer than
        // from its partitions.
        let idle = format!("SET idle_in_transaction_session_timeout = {}", self.lease.as_millis());
        session.client.batch_execute(&idle).await?;
        let connector = self.connector.clone();
        Ok(Link { session, connector, statements: HashMap::new(), count: 0, is_clean: true })
    }

    async fn recycle(&self, link: &mut Link, _: &Metrics) -> RecycleResult<ConnectError> {
        match link.is_clean && !link.session.client.is_closed() {
            true => Ok(()),
            false => Err(RecycleError::message("it was left in the middle of something, or is closed")),
        }
    }
}

impl Link {
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.session.client)
    }

    /// A statement that was prepared in this schema.
    pub(super) fn known(&self, home: &str, sql: &str) -> Option<Statement> {
        self.statements.get(home)?.get(sql).cloned()
    }

    /// Prepares a statement, which must be for the schema that the session is in.
    pub(super) async fn prepare(&mut self, home: &Arc<str>, sql: &str) -> Result<Statement, Error> {
        let statement = self.session.client.prepare(sql).await?;
        if self.count >= STATEMENTS_MAX {
            self.forget();
        }
        self.count += 1;
        self.statements.entry(Arc::clone(home)).or_default().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Prepares all statements anew.
    pub(super) fn forget(&mut self) {
        self.statements.clear();
        self.count = 0;
    }

    /// Ends what it is doing, and itself.
    pub(super) async fn cut(link: Object<Links>, time: Duration) {
        let link = Object::take(link);
        // It is only asked for; a server that doesn't hear it ends the transaction by its time.
        let _ = tokio::time::timeout(time, link.connector.cancel(&link.session.client)).await;
    }
}
