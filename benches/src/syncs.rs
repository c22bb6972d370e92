//! Proof that acknowledgements stand for syncs: one more round of each load under `strace`, which counts them.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, bail};
use indelible_bench::job::{Job, Log, Place, Times};

use crate::{Bench, what::Append};

/// The calls by which a file's content is asked to be made durable.
const CALLS: [&str; 4] = ["fdatasync", "fsync", "sync_file_range", "msync"];

pub fn count(bench: &Bench, append: &Append) -> Result<String> {
    let mut text = String::from("appends and the syncs that were counted by strace:\n");
    let times = Times { seconds: Duration::from_secs(1), ..bench.how.times };
    for work in append.works(times, false) {
        let log = Log { events: 0, ids: bench.how.ids };
        for subject in bench.subjects(&work, log)? {
            let (data, counts) = (tempfile::tempdir_in(&bench.dir)?, tempfile::NamedTempFile::new()?);
            let job = Job { subject, place: Place::Directory(data.path().into()), log, work: work.clone() };
            let trace = format!("trace={}", CALLS.join(","));
            let under = ["strace", "-f", "-c", "-e", &trace, "-o"].map(Into::into);
            let under: Vec<_> = under.into_iter().chain([counts.path().into()]).collect();
            let measured = bench.process(&job, &under).context("strace")?;
            let [measured] = measured.as_slice() else { bail!("one round measures one thing") };
            let counted = std::fs::read_to_string(counts.path())?;
            writeln!(text, "- {job}: {} appends, {}", measured.operations, summary(&counted))?;
        }
    }
    Ok(text)
}

/// Of the table that `strace -c` prints.
fn summary(table: &str) -> String {
    let counts = table.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let call = CALLS.into_iter().find(|call| cells.last() == Some(call))?;
        Some(format!("{} {call}", cells.get(3)?))
    });
    counts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_in_what_strace_prints() {
        let table = "\
            % time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
             99.1    0.167351          68      2451           fdatasync\n\
              0.1    0.000302          50         6         1 fsync\n\
            100.0    0.167653          68      2457         1 total\n";
        assert_eq!(summary(table), "2451 fdatasync, 6 fsync");
    }
}
