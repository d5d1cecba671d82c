//! Many datagrams in one system call, where the system has such calls (`sendmmsg(2)` and `recvmmsg(2)` of Linux). Elsewhere
//! each datagram costs a call of its own.
//!
//! Pings and answers are short, so most of what they cost is the way into the system and back: ten thousand members that are
//! asked once a second make two times ten thousand of them.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::datagram::PING_BYTES;

/// Most datagrams of one system call.
pub const BATCH_MAX: usize = 64;
/// Room for one datagram that comes in; longer than any of ours, so that one that is too long is seen to be.
pub const ROOM: usize = 256;
const _: () = assert!(ROOM > PING_BYTES);

/// Datagrams that have come in; one is used over and over.
#[derive(Debug)]
pub struct Inbox {
    rooms: Vec<[u8; ROOM]>,
    came: Vec<(usize, Option<SocketAddr>)>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox { rooms: vec![[0; ROOM]; BATCH_MAX], came: Vec::with_capacity(BATCH_MAX) }
    }
}

impl Inbox {
    /// Those that came last, with their senders; what was longer than [`ROOM`] is cut to that.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], Option<SocketAddr>)> {
        self.came.iter().zip(&self.rooms).map(|((length, from), room)| (&room[..*length], *from))
    }

    /// Takes what is there, up to [`BATCH_MAX`], and says how many came. On a socket that does not block, none being there
    /// is [`io::ErrorKind::WouldBlock`]; one that does waits for the first. After an error there are none.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.came.clear();
        receive(socket, &mut self.rooms, &mut self.came)?;
        Ok(self.came.len())
    }
}

/// Sends datagrams, in order; `refused` hears of each that the system did not take, and the others go out. Says how many
/// it took.
pub fn send<D: AsRef<[u8]>>(
    socket: &UdpSocket,
    datagrams: &[(SocketAddr, D)],
    mut refused: impl FnMut(SocketAddr, io::Error),
) -> usize {
    let (mut at, mut sent) = (0, 0);
    while at < datagrams.len() {
        let next = &datagrams[at..datagrams.len().min(at + BATCH_MAX)];
        match send_some(socket, next) {
            Ok(count) => (at, sent) = (at + count.max(1), sent + count),
            // It is about the first of them.
            Err(error) => {
                refused(next[0].0, error);
                at += 1;
            }
        }
    }
    sent
}

#[cfg(target_os = "linux")]
fn send_some<D: AsRef<[u8]>>(socket: &UdpSocket, datagrams: &[(SocketAddr, D)]) -> io::Result<usize> {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

    let slices: Vec<[IoSlice<'_>; 1]> =
        datagrams.iter().map(|(_, bytes)| [IoSlice::new(bytes.as_ref())]).collect();
    let addresses: Vec<Option<SockaddrStorage>> =
        datagrams.iter().map(|(address, _)| Some(SockaddrStorage::from(*address))).collect();
    let mut headers = MultiHeaders::preallocate(datagrams.len(), None);
    let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], MsgFlags::MSG_NOSIGNAL)?;
    Ok(sent.count())
}

#[cfg(not(target_os = "linux"))]
fn send_some<D: AsRef<[u8]>>(socket: &UdpSocket, datagrams: &[(SocketAddr, D)]) -> io::Result<usize> {
    let Some((address, bytes)) = datagrams.first() else { return Ok(0) };
    socket.send_to(bytes.as_ref(), address).map(|_| 1)
}

#[cfg(target_os = "linux")]
fn receive(
    socket: &UdpSocket,
    rooms: &mut [[u8; ROOM]],
    came: &mut Vec<(usize, Option<SocketAddr>)>,
) -> io::Result<()> {
    use std::io::IoSliceMut;
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};

    let mut slices: Vec<[IoSliceMut<'_>; 1]> = rooms.iter_mut().map(|room| [IoSliceMut::new(room)]).collect();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(slices.len(), None);
    // Of a socket that blocks, only the first is waited for.
    let flags = MsgFlags::MSG_WAITFORONE;
    let found = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None)?;
    came.extend(found.map(|datagram| (datagram.bytes, datagram.address.as_ref().and_then(address))));
    Ok(())
}

#[cfg(target_os = "linux")]
fn address(storage: &nix::sys::socket::SockaddrStorage) -> Option<SocketAddr> {
    let four = storage.as_sockaddr_in().map(|four| SocketAddr::V4((*four).into()));
    four.or_else(|| storage.as_sockaddr_in6().map(|six| SocketAddr::V6((*six).into())))
}

#[cfg(not(target_os = "linux"))]
fn receive(
    socket: &UdpSocket,
    rooms: &mut [[u8; ROOM]],
    came: &mut Vec<(usize, Option<SocketAddr>)>,
) -> io::Result<()> {
    let (length, from) = socket.recv_from(&mut rooms[0])?;
    came.push((length, Some(from)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn bound() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    /// Receives until so many have come.
    fn gather(socket: &UdpSocket, wanted: usize) -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let (mut inbox, mut all) = (Inbox::default(), Vec::new());
        while all.len() < wanted {
            let count = inbox.receive(socket).expect("they come");
            assert_eq!(inbox.datagrams().count(), count);
            all.extend(inbox.datagrams().map(|(bytes, from)| (bytes.to_vec(), from)));
        }
        all
    }

    #[test]
    fn what_is_sent_together_arrives_whole_in_order_and_at_its_own_address() {
        let (sender, from) = bound();
        let (left, to_left) = bound();
        let (right, to_right) = bound();
        let count = 2 * BATCH_MAX + 3;
        let text = |number: usize| format!("datagram {number}").repeat(1 + number % 9).into_bytes();
        let datagrams: Vec<(SocketAddr, Vec<u8>)> = (0..count)
            .map(|number| (if number % 2 == 0 { to_left } else { to_right }, text(number)))
            .collect();
        let sent = send(&sender, &datagrams, |to, error| panic!("{to} refused: {error}"));
        assert_eq!(sent, count);
        for (first, socket) in [(0, &left), (1, &right)] {
            let expected: Vec<_> = (first..count).step_by(2).map(|at| (text(at), Some(from))).collect();
            assert_eq!(gather(socket, expected.len()), expected);
        }
    }

    #[test]
    fn what_the_system_refuses_is_told_and_the_others_go_out() {
        let (sender, _) = bound();
        let (receiver, to) = bound();
        // The sender speaks IPv4.
        let six: SocketAddr = "[::1]:9".parse().expect("an address");
        let datagrams = [(six, "a"), (to, "b"), (six, "c"), (six, "d"), (to, "e")];
        let mut refused = Vec::new();
        assert_eq!(send(&sender, &datagrams, |to, _| refused.push(to)), 2);
        assert_eq!(refused, [six, six, six]);
        let came: Vec<Vec<u8>> = gather(&receiver, 2).into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(came, [b"b", b"e"]);
    }

    #[test]
    fn a_socket_that_does_not_block_says_that_nothing_is_there_and_what_is_too_long_is_cut() {
        let (sender, _) = bound();
        let (receiver, to) = bound();
        receiver.set_nonblocking(true).expect("a socket");
        let mut inbox = Inbox::default();
        assert_eq!(inbox.receive(&receiver).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        assert_eq!(inbox.datagrams().count(), 0);
        receiver.set_nonblocking(false).expect("a socket");
        send(&sender, &[(to, [7; 2 * ROOM])], |_, error| panic!("{error}"));
        assert_eq!(gather(&receiver, 1)[0].0, [7; ROOM]);
    }
}
