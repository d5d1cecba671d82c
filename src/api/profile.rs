//! `GET /v1/profile`: what a node's threads did for a while. Answered from local state: it needs no quorum.
//!
//! The kernel counts for every thread how long it ran and how long it was ready and waited for a processor, so looking twice
//! costs nothing in between. Threads have names (`disk`, `apply`, `flush`, `scrub`), which tells what a node is busy
//! with; which function it is takes a sampling profiler, see `docs/performance.md`.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::{Deserialize, Serialize};

use crate::types::NodeId;

use super::ApiState;
use super::extract::Params;
use super::problem::{Code, Problem};

/// How long is looked unless the asker says otherwise.
pub const SPAN_DEFAULT: Duration = Duration::from_secs(2);
/// The longest look.
const SPAN_MAX: Duration = Duration::from_secs(60);
/// The shortest: the kernel counts some things by the tick.
const SPAN_MIN: Duration = Duration::from_millis(50);

/// What a node's threads did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The node.
    pub id: NodeId,
    /// For how long was looked.
    pub seconds: f64,
    /// Processor time of all threads, in percent of one processor.
    pub cpu_percent: f64,
    /// Memory that it has in use, in bytes.
    pub resident_bytes: u64,
    /// By name; the busiest first.
    pub threads: Vec<ThreadProfile>,
}

/// What the threads of one name did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ThreadProfile {
    /// Their name.
    pub name: String,
    /// How many there were at the end.
    pub count: u64,
    /// How long they ran, in percent of one processor.
    pub cpu_percent: f64,
    /// How long they were ready and waited for a processor, likewise. Much of it: the machine is too small or too busy.
    pub waiting_percent: f64,
}

/// Nanoseconds that a thread ran, and waited for a processor.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    ran: u64,
    waited: u64,
}

/// Watches for `?span=` and tells.
pub async fn profile(State(state): State<ApiState>, uri: Uri) -> Result<Json<Profile>, Problem> {
    let params = Params::parse(&uri, &["span"])?;
    let span = params.duration("span", SPAN_MAX)?.unwrap_or(SPAN_DEFAULT).max(SPAN_MIN);
    let before = threads().ok_or_else(untold)?;
    let begun = Instant::now();
    tokio::select! {
        () = state.stopping.cancelled() => {}
        () = tokio::time::sleep(span) => {}
    }
    let after = threads().ok_or_else(untold)?;
    let id = state.handle.status.borrow().id.clone();
    Ok(Json(compare(id, begun.elapsed(), &before, &after)))
}

fn untold() -> Problem {
    Problem::new(Code::NotFound, "this system does not tell what threads do")
        .hint("on Linux, /proc must be mounted")
}

/// Name and times of every thread of this process, by its number.
fn threads() -> Option<BTreeMap<u64, (String, Times)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // One that has just ended is passed over.
        if let (Some(number), Some(name), Some(times)) = (number, read("comm"), read("schedstat")) {
            let mut words = times.split_whitespace().map(|word| word.parse().unwrap_or(0));
            let times = Times { ran: words.next()?, waited: words.next()? };
            all.insert(number, (name.trim().to_string(), times));
        }
    }
    Some(all)
}

fn compare(
    id: NodeId,
    span: Duration,
    before: &BTreeMap<u64, (String, Times)>,
    after: &BTreeMap<u64, (String, Times)>,
) -> Profile {
    let percent = |nanos: u64| (nanos as f64 / span.as_nanos() as f64 * 1_000.0).round() / 10.0;
    let mut by_name: BTreeMap<&str, (u64, Times)> = BTreeMap::new();
    for (number, (name, now)) in after {
        let earlier = before.get(number).map(|(_, times)| *times).unwrap_or_default();
        let (count, times) = by_name.entry(name).or_default();
        *count += 1;
        times.ran += now.ran.saturating_sub(earlier.ran);
        times.waited += now.waited.saturating_sub(earlier.waited);
    }
    let ran = by_name.values().map(|(_, times)| times.ran).sum();
    let mut threads: Vec<ThreadProfile> = by_name
        .into_iter()
        .map(|(name, (count, times))| ThreadProfile {
            name: name.to_string(),
            count,
            cpu_percent: percent(times.ran),
            waiting_percent: percent(times.waited),
        })
        .collect();
    threads.sort_by(|left, right| right.cpu_percent.total_cmp(&left.cpu_percent));
    Profile {
        id,
        seconds: span.as_secs_f64(),
        cpu_percent: percent(ran),
        resident_bytes: resident_bytes(),
        threads,
    }
}

/// What `/proc/self/statm` says, in pages; 0 where it says nothing.
fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    pages * u64::try_from(rustix::param::page_size()).unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_is_told_from_one_that_sleeps() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let busy = std::thread::Builder::new().name("busy-one".to_string()).spawn(move || {
            while ended.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                std::hint::black_box((0..1_000_u64).sum::<u64>());
            }
        });
        let before = threads().expect("Linux");
        let begun = Instant::now();
        std::thread::sleep(Duration::from_millis(60));
        let after = threads().expect("Linux");
        let profile = compare("n1".parse().expect("a name"), begun.elapsed(), &before, &after);
        drop(end);
        busy.expect("a thread").join().expect("it ends");
        let busy = profile.threads.iter().find(|thread| thread.name == "busy-one").expect("it is named");
        assert!(busy.count == 1 && busy.cpu_percent + busy.waiting_percent > 20.0, "{profile:?}");
        assert!(profile.cpu_percent >= busy.cpu_percent && profile.resident_bytes > 0, "{profile:?}");
    }
}
