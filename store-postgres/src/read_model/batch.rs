//! A batch: the fenced checkpoint, what the handler writes, the commit; all of it in one go, where nothing is asked.

use std::sync::Arc;

use indelible_projections::{Advance, ReadModelError};
use tokio_postgres::{Client, Statement};

use super::{
    Home, Shared,
    error::About,
    params::{Encoded, Params},
    tx::PostgresTx,
};
use crate::{bugs, sql::bigint};

const READ_COMMITTED: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
const SERIALIZABLE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE";

/// Sends the beginning of a batch. Whether it was fenced off, the first answer that is awaited says.
pub(super) async fn begin(shared: &Shared, advance: &Advance) -> Result<PostgresTx, ReadModelError> {
    let home = shared.home(&advance.projection).await?;
    let begin = match home.partitions > 1 && !shared.options.read_committed {
        true => SERIALIZABLE,
        false => READ_COMMITTED,
    };
    let mut about = About::projection("a batch", &advance.projection);
    about.partition = Some(advance.partition);
    let mut link = shared.link(&about).await?;
    let (sql, outside) = (&shared.statements.call_advance, &shared.outside);
    let statement = match link.known(outside, sql) {
        Some(statement) => statement,
        None => {
            link.is_clean = false;
            let prepared = link.prepare(outside, sql).await.map_err(|error| about.told(&Arc::new(error)))?;
            link.is_clean = true;
            prepared
        }
    };
    let step = step(shared, &home, advance).encode(statement.params());
    let step = step.map_err(|error| ReadModelError::rejected(about.told_what(), error))?;
    if bugs::is_on(bugs::CHECKPOINT_APART) {
        let apart = advanced(link.client(), statement.clone(), step).await;
        apart.map_err(|error| about.told(&Arc::new(error)))?;
        let mut tx = PostgresTx::begin(link, home.path.clone(), about, begin);
        tx.batch(format!("SET LOCAL search_path = {}", home.path)).await?;
        return Ok(tx);
    }
    let mut tx = PostgresTx::begin(link, home.path.clone(), about, begin);
    let client = tx.client()?;
    tx.queue(step.bytes, advanced(client, statement, step));
    tx.advance = Some(advance.clone());
    tx.sound()?;
    Ok(tx)
}

async fn advanced(client: Arc<Client>, statement: Statement, step: Encoded) -> Result<u64, tokio_postgres::Error> {
    client.execute_raw(&statement, step.values).await
}

/// The parameters of `call_advance`.
fn step(shared: &Shared, home: &Home, advance: &Advance) -> impl Params {
    (
        advance.projection.name.to_string(),
        i64::from(advance.projection.version),
        number(advance.partition.0),
        bigint(advance.epoch.0),
        bigint(advance.from.position.get()),
        bigint(advance.to.position.get()),
        advance.to.event.as_uuid(),
        shared.lease_ms(),
        home.path.to_string(),
    )
}

/// Partitions are few.
pub(super) fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

pub(super) async fn commit(shared: &Shared, mut tx: PostgresTx) -> Result<(), ReadModelError> {
    let (began, writes) = (tx.began, tx.writes);
    // The row could not be renewed meanwhile, since this transaction has it.
    if let Some(advance) = tx.advance.take()
        && began.elapsed() > shared.options.lease / 3
    {
        let home = shared.home(&advance.projection).await?;
        let stay = Advance { from: advance.to, ..advance };
        tx.execute(&shared.statements.call_advance, step(shared, &home, &stay)).await?;
    }
    tx.commit(shared.options.patience).await?;
    metrics::counter!("indelible_postgres_model_batches_total").increment(1);
    metrics::counter!("indelible_postgres_model_writes_total").increment(writes);
    metrics::histogram!("indelible_postgres_model_batch_seconds").record(began.elapsed());
    Ok(())
}
