//! What roles may do, and what nobody may.

use indelible_core::{Append, CheckpointStore, EventStore, Position, SnapshotStore, StoreError};
use indelible_postgres::{OpenError, PostgresStore};

use crate::{
    cluster::{Cluster, fresh_schema, shared_url},
    writing::{append, client, stream},
};

#[tokio::test]
async fn roles_do_what_they_were_granted() {
    let cluster = Cluster::start("");
    let url = cluster.url();
    let owner = PostgresStore::open(&url).await.unwrap();
    owner.append(append("a-1", 0)).await.unwrap();
    let admin = client(&url).await;
    for role in ["reader", "writer", "projection", "stranger"] {
        admin.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
        if role != "stranger" {
            admin.batch_execute(&format!("SELECT indelible.grant_{role}('{role}')")).await.unwrap();
        }
    }
    let url_of = |role: &str| url.replace("postgres@", &format!("{role}@"));
    let open = async |role: &str| PostgresStore::open(&url_of(role)).await;
    assert!(matches!(open("stranger").await, Err(OpenError::Refused { .. })));

    for role in ["reader", "writer", "projection"] {
        let store = open(role).await.unwrap();
        let token = owner.head().await.unwrap();
        assert_eq!(store.head().await.unwrap(), token, "{role} reads");
        let read = store.read_log(&indelible_core::ReadLog::all()).await.unwrap();
        assert_eq!(read.events.len() as u64, token.position.get(), "{role} reads");
        let wrote = store.append(append(&format!("{role}-1"), 0)).await;
        assert_eq!(wrote.is_ok(), role == "writer", "{role} appends: {wrote:?}");
        let kept = store.save_checkpoint("reader", token).await;
        assert_eq!(kept.is_ok(), role == "projection", "{role} keeps a checkpoint: {kept:?}");
        let deleted = store.delete_snapshot(&stream("a-1")).await;
        assert_eq!(deleted.is_ok(), role == "writer", "{role} keeps snapshots: {deleted:?}");
        let direct = client(&url_of(role)).await;
        for statement in [
            "INSERT INTO indelible.log SELECT * FROM indelible.log",
            "UPDATE indelible.log SET stream = 'b-1'",
            "DELETE FROM indelible.log",
            "TRUNCATE indelible.log",
            "DELETE FROM indelible.tags",
            "UPDATE indelible.store SET format = 7",
            "SELECT indelible.grant_writer('stranger')",
            "ALTER TABLE indelible.log DISABLE TRIGGER ALL",
        ] {
            let refused = direct.batch_execute(statement).await.unwrap_err();
            assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{role}: {statement}: {refused}");
        }
    }
    assert_eq!(owner.head().await.unwrap().position, Position::new(2));
}

/// Even the owner is refused: only who takes the trigger away could.
#[tokio::test]
async fn nobody_changes_events() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    store.append(append("a-1", 0)).await.unwrap();
    let client = client(&url).await;
    for statement in
        ["UPDATE log SET version = 2", "DELETE FROM log", "TRUNCATE log", "DELETE FROM kinds", "TRUNCATE tags"]
    {
        let refused = client.batch_execute(&format!("SET search_path = {schema}; {statement}")).await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("INDE1"), "{statement}: {refused}");
    }
    assert_eq!(store.head().await.unwrap().position, Position::FIRST);
}

/// A server that answers before it is durable is refused, unless the store was opened so.
#[tokio::test]
async fn durability_is_demanded() {
    use indelible_postgres::Durability;
    let (url, schema) = (shared_url(), fresh_schema());
    let setting = |what: &str| format!("{url}{}options=-c%20{what}", if url.contains('?') { '&' } else { '?' });
    let open = async |url: &str, durability| {
        PostgresStore::options().schema(&schema).durability(durability).open(url).await.unwrap()
    };
    for what in ["synchronous_commit%3Doff", "default_transaction_isolation%3Dserializable"] {
        let store = open(&setting(what), Durability::Synced).await;
        let refused = store.append(append("a-1", 0)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{what}: {refused:?}");
    }
    let store = open(&setting("synchronous_commit%3Doff"), Durability::Asynchronous).await;
    store.append(append("a-1", 0)).await.unwrap();
    let store = open(&setting("synchronous_commit%3Dlocal"), Durability::Synced).await;
    store.append(Append::clone(&append("a-1", 1))).await.unwrap();
}
