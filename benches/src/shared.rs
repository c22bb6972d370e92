//! Rounds on a server: each in a database of its own, and some with company.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indelible_bench::{
    job::{Job, Log, Measured, Others, Place, Work},
    subject::Kind,
};

use crate::{
    Bench,
    server::Server,
    what::{Company, Round},
};

const ROUND: &str = "indelible_bench_round";
/// Fewer events leave the pages of too many tables and indexes half empty to count bytes by.
const FULL_PAGES_MIN: u64 = 10_000;
const FILLING: &str = "indelible_bench_filling";
/// The database that every server has; no subject is in it.
const ELSEWHERE: &str = "postgres";

/// The name of a database that was filled to its end.
fn filled(subject: Kind, log: Log) -> String {
    format!("indelible_bench_{subject}_{}_{:?}", log.events, log.ids).to_lowercase().replace('-', "_")
}

impl Bench {
    pub fn on_server(&self, server: &Server, round: &Round, mut job: Job) -> Result<Vec<Measured>> {
        let mut all = Vec::new();
        let log = filled(job.subject.filler(), job.log);
        let is_fill = job.work == Work::Fill;
        let needs_log = job.log.events > 0 && !(job.subject.is_by_hand() && job.work.is_of_read_model());
        if is_fill || (needs_log && !server.has(&log)?) {
            all.push(self.fill_on_server(server, &job, &log)?);
        }
        if is_fill {
            return Ok(all);
        }
        if let Company::Snapshots(age) = round.company {
            all.extend(self.beside_snapshots(server, &job, needs_log.then_some(log.as_str()), age)?);
            return Ok(all);
        }
        // Those who only read change nothing.
        let is_read = matches!(job.work, Work::Load { .. } | Work::Read);
        let database = if is_read { log.as_str() } else { ROUND };
        job.place = match is_read {
            true => server.place(database),
            false => server.create(database, needs_log.then_some(log.as_str()))?,
        };
        let mut measured = self.in_company(round, &job)?;
        if let (Work::Append { .. }, 0, [measured]) = (&job.work, job.log.events, &mut measured[..]) {
            let events = measured.operations * measured.events_per_append;
            if events >= FULL_PAGES_MIN {
                count_bytes(measured, server.bytes(database)?, events);
            }
        }
        if !is_read {
            server.drop(database)?;
        }
        all.extend(measured);
        Ok(all)
    }

    /// Databases that grow side by side until the snapshots have their age; each is then measured alone. Without snapshots
    /// it is one that has grown likewise, when they are closed and it was vacuumed.
    fn beside_snapshots(&self, server: &Server, job: &Job, log: Option<&str>, age: Duration) -> Result<Vec<Measured>> {
        let names = ["snapshot-in-another-database", "snapshot-in-the-same", "snapshot-none"];
        let databases = ["elsewhere", "same", "none"].map(|name| format!("{ROUND}_{name}"));
        let places: Vec<Place> = databases.iter().map(|name| server.create(name, log)).collect::<Result<_>>()?;
        let on = |place: &Place, work: Work| Job { place: place.clone(), work, ..job.clone() };
        let mut snapshots = vec![server.snapshot(ELSEWHERE)?, server.snapshot(&databases[1])?];
        self.processes(&places.iter().map(|place| on(place, Work::Age { time: age })).collect::<Vec<_>>())?;
        let mut all = Vec::new();
        for ((name, database), place) in names.iter().zip(&databases).zip(&places) {
            if *name == "snapshot-none" {
                snapshots.clear();
                server.vacuum(database)?;
            }
            for measured in self.process(&on(place, job.work.clone()), &[])? {
                all.push(Measured { workload: (*name).into(), ..measured });
            }
        }
        databases.iter().try_for_each(|database| server.drop(database))?;
        Ok(all)
    }

    fn fill_on_server(&self, server: &Server, job: &Job, name: &str) -> Result<Measured> {
        eprint!("(filling a log) ");
        let place = server.create(FILLING, None)?;
        let job = Job { subject: job.subject.filler(), place, work: Work::Fill, ..job.clone() };
        let mut measured = self.process(&job, &[])?.pop().context("a fill is measured")?;
        server.settle(FILLING, name)?;
        count_bytes(&mut measured, server.bytes(name)?, job.log.events);
        Ok(measured)
    }

