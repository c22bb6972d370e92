//! Progress bars of rebuilds, on a terminal.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::{ProjectionId, Running};

/// Draws a bar for each projection that is built beside its current version, or rebuilt, until none is. They go to
/// standard error, where that is a terminal; elsewhere this only waits.
pub async fn draw(running: &Running) {
    let (all, mut drawn) = (MultiProgress::new(), BTreeMap::<ProjectionId, ProgressBar>::new());
    loop {
        let now = running.progress();
        for progress in &now {
            let bar = drawn.entry(progress.projection.clone()).or_insert_with(|| {
                let bar = all.add(ProgressBar::new(0)).with_message(progress.projection.to_string());
                bar.set_style(style());
                bar
            });
            bar.set_length(progress.done + progress.to_go);
            bar.set_position(progress.done);
            let left = progress.left.map(|left| format!(", {} s left", left.as_secs()));
            bar.set_prefix(format!("{:.0} events/s{}", progress.events_per_second, left.unwrap_or_default()));
        }
        drawn.retain(|projection, bar| {
            let goes_on = now.iter().any(|progress| progress.projection == *projection);
            if !goes_on {
                bar.finish();
            }
            goes_on
        });
        if drawn.is_empty() {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {prefix}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}
