//! The limit: a plain file that grows, one write and one `fdatasync` a group. It can be read from its beginning to its
//! end, and nothing more.

use std::{
    fs::{self, File},
    io::{BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    Append, Found, Subject,
    group::{GroupWriter, Sink},
};
use crate::job::{Log, Place};

/// Its length is written by every sync.
pub type Growing = PlainFile<0>;
/// Zeros are written ahead of it, so that a sync has nothing but the events to write. Writing them is part of the work.
pub type Preallocated = PlainFile<{ 64 << 20 }>;

/// A new file each time it is opened; what an earlier one holds is never changed.
pub struct PlainFile<const ZEROS: u64> {
    writer: GroupWriter,
    dir: PathBuf,
}

struct Writer<const ZEROS: u64> {
    file: File,
    buffer: Vec<u8>,
    /// How long the file is, and how long with its zeros.
    ends: (u64, u64),
}

/// Stream, version and the length of the data.
const HEADER_BYTES: usize = 16;

impl<const ZEROS: u64> Writer<ZEROS> {
    fn write_zeros(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.ends.1))?;
        self.file.write_all(&vec![0; usize::try_from(ZEROS)?])?;
        self.file.sync_data()?;
        self.ends.1 += ZEROS;
        self.file.seek(SeekFrom::Start(self.ends.0))?;
        Ok(())
    }
}

impl<const ZEROS: u64> Sink for Writer<ZEROS> {
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
        self.ends.0 += self.buffer.len() as u64;
        self.file.write_all(&self.buffer).context("a write")?;
        self.file.sync_data().context("fdatasync")?;
        while ZEROS > 0 && self.ends.1 < self.ends.0 + ZEROS / 2 {
            self.write_zeros().context("zeros")?;
        }
        Ok(())
    }
}

impl<const ZEROS: u64> Drop for Writer<ZEROS> {
    fn drop(&mut self) {
        // Zeros at the end are no harm.
        let _ = self.file.set_len(self.ends.0);
    }
}

/// The files of a directory, in order.
fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut segments: Vec<_> = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    segments.sort();
    Ok(segments)
}

fn read(segment: &Path, found: &mut Found) -> Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(segment)?);
    let (mut header, mut event) = ([0; HEADER_BYTES], Vec::new());
    loop {
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [.., a, b, c, d] = header;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length == 0 {
            return Ok(());
        }
        event.resize(length, 0);
        file.read_exact(&mut event)?;
        found.add(&event);
    }
}

impl<const ZEROS: u64> Subject for PlainFile<ZEROS> {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        let dir = place.directory()?;
        let file = File::create_new(dir.join(format!("{:06}.segment", segments(dir)?.len())))?;
        File::open(dir)?.sync_all()?;
        let mut writer = Writer::<ZEROS> { file, buffer: Vec::new(), ends: (0, 0) };
        if ZEROS > 0 {
            writer.write_zeros()?;
        }
        Ok(Self { writer: GroupWriter::start(writer, log)?, dir: dir.into() })
    }

    async fn append(&self, append: Append) -> Result<()> {
        self.writer.append(append).await
    }

    async fn read(&self) -> Result<Found> {
        let mut found = Found::default();
        segments(&self.dir)?.iter().try_for_each(|segment| read(segment, &mut found))?;
        Ok(found)
    }

    async fn close(self) -> Result<()> {
        self.writer.close()
    }
}
