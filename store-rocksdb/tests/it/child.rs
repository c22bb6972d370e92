//! Processes of our own to kill, to watch and to starve: this same binary, started again for one test, [`child`].

use std::{
    env, fs,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

pub(crate) use indelible_core::conformance::fault::{Running, say, skip};
use indelible_core::conformance::fault::{Say, Work};
use indelible_rocksdb::{Durability, Options, RocksStore};

const JOB: &str = "INDELIBLE_TEST_CHILD";
const DIR: &str = "INDELIBLE_TEST_DIR";
const WORK: &str = "INDELIBLE_TEST_WORK";
/// Where this is set, a writing process that has opened the store waits for a word before it writes.
pub(crate) const WAITS: &str = "INDELIBLE_TEST_WAITS";
/// How the store is opened to be written to, where it is not as usual.
pub(crate) const OPTIONS: &str = "INDELIBLE_TEST_OPTIONS";
const BUG: &str = "INDELIBLE_BUG";

/// What children are started for. Here is what the others prove nothing without; by itself it is no test.
#[test]
fn child() {
    let Ok(job) = env::var(JOB) else { return };
    let dir = env::var(DIR).expect("a child is told its directory");
    let dir = Path::new(&dir);
    let alone = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match job.as_str() {
        "hold" => {
            let _store = RocksStore::open(dir).unwrap();
            say("open");
            // Until the parent closes it, or is gone: a killed strace leaves its child alive.
            let _ = io::stdin().read(&mut [0]);
        }
        "write" => {
            let work: Work = env::var(WORK).unwrap().parse().unwrap();
            // One writer's calls are the same each time where no other thread takes part.
            let runtime = if work.writers == 1 { alone() } else { runtime };
            runtime.block_on(write(&work, dir, Arc::new(say)));
        }
        "starve" => runtime.block_on(crate::failed_write::write_until_it_fails(RocksStore::open(dir).unwrap())),
        "file" => crate::control::write(dir, false),
        "file, again" => crate::control::write(dir, true),
        "lone" => runtime.block_on(crate::sync::write_alone(RocksStore::open(dir).unwrap())),
        "lone, buffered" => {
            let store = RocksStore::options().durability(Durability::Buffered).open(dir).unwrap();
            runtime.block_on(crate::sync::write_alone(store));
        }
        "many" => runtime.block_on(crate::sync::write_many(RocksStore::open(dir).unwrap())),
        "index" => runtime.block_on(crate::verification::index(RocksStore::open(dir).unwrap())),
        "back up without room" => runtime.block_on(crate::backup::without_room(RocksStore::open(dir).unwrap(), dir)),
        "back up at work" => runtime.block_on(crate::backup::at_work(RocksStore::open(dir).unwrap(), dir)),
        #[cfg(feature = "projections")]
        "hold views" => {
            let _model = indelible_rocksdb::RocksModel::open(dir).unwrap();
            say("open");
            let _ = io::stdin().read(&mut [0]);
        }
        #[cfg(feature = "projections")]
        "park" | "take over" | "take turns" => runtime.block_on(crate::read_model::scenario(&job, dir)),
        #[cfg(feature = "projections")]
        job if job.starts_with("project") => runtime.block_on(crate::projecting::project(job, dir)),
        #[cfg(feature = "sagas")]
        "sagas" => runtime.block_on(crate::sagas::run(dir)),
        job => panic!("no child knows how to {job}"),
    }
}

/// Opens the store, writes, closes it, and says how that went.
async fn write(work: &Work, dir: &Path, say: Say) {
    let durability = if work.weakly { Durability::Buffered } else { Durability::Synced };
    say("opening");
    let store = match options().durability(durability).open(dir) {
        Ok(store) => store,
        Err(error) => return say(&format!("unopened {error:?}").replace('\n', " ")),
    };
    if env::var_os(WAITS).is_some() {
        say("open");
        let _ = io::stdin().read(&mut [0]);
    }
    work.run(store.clone(), Arc::clone(&say)).await;
    say("closing");
    match store.close().await {
        Ok(()) => say("closed"),
        Err(error) => say(&format!("unclosed {error:?}").replace('\n', " ")),
    }
}

/// How a writing process opens its store: what it collects before it indexes it, and what it lets wait, in bytes. Little is
/// usual, so that faults hit that too.
fn options() -> Options {
    let bytes = env::var(OPTIONS).unwrap_or_default();
    let mut bytes = bytes.split(' ').map(|bytes| bytes.parse().ok());
    let mut next = || bytes.next().flatten();
    let options = RocksStore::options().segment_bytes(next().unwrap_or(20_000));
    next().into_iter().fold(options, Options::queue_bytes)
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
    // A group, so that a child behind another program is killed with it.
    command.process_group(0);
    command
}

/// A command that starts a writer, with a seeded bug if one is named.
pub(crate) fn writer(work: &Work, bug: Option<&str>, dir: &Path, through: &[&str]) -> Command {
    let mut command = command("write", dir, through);
    command.env(WORK, work.to_string());
    if let Some(bug) = bug {
        command.env(BUG, bug);
    }
    command
}

/// Whether there is an strace that may trace. Where not, the test is skipped.
pub(crate) fn can_trace() -> bool {
    let traces = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    traces.is_ok_and(|status| status.success()) || skip("strace is missing, or may not trace here")
}

/// Whether there is a program that can do this. Where not, the test is skipped.
pub(crate) fn has_program(program: &str, arguments: &[&str]) -> bool {
    let does = Command::new(program).args(arguments).stdout(Stdio::null()).status();
    does.is_ok_and(|status| status.success()) || skip(&format!("{program} is missing"))
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}
