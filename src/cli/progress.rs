//! Progress of what takes long, on stderr, for people: nothing is shown where stderr is no terminal, nor before a second
//! has passed. Bars have no colours.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

/// Whoever waits less needs no bar.
const AFTER: Duration = Duration::from_secs(1);
/// How often a bar of time moves.
const TICK: Duration = Duration::from_millis(200);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Things(&'static str),
}

/// A bar.
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
    what: &'static str,
    unit: Unit,
}

impl Progress {
    /// Over bytes, of `what`, as a verb: `saving`, `checking`, ….
    pub fn new(what: &'static str) -> Progress {
        Progress::over(what, Unit::Bytes)
    }

    /// Over so many `things`: `records`.
    pub fn counting(what: &'static str, things: &'static str) -> Progress {
        Progress::over(what, Unit::Things(things))
    }

    fn over(what: &'static str, unit: Unit) -> Progress {
        Progress { bar: ProgressBar::hidden(), begun: Instant::now(), what, unit }
    }

    /// So many are done; `total` is 0 while nobody knows.
    pub fn at(&mut self, done: u64, total: u64) {
        if self.bar.is_hidden() && self.begun.elapsed() >= AFTER {
            let target = ProgressDrawTarget::stderr();
            self.bar = ProgressBar::with_draw_target(Some(total), target);
            self.bar.set_style(
                ProgressStyle::with_template(&template(self.unit, total)).expect("a valid template"),
            );
            self.bar.set_message(self.what);
        }
        self.bar.set_position(done);
    }
}

fn template(unit: Unit, total: u64) -> String {
    match (unit, total > 0) {
        (Unit::Bytes, true) => {
            "{msg} {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left".to_string()
        }
        (Unit::Bytes, false) => "{msg} {spinner} {bytes}  {bytes_per_sec}".to_string(),
        (Unit::Things(things), true) => {
            format!("{{msg}} {{bar:30}} {{pos}} of {{len}} {things}  {{eta}} left")
        }
        (Unit::Things(things), false) => format!("{{msg}} {{spinner}} {{pos}} {things}"),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar over a time that is known before.
pub struct Span {
    moving: JoinHandle<()>,
}

impl Span {
    /// Of `what`, for so long from now on, or until it is dropped.
    pub fn new(what: &'static str, length: Duration) -> Span {
        let moving = tokio::spawn(async move {
            let mut progress = Progress::counting(what, "s");
            let begun = Instant::now();
            while begun.elapsed() < length {
                progress.at(begun.elapsed().as_secs(), length.as_secs());
                tokio::time::sleep(TICK).await;
            }
        });
        Span { moving }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.moving.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for unit in [Unit::Bytes, Unit::Things("records")] {
            for total in [0, 7] {
                assert!(ProgressStyle::with_template(&template(unit, total)).is_ok(), "{unit:?} {total}");
            }
        }
    }

    #[test]
    fn nothing_is_drawn_before_a_second_has_passed() {
        let mut progress = Progress::new("saving");
        progress.at(3, 7);
        assert!(progress.bar.is_hidden());
    }
}
