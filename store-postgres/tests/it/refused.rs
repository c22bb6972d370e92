//! Calls that the server refuses: one append never fails its neighbours, and what was refused wrote nothing.

use std::time::Duration;

use futures::future::join_all;
use indelible_core::{Append, AppendOutcome, EventStore, ExpectedVersion, StoreError};
use indelible_postgres::PostgresStore;

use crate::{
    cluster::{fresh_schema, shared_url},
    writing::{append, client, event, log, stream},
};

/// Something in the database refuses events of one type. Nothing in the store knows of that.
#[tokio::test]
async fn a_batch_is_halved_until_the_culprit_stands_alone() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    let refuse = format!(
        "CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.stream LIKE 'poison-%' THEN RAISE check_violation; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON {schema}.log FOR EACH ROW EXECUTE FUNCTION {schema}.refuse()"
    );
    client(&url).await.batch_execute(&refuse).await.unwrap();
    // The first keeps the sequencer busy while the others gather behind it.
    let name = |n: usize| if n % 20 == 7 { format!("poison-{n}") } else { format!("a-{}", n % 5) };
    let appends = (0..100).map(|n| {
        let append = Append::to(stream(&name(n)), ExpectedVersion::Any, [event("Written"), event("Written")]);
        store.append(append)
    });
    let told = join_all(appends).await;
    for (n, told) in told.iter().enumerate() {
        match told {
            Ok(AppendOutcome::Appended(_)) => assert!(n % 20 != 7, "{n} was refused, and yet: {told:?}"),
            Err(StoreError::Unavailable { .. }) => assert_eq!(n % 20, 7, "{n} failed with its neighbours: {told:?}"),
            other => panic!("{n}: {other:?}"),
        }
    }
    let log = log(&store).await;
    assert_eq!(log.len(), 190);
    assert!(log.iter().zip(1..).all(|(event, position)| event.position.get() == position), "refusals left holes");
    assert!(store.statistics().batches < 60, "they did not come in batches: {:?}", store.statistics());
}

/// A call that runs into the server's own time limit wrote nothing, and the next one goes through.
#[tokio::test]
async fn a_statement_timeout_is_no_loss() {
    let (url, schema) = (shared_url(), fresh_schema());
    let limited = format!("{url}{}options=-c%20statement_timeout%3D1000", if url.contains('?') { '&' } else { '?' });
    let options = PostgresStore::options().schema(&schema);
    options.clone().open(&url).await.unwrap().append(append("a-1", 0)).await.unwrap();
    let store = options.open(&limited).await.unwrap();
    let other = client(&url).await;
    let lock = format!("SELECT pg_advisory_lock(lock) FROM {schema}.store");
    other.batch_execute(&lock).await.unwrap();
    let started = std::time::Instant::now();
    let refused = store.append(append("a-1", 1)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    other.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    store.append(append("a-1", 1)).await.unwrap();
    assert_eq!(log(&store).await.len(), 2);
}

/// While another holds the lock, callers wait no longer than they have patience, and what comes of their appends is
/// unknown: the one that was sent is written as soon as it can be, once.
#[tokio::test]
async fn patience_ends() {
    let (url, schema) = (shared_url(), fresh_schema());
    let options = PostgresStore::options().schema(&schema).patience(Duration::from_secs(5));
    let store = options.open(&url).await.unwrap();
    store.append(append("a-1", 0)).await.unwrap();
    let other = client(&url).await;
    other.batch_execute(&format!("SELECT pg_advisory_lock(lock) FROM {schema}.store")).await.unwrap();
    let unknown = store.append(append("a-1", 1)).await;
    let Err(StoreError::OutcomeUnknown { append: same, .. }) = unknown else { panic!("{unknown:?}") };
    other.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    let told = store.append(*same).await.unwrap();
    let AppendOutcome::Appended(done) = told else { panic!("{told:?}") };
    let log = log(&store).await;
    assert_eq!(log.len(), 2);
    assert_eq!(done.events, log[1..]);
}

/// A later migration gives the function another result, which no plan of before fits.
#[tokio::test]
async fn plans_of_before_a_migration_are_made_anew() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).prepared().open(&url).await.unwrap();
    for version in 0..2 {
        store.append(append("a-1", version)).await.unwrap();
    }
    assert_eq!(store.statistics().judged_batches, 1, "the second was foreseen");
    let other = client(&url).await;
    let source = format!("SELECT pg_get_functiondef('{schema}.append_foreseen'::regproc)");
    let source: String = other.query_one(&source, &[]).await.unwrap().get(0);
    let later = source.replace("OUT s_head bigint[])", "OUT s_head bigint[], OUT more integer)");
    assert_ne!(source, later);
    let migration = format!("DROP FUNCTION {schema}.append_foreseen; {later}");
    other.batch_execute(&migration).await.unwrap();
    store.append(append("a-1", 2)).await.unwrap();
    assert_eq!(log(&store).await.len(), 3);
    assert_eq!(store.statistics().lost_calls, 0);
}
