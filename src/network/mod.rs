//! The network, for real: [`peers`] between super-nodes over TCP, [`udp`] between super-nodes and agents; and what
//! clients say in frames, [`native`].
//!
//! # Peer protocol
//! Each super-node dials every other one and sends only on the connection that it dialled; so between two nodes
//! there are two connections, each ordered and each with one direction of traffic. Against the traffic runs nothing but
//! the answer to the hello.
//!
//! ```text
//! frame   u32 length of what follows, big-endian · u32 CRC-32 of the body, big-endian · body
//! body    postcard with a leading format byte (`codec::encode`)
//! dialler                            acceptor
//!   Offer{oldest, Hello{      ->
//!     protocol, cluster,       <-      Hello{…}           or Refused{reason} and the end
//!     from, to, version, url,
//!     incarnation, address,
//!     identity}}
//!   Frame, Frame, …            ->
//! ```
//!
//! An offer says which versions of the protocol the dialler speaks, `oldest` to that of its hello; the hello that answers
//! names the newest that both speak. A node of protocol 2 knows no offers and closes the connection without a word: then
//! the dialler comes again with a plain hello of the oldest version, and tries an offer again the next time. So nodes can
//! be upgraded one after the other.
//!
//! A first frame may have 4 KiB, later ones `FRAME_BYTES_MAX`. Whatever is not of this form (too long, wrong checksum, not
//! decodable, a hello that takes more than 2 s) ends that one connection and is counted. A node that has no
//! version of the protocol in common, for another cluster (by name, or by what it was founded with), or means somebody else is
//! refused with a reason in words, which the dialler logs together with the remedy. A newer connection from a peer replaces the one before, which can only be dead.
//!
//! A node is bound by the log to its data directory; whoever comes in its name with another one is refused. The refused
//! may be right all the same: it was removed and joined anew while the other was away. So after a refusal a dialler that is
//! bound tells first, before its greeting, who is bound to what as of which position of the log (`Greeting::Bound`); the
//! acceptor believes whoever knows more of the log than itself. Who has lost its directory has lost that knowledge, too.
//!
//! # Who is spoken to
//! The node keeps an address book of the configuration in force and hands it over whenever that changes: new peers are
//! dialled, those that left are answered for a few seconds more, so that they learn it. Whoever dials without being in the
//! book is a *guest*: it is dialled back at the address in its hello, and is spoken to as long as its own connection
//! stands. So a node that joins, and knows nobody, answers the leader that found it; a node that was away answers a leader
//! that is newer than what it knows; one that was removed hears so. What a guest may ask is for the node to decide. A
//! peer that says to be elsewhere than the book has it is looked for in both places: it has moved.
//!
//! # What waits where
//! Frames wait per peer in two lanes, see `lanes`: consensus never waits behind more than one part of a snapshot. While
//! no connection stands, frames are dropped at once, as a network may; nothing stale is sent later.
//!
//! # Who is gone
//! When a connection in either direction ends, the dialler tries at once to connect anew. If that is *refused*,
//! a machine answered that nobody listens; and if no connection from the peer stands either, its process is dead, and
//! [`peers::PeerEvent::Gone`] says so once, after the last frame that it sent. Silence
//! (a cut cable, a stopped process) is never called gone; the ping task and the election timeout notice it.
//!
//! # Half-open connections
//! Keep-alive ends an incoming connection whose dialler vanished; `TCP_USER_TIMEOUT` ends an outgoing one whose data is
//! not acknowledged, because the kernel's retransmissions back off to two minutes and would outlast a healed
//! partition.

mod accept;
pub mod answer;
pub mod batch;
pub mod datagram;
mod dial;
pub mod gate;
pub mod introduce;
mod lanes;
pub mod native;
pub mod peers;
mod throttle;
pub mod tls;
pub mod udp;
mod wire;

#[cfg(test)]
mod formats;
#[cfg(test)]
mod tests;
