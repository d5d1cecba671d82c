//! Progress of what takes long, on stderr, for people: nothing is shown where stderr is no terminal, nor before a second
//! has passed.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whoever waits less needs no bar.
const AFTER: Duration = Duration::from_secs(1);

/// A bar over bytes.
pub struct Progress {
    bar: ProgressBar,
    begun: Instant,
    what: &'static str,
}

impl Progress {
    /// Of `what`, as a verb: `saving`, `checking`, ….
    pub fn new(what: &'static str) -> Progress {
        Progress { bar: ProgressBar::hidden(), begun: Instant::now(), what }
    }

    /// So many bytes are done; `total` is 0 while nobody knows.
    pub fn at(&mut self, done: u64, total: u64) {
        if self.bar.is_hidden() && self.begun.elapsed() >= AFTER {
            let template = if total > 0 {
                "{msg} {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
            } else {
                "{msg} {spinner} {bytes}  {bytes_per_sec}"
            };
            self.bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            self.bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
            self.bar.set_message(self.what);
        }
        self.bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
