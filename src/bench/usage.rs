//! What processes have used so far: CPU time and disk bytes as the system counts them, syncs as the nodes count them.

use std::time::Duration;

use super::BenchError;
use super::http::Connection;

/// Used since the start of each process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of the servers, user and system; `None` if their processes are not known.
    pub servers: Option<Duration>,
    /// Bytes that the servers sent to the disk.
    pub disk_bytes: Option<u64>,
    /// CPU time of this process.
    pub generator: Duration,
    /// Syncs of the servers' logs, summed; `None` if they have no metrics.
    pub syncs: Option<u64>,
}

impl Usage {
    /// Of these processes, and of the nodes whose metrics are at these addresses.
    pub async fn sample(processes: &[u32], metrics: &[String]) -> Result<Usage, BenchError> {
        let (mut servers, mut disk_bytes) = (Duration::ZERO, 0);
        for process in processes {
            servers += cpu_time(&process.to_string())?;
            disk_bytes += written_bytes(*process)?;
        }
        let known = !processes.is_empty();
        let mut syncs = 0;
        for address in metrics {
            syncs += counter(address, "super_node_wal_sync_seconds_count").await?;
        }
        Ok(Usage {
            servers: known.then_some(servers),
            disk_bytes: known.then_some(disk_bytes),
            generator: cpu_time("self")?,
            syncs: (!metrics.is_empty()).then_some(syncs),
        })
    }

    /// What was used since an earlier sample of the same processes.
    pub fn since(&self, earlier: &Usage) -> Usage {
        let spent = |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        let count = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Usage {
            servers: spent(self.servers, earlier.servers),
            disk_bytes: count(self.disk_bytes, earlier.disk_bytes),
            generator: self.generator.saturating_sub(earlier.generator),
            syncs: count(self.syncs, earlier.syncs),
        }
    }
}

fn read(path: &str) -> Result<String, BenchError> {
    std::fs::read_to_string(path)
        .map_err(|source| BenchError::System { what: format!("read {path}"), source })
}

/// CPU time of all threads of a process, dead ones included (`proc_pid_stat(5)`, fields 14 and 15).
fn cpu_time(process: &str) -> Result<Duration, BenchError> {
    let path = format!("/proc/{process}/stat");
    let text = read(&path)?;
    let strange = || BenchError::Node(format!("{path} is not as expected"));
    // The name in parentheses may hold spaces; what follows it does not.
    let (_, fields) = text.rsplit_once(')').ok_or_else(strange)?;
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u64>().map_err(|_| strange())?;
    }
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_micros(ticks * 1_000_000 / per_second.max(1)))
}

/// Bytes that a process caused to be written to storage (`proc_pid_io(5)`).
fn written_bytes(process: u32) -> Result<u64, BenchError> {
    let path = format!("/proc/{process}/io");
    let text = read(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| BenchError::Node(format!("{path} has no write_bytes")))
}

/// A number on the page of metrics of a node at `host:port`; `name` with its labels, as it stands there.
pub async fn counter(address: &str, name: &str) -> Result<u64, BenchError> {
    let answer = Connection::new(address).call("GET", "/metrics", &[]).await;
    let answer = answer.map_err(|why| BenchError::Node(format!("metrics of {address}: {why}")))?;
    let text = String::from_utf8_lossy(&answer.body);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok())
        .ok_or_else(|| BenchError::Node(format!("{address} has no metric {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(40) {
            sum = std::hint::black_box(sum.wrapping_mul(31) + 7);
        }
        assert!(cpu_time("self").expect("readable") > Duration::ZERO);
        assert!(written_bytes(std::process::id()).is_ok());
    }

    #[test]
    fn what_is_unknown_stays_unknown() {
        let known = Usage { syncs: Some(7), ..Usage::default() };
        assert_eq!(known.since(&Usage::default()).syncs, None);
        assert_eq!(known.since(&Usage { syncs: Some(5), ..known }).syncs, Some(2));
    }
}
