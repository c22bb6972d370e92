//! The bank as its users have it: accounts that take commands, views that answer questions, and a worker that keeps these
//! in step with those.

use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use indelible::{
    Answer, AnyStore, AsStore, PostgresModel, PostgresStore, Project, Question, ReadModel, Repository, Token, Views,
    Waited, Worker, postgres::ModelOptions,
};

use crate::{
    account::Account,
    views::{AccountsOf, BalanceOf, Balances, StatementOf, Statements, Totals, TotalsByDay},
};

/// A bank over a store and a read model. Which, is said where it is made, and nowhere else.
pub struct Bank<M> {
    pub accounts: Repository<Account>,
    pub views: Views<M>,
}

impl<M: ReadModel> Bank<M> {
    pub fn new(store: &impl AsStore, model: &M) -> Self {
        Self { accounts: Repository::new(store), views: Views::new(store, model) }
    }

    pub fn store(&self) -> &AnyStore {
        self.accounts.executor().store()
    }

    /// Asks the views as they are now.
    pub async fn ask<Q: Question>(&self, question: Q) -> Result<Q::Answer>
    where
        Self: Answer<Q>,
    {
        self.answer(&question).await.map_err(Error::from_boxed)
    }

    /// Waits until all views have seen an append, whichever processes keep them.
    pub async fn wait_for(&self, token: &Token, time: Duration) -> Result<()> {
        let waited = futures::try_join!(
            self.views.wait_for::<Balances>(token, None, time),
            self.views.wait_for::<Statements>(token, None, time),
            self.views.wait_for::<Totals>(token, None, time),
        )?;
        for waited in <[Waited; 3]>::from(waited) {
            ensure!(waited == Waited::Reached, "a view has not seen it: {waited:?}");
        }
        Ok(())
    }
}

impl Bank<PostgresModel> {
    /// The bank of this name in a database: a schema for its log, and others for its views.
    pub async fn in_database(url: &str, name: &str, views: ModelOptions) -> Result<Self> {
        let store = PostgresStore::options().schema(name).open(url).await.context("the log can't be opened")?;
        // Each row is written by one partition, so that they can't come between each other.
        let views = views.schema(format!("{name}_views")).read_committed();
        Ok(Self::new(&store, &views.open(url).await.context("the views can't be opened")?))
    }
}

/// What all banks have in common, wherever they are kept: code for any of them asks for this.
pub trait Teller: Answer<BalanceOf> + Answer<AccountsOf> + Answer<StatementOf> + Answer<TotalsByDay> {
    /// What keeps all its views in step with its log, once it is started.
    fn worker(&self) -> Worker;
}

impl<M: ReadModel> Teller for Bank<M>
where
    Balances: Project<M>,
    Statements: Project<M>,
    Totals: Project<M>,
    Self: Answer<BalanceOf> + Answer<AccountsOf> + Answer<StatementOf> + Answer<TotalsByDay>,
{
    fn worker(&self) -> Worker {
        let model = self.views.model();
        Worker::new(self.store()).add(model, Balances).add(model, Statements).add(model, Totals)
    }
}
