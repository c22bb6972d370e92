//! Processes of our own to kill, to watch and to starve: this same binary, started again for one test, [`child`].

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use indelible_rocksdb::{Durability, RocksStore};

const JOB: &str = "INDELIBLE_TEST_CHILD";
const DIR: &str = "INDELIBLE_TEST_DIR";

/// What children are started for. Here is what the others prove nothing without; by itself it is no test.
#[test]
fn child() {
    let Ok(job) = env::var(JOB) else { return };
    let dir = env::var(DIR).expect("a child is told its directory");
    let dir = Path::new(&dir);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match job.as_str() {
        "hold" => {
            let _store = RocksStore::open(dir).unwrap();
            say("open");
            // Until the parent closes it, or is gone: a killed strace leaves its child alive.
            let _ = io::stdin().read(&mut [0]);
        }
        "write" => runtime.block_on(crate::kill::write(RocksStore::open(dir).unwrap())),
        "starve" => runtime.block_on(crate::failed_write::write_until_it_fails(RocksStore::open(dir).unwrap())),
        "lone" => runtime.block_on(crate::sync::write_alone(RocksStore::open(dir).unwrap())),
        "lone, buffered" => {
            let store = RocksStore::options().durability(Durability::Buffered).open(dir).unwrap();
            runtime.block_on(crate::sync::write_alone(store));
        }
        "many" => runtime.block_on(crate::sync::write_many(RocksStore::open(dir).unwrap())),
        job => panic!("no child knows how to {job}"),
    }
}

/// A command that starts a child, behind another program where one is given.
pub(crate) fn command(job: &str, dir: &Path, through: &[&str]) -> Command {
    let binary = env::current_exe().unwrap();
    let mut command = match through {
        [] => Command::new(binary),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary);
            command
        }
    };
    command.args(["child::child", "--exact", "--nocapture", "--test-threads=1", "--quiet"]);
    command.env(JOB, job).env(DIR, dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Whether there is an strace that may trace. Where not, the test says that it is skipped, and the gate counts it.
pub(crate) fn can_trace() -> bool {
    if Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success()) {
        return true;
    }
    let name = thread::current().name().unwrap_or("sync").to_owned();
    println!("SKIP: {name}: strace is missing, or may not trace here");
    if let Some(skips) = env::var_os("INDELIBLE_SKIPS") {
        let mut skips = File::options().create(true).append(true).open(skips).unwrap();
        writeln!(skips, "{name}").unwrap();
    }
    false
}

/// What a child says, one write a line: a kill loses no line that was said before.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    // The harness may have begun a line, and `>` tells ours from its own.
    out.write_all(format!("\n>{line}\n").as_bytes()).and_then(|()| out.flush()).expect("the parent listens");
}

/// A child that is killed, and waited for, when this is dropped.
pub(crate) struct Running {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = BufReader::new(process.stdout.take().unwrap());
        Self { process, said }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line that it says, `None` when it has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.said.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line that a kill cut off was not said.
            if let Some(line) = line.strip_prefix('>').and_then(|line| line.strip_suffix('\n')) {
                return Some(line.to_owned());
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    /// Lets a child that holds something go, waits until it has ended, and says whether it did so as it should.
    pub(crate) fn succeeds(mut self) -> bool {
        drop(self.process.stdin.take());
        while self.line().is_some() {}
        self.process.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
