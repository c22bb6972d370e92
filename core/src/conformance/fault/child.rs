//! Processes of a test's own, to be struck: how they say what they do, and how that is heard.

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, IoSlice, Write},
    os::fd::AsFd,
    process::{Child, ChildStdout, Command},
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::Duration,
};

/// A child that takes longer has hung, and is killed.
const LIMIT: Duration = Duration::from_secs(120);

/// Says that this test is skipped, also in the file that `INDELIBLE_SKIPS` names, so that skips are counted. Answers that
/// it can't run.
///
/// # Panics
/// Where that file can't be written.
pub fn skip(reason: &str) -> bool {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    println!("SKIP: {name}: {reason}");
    if let Some(skips) = env::var_os("INDELIBLE_SKIPS") {
        let mut skips = File::options().create(true).append(true).open(skips).expect("a file that can be written");
        writeln!(skips, "{name}").expect("a file that can be written");
    }
    false
}

/// What a child says, one call a line: a kill loses no line that was said before. By another call than files are written
/// with, so that tests can tell the two apart.
///
/// # Panics
/// Where nobody listens any more.
pub fn say(line: &str) {
    static OUT: OnceLock<Mutex<File>> = OnceLock::new();
    let out = || Mutex::new(File::from(io::stdout().as_fd().try_clone_to_owned().expect("an open pipe")));
    // The harness may have begun a line, and `>` tells ours from its own.
    let text = format!("\n>{line}\n");
    let written = OUT
        .get_or_init(out)
        .lock()
        .expect("nobody panics while speaking")
        .write_vectored(&[IoSlice::new(text.as_bytes())]);
    assert_eq!(written.expect("the parent listens"), text.len());
}

/// A child that is killed, and waited for, when this is dropped.
pub struct Running {
    process: Child,
    said: BufReader<ChildStdout>,
    /// Dropped when the child needs to be watched no longer.
    watched: Option<mpsc::Sender<()>>,
}

impl Running {
    /// Starts a command that puts the child into a process group of its own, with its output piped.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn start(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = BufReader::new(process.stdout.take().expect("its output is piped"));
        let (watched, ended) = mpsc::channel();
        let group = process.id();
        thread::spawn(move || {
            if ended.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                println!("the child {group} hangs, and is killed");
                kill_group(group);
            }
        });
        Self { process, said, watched: Some(watched) }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line that it says, `None` when it has ended.
    ///
    /// # Panics
    /// Where its output can't be read.
    pub fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.said.read_line(&mut line).expect("a pipe can be read") == 0 {
                return None;
            }
            // A line that a kill cut off was not said.
            if let Some(line) = line.strip_prefix('>').and_then(|line| line.strip_suffix('\n')) {
                return Some(line.to_owned());
            }
        }
    }

    /// Lets a child that waits for a word go on.
    ///
    /// # Panics
    /// Where its input is not piped, or it has ended.
    pub fn go_on(&mut self) {
        self.process.stdin.as_mut().expect("its input is piped").write_all(b"\n").expect("it waits");
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// Where it can't be killed.
    pub fn kill(&mut self) {
        self.process.kill().expect("a child of ours");
    }

    /// Lets a child that holds something go, waits until it has ended, and says whether it did so as it should.
    ///
    /// # Panics
    /// Where it can't be waited for.
    pub fn succeeds(mut self) -> bool {
        drop(self.process.stdin.take());
        while self.line().is_some() {}
        self.process.wait().expect("a child of ours").success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.watched.take());
        // Not yet waited for, the number is still its own; what it was started behind may have left it alive.
        if let Ok(None) = self.process.try_wait() {
            kill_group(self.process.id());
        }
        let _ = self.process.wait();
    }
}

fn kill_group(group: u32) {
    let _ = Command::new("kill").args(["-9", "--", &format!("-{group}")]).status();
}
