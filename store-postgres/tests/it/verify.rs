//! Damage that somebody with all rights has done is found, and named.

use indelible_core::{Append, CheckpointStore, EventStore, ExpectedVersion, StoreError, Tag};
use indelible_postgres::PostgresStore;

use crate::{
    cluster::{fresh_schema, shared_url},
    writing::{client, event, stream},
};

#[tokio::test]
async fn damage_is_named() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    for n in 0..5 {
        let events = [event("Written").with_tags([Tag::new("t").unwrap(), Tag::new(format!("n:{n}")).unwrap()])];
        let append = Append::to(stream(&format!("a-{}", n % 2)), ExpectedVersion::Any, events);
        store.append(if n == 4 { append.close(stream("a-0")) } else { append }).await.unwrap();
    }
    store.save_checkpoint("reader", store.head().await.unwrap()).await.unwrap();
    store.verify().await.unwrap();
    let client = client(&url).await;
    for (damage, named) in [
        ("DELETE FROM log WHERE position = 3", "the positions between 2 and 4 are missing"),
        ("DELETE FROM log WHERE position = 3", "version 3 of a-0 follows version 1"),
        ("DELETE FROM log WHERE position = 5", "the checkpoint of reader is at position 5"),
        ("UPDATE log SET version = 7 WHERE position = 4", "version 7 of a-1 follows version 1"),
        ("UPDATE log SET recorded_at = now() - interval '1 day' WHERE position = 4", "position 4 was recorded before"),
        ("UPDATE log SET closes_stream = true WHERE position = 1", "version 2 of a-0 follows the one that closed it"),
        ("UPDATE log SET ends_append = false WHERE position = 5", "position 5 in the middle of an append"),
        ("UPDATE log SET kind = 9 WHERE position = 2", "position 2 is of a kind that is not there"),
        ("UPDATE kinds SET category = 'b'", "position 1 is of a kind that is not there"),
        ("DELETE FROM tags WHERE tag = 'n:2'", "the tags of the event at position 3"),
        ("INSERT INTO tags VALUES ('u', 2)", "the tags of the event at position 2"),
    ] {
        let undone = format!(
            "BEGIN; SET LOCAL search_path = {schema}; ALTER TABLE log DISABLE TRIGGER ALL; \
             ALTER TABLE tags DISABLE TRIGGER ALL; ALTER TABLE kinds DISABLE TRIGGER ALL; \
             CREATE TABLE kept_log AS TABLE log; CREATE TABLE kept_tags AS TABLE tags; \
             CREATE TABLE kept_kinds AS TABLE kinds; {damage}; COMMIT"
        );
        client.batch_execute(&undone).await.unwrap();
        // A handle that has seen the last event stops itself when that is gone.
        let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
        let told = store.verify().await;
        let Err(StoreError::Corrupted { what, .. }) = told else { panic!("{damage}: {told:?}") };
        assert!(what.contains(named), "{damage}: {what}");
        let redone = format!(
            "BEGIN; SET LOCAL search_path = {schema}; DELETE FROM log; DELETE FROM tags; DELETE FROM kinds; \
             INSERT INTO log TABLE kept_log; INSERT INTO tags TABLE kept_tags; INSERT INTO kinds TABLE kept_kinds; \
             DROP TABLE kept_log, kept_tags, kept_kinds; COMMIT"
        );
        client.batch_execute(&redone).await.unwrap();
        store.verify().await.unwrap();
    }
}
