//! Disks of our own, to cut the power of, to fill, to slow down and to break: file systems in files, mounted through a
//! loop device, and block devices that a process serves.
//!
//! All that is mounted or attached is taken down when its [`Disk`] is dropped, and what an earlier run that was killed
//! has left is taken down before the first is made.

use std::{
    env, fs, mem,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::Once,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Begins the names of all our directories; the number of the process that made it follows.
const PREFIX: &str = "indelible-disk-";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FileSystem {
    Ext4,
    /// Forgets a failed write without a word, where one with a journal stops.
    Ext4WithoutJournal,
    Xfs,
    Tmpfs,
}

/// What lies below the file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Below {
    /// A file.
    Loop,
    /// A process that serves the file as a block device, through these filters (with their parameters).
    Served { filters: &'static [&'static str], parameters: &'static [&'static str] },
}

/// A disk with a write cache that a power cut empties.
pub(crate) const VOLATILE: Below = Below::Served { filters: &["cache"], parameters: &["cache=writeback"] };
/// A disk whose writes fail as long as the file `fails` is there.
pub(crate) const BREAKABLE: Below =
    Below::Served { filters: &["error"], parameters: &["error-pwrite=EIO", "error-pwrite-rate=100%"] };
/// A disk that takes its time to write.
pub(crate) const SLOW: Below = Below::Served { filters: &["delay"], parameters: &["wdelay=20ms"] };

pub(crate) struct Disk {
    below: Below,
    dir: TempDir,
    served: Option<Served>,
    is_mounted: bool,
}

/// A block device out of two processes.
struct Served {
    server: Child,
    fuse: Child,
    device: String,
}

/// Why there can be no such disk here; the test is skipped.
pub(crate) fn lacks(file_system: FileSystem, below: Below) -> Option<String> {
    let has = |tool: &str| Command::new("which").arg(tool).output().is_ok_and(|output| output.status.success());
    let mut tools = vec!["timeout", "mount", "umount"];
    match file_system {
        FileSystem::Xfs => tools.push("mkfs.xfs"),
        FileSystem::Ext4 | FileSystem::Ext4WithoutJournal => tools.push("mkfs.ext4"),
        FileSystem::Tmpfs => {}
    }
    if below != Below::Loop {
        tools.extend(["nbdkit", "nbdfuse", "losetup", "setpriv"]);
    }
    if answer(&["id", "-u"]).is_ok_and(|user| user != "0") {
        return Some("only root mounts".into());
    }
    if let Some(missing) = tools.iter().find(|tool| !has(tool)) {
        return Some(format!("{missing} is missing"));
    }
    Disk::try_new(file_system, below, 320).err()
}

