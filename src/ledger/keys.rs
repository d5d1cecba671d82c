//! Where everything stands in the keyspace.
//!
//! One byte names the table; numbers follow as 8 (or 4) bytes big-endian, so that byte order is number order; names
//! that are not the last part end with a zero byte, which no name contains. Keys whose first byte is 0 belong to the
//! node (its applied index) and are never touched here. Values are [`crate::codec::encode`]d; index tables have
//! empty values.
//!
//! | key | value |
//! |---|---|
//! | `achanged` | the newest change of any member (log index) |
//! | `aclock` | log time, the largest seen ([`crate::types::UnixMillis`]) |
//! | `acheckpoint` | how far the projection is ([`super::records::Checkpoint`]) |
//! | `aforgotten` | there if an answer to an idempotency key was ever forgotten |
//! | `agenesis` | who this cluster is ([`super::records::Genesis`]) |
//! | `aidempotent` | number of remembered idempotency keys (`u64`) |
//! | `aintervals` | the interval counters ([`super::records::IntervalState`]) |
//! | `amembers` | number of member records (`u64`) |
//! | `anodes` | the super-nodes that have not left (set of [`crate::types::NodeId`]) |
//! | `apolicy` | revision in force (`u64`) |
//! | `apolicynewest` | newest revision, in force or not yet (`u64`) |
//! | `apresent` | number of members that have not left (`u64`) |
//! | `arevision` | revision of the shared dictionary (`u64`) |
//! | `asessions` | how many client sessions there are, and the bytes of their answers |
//! | `atotals` | sums and chain heads ([`super::records::Totals`]) |
//! | `atrimmed` | what is left of the history that was forgotten ([`super::retention::Trimmed`]) |
//! | `aversions` | the versions that super-nodes have stated |
//! | `awebhooks` | how far each webhook is ([`super::webhooks::Hooks`]) |
//! | `c` interval | the cut of an interval ([`super::evidence::CutRecord`]) |
//! | `d` idempotency key | the first answer |
//! | `D` log index | an idempotency key, oldest first, for eviction |
//! | `e` term | [`super::records::Election`] |
//! | `g` member | the key of an agent ([`crate::types::AgentKey`]) |
//! | `G` member | an agent that waits for approval ([`super::agents::Waiting`]) |
//! | `h` interval, observer | which parts of a report are here ([`super::evidence::ReportHead`]) |
//! | `i` interval | [`super::records::Interval`] |
//! | `k` key | [`super::records::KvEntry`] |
//! | `l` member | the standing that a member had when it left |
//! | `m` first name | a block of members, see [`super::roster`] |
//! | `n` member | its claims ([`super::claims::ClaimState`]) |
//! | `o` interval, first member | a block of judgements (list of [`super::judge::Judgement`]) |
//! | `p` revision | [`super::policy::Revision`] |
//! | `q` interval, observer, 0, part | the rows of a report (list of [`super::command::Row`]) |
//! | `R` log index | what an operator did from outside ([`super::recoveries::RecoveryAct`]) |
//! | `r` first sequence | a block of movements (list of [`super::records::Movement`]) |
//! | `s` member, 0, sequence | empty: the movements of one member that no interval made |
//! | `t` member | its announced maintenance (list of [`super::maintenance::Window`]) |
//! | `v` session | a client session: its last use and its lowest unanswered sequence |
//! | `V` log index | the session that was last used there, for expiry and eviction |
//! | `w` session, sequence | the answer to a request of a session |
//!
//! An interval touches every member. Its judgements, its movements and the members' records stand in blocks of up to
//! [`super::blocks::BLOCK_RECORDS`], because the store's cost is one per row, not one per byte. Who wants one record
//! looks for the last block that begins at or before it.

use crate::types::{Index, IntervalId, MemberId, NodeId, SessionId, Term};

