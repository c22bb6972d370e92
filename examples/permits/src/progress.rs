//! How far it is, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indelible::Running;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::{import::Imported, lines::Broken};

const LINE_EVERY: Duration = Duration::from_secs(2);

pub struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    told: Instant,
    imported: Imported,
}

impl Progress {
    /// Of a log of so many bytes, where that is known.
    pub fn new(bytes: Option<u64>) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let template = if bytes.is_some() { "{wide_bar} {percent}% {msg}" } else { "{spinner} {msg}" };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(bytes.unwrap_or(0)).with_style(style)
        });
        let now = Instant::now();
        Self { bar, started: now, told: now, imported: Imported::default() }
    }

    /// Lines that are broken are told one by one.
    pub fn imported(&mut self, imported: &Imported, broken: &[Broken]) {
        self.imported = *imported;
        let tell = || broken.iter().for_each(|Broken { line, why }| eprintln!("line {line}: {why}"));
        match &self.bar {
            Some(bar) if !broken.is_empty() => bar.suspend(tell),
            _ => tell(),
        }
    }

    /// With where the views are.
    pub fn show(&mut self, running: &Running) {
        let statuses = running.status();
        let looked_to = statuses.iter().flat_map(|(_, partitions)| partitions).map(|status| status.looked_to.position);
        let Imported { lines, appended, bytes, .. } = self.imported;
        let rate = (lines as f64 / self.started.elapsed().as_secs_f64()) as u64;
        let [lines, appended, rate] = [lines, appended, rate].map(HumanCount);
        let views = HumanCount(looked_to.min().unwrap_or_default().get());
        let text = format!("{lines} lines, {rate}/s; {appended} events appended; views at {views}");
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(text);
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            eprintln!("{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
