//! Verifying: reads all that is stored, and holds it against what must be.

use indelible_core::StoreError;

use crate::PostgresStore;

impl PostgresStore {
    /// Proves that the log is whole: positions and versions without a hole, in the order of time; nothing behind the end
    /// of a closed stream, no half append; each event of a known kind, found by its tags; checkpoints of events that are
    /// there. Reads everything, sorts it, and takes its time; writers go on meanwhile.
    ///
    /// # Errors
    /// [`Corrupted`](StoreError::Corrupted), naming what is wrong, and those of the engine.
    #[tracing::instrument(level = "info", skip_all, fields(store = %self.reader().store()))]
    pub async fn verify(&self) -> Result<(), StoreError> {
        let reader = self.reader();
        let found = reader.ask_long("verifying", &reader.shared.statements.verify).await?;
        let wrong: Vec<&str> = found.iter().map(|row| row.get(0)).collect();
        if wrong.is_empty() { Ok(()) } else { Err(StoreError::corrupted(wrong.join("; "))) }
    }
}
