//! Many processes that open a store at once, and what is refused.

use indelible_core::{EventStore, Position};
use indelible_postgres::{OpenError, PostgresStore};

use crate::{
    child,
    cluster::{fresh_schema, shared_url},
    writing::{append, client},
};

const PROCESSES: u64 = 20;

/// What a child does.
pub(crate) async fn open(url: &str, schema: &str) {
    let store = PostgresStore::options().schema(schema).connections(1).open(url).await.unwrap();
    store.append(append(&format!("process-{}", std::process::id()), 0)).await.unwrap();
    println!("opened {}", store.id());
}

#[tokio::test]
async fn twenty_processes_open_one_store() {
    let (url, schema) = (shared_url(), fresh_schema());
    let children: Vec<_> =
        (0..PROCESSES).map(|_| child::command(&format!("open {schema}"), &url).spawn().unwrap()).collect();
    let mut ids = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = child::said(&output);
        assert!(output.status.success(), "{said}");
        ids.extend(said.lines().find(|line| line.contains("opened ")).map(str::to_owned));
    }
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    assert_eq!(store.head().await.unwrap().position, Position::new(PROCESSES));
    assert_eq!(ids.len() as u64, PROCESSES);
    assert!(ids.iter().all(|line| line.contains(&store.id().to_string())), "more than one store: {ids:?}");
}

/// Stores of one database are apart, whatever their schemas are called.
#[tokio::test]
async fn schemas_have_any_name() {
    let url = shared_url();
    let long = fresh_schema();
    let mut ids = Vec::new();
    for name in ["Upper \"quoted\" 'name'; DROP TABLE x; --", "ü🦀", "$1", "a.b", "select", ""] {
        // The end of it tells it from those before; 63 bytes is all there is room for.
        let schema = format!("{name}{}", &long[long.len().saturating_sub(16)..]);
        for round in 0..2 {
            let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
            assert_eq!(store.head().await.unwrap().position, Position::new(round), "{schema}");
            store.append(append("a-1", round)).await.unwrap();
            assert_eq!(store.streams(None, None, 9).await.unwrap().len(), 1);
            ids.push(store.id());
            store.close().await.unwrap();
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 6, "each schema has its own store");
    for schema in ["", "pg_mine", "a\nb", &"x".repeat(64)] {
        let refused = PostgresStore::options().schema(schema).open(&url).await;
        assert!(matches!(refused, Err(OpenError::Invalid(_))), "{schema:?}: {refused:?}");
    }
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let (url, schema) = (shared_url(), fresh_schema());
    let client = client(&url).await;
    let open = async || PostgresStore::options().schema(&schema).open(&url).await;
    client.batch_execute(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.store (id text)")).await.unwrap();
    let refused = open().await;
    assert!(matches!(refused, Err(OpenError::NotAStore { .. })), "{refused:?}");
    client.batch_execute(&format!("DROP TABLE {schema}.store; CREATE TABLE {schema}.log (id text)")).await.unwrap();
    let refused = open().await;
    assert!(matches!(refused, Err(OpenError::NotAStore { .. })), "{refused:?}");
    client.batch_execute(&format!("DROP TABLE {schema}.log")).await.unwrap();
    open().await.unwrap().close().await.unwrap();
    client.batch_execute(&format!("UPDATE {schema}.store SET format = 99")).await.unwrap();
    let refused = open().await;
    assert!(matches!(refused, Err(OpenError::NewerFormat { found: 99, .. })), "{refused:?}");
}

/// Who owns a schema needs no right to make one.
#[tokio::test]
async fn a_schema_that_is_there_is_taken() {
    let (url, schema) = (shared_url(), fresh_schema());
    let admin = client(&url).await;
    let role = format!("role_{schema}");
    admin
        .batch_execute(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA {schema} AUTHORIZATION {role}"))
        .await
        .unwrap();
    let url = url.replace("postgres@", &format!("{role}@"));
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    store.append(append("a-1", 0)).await.unwrap();
    let refused = PostgresStore::options().schema(format!("{schema}_2")).open(&url).await;
    assert!(matches!(refused, Err(OpenError::Refused { .. })), "{refused:?}");
}
