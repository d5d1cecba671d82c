//! What one write of three nodes on one disk cannot beat: one synced write while two others are under way, and two
//! round trips over loopback (client and leader, leader and follower).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// How long each part is measured.
const WINDOW: Duration = Duration::from_millis(1_500);
/// Files that are synced at the same time: a log each of three nodes.
const FILES: usize = 3;
/// Bytes of one synced write.
const WRITE_BYTES: usize = 4 << 10;
/// Room that is filled with zeros before, as a log does.
const ROOM_BYTES: usize = 16 << 20;
/// Bytes of a message of a round trip.
const MESSAGE_BYTES: usize = 256;

/// Medians, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Floor {
    /// One synced write, three files in parallel.
    pub sync_us: f64,
    /// One round trip over loopback.
    pub round_trip_us: f64,
}

impl Floor {
    /// What a write takes at least.
    pub fn write_us(&self) -> f64 {
        self.sync_us + 2.0 * self.round_trip_us
    }

    /// Measures on the disk of a directory. Blocks for some seconds.
    pub fn measure(directory: &Path) -> io::Result<Floor> {
        let mut files = Vec::new();
        for _ in 0..FILES {
            // Without a name: gone with this process.
            let file = tempfile::tempfile_in(directory)?;
            let zeros = vec![0; WRITE_BYTES];
            for at in (0..ROOM_BYTES).step_by(WRITE_BYTES) {
                file.write_all_at(&zeros, at as u64)?;
            }
            file.sync_all()?;
            files.push(file);
        }
        let threads: Vec<_> =
            files.into_iter().map(|file| std::thread::spawn(move || syncs(&file))).collect();
        let mut all = histogram();
        for thread in threads {
            let one = thread.join().map_err(|_panicked| io::Error::other("a syncing thread panicked"))??;
            all.add(one).map_err(|error| io::Error::other(error.to_string()))?;
        }
        let median = |nanos: &Histogram<u64>| nanos.value_at_quantile(0.5) as f64 / 1e3;
        Ok(Floor { sync_us: median(&all), round_trip_us: median(&round_trips()?) })
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are sound")
}

fn record(nanos: &mut Histogram<u64>, begun: Instant) {
    nanos.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
}

fn syncs(file: &File) -> io::Result<Histogram<u64>> {
    let (bytes, mut nanos, since) = (vec![7; WRITE_BYTES], histogram(), Instant::now());
    for at in (0..ROOM_BYTES).step_by(WRITE_BYTES).cycle() {
        if since.elapsed() >= WINDOW {
            break;
        }
        let begun = Instant::now();
        file.write_all_at(&bytes, at as u64)?;
        file.sync_data()?;
        record(&mut nanos, begun);
    }
    Ok(nanos)
}

fn round_trips() -> io::Result<Histogram<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let echo = std::thread::spawn(move || {
        let mut message = [0; MESSAGE_BYTES];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    });
    let (mut message, mut nanos, since) = ([0; MESSAGE_BYTES], histogram(), Instant::now());
    while since.elapsed() < WINDOW {
        let begun = Instant::now();
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
        record(&mut nanos, begun);
    }
    drop(near);
    echo.join().map_err(|_panicked| io::Error::other("the echo panicked"))?;
    Ok(nanos)
}
