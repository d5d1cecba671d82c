//! What comes from agents passes here: whether it answers a ping of this process, and whether the agent made it. Pure.
//!
//! The nonce of a ping is a keyed hash of the member's name and the sequence number, under a secret that this process
//! draws at start. So a pong proves by itself that its sender received exactly that ping, whatever address it comes from,
//! and nothing is kept per ping. Its code proves that the sender has the member's key. Whatever fails one of the two is
//! junk: it is dropped and counted, and says nothing about any member; otherwise forgers could frame members.
//!
//! A pong may be repeated, by the member or by somebody who read it on the way. A pong that is newer than all before always
//! passes. Others are answers out of turn: [`OUT_OF_TURN_MAX`] of each member in a second pass and are counted, more are
//! dropped. So a flood of repeated pongs reaches nobody behind this gate, and keeps no true answer out.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::types::{AgentKey, IntervalId, MemberId, Micros, Version};

use super::datagram::{Nonce, PING_BYTES, Ping, Pong, is_authentic};

/// Answers of one member that pass in a second although a newer one has passed before.
pub const OUT_OF_TURN_MAX: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Whoever was not pinged for so long is forgotten when room is made.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Room is not made before so many are known.
const KNOWN_MIN: usize = 1_024;

/// What a datagram is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The answer of a member to a ping of this process, perhaps not the first one.
    Pong {
        /// Who.
        member: MemberId,
        /// The ping's number.
        seq: u64,
        /// What the member runs.
        version: Version,
    },
    /// A member's answers out of turn have become too many.
    Limited,
    /// Nothing that means anything.
    Junk,
}

/// See the module's head. Invariant: `known` holds every member that was pinged within `FORGOTTEN_AFTER`.
#[derive(Debug)]
pub struct Gate {
    cluster: String,
    secret: [u8; 32],
    known: BTreeMap<MemberId, Known>,
    room: usize,
}

#[derive(Debug)]
struct Known {
    key: AgentKey,
    pinged: Micros,
    /// The highest number that was answered.
    newest: u64,
    /// Since when, and how many, answers out of turn are counted.
    second: (Micros, u32),
}

impl Gate {
    /// A gate of its own secret, for the pings of a cluster.
    pub fn new(cluster: &str, secret: [u8; 32]) -> Gate {
        Gate { cluster: cluster.to_string(), secret, known: BTreeMap::new(), room: KNOWN_MIN }
    }

    /// The datagram that asks a member.
    pub fn ping(
        &mut self,
        (member, key): (&MemberId, &AgentKey),
        seq: u64,
        interval: IntervalId,
        now: Micros,
    ) -> [u8; PING_BYTES] {
        match self.known.get_mut(member) {
            Some(known) => (known.key, known.pinged) = (*key, now),
            None => {
                if self.known.len() >= self.room {
                    self.known.retain(|_, known| now.since(known.pinged) < FORGOTTEN_AFTER);
                    self.room = KNOWN_MIN.max(2 * self.known.len());
                }
                let known = Known { key: *key, pinged: now, newest: 0, second: (now, 0) };
                self.known.insert(member.clone(), known);
            }
        }
        let nonce = self.nonce(member, seq);
        Ping { seq, nonce, interval, cluster: &self.cluster, member: member.as_str() }.encode(key)
    }

    /// Judges a datagram.
    pub fn judge(&mut self, bytes: &[u8], now: Micros) -> Judgement {
        let Some(Pong { seq, nonce, version, member }) = Pong::decode(bytes) else { return Judgement::Junk };
        let expected = self.nonce(&member, seq);
        let Some(known) = self.known.get_mut(&member) else { return Judgement::Junk };
        if nonce != expected || !is_authentic(bytes, &known.key) {
            return Judgement::Junk;
        }
        if seq > known.newest {
            known.newest = seq;
            return Judgement::Pong { member, seq, version };
        }
        if now.since(known.second.0) >= SECOND {
            known.second = (now, 0);
        }
        known.second.1 = known.second.1.saturating_add(1);
        if known.second.1 > OUT_OF_TURN_MAX {
            Judgement::Limited
        } else {
            Judgement::Pong { member, seq, version }
        }
    }

