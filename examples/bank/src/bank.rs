//! The bank as its users have it: accounts that take commands, views that answer questions, and a worker that keeps these
//! in step with those.

use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use indelible::{
    Answer, AnyStore, AsStore, PostgresModel, PostgresStore, Project, Question, ReadModel, Repository, Running, Token,
    Views, Waited, Worker,
    postgres::ModelOptions,
    projections::{VersionState, VersionStatus, bars},
};
use tokio::time::sleep;

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

    /// Empties the views, and has its worker build them anew from the log. How far that is, is shown on a terminal. Where
    /// one of them is paused, nothing is emptied.
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
        for view in views(running).await? {
            ensure!(!view.version.wanted.paused, "{} is paused: resume it first", view.version.projection);
        }
        let model = self.views.model();
        running.reset::<Balances, M>(model).await?;
        running.reset::<Statements, M>(model).await?;
        running.reset::<Totals, M>(model).await?;
        let drawn = async {
            bars::draw(running).await;
            Ok(())
        };
        futures::try_join!(built(running), drawn)?;
        Ok(())
    }
}

/// The views that a worker keeps, as their read model knows them.
async fn views(running: &Running) -> Result<Vec<VersionStatus>> {
    let here = running.status();
    let mut views = running.versions().await?;
    views.retain(|view| here.iter().any(|(id, _)| *id == view.version.projection));
    Ok(views)
}

/// Waits until all views are built. One that stands still on the way would be waited for in vain.
async fn built(running: &Running) -> Result<()> {
    loop {
        let views = views(running).await?;
        for VersionStatus { version, partitions, .. } in &views {
            let id = &version.projection;
            ensure!(!version.wanted.paused, "{id} was paused while it was built anew: it goes on when it is resumed");
            if let Some(error) = partitions.iter().find_map(|row| row.stopped.as_ref()) {
                bail!("{id} can't be built anew: {error}");
            }
        }
        if views.iter().all(|view| view.version.state == VersionState::Current) {
            return Ok(());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use indelible::{Append, ContentType, EventType, ExpectedVersion, MemoryModel, MemoryStore, NewEvent};
    use tokio::time::timeout;

    use super::*;
    use crate::{account::Open, views::AccountsOf};

    const SOON: Duration = Duration::from_secs(600);

    /// A bank with one account, of Ada's.
    async fn opened() -> Result<(Bank<MemoryModel>, Running)> {
        let bank = Bank::new(&MemoryStore::new(), &MemoryModel::new());
        let running = bank.worker().start().await?;
        let done = bank.accounts.execute("ada", Open { owner: "ada".into() }).await?;
        let head = bank.store().head().await?;
        ensure!(done.events().len() == 1 && running.wait_for(&head, SOON).await? == Waited::Reached);
        Ok((bank, running))
    }

    /// Writes an event that nobody can read.
    async fn write_unreadable(bank: &Bank<MemoryModel>, event_type: &str) -> Result<()> {
        let event = NewEvent::new(EventType::new(event_type)?, ContentType::JSON, "{}");
        bank.store().append(Append::to("account-ben".parse()?, ExpectedVersion::Any, [event])).await?;
        Ok(())
    }

    async fn adas(bank: &Bank<MemoryModel>) -> Result<usize> {
        Ok(bank.ask(AccountsOf { owner: "ada".into() }).await?.len())
    }

    #[tokio::test(start_paused = true)]
    async fn views_are_built_anew_though_the_last_event_of_the_log_is_parked() -> Result<()> {
        let (bank, running) = opened().await?;
        write_unreadable(&bank, "Opened").await?;
        timeout(SOON, bank.rebuild(&running)).await??;
        assert_eq!(adas(&bank).await?, 1);
        assert_eq!(running.letters::<Balances>(None, Default::default(), 9).await.map_err(Error::from_boxed)?.len(), 1);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_paused_is_not_emptied_and_what_stops_or_is_paused_on_the_way_is_told() -> Result<()> {
        let (bank, running) = opened().await?;
        running.pause::<Totals>().await.map_err(Error::from_boxed)?;
        let refused = timeout(SOON, bank.rebuild(&running)).await?.unwrap_err();
        assert_eq!(refused.to_string(), "totals@1 is paused: resume it first");
        assert_eq!(adas(&bank).await?, 1);

        running.resume::<Totals>().await.map_err(Error::from_boxed)?;
        write_unreadable(&bank, "Deposited").await?;
        let stopped = timeout(SOON, bank.rebuild(&running)).await?.unwrap_err();
        assert!(stopped.to_string().starts_with("totals@1 can't be built anew: "), "{stopped}");
        running.pause::<Totals>().await.map_err(Error::from_boxed)?;
        let paused = timeout(SOON, built(&running)).await?.unwrap_err();
        assert!(paused.to_string().starts_with("totals@1 was paused"), "{paused}");
        Ok(())
    }
}
