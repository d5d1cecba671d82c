//! Progress of what takes long, on stderr, for people: nothing is shown where stderr is no terminal, nor before a second
//! has passed. Bars have no colours. What is logged meanwhile goes above the bar ([`beside`]).

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
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
            self.bar.set_style(
                ProgressStyle::with_template(&template(self.unit, total)).expect("a valid template"),
            );
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
