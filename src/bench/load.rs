//! The closed loop: each client sends its next operation when the one before it is answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in microseconds; longer ones count as this.
const LATENCY_MICROS_MAX: u64 = 60_000_000;
/// A client whose operation failed waits so long, so that a dead server is not asked in a tight loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// Most different errors that are counted apart.
const ERRORS_MAX: usize = 20;

/// What came of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// So many entries were written.
    Wrote(u64),
    /// Something was read.
    Read,
}

/// One client of the loop.
pub trait Caller {
    /// Does one operation and waits for its answer. The error is in few words, the same for equal causes.
    fn call(&mut self) -> impl Future<Output = Result<Done, String>>;
}

/// How long a load runs.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Before anything counts.
    pub warm_up: Duration,
    /// While it counts.
    pub window: Duration,
}

/// What was counted in a window.
#[derive(Debug)]
pub struct Tally {
    /// The window's real length.
    pub window: Duration,
    /// Latencies of all operations, microseconds.
    pub latency: Histogram<u64>,
    /// Entries written.
    pub written: u64,
    /// Operations that read.
    pub reads: u64,
    /// Failed operations by cause; over warm-up and window.
    pub errors: BTreeMap<String, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are sound");
        Tally { window: Duration::ZERO, latency, written: 0, reads: 0, errors: BTreeMap::new() }
    }
}

impl Tally {
    /// Counts a failed operation.
    pub fn failed(&mut self, why: String) {
        if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&why) {
            *self.errors.entry(why).or_default() += 1;
        } else {
            *self.errors.entry("other".to_string()).or_default() += 1;
        }
    }

    fn done(&mut self, done: Done, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(LATENCY_MICROS_MAX);
        self.latency.saturating_record(micros.clamp(1, LATENCY_MICROS_MAX));
        match done {
            Done::Wrote(entries) => self.written += entries,
            Done::Read => self.reads += 1,
        }
    }
}

/// Runs the callers for a warm-up and a window. `sample` is asked at both ends of the window, and its answers are
/// given back around the tally. Must run on a [`tokio::task::LocalSet`].
pub async fn closed_loop<C, S, F>(callers: Vec<C>, load: Load, mut sample: F) -> (S, Tally, S)
where
    C: Caller + 'static,
    F: AsyncFnMut() -> S,
{
    let counting = Rc::new(Cell::new(false));
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for mut caller in callers {
        let (counting, tally) = (Rc::clone(&counting), Rc::clone(&tally));
        tasks.spawn_local(async move {
            loop {
                let begun = Instant::now();
                match caller.call().await {
                    Ok(done) if counting.get() => tally.borrow_mut().done(done, begun.elapsed()),
                    Ok(_) => {}
                    Err(why) => {
                        tally.borrow_mut().failed(why);
                        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    }
                }
            }
        });
    }
    tokio::time::sleep(load.warm_up).await;
    let begun = sample().await;
    let since = Instant::now();
    counting.set(true);
    tokio::time::sleep(load.window).await;
    counting.set(false);
    let window = since.elapsed();
    let ended = sample().await;
    tasks.shutdown().await;
    let tally = std::mem::take(&mut *tally.borrow_mut());
    (begun, Tally { window, ..tally }, ended)
}
