//! Other processes: this same binary, started again for one test.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use indelible_core::conformance::{
    fault::{Work, say},
    remote::serve,
};
use indelible_postgres::{Durability, PostgresStore};

use crate::writing::prepared;

const JOB: &str = "INDELIBLE_TEST_CHILD";
const WORK: &str = "INDELIBLE_TEST_WORK";
const PORT: &str = "INDELIBLE_TEST_PORT";
const PATIENCE: &str = "INDELIBLE_TEST_PATIENCE";
const BUG: &str = "INDELIBLE_BUG";

/// What children are started for. Here is what the others prove nothing without; by itself it is no test.
#[test]
fn child() {
    let Ok(job) = env::var(JOB) else { return };
    let url = env::var("DATABASE_URL").expect("a child is told where the server is");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match job.split_once(' ') {
        Some(("open", schema)) => runtime.block_on(crate::opening::open(&url, schema)),
        Some(("append", schema)) => runtime.block_on(match schema.strip_prefix("apart ") {
            Some(schema) => crate::tail::write(&url, schema, false),
            None => crate::tail::write(&url, schema, true),
        }),
        Some(("work", schema)) => {
            let work: Work = env::var(WORK).unwrap().parse().unwrap();
            runtime.block_on(write(&work, &url, schema));
        }
        Some(("serve", schema)) => {
            let port = number(PORT).unwrap() as u16;
            runtime.block_on(async {
                let store = PostgresStore::options().schema(schema).open(&url).await.unwrap();
                serve(Arc::new(store), port).await.unwrap();
            });
        }
        #[cfg(feature = "projections")]
        Some(("model", schema)) => runtime.block_on(crate::read_model::open(&url, schema)),
        #[cfg(feature = "projections")]
        Some(("project", job)) => runtime.block_on(crate::read_model::project(&url, job)),
        #[cfg(feature = "projections")]
        Some(("publishing", job)) => crate::publishing::run(&url, job),
        #[cfg(feature = "sagas")]
        Some(("sagas", job)) => runtime.block_on(crate::sagas::run(&url, job)),
        _ => panic!("no child knows how to {job}"),
    }
}

/// Writes, and says what comes of it.
async fn write(work: &Work, url: &str, schema: &str) {
    let durability = if work.weakly { Durability::Asynchronous } else { Durability::Synced };
    let patience = Duration::from_millis(number(PATIENCE).unwrap());
    let options = PostgresStore::options().schema(schema).durability(durability).connections(4).patience(patience);
    let options = if work.cycle.is_multiple_of(2) { options } else { prepared(options) };
    let store = match options.open(url).await {
        Ok(store) => store,
        Err(error) => return say(&format!("unopened {error:?}").replace('\n', " ")),
    };
    work.run(store.clone(), Arc::new(say)).await;
    say(&format!("lost calls {}", store.statistics().lost_calls));
    say("closing");
    match store.close().await {
        Ok(()) => say("closed"),
        Err(error) => say(&format!("unclosed {error:?}").replace('\n', " ")),
    }
}

/// A command that starts a child on this server.
pub(crate) fn command(job: &str, url: &str) -> Command {
    let mut command = test("child::child", url);
    command.env(JOB, job);
    command
}

/// A command that starts a process which serves the store to this one.
pub(crate) fn server(url: &str, schema: &str, port: u16) -> Command {
    let mut command = command(&format!("serve {schema}"), url);
    command.env(PORT, port.to_string()).stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// A command that starts a writer, with a seeded bug if one is named.
pub(crate) fn writer(work: &Work, url: &str, schema: &str, patience: Duration, bug: Option<&str>) -> Command {
    let mut command = command(&format!("work {schema}"), url);
    command
        .env(WORK, work.to_string())
        .env(PATIENCE, patience.as_millis().to_string())
        .env_remove(BUG)
        .stderr(Stdio::inherit())
        .process_group(0);
    if let Some(bug) = bug {
        command.env(BUG, bug);
    }
    command
}

/// A command that runs one test of this binary on this server.
pub(crate) fn test(name: &str, url: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env("DATABASE_URL", url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The number in an environment variable.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// `INDELIBLE_SEED`, or a new one.
pub(crate) fn seed() -> u64 {
    number("INDELIBLE_SEED").unwrap_or_else(|| rand::random::<u32>().into())
}