impl Disk {
    /// An empty one of so many MiB, mounted.
    pub(crate) fn new(file_system: FileSystem, below: Below, mib: u64) -> Self {
        Self::try_new(file_system, below, mib).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_new(file_system: FileSystem, below: Below, mib: u64) -> Result<Self, String> {
        static CLEANED: Once = Once::new();
        CLEANED.call_once(take_down_left_overs);
        let prefix = format!("{PREFIX}{}-", process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir().map_err(|error| error.to_string())?;
        for name in ["mounted", "fuse"] {
            fs::create_dir(dir.path().join(name)).map_err(|error| error.to_string())?;
        }
        let mut disk = Self { below, dir, served: None, is_mounted: false };
        if file_system == FileSystem::Tmpfs {
            let options = format!("size={mib}m");
            disk.mount(&["-t", "tmpfs", "-o", &options, "tmpfs"])?;
            return Ok(disk);
        }
        let image = disk.path("image");
        fs::File::create(&image).and_then(|file| file.set_len(mib << 20)).map_err(|error| error.to_string())?;
        match file_system {
            FileSystem::Xfs => run(&["mkfs.xfs", "-q", &image])?,
            FileSystem::Ext4 => run(&["mkfs.ext4", "-q", "-F", &image])?,
            _ => run(&["mkfs.ext4", "-q", "-F", "-O", "^has_journal", &image])?,
        }
        disk.start()?;
        Ok(disk)
    }

    /// Where its files are.
    pub(crate) fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Mounts what is in the image.
    fn start(&mut self) -> Result<(), String> {
        let Below::Served { filters, parameters } = self.below else {
            return self.mount(&["-o", "loop", &self.path("image")]);
        };
        let served = self.served.insert(self.serve(filters, parameters)?);
        let device = served.device.clone();
        self.mount(&[&device])
    }

    fn mount(&mut self, what: &[&str]) -> Result<(), String> {
        run(&[&["mount"], what, &[&self.path("mounted")]].concat())?;
        self.is_mounted = true;
        Ok(())
    }

    fn serve(&self, filters: &[&str], parameters: &[&str]) -> Result<Served, String> {
        let (socket, device) = (self.path("socket"), self.path("fuse/disk"));
        let _ = fs::remove_file(&socket);
        let mut server = Command::new("nbdkit");
        server.args(["-f", "--exit-with-parent", "-U", &socket]);
        server.args(filters.iter().map(|filter| format!("--filter={filter}")));
        server.arg("file").arg(self.path("image")).args(parameters);
        if filters.contains(&"error") {
            server.arg(format!("error-pwrite-file={}", self.path("fails")));
        }
        let server = server.stdin(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        wait_until("nbdkit serves", || Path::new(&socket).exists())?;
        let mut fuse = Command::new("setpriv");
        fuse.args(["--pdeathsig", "KILL", "nbdfuse", &device, "--unix", &socket]);
        fuse.stdin(Stdio::null()).stderr(Stdio::null());
        let first = fuse.spawn().map_err(|error| error.to_string())?;
        let mut served = Served { server, fuse: first, device: String::new() };
        let waited = wait_until("nbdfuse serves", || {
            // The socket is there a moment before anybody listens.
            if let Ok(Some(_)) = served.fuse.try_wait()
                && let Ok(again) = fuse.spawn()
            {
                served.fuse = again;
            }
            fs::metadata(&device).is_ok_and(|file| file.len() > 0)
        });
        served.device = waited.and_then(|()| answer(&["losetup", "-f", "--show", &device])).inspect_err(|_| {
            let _ = served.server.kill();
            let _ = served.fuse.kill();
        })?;
        Ok(served)
    }

    /// Cuts the power: what the file system, or the disk below it, has not been asked to keep is gone. Processes that
    /// use it see errors from now on.
    ///
    /// With `flushes_names`, the file system's own journal is written first: its names are newer than its data then.
    pub(crate) fn cut(&mut self, flushes_names: bool) {
        let mounted = self.path("mounted");
        match &mut self.served {
            Some(served) => served.server.kill().unwrap(),
            None if flushes_names => run(&["xfs_io", "-x", "-c", "shutdown -f", &mounted]).unwrap(),
            None => run(&["xfs_io", "-x", "-c", "shutdown", &mounted]).unwrap(),
        }
    }

    /// Takes it down and up again, so that nothing is left of it but what is on the disk.
    pub(crate) fn restart(&mut self) {
        self.stop().unwrap();
        self.start().unwrap();
    }

    /// Writes begin to fail, or succeed again, on a [`BREAKABLE`] disk.
    pub(crate) fn fails(&self, fails: bool) {
        let file = self.path("fails");
        match fails {
            true => fs::write(file, "").unwrap(),
            // Told twice, it is gone already.
            false => drop(fs::remove_file(file)),
        }
    }

    fn stop(&mut self) -> Result<(), String> {
        let mounted = self.path("mounted");
        if mem::take(&mut self.is_mounted) {
            // The last process that used it may not be quite gone.
            wait_until("it is unmounted", || run(&["umount", &mounted]).is_ok())?;
        }
        if let Some(mut served) = self.served.take() {
            run(&["losetup", "-d", &served.device])?;
            // Where its server was killed, nbdfuse may have ended by itself.
            let _ = run(&["umount", "-l", &self.path("fuse")]);
            let _ = served.server.kill();
            let _ = served.server.wait();
            wait_until("nbdfuse ends", || !matches!(served.fuse.try_wait(), Ok(None))).or_else(|_| {
                let _ = served.fuse.kill();
                served.fuse.wait().map(drop).map_err(|error| error.to_string())
            })?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            println!("{}: {error}", self.dir.path().display());
        }
    }
}

/// What processes that were killed have mounted and not taken down.
fn take_down_left_overs() {
    let is_left_over = |path: &str| {
        let owner = path.split(PREFIX).nth(1).and_then(|rest| rest.split('-').next());
        owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    // Whose names are no longer known when what lies below is unmounted.
    let loops = answer(&["losetup", "-n", "-O", "NAME,BACK-FILE", "--raw"]).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mounted in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|path| is_left_over(path)) {
        let _ = run(&["umount", "-l", mounted]);
    }
    // One that was mounted by its file has gone by itself.
    for line in loops.lines().filter(|line| is_left_over(line)) {
        let _ = run(&["losetup", "-d", line.split(' ').next().unwrap()]);
    }
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.to_str().is_some_and(is_left_over) {
            // Only what is left when all is taken down.
            let _ = fs::remove_dir(path.join("mounted"));
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Runs a command that needs to succeed, in half a minute at most.
fn run(command: &[&str]) -> Result<(), String> {
    answer(command).map(drop)
}

fn answer(command: &[&str]) -> Result<String, String> {
    let output = Command::new("timeout").arg("30").args(command).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > Duration::from_secs(30) {
            return Err(format!("waited in vain until {what}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