    /// SHA-256 over secret, member and number, cut to 16 bytes. The name's length is part of it, so that no two
    /// inputs share their bytes; cut to half, it gives no state to continue the hash from.
    fn nonce(&self, member: &MemberId, seq: u64) -> Nonce {
        let name = member.as_str();
        let digest = Sha256::new()
            .chain_update(self.secret)
            .chain_update(seq.to_be_bytes())
            .chain_update((name.len() as u64).to_be_bytes())
            .chain_update(name)
            .finalize();
        *digest.first_chunk().expect("a SHA-256 digest has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Answerer, Heard};
    use super::*;

    const KEY: AgentKey = AgentKey([1; 32]);

    fn id(name: &str) -> MemberId {
        name.parse().unwrap()
    }

    fn at(ms: u64) -> Micros {
        Micros(ms * 1_000)
    }

    fn gate(secret: u8) -> Gate {
        Gate::new("c", [secret; 32])
    }

    fn answer(ping: &[u8], member: &str, key: AgentKey) -> Vec<u8> {
        let mut agent = Answerer::new(None, [(id(member), key)].into(), Version::current());
        match agent.hear(ping, "127.0.0.1".parse().unwrap(), at(0)) {
            Heard::Ping { answer } => answer,
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    fn pong(member: &str, seq: u64) -> Judgement {
        Judgement::Pong { member: id(member), seq, version: Version::current() }
    }

    #[test]
    fn an_answer_counts_for_whom_it_proves_to_come_from_and_for_nobody_else() {
        let mut ours = gate(1);
        let w = (&id("w"), &KEY);
        let ping = ours.ping(w, 5, IntervalId(1), at(0));
        let true_answer = answer(&ping, "w", KEY);
        let decoded = Pong::decode(&true_answer).unwrap();
        // Whoever reads the ping on its way knows the nonce, and has no key.
        let forged = decoded.encode(&AgentKey([9; 32]));
        // Another member, with a key of its own, speaks in the name of this one or under its own with the other's nonce.
        ours.ping((&id("v"), &AgentKey([2; 32])), 5, IntervalId(1), at(0));
        let impersonated = decoded.encode(&AgentKey([2; 32]));
        let borrowed = Pong { member: id("v"), ..decoded.clone() }.encode(&AgentKey([2; 32]));
        // The member itself says another number, or answers another super-node's ping here.
        let renumbered = Pong { seq: 6, ..decoded.clone() }.encode(&KEY);
        let elsewhere = answer(&gate(2).ping(w, 5, IntervalId(1), at(0)), "w", KEY);
        let longer = [&true_answer[..], b"!"].concat();
        for (name, bytes) in [
            ("forged", forged),
            ("impersonated", impersonated),
            ("borrowed", borrowed),
            ("renumbered", renumbered),
            ("for another super-node", elsewhere),
            ("with bytes behind it", longer),
            ("a ping", ping.to_vec()),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(ours.judge(&bytes, at(1)), Judgement::Junk, "{name}");
        }
        assert_eq!(ours.judge(&true_answer, at(2)), pong("w", 5), "and all that junk changed nothing");
    }

    #[test]
    fn a_replaced_key_answers_no_more() {
        let mut gate = gate(1);
        let old = answer(&gate.ping((&id("w"), &KEY), 1, IntervalId(1), at(0)), "w", KEY);
        let new = AgentKey([3; 32]);
        let ping = gate.ping((&id("w"), &new), 2, IntervalId(1), at(1));
        assert_eq!(gate.judge(&old, at(2)), Judgement::Junk);
        assert_eq!(gate.judge(&answer(&ping, "w", new), at(2)), pong("w", 2));
    }

    #[test]
    fn a_flood_of_repeated_answers_is_cut_off_and_keeps_no_new_answer_out() {
        let mut gate = gate(1);
        let w = (&id("w"), &KEY);
        let first = answer(&gate.ping(w, 1, IntervalId(1), at(0)), "w", KEY);
        assert_eq!(gate.judge(&first, at(1)), pong("w", 1));
        let passed = (0..1_000).filter(|_| gate.judge(&first, at(2)) == pong("w", 1)).count();
        assert_eq!(passed, OUT_OF_TURN_MAX as usize);
        assert_eq!(gate.judge(&first, at(3)), Judgement::Limited);
        let second = answer(&gate.ping(w, 2, IntervalId(1), at(4)), "w", KEY);
        assert_eq!(gate.judge(&second, at(5)), pong("w", 2), "in the midst of the flood");
        assert_eq!(gate.judge(&first, at(1_001)), pong("w", 1), "the next second begins anew");
    }

    #[test]
    fn members_that_are_pinged_no_more_are_forgotten_when_room_is_made() {
        let mut gate = gate(1);
        for number in 0..KNOWN_MIN {
            gate.ping((&id(&format!("old-{number}")), &KEY), 1, IntervalId(1), at(0));
        }
        let kept = gate.ping((&id("old-7"), &KEY), 2, IntervalId(1), at(600_000));
        gate.ping((&id("new"), &KEY), 1, IntervalId(1), at(600_001));
        assert_eq!(gate.known.len(), 2);
        assert_eq!(gate.judge(&answer(&kept, "old-7", KEY), at(600_002)), pong("old-7", 2));
    }
}
