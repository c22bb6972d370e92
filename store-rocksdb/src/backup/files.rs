//! Files of backups: copied so that they last, shared where they are the same.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// How much of a table's end tells it from others: its properties are there, with the id of the process that wrote it.
const END_BYTES: u64 = 4096;

/// Copies a file, so that its content is there for good, and says how long it is and its CRC-32C. Its name is there for good
/// when its directory is synced.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<(u64, u32)> {
    let mut source = File::open(from)?;
    let mut target = File::create_new(to)?;
    let mut buffer = vec![0; 1024 * 1024];
    let (mut bytes, mut checksum) = (0, 0);
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        target.write_all(&buffer[..read])?;
        checksum = crc32c::crc32c_append(checksum, &buffer[..read]);
        bytes += read as u64;
    }
    target.sync_all()?;
    Ok((bytes, checksum))
}

/// The length and the CRC-32C of a file.
pub(super) fn sum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1024 * 1024];
    let (mut bytes, mut checksum) = (0, 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, checksum)),
            read => {
                checksum = crc32c::crc32c_append(checksum, &buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// Whether two tables are the same one.
pub(super) fn is_same_table(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    let (length, other) = (a.metadata()?.len(), b.metadata()?.len());
    if length != other {
        return Ok(false);
    }
    let start = length.saturating_sub(END_BYTES);
    let end = |file: File| {
        let mut bytes = vec![0; (length - start) as usize];
        file.read_exact_at(&mut bytes, start).map(|()| bytes)
    };
    Ok(end(a)? == end(b)?)
}

/// All files in a directory, as paths in it with slashes, in the order of their names.
pub(super) fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            files.extend(list(&entry.path())?.into_iter().map(|inner| format!("{name}/{inner}")));
        } else {
            files.push(name);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Makes the names in a directory, and in those in it, last.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_names(&entry.path())?;
        }
    }
    sync(dir)
}

/// Makes the names in a directory last.
pub(super) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
