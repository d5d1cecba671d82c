//! How long a disk takes to make a small write durable, measured beside the data.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Synced writes of one look.
const WRITES: u64 = 20;
/// Bytes of each.
const WRITE_BYTES: usize = 4 << 10;

/// What a look at a disk has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncLatency {
    /// The median of the writes, in microseconds.
    pub median_us: u64,
    /// The slowest, in microseconds.
    pub worst_us: u64,
}

/// Writes a small file in `directory` over and over, each time to the disk, and removes it.
///
/// # Errors
/// When the directory cannot be written to.
pub fn sync_latency(directory: &Path) -> io::Result<SyncLatency> {
    let path = directory.join(format!(".sync-probe-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    let times = (0..WRITES).map(|number| {
        let begun = Instant::now();
        file.write_all_at(&[0x5a; WRITE_BYTES], number * WRITE_BYTES as u64)?;
        file.sync_data()?;
        Ok(begun.elapsed())
    });
    let times: io::Result<Vec<Duration>> = times.collect();
    fs::remove_file(&path)?;
    let mut times = times?;
    times.sort();
    let micros =
        |time: Option<&Duration>| time.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    Ok(SyncLatency { median_us: micros(times.get(times.len() / 2)), worst_us: micros(times.last()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_leaves_nothing_behind_and_a_missing_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let latency = sync_latency(directory.path()).unwrap();
        assert!(latency.median_us <= latency.worst_us && latency.worst_us > 0, "{latency:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(sync_latency(&directory.path().join("none")).is_err());
    }
}