    /// The round's own process and those that work at the same time.
    fn in_company(&self, round: &Round, job: &Job) -> Result<Vec<Measured>> {
        let jobs = match round.company {
            Company::Nobody => vec![job.clone()],
            Company::Snapshots(_) => bail!("each is measured by itself"),
            Company::Twin => {
                let Work::Append { callers, .. } = job.work else { bail!("twins append") };
                vec![
                    with(job, callers, Others { before: 0, after: callers })?,
                    with(job, callers, Others { before: callers, after: 0 })?,
                ]
            }
            Company::Neighbour(many, _) => {
                let Work::Append { callers, .. } = job.work else { bail!("neighbours append") };
                vec![
                    with(job, callers, Others { before: many, after: 0 })?,
                    with(job, many, Others { before: 0, after: callers })?,
                ]
            }
        };
        let mut measured: Vec<Measured> = self.processes(&jobs)?.into_iter().flatten().collect();
        if round.company == Company::Twin {
            measured = measured.into_iter().reduce(together).into_iter().collect();
        }
        let names = [
            round.name,
            match round.company {
                Company::Neighbour(_, name) => Some(name),
                _ => None,
            },
        ];
        for (measured, name) in measured.iter_mut().zip(names) {
            measured.workload = name.map_or_else(|| measured.workload.clone(), Into::into);
        }
        Ok(measured)
    }
}

/// The same job for other callers.
fn with(job: &Job, callers: u32, others: Others) -> Result<Job> {
    let Work::Append { events_per_append, times, .. } = job.work else { bail!("only appends have callers") };
    Ok(Job { work: Work::Append { callers, others, events_per_append, times }, ..job.clone() })
}

/// Of two processes: what they did in all, and the worse of their times.
fn together(one: Measured, other: Measured) -> Measured {
    fn with(one: Option<f64>, other: Option<f64>, combine: fn(f64, f64) -> f64) -> Option<f64> {
        one.zip(other).map(|(one, other)| combine(one, other))
    }
    Measured {
        callers: one.callers + other.callers,
        events_per_s: with(one.events_per_s, other.events_per_s, |one, other| one + other),
        p50_us: with(one.p50_us, other.p50_us, f64::max),
        p99_us: with(one.p99_us, other.p99_us, f64::max),
        p999_us: with(one.p999_us, other.p999_us, f64::max),
        rss_mib: one.rss_mib + other.rss_mib,
        rss_end_mib: one.rss_end_mib + other.rss_end_mib,
        operations: one.operations + other.operations,
        ..one
    }
}

fn count_bytes(measured: &mut Measured, (tables, indexes): (u64, u64), events: u64) {
    measured.bytes_per_event = Some((tables + indexes) as f64 / events as f64);
    measured.bytes_per_event_of_indexes = Some(indexes as f64 / events as f64);
}

#[cfg(test)]
mod tests {
    use indelible_bench::job::Ids;

    use super::*;

    #[test]
    fn of_two_processes_rates_add_up_and_the_worse_times_count() {
        let measured = |rate, p99| Measured {
            subject: Kind::PgBatched,
            workload: "append".into(),
            callers: 256,
            events_per_append: 1,
            durability: "fdatasync".into(),
            events_per_s: Some(rate),
            p50_us: Some(1_000.0),
            p99_us: Some(p99),
            p999_us: None,
            rss_mib: 10.0,
            rss_end_mib: 9.0,
            bytes_per_event: None,
            bytes_per_event_closed: None,
            bytes_per_event_of_indexes: None,
            written_per_event: None,
            preload: 0,
            ids: Ids::V7,
            operations: 5,
        };
        let both = together(measured(100.0, 2_000.0), measured(50.0, 9_000.0));
        assert_eq!((both.callers, both.operations, both.rss_mib), (512, 10, 20.0));
        assert_eq!((both.events_per_s, both.p50_us, both.p99_us), (Some(150.0), Some(1_000.0), Some(9_000.0)));
        assert_eq!(both.p999_us, None);
    }
}
