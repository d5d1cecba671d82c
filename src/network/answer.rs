//! How an agent answers: the other side of [`super::gate`]. Pure, so that the simulator's agents are the real ones.
//!
//! An agent answers a ping that was made with its key, once, to whatever address it came from. The rest is dropped and
//! counted. Two things are bounded, so that nobody can make an agent work or talk much: a ping that was answered before is
//! not answered again as long as it is remembered, and one address gets at most [`ANSWERS_PER_SECOND`] answers in a second.
//! What fails the check of its code counts against no address: senders are easily forged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::types::{AgentKey, MemberId, Micros, Version};

use super::datagram::{Nonce, Ping, Pong, is_authentic};

/// Answers to one address in a second, for each name. A super-node asks seven times a second at most under usual policies;
/// this leaves room for seven of them on one host, and for the short periods of tests.
pub const ANSWERS_PER_SECOND: u32 = 500;
/// Answered pings that are remembered, for each name, and in all.
const ANSWERED_MAX: usize = 256;
const ANSWERED_IN_ALL_MAX: usize = 65_536;
/// Addresses whose answers are counted; beyond it all begin anew.
const HOSTS_MAX: usize = 1_024;
const SECOND: Duration = Duration::from_secs(1);

/// What an agent heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A ping, and what to answer to it.
    Ping {
        /// To be sent to where the ping came from.
        answer: Vec<u8>,
    },
    /// A ping that was answered before.
    Replayed,
    /// One ping too many from that address.
    Limited,
    /// Not a ping that was made with the key.
    Junk,
}

/// One agent, or several behind one socket.
#[derive(Debug)]
pub struct Answerer {
    cluster: Option<String>,
    keys: BTreeMap<MemberId, AgentKey>,
    version: Version,
    answered: BTreeSet<Nonce>,
    oldest_first: VecDeque<Nonce>,
    /// Since when, and how many, answers are counted.
    hosts: BTreeMap<IpAddr, (Micros, u32)>,
}

impl Answerer {
    /// Answers for those who have these keys; to one cluster, or to any that has them.
    pub fn new(cluster: Option<String>, keys: BTreeMap<MemberId, AgentKey>, version: Version) -> Answerer {
        let (answered, oldest_first, hosts) = Default::default();
        Answerer { cluster, keys, version, answered, oldest_first, hosts }
    }

    /// Takes a datagram in.
    pub fn hear(&mut self, bytes: &[u8], from: IpAddr, now: Micros) -> Heard {
        let Some(ping) = Ping::decode(bytes) else { return Heard::Junk };
        if self.cluster.as_deref().is_some_and(|cluster| cluster != ping.cluster) {
            return Heard::Junk;
        }
        let Ok(member) = ping.member.parse::<MemberId>() else { return Heard::Junk };
        let Some(key) = self.keys.get(&member).copied().filter(|key| is_authentic(bytes, key)) else {
            return Heard::Junk;
        };
        if self.answered.contains(&ping.nonce) {
            return Heard::Replayed;
        }
        if !self.may_answer(from, now) {
            return Heard::Limited;
        }
        self.remember(ping.nonce);
        let pong = Pong { seq: ping.seq, nonce: ping.nonce, version: self.version, member };
        Heard::Ping { answer: pong.encode(&key) }
    }

    fn may_answer(&mut self, from: IpAddr, now: Micros) -> bool {
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&from) {
            self.hosts.clear();
        }
        let (since, count) = self.hosts.entry(from).or_insert((now, 0));
        if now.since(*since) >= SECOND {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        u64::from(*count) <= u64::from(ANSWERS_PER_SECOND) * self.keys.len() as u64
    }

    fn remember(&mut self, nonce: Nonce) {
        let most = ANSWERED_MAX.saturating_mul(self.keys.len()).min(ANSWERED_IN_ALL_MAX);
        while self.oldest_first.len() >= most {
            let Some(oldest) = self.oldest_first.pop_front() else { break };
            self.answered.remove(&oldest);
        }
        self.answered.insert(nonce);
        self.oldest_first.push_back(nonce);
    }
}

