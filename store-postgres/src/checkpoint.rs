//! Checkpoints of readers of the log, in a table beside it, durable when they are saved.

use async_trait::async_trait;
use indelible_core::{CheckpointStore, EventId, EventStore as _, Position, StoreError, Token, check_reader};
use tokio_postgres::types::Type;

use crate::{PostgresStore, connect::Params, sql::bigint};

#[async_trait]
impl CheckpointStore for PostgresStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        check_reader(reader)?;
        let store = self.reader();
        let params: Params<'_> = &[(&reader, Type::TEXT)];
        let rows = store.ask("loading a checkpoint", &store.shared.statements.load_checkpoint, params).await?;
        Ok(rows.first().map(|row| Token {
            store: store.store(),
            position: Position::new(row.get::<_, i64>(0).cast_unsigned()),
            event: EventId::from_uuid(row.get(1)),
        }))
    }

    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        check_reader(reader)?;
        self.check(&token).await?;
        let position = bigint(token.position.get());
        let params: Params<'_> =
            &[(&reader, Type::TEXT), (&position, Type::INT8), (&token.event.as_uuid(), Type::UUID)];
        let store = self.reader();
        store.ask("saving a checkpoint", &store.shared.statements.save_checkpoint, params).await?;
        Ok(())
    }
}