/// How far each webhook is.
pub const WEBHOOKS: &[u8] = b"awebhooks";
/// The newest change of any member.
pub const CHANGED: &[u8] = b"achanged";
/// Log time.
pub const CLOCK: &[u8] = b"aclock";
/// How far the projection is.
pub const CHECKPOINT: &[u8] = b"acheckpoint";
/// Who this cluster is.
pub const GENESIS: &[u8] = b"agenesis";
/// Whether an answer to an idempotency key was ever forgotten.
pub const FORGOTTEN: &[u8] = b"aforgotten";
/// Number of remembered idempotency keys.
pub const IDEMPOTENT_COUNT: &[u8] = b"aidempotent";
/// The data directories that super-nodes are bound to.
pub const INCARNATIONS: &[u8] = b"aincarnations";
/// The interval counters.
pub const INTERVALS: &[u8] = b"aintervals";
/// Number of member records.
pub const MEMBER_COUNT: &[u8] = b"amembers";
/// The super-nodes that have not left.
pub const NODES: &[u8] = b"anodes";
/// Revision of the policy in force.
pub const POLICY_REVISION: &[u8] = b"apolicy";
/// Newest revision of the policy, in force or not yet.
pub const POLICY_NEWEST: &[u8] = b"apolicynewest";
/// Number of members that have not left.
pub const PRESENT: &[u8] = b"apresent";
/// Revision of the shared dictionary.
pub const KV_REVISION: &[u8] = b"arevision";
/// How many client sessions there are, and the bytes of their answers.
pub const SESSION_TOTALS: &[u8] = b"asessions";
/// Sums and chain heads.
pub const TOTALS: &[u8] = b"atotals";
/// What is left of the history that was forgotten.
pub const TRIMMED: &[u8] = b"atrimmed";
/// The versions that super-nodes have stated.
pub const VERSIONS: &[u8] = b"aversions";

/// Table of remembered answers.
pub const ANSWER_TABLE: u8 = b'd';
/// Table of idempotency keys by age.
pub const ANSWER_AGE_TABLE: u8 = b'D';
/// Table of elections.
pub const ELECTION_TABLE: u8 = b'e';
/// Table of the keys of agents.
pub const AGENT_KEY_TABLE: u8 = b'g';
/// Table of agents that wait for approval.
pub const AGENT_WAITING_TABLE: u8 = b'G';
/// Table of report heads.
pub const HEAD_TABLE: u8 = b'h';
/// Table of intervals.
pub const INTERVAL_TABLE: u8 = b'i';
/// Table of the shared dictionary.
pub const KV_TABLE: u8 = b'k';
/// Table of the blocks of members.
pub const MEMBER_TABLE: u8 = b'm';
/// Table of claims.
pub const CLAIM_TABLE: u8 = b'n';
/// Table of the blocks of judgements.
pub const JUDGEMENT_TABLE: u8 = b'o';
/// Table of the revisions of the policy.
pub const POLICY_TABLE: u8 = b'p';
/// Table of report rows.
pub const ROWS_TABLE: u8 = b'q';
/// Table of the blocks of movements.
pub const MOVEMENT_TABLE: u8 = b'r';
/// Table of what operators did from outside.
pub const RECOVERY_TABLE: u8 = b'R';
/// Table of the movements of each member that no interval made.
pub const STATEMENT_TABLE: u8 = b's';
/// Table of announced maintenance.
pub const MAINTENANCE_TABLE: u8 = b't';
/// Table of client sessions.
pub const SESSION_TABLE: u8 = b'v';
/// Table of client sessions by their last use.
pub const SESSION_AGE_TABLE: u8 = b'V';
/// Table of the answers within sessions.
pub const SESSION_ANSWER_TABLE: u8 = b'w';

