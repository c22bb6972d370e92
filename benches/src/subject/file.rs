//! The limit: a plain file that grows, one write and one `fdatasync` a group. It can be read again, and nothing more.

use std::{fs::File, io::Write as _, path::Path};

use anyhow::{Context as _, Result};

use super::{
    Append, Subject,
    group::{GroupWriter, Log},
};

pub struct PlainFile(GroupWriter);

struct Growing {
    file: File,
    buffer: Vec<u8>,
}

impl PlainFile {
    pub fn create(dir: &Path) -> Result<Self> {
        let file = File::create_new(dir.join("log"))?;
        File::open(dir)?.sync_all()?;
        Ok(Self(GroupWriter::start(Growing { file, buffer: Vec::new() })?))
    }
}

impl Log for Growing {
    fn write(&mut self, group: &[Append]) -> Result<()> {
        self.buffer.clear();
        for append in group {
            for (version, event) in (append.expected + 1..).zip(&append.events) {
                self.buffer.extend_from_slice(&append.stream.to_le_bytes());
                self.buffer.extend_from_slice(&version.to_le_bytes());
                self.buffer.extend_from_slice(&u32::try_from(event.len())?.to_le_bytes());
                self.buffer.extend_from_slice(event);
            }
        }
        self.file.write_all(&self.buffer).context("a write")?;
        self.file.sync_data().context("fdatasync")
    }
}

impl Subject for PlainFile {
    async fn append(&self, append: Append) -> Result<()> {
        self.0.append(append).await
    }

    async fn close(self) -> Result<()> {
        self.0.close()
    }
}
