//! Progress of what takes long, on stderr, for people: nothing is shown where stderr is no terminal, nor before a second
//! has passed. Bars have no colours. What is logged meanwhile goes above the bar ([`beside`]).

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::task::JoinHandle;

/// Whoever waits less needs no bar.
const AFTER: Duration = Duration::from_secs(1);
/// How often a bar of time moves.
const TICK: Duration = Duration::from_millis(200);

/// The bar that is shown; there is one at a time.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// So many of these: `records`.
    Things(&'static str),
    /// Nothing: only that time passes can be seen.
    Time,
}

/// Stderr for log lines: a bar that is shown there makes room for them.
#[derive(Debug, Clone, Copy)]
pub struct Beside;

/// For [`tracing_subscriber::fmt::MakeWriter`].
pub fn beside() -> Beside {
    Beside
}

impl Write for Beside {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shown {
            Some(bar) => bar.suspend(|| io::stderr().write_all(line)),
            None => io::stderr().write_all(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
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
        Progress::since(Instant::now(), what, unit)
    }

    /// Of a step of something that began a while ago.
    pub fn since(begun: Instant, what: &'static str, unit: Unit) -> Progress {
        Progress { bar: ProgressBar::hidden(), begun, what, unit }
    }

    /// So many are done; `total` is 0 while nobody knows.
    pub fn at(&mut self, done: u64, total: u64) {
        if self.bar.is_hidden() && self.begun.elapsed() >= AFTER {
            let target = ProgressDrawTarget::stderr();
            self.bar = ProgressBar::with_draw_target(Some(total), target).with_elapsed(self.begun.elapsed());
            self.bar.set_style(style(self.unit, total));
            self.bar.set_message(self.what);
            if !self.bar.is_hidden() {
                *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.bar.clone());
            }
        }
        // What a cluster has grows while somebody catches up with it.
        if total > 0 && self.bar.length() != Some(total) {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        self.bar.tick();
    }
}

/// Rate and rest come from the mean since the beginning: a bar that appears after a second begins far from 0, and what it sees
/// then is no rate.
fn style(unit: Unit, total: u64) -> ProgressStyle {
    ProgressStyle::with_template(&template(unit, total))
        .expect("a valid template")
        .with_key("mean_rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _shown = write!(out, "{}/s", HumanBytes(mean_rate(state.pos(), state.elapsed())));
        })
        .with_key("mean_rest", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let rest = mean_rest(state.pos(), state.len().unwrap_or(0), state.elapsed());
            let _shown = match rest {
                Some(rest) => write!(out, "{:#}", HumanDuration(rest)),
                None => write!(out, "?"),
            };
        })
}

/// So many a second.
fn mean_rate(done: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(done) * 1_000 / millis).unwrap_or(u64::MAX)
}

/// How long the rest takes at the mean rate; nobody knows before anything is done.
fn mean_rest(done: u64, total: u64, elapsed: Duration) -> Option<Duration> {
    let left = u128::from(total.saturating_sub(done));
    let millis = (elapsed.as_millis() * left).checked_div(u128::from(done))?;
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
}

fn template(unit: Unit, total: u64) -> String {
    match (unit, total > 0) {
        (Unit::Bytes, true) => {
            "{msg} {bar:30} {bytes} of {total_bytes}  {mean_rate}  {mean_rest} left".to_string()
        }
        (Unit::Bytes, false) => "{msg} {spinner} {bytes}  {mean_rate}".to_string(),
        (Unit::Things(things), true) => {
            format!("{{msg}} {{bar:30}} {{pos}} of {{len}} {things}  {{mean_rest}} left")
        }
        (Unit::Things(things), false) => format!("{{msg}} {{spinner}} {{pos}} {things}"),
        (Unit::Time, _) => "{msg} {spinner} {elapsed}".to_string(),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.bar.is_hidden() {
            *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.bar.finish_and_clear();
    }
}

/// A bar that moves by itself, until it is dropped.
pub struct Moving {
    task: JoinHandle<()>,
    progress: Arc<Mutex<Option<Progress>>>,
}

impl Moving {
    /// Of `what`, over a time that is known before, from now on.
    pub fn over(what: &'static str, length: Duration) -> Moving {
        Moving::new(Progress::counting(what, "s"), length)
    }

    /// Of `what`, which nobody knows how long it takes: the answer to one question.
    pub fn waiting(what: &'static str) -> Moving {
        Moving::new(Progress::over(what, Unit::Time), Duration::ZERO)
    }

    fn new(progress: Progress, length: Duration) -> Moving {
        let begun = progress.begun;
        let progress = Arc::new(Mutex::new(Some(progress)));
        let moved = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            loop {
                if let Some(progress) = &mut *moved.lock().unwrap_or_else(PoisonError::into_inner) {
                    progress.at(begun.elapsed().min(length).as_secs(), length.as_secs());
                }
                tokio::time::sleep(TICK).await;
            }
        });
        Moving { task, progress }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.task.abort();
        // Before this returns, the bar is gone: what is printed next stands where it was.
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for unit in [Unit::Bytes, Unit::Things("records"), Unit::Time] {
            for total in [0, 7] {
                let _style = style(unit, total);
            }
        }
    }

    #[test]
    fn rate_and_rest_are_those_of_the_whole_time() {
        let second = Duration::from_secs(1);
        assert_eq!((mean_rate(3 << 20, 2 * second), mean_rate(7, Duration::ZERO)), (3 << 19, 7_000));
        assert_eq!(mean_rest(25, 100, 2 * second), Some(6 * second));
        assert_eq!(mean_rest(100, 70, second), Some(Duration::ZERO), "what it catches up with may shrink");
        assert_eq!(mean_rest(0, 70, second), None);
    }

    #[test]
    fn nothing_is_drawn_before_a_second_has_passed() {
        let mut progress = Progress::new("saving");
        progress.at(3, 7);
        assert!(progress.bar.is_hidden());
    }
}
