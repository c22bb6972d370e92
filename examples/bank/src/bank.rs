//! The bank as its users have it: accounts that take commands, views that answer questions, and a worker that keeps these
//! in step with those.

use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use indelible::{
    Answer, AnyStore, AsStore, PostgresModel, PostgresStore, Project, Question, ReadModel, Repository, Running, Token,
    Views, Waited, Worker, postgres::ModelOptions, projections::bars,
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

    /// Empties the views, and has its worker build them anew from the log. How far that is, is shown on a terminal.
    fn rebuild(&self, running: &Running) -> impl Future<Output = Result<()>> + Send;
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

    async fn rebuild(&self, running: &Running) -> Result<()> {
        let model = self.views.model();
        running.reset::<Balances, M>(model).await?;
        running.reset::<Statements, M>(model).await?;
        running.reset::<Totals, M>(model).await?;
        // A view that stops on the way would be waited for in vain.
        let head = self.store().head().await?;
        let drawn = async {
            bars::draw(running).await;
            Ok(())
        };
        let seen = async {
            let waited = running.wait_for(&head, Duration::MAX).await?;
            ensure!(waited == Waited::Reached, "the views can't be built anew: {waited:?}");
            Ok(())
        };
        futures::try_join!(seen, drawn)?;
        Ok(())
    }
}
