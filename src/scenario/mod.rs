//! Scenarios of the course protocol: replicas under clients, crashes, partitions and loss, and a judgement of what came of it.
//!
//! A [`Scenario`] is a file in the course's format. [`Course`] plays it: it is the simulator that carries every message, and
//! its clients, as a synchronous machine. Two shells run it: `in_virtual_time` beside replicas of our own, one seed being
//! one history; and `in_real_time` beside processes of any program. `judge` then applies the course's checks and
//! stronger ones, and grades the performance.

mod course;
mod file;
mod judge;
mod library;
mod operations;
mod real_time;
mod report;
mod virtual_time;

pub use course::{Action, Course};
pub use file::{Event, EventKind, FileError, Scenario};
pub use judge::{Check, Figures, Grade, Judgement, judge};
pub use library::{built_in, find};
pub use operations::{Answer, Asked, Operation};
pub use real_time::in_real_time;
pub use report::junit;
pub use virtual_time::{in_slow_virtual_time, in_virtual_time};