/// A table, then parts.
fn build(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(table);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// A table keyed by one number: movements, intervals, elections, ….
pub fn numbered(table: u8, number: u64) -> Vec<u8> {
    build(table, &[&number.to_be_bytes()])
}

/// A table keyed by one text: members, the shared dictionary, ….
pub fn named(table: u8, name: &str) -> Vec<u8> {
    build(table, &[name.as_bytes()])
}

/// The number that ends `key`, if it is long enough.
pub fn last_number(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The key of an agent.
pub fn agent_key(member: &MemberId) -> Vec<u8> {
    named(AGENT_KEY_TABLE, member.as_str())
}

/// An agent that waits for approval.
pub fn agent_waiting(member: &MemberId) -> Vec<u8> {
    named(AGENT_WAITING_TABLE, member.as_str())
}

/// The cut of an interval.
pub fn cut(interval: IntervalId) -> Vec<u8> {
    numbered(b'c', interval.0)
}

/// The first answer to an idempotency key.
pub fn answer(key: &str) -> Vec<u8> {
    named(ANSWER_TABLE, key)
}

/// The idempotency key that was first used at a log index.
pub fn answer_age(index: Index) -> Vec<u8> {
    numbered(ANSWER_AGE_TABLE, index.0)
}

/// The election of a term.
pub fn election(term: Term) -> Vec<u8> {
    numbered(ELECTION_TABLE, term.0)
}

/// Which parts of an observer's report are here.
pub fn head(interval: IntervalId, observer: &NodeId) -> Vec<u8> {
    build(HEAD_TABLE, &[&interval.0.to_be_bytes(), observer.as_str().as_bytes()])
}

/// A settled interval.
pub fn interval(id: IntervalId) -> Vec<u8> {
    numbered(INTERVAL_TABLE, id.0)
}

/// A key of the shared dictionary.
pub fn kv(key: &str) -> Vec<u8> {
    named(KV_TABLE, key)
}

/// The standing that a member had when it left.
pub fn left_standing(member: &MemberId) -> Vec<u8> {
    named(b'l', member.as_str())
}

/// A member: its block begins at or before this.
pub fn member(member: &MemberId) -> Vec<u8> {
    named(MEMBER_TABLE, member.as_str())
}

/// The claims of a member.
pub fn claims(member: &MemberId) -> Vec<u8> {
    named(CLAIM_TABLE, member.as_str())
}

/// The announced maintenance of a member.
pub fn maintenance(member: &MemberId) -> Vec<u8> {
    named(MAINTENANCE_TABLE, member.as_str())
}

/// The judgement of a member in an interval: its block begins at or before this.
pub fn judgement(interval: IntervalId, member: &MemberId) -> Vec<u8> {
    build(JUDGEMENT_TABLE, &[&interval.0.to_be_bytes(), member.as_str().as_bytes()])
}

/// A revision of the policy.
pub fn policy(revision: u64) -> Vec<u8> {
    numbered(POLICY_TABLE, revision)
}

/// Every part of an observer's report begins with this.
pub fn report(interval: IntervalId, observer: &NodeId) -> Vec<u8> {
    build(ROWS_TABLE, &[&interval.0.to_be_bytes(), observer.as_str().as_bytes(), &[0]])
}

/// The rows of one part of a report.
pub fn report_part(interval: IntervalId, observer: &NodeId, part: u32) -> Vec<u8> {
    let mut key = report(interval, observer);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// A movement: its block begins at or before this.
pub fn movement(seq: u64) -> Vec<u8> {
    numbered(MOVEMENT_TABLE, seq)
}

/// A movement in the statement of its member.
pub fn statement(member: &MemberId, seq: u64) -> Vec<u8> {
    build(STATEMENT_TABLE, &[member.as_str().as_bytes(), &[0], &seq.to_be_bytes()])
}

/// A client session.
pub fn session(id: SessionId) -> Vec<u8> {
    numbered(SESSION_TABLE, id.0)
}

/// The client session that was last used at a log index.
pub fn session_age(index: Index) -> Vec<u8> {
    numbered(SESSION_AGE_TABLE, index.0)
}

/// The answer to a request of a session.
pub fn session_answer(id: SessionId, sequence: u64) -> Vec<u8> {
    build(SESSION_ANSWER_TABLE, &[&id.0.to_be_bytes(), &sequence.to_be_bytes()])
}

/// The smallest key that is larger than every key beginning with `prefix`. Our prefixes begin with a table letter,
/// so there always is one.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_is_number_order_and_prefixes_end() {
        assert!(movement(255) < movement(256));
        assert!(movement(u64::MAX) < prefix_end(&[MOVEMENT_TABLE]));
        assert_eq!(last_number(&movement(77)), Some(77));
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(&[b'i', 0xff, 0xff]), b"j");
        let (a, ab) = ("a".parse().expect("name"), "a.b".parse().expect("name"));
        // One name beginning with another's does not mix their rows.
        assert!(statement(&a, u64::MAX) < statement(&ab, 1));
        assert!(
            !report_part(IntervalId(1), &"n.1".parse().expect("name"), 0)
                .starts_with(&report(IntervalId(1), &"n".parse().expect("name")))
        );
    }
}
