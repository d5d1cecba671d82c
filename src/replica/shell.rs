//! The machine on a real socket and a real clock: one thread, one datagram socket, nothing printed.
//!
//! SIGTERM keeps its default meaning and ends the process at once; nothing here needs to be put in order first.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::types::{Micros, NodeId};

use super::machine::Replica;
use super::wire::DATAGRAM_BYTES_MAX;

/// Most datagrams that are taken in before the answers leave.
const BATCH_MAX: usize = 64;
/// A replica with peers that hears nothing at all for so long has been left behind by its simulator, and ends.
const ABANDONED: Duration = Duration::from_secs(120);

/// Runs a replica behind the simulator that listens on `port` of this machine, until it is killed or abandoned.
///
/// # Errors
/// When the socket cannot be opened or used.
pub fn run(port: u16, id: NodeId, others: BTreeSet<NodeId>) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let simulator = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let begun = Instant::now();
    let now = || Micros(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    let alone = others.is_empty();
    let mut replica = Replica::new(id, others, rand::random(), now());
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut last_word = now();
    loop {
        for datagram in replica.take(now()) {
            // A full queue loses a datagram, as a network may.
            let _lost = socket.send_to(&datagram, simulator);
        }
        wait(&socket, replica.deadline().since(now()).min(ABANDONED))?;
        for _ in 0..BATCH_MAX {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    last_word = now();
                    replica.receive(last_word, &buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The news that nobody listens on the port any more.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if replica.deadline() <= now() {
            replica.tick(now());
        }
        if !alone && now().since(last_word) >= ABANDONED {
            return Ok(());
        }
    }
}

/// Until a datagram is there, or for so long.
fn wait(socket: &UdpSocket, longest: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(longest).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