#[cfg(test)]
mod tests {
    use crate::types::IntervalId;

    use super::*;

    const KEY: AgentKey = AgentKey([1; 32]);
    const HERE: &str = "10.0.0.1";

    fn agent() -> Answerer {
        let keys = [("w".parse().unwrap(), KEY)].into();
        Answerer::new(Some("c".to_string()), keys, Version::current())
    }

    fn ping(number: u64, cluster: &str, member: &str, key: &AgentKey) -> Vec<u8> {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_be_bytes());
        Ping { seq: number, nonce, interval: IntervalId(0), cluster, member }.encode(key).to_vec()
    }

    fn hear(agent: &mut Answerer, bytes: &[u8], from: &str, ms: u64) -> &'static str {
        match agent.hear(bytes, from.parse().unwrap(), Micros(ms * 1_000)) {
            Heard::Ping { answer } => {
                assert!(is_authentic(&answer, &KEY) && Pong::decode(&answer).is_some());
                "answered"
            }
            Heard::Replayed => "replayed",
            Heard::Limited => "limited",
            Heard::Junk => "junk",
        }
    }

    #[test]
    fn an_agent_answers_what_was_made_with_its_key_for_it_once() {
        let good = ping(1, "c", "w", &KEY);
        for (name, bytes, expected) in [
            ("another key", ping(1, "c", "w", &AgentKey([2; 32])), "junk"),
            ("another cluster", ping(1, "d", "w", &KEY), "junk"),
            ("another member", ping(1, "c", "v", &KEY), "junk"),
            ("cut short", good[..191].to_vec(), "junk"),
            ("nothing", Vec::new(), "junk"),
            ("a ping", good.clone(), "answered"),
            ("the same again", good, "replayed"),
            ("the next", ping(2, "c", "w", &KEY), "answered"),
        ] {
            let mut agent = agent();
            hear(&mut agent, &ping(1, "c", "w", &KEY), HERE, 0);
            let mut fresh = self::agent();
            let got = hear(if expected == "answered" { &mut fresh } else { &mut agent }, &bytes, HERE, 0);
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn one_address_gets_so_many_answers_in_a_second_and_another_is_not_touched_by_that() {
        let mut agent = agent();
        let limit = u64::from(ANSWERS_PER_SECOND);
        for number in 0..limit {
            assert_eq!(hear(&mut agent, &ping(number, "c", "w", &KEY), HERE, 1), "answered");
        }
        assert_eq!(hear(&mut agent, &ping(limit, "c", "w", &KEY), HERE, 2), "limited");
        assert_eq!(hear(&mut agent, &ping(limit, "c", "w", &KEY), "10.0.0.2", 2), "answered");
        assert_eq!(hear(&mut agent, &ping(limit + 1, "c", "w", &KEY), HERE, 1_001), "answered");
    }

    #[test]
    fn junk_and_replays_use_nothing_up() {
        let mut agent = agent();
        let seen = ping(0, "c", "w", &KEY);
        assert_eq!(hear(&mut agent, &seen, HERE, 0), "answered");
        let forged = ping(1, "c", "w", &AgentKey([2; 32]));
        for _ in 0..3 * ANSWERS_PER_SECOND {
            assert_eq!(hear(&mut agent, &forged, HERE, 1), "junk");
            assert_eq!(hear(&mut agent, &seen, HERE, 1), "replayed");
        }
        assert_eq!(hear(&mut agent, &ping(2, "c", "w", &KEY), HERE, 2), "answered");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut agent = agent();
        for number in 0..10_000 {
            hear(&mut agent, &ping(number, "c", "w", &KEY), HERE, number * 10);
        }
        assert_eq!((agent.answered.len(), agent.oldest_first.len()), (ANSWERED_MAX, ANSWERED_MAX));
        for host in 0..2_000_u32 {
            let from = std::net::Ipv4Addr::from(host).to_string();
            hear(&mut agent, &ping(20_000 + u64::from(host), "c", "w", &KEY), &from, 200_000);
        }
        assert!(agent.hosts.len() <= HOSTS_MAX);
    }
}
