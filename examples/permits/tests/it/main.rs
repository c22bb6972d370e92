//! The program on the real log, killed at random moments, over and over: in the end all answers are those of
//! `permits.facts.json`, to the byte.

#[path = "../../../../store-postgres/tests/it/cluster.rs"]
#[allow(dead_code, reason = "the shared store's tests do more with a server")]
mod cluster;
mod real;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rand::Rng;

/// A run of the program.
struct Run<'a> {
    log: &'a Path,
    store: &'a str,
    data: &'a Path,
    database: Option<&'a str>,
}

impl Run<'_> {
    fn start(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_permits"));
        command.arg(self.log).args(["--json", "--store", self.store, "--data"]).arg(self.data);
        command.env("DATABASE_URL", self.database.unwrap_or_default());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What it prints, when it isn't killed, and what it tells.
    fn answers(&self) -> (String, String) {
        let output = self.start().wait_with_output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        (String::from_utf8(output.stdout).unwrap().trim_end().to_owned(), told)
    }
}

/// For how long a server holds what a process has, when that is killed.
const LEASE: Duration = Duration::from_secs(1);

/// Runs it in one place without a kill, and in another until it has been killed so often.
fn kill(store: &str, kills: u32, database: Option<&str>) {
    let Some((log, facts)) = real::log() else { return };
    let place = || tempfile::Builder::new().prefix("permits-").tempdir().unwrap();
    let whole = place();
    let run = Run { log: &log, store, data: whole.path(), database };
    let started = Instant::now();
    let (answers, told) = run.answers();
    let time = started.elapsed();
    assert_eq!(answers, facts);
    assert!(told.contains("8577 events appended, 0 known already, 0 broken"), "{told}");
    let (answers, told) = run.answers();
    assert_eq!(answers, facts);
    assert!(told.contains("0 events appended, 8577 known already, 0 broken"), "{told}");

    let held = if database.is_some() { LEASE } else { Duration::ZERO };
    let (mut killed, mut runs, mut at, mut waits) = (0, 0, place(), Duration::ZERO);
    while killed < kills {
        let run = Run { data: at.path(), ..run };
        let mut child = run.start();
        thread::sleep(waits + time.mul_f64(rand::rng().random_range(0.05..0.7)));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        runs += 1;
        assert!(runs < 4 * kills, "{killed} of {runs} runs were killed: they end too soon");
        if !output.status.success() {
            (killed, waits) = (killed + 1, held);
        } else {
            assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), facts);
            (at, waits) = (place(), Duration::ZERO);
        }
    }
    let run = Run { data: at.path(), ..run };
    assert_eq!(run.answers().0, facts);
    println!("killed {killed} times in {runs} runs, each of {time:?} when nobody does");
}

#[test]
fn the_real_log_on_rocksdb_with_kills() {
    kill("rocksdb", 8, None);
}

#[test]
fn the_real_log_on_postgres_with_kills() {
    kill("postgres", 4, Some(&cluster::shared_url()));
}
