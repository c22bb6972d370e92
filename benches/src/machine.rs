//! What the figures were measured on.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::event::BYTES;

/// Machine, kernel, and the disk that a directory is on.
pub fn describe(dir: &Path) -> Result<String> {
    let field = |file: &str, name: &str| -> Option<String> {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().into())
    };
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "a processor".into());
    let memory_kib: Option<u64> =
        field("/proc/meminfo", "MemTotal").and_then(|memory| memory.split(' ').next()?.parse().ok());
    let memory = memory_kib.map_or("?".into(), |kib| format!("{:.0}", kib as f64 / 1024.0 / 1024.0));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "?".into());
    let (kind, device) = file_system(dir)?;
    ensure!(kind != "tmpfs" && kind != "ramfs", "{} is in memory: name a directory on a disk by --dir", dir.display());
    let cores = available_parallelism()?;
    Ok(format!("{cpu}, {cores} cores, {memory} GiB; Linux {}; {kind} on {device}", kernel.trim()))
}

/// The kind and the device of the file system that a directory is on.
fn file_system(dir: &Path) -> Result<(String, String)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("only Linux is measured")?;
    mounts
        .lines()
        .rev()
        .filter_map(mount)
        .filter(|(point, ..)| dir.starts_with(point))
        .max_by_key(|(point, ..)| point.len())
        .map(|(_, kind, device)| (kind.into(), device.into()))
        .context("no file system holds the directory")
}

/// Where, what and from which device one line of `mountinfo` mounts.
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (mount, source) = line.split_once(" - ")?;
    let mut source = source.split(' ');
    Some((mount.split(' ').nth(4)?, source.next()?, source.next()?))
}

/// How many times a second one thread can write an event to a file that grows, and sync it.
pub fn sync_rate(dir: &Path) -> Result<f64> {
    const TIME: Duration = Duration::from_secs(1);
    let dir = tempfile::Builder::new().prefix("indelible-bench-").tempdir_in(dir)?;
    let mut file = File::create_new(dir.path().join("log"))?;
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < TIME {
        file.write_all(&[b'x'; BYTES])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

/// The most memory that this process has had so far.
pub fn peak_memory_mib() -> Result<f64> {
    status_mib("VmHWM:")
}

/// The memory that it has now.
pub fn memory_mib() -> Result<f64> {
    status_mib("VmRSS:")
}

/// What this process has caused to be written to disks so far.
pub fn written_bytes() -> Result<u64> {
    let counts = fs::read_to_string("/proc/self/io")?;
    let written = counts.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    Ok(written.context("no write_bytes")?.trim().parse()?)
}

fn status_mib(field: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
    Ok(kib.with_context(|| format!("no {field}"))?.trim().parse::<f64>()? / 1024.0)
}

/// All files in a directory and those below.
pub fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(files_in(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}

/// The lengths of all files in a directory. One that is deleted meanwhile counts nothing.
pub fn bytes_in(dir: &Path) -> Result<u64> {
    let length = |file: &PathBuf| fs::metadata(file).map_or(0, |metadata| metadata.len());
    Ok(files_in(dir)?.iter().map(length).sum())
}

/// Has the operating system write what it holds of a directory's files, and drop it from memory.
pub fn forget(dir: &Path) -> Result<()> {
    for path in files_in(dir)? {
        let file = File::open(&path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_its_optional_fields() {
        let line = "36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 shared:2 - ext4 /dev/vda rw,errors=continue";
        assert_eq!(mount(line), Some(("/mnt/parent", "ext4", "/dev/vda")));
        assert_eq!(mount("36 35 98:0 / / rw - btrfs /dev/sda rw"), Some(("/", "btrfs", "/dev/sda")));
    }

    #[test]
    fn bytes_are_those_of_all_files_below() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("a")).expect("a directory");
        fs::write(dir.path().join("a/b"), [0; 1_000]).expect("a file");
        fs::write(dir.path().join("c"), [0; 24]).expect("a file");
        assert_eq!(bytes_in(dir.path()).ok(), Some(1_024));
        assert!(peak_memory_mib().is_ok_and(|mib| mib > 1.0));
    }
}
