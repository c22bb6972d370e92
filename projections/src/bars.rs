//! Progress bars of rebuilds, on a terminal.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::sleep;

use crate::{Progress, ProjectionId, Running};

/// Draws a bar for each projection that is built beside its current version, or rebuilt, until none is. They go to
/// standard error, where that is a terminal; elsewhere this only waits.
pub async fn draw(running: &Running) {
    let mut bars = Bars::on(ProgressDrawTarget::stderr());
    while bars.show(&running.progress()) {
        sleep(Duration::from_millis(200)).await;
    }
}

struct Bars {
    all: MultiProgress,
    drawn: BTreeMap<ProjectionId, ProgressBar>,
}

impl Bars {
    fn on(target: ProgressDrawTarget) -> Self {
        Self { all: MultiProgress::with_draw_target(target), drawn: BTreeMap::new() }
    }

    /// Shows how far they are now; one that is not among them any more is through. Whether any is left.
    fn show(&mut self, now: &[Progress]) -> bool {
        for progress in now {
            let bar = self.drawn.entry(progress.projection.clone()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(0)).with_message(progress.projection.to_string());
                bar.set_style(style());
                bar
            });
            bar.set_length(progress.done + progress.to_go);
            bar.set_position(progress.done);
            let left = progress.left.map(|left| format!(", {} s left", left.as_secs()));
            bar.set_prefix(format!("{:.0} events/s{}", progress.events_per_second, left.unwrap_or_default()));
        }
        self.drawn.retain(|projection, bar| {
            let goes_on = now.iter().any(|progress| progress.projection == *projection);
            if !goes_on {
                bar.set_prefix("caught up");
                bar.finish();
            }
            goes_on
        });
        !self.drawn.is_empty()
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {prefix}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex, PoisonError},
    };

    use indicatif::TermLike;

    use super::*;
    use crate::VersionState;

    /// A terminal that keeps what is drawn.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        /// What was drawn since this was asked last.
        fn drawn(&self) -> String {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_rebuild_has_a_bar_until_it_has_caught_up() {
        let progress = |name: &str, done, to_go, left| Progress {
            projection: ProjectionId { name: name.into(), version: 2 },
            state: VersionState::Building,
            done,
            to_go,
            events_per_second: 1_234.5,
            left,
        };
        let left = Some(Duration::from_secs(3));
        let screen = Screen::default();
        let mut bars = Bars::on(ProgressDrawTarget::term_like(Box::new(screen.clone())));
        assert!(!bars.show(&[]));
        assert_eq!(screen.drawn(), "");

        assert!(bars.show(&[progress("balances", 1_500, 4_500, left), progress("totals", 0, 6_000, None)]));
        let drawn = screen.drawn();
        let shown = |bar: &str| assert!(drawn.contains(bar), "no {bar:?} in {drawn:?}");
        shown("1,500/6,000 1234 events/s, 3 s left");
        shown("0/6,000 1234 events/s");
        shown("balances@2 ██");
        shown("totals@2 ░░");

        assert!(bars.show(&[progress("totals", 6_000, 1, left)]));
        let drawn = screen.drawn();
        assert!(drawn.contains("6,000/6,000 caught up"), "{drawn:?}");
        assert!(!bars.show(&[]));
        let drawn = screen.drawn();
        assert!(drawn.contains("6,001/6,001 caught up"), "{drawn:?}");
    }
}
