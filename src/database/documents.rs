//! Records as BSON documents, and back.
//!
//! Documents are built raw, field by field in a fixed order, so that the same record always gives the same bytes:
//! a document read from MongoDB is equal to the ledger's exactly when its bytes are. Numbers are Int64, times are
//! Date, hashes are 64 hexadecimal digits, an absent value is null.

use bson::raw::{CStr, RawArrayBuf, RawDocument, RawDocumentBuf, cstr};
use bson::{Bson, DateTime, RawBsonRef};

use crate::codec::Hash;
use crate::ledger::records::{
    Checkpoint, Counts, Election, Interval, Member, MemberKind, MemberStatus, Movement, MovementKind,
    Observation, Observer, Verdict,
};
use crate::types::{Amount, Index, IntervalId, MemberId, NodeId, Term, UnixMillis};

/// Movements of money.
pub const REWARDS: &str = "rewards";
/// Settled intervals.
pub const INTERVALS: &str = "intervals";
/// Evidence and result per member and interval.
pub const OBSERVATIONS: &str = "observations";
/// Members as they stand.
pub const MEMBERS: &str = "members";
/// Won elections.
pub const ELECTIONS: &str = "elections";
/// How far the projection has come.
pub const PROJECTION: &str = "projection";
/// All collections, in the order in which they are prepared.
pub const COLLECTIONS: [&str; 6] = [REWARDS, INTERVALS, OBSERVATIONS, MEMBERS, ELECTIONS, PROJECTION];

/// A document is not what the projector writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {why}")]
pub struct DocumentError {
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

// MongoDB has no unsigned integers. Sequences, indexes and terms count events and stay far below 2^63; what a
// command may state freely (such as a leaderless time) saturates.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Appends fields to a document in the order of the calls.
struct Fields(RawDocumentBuf);

impl Fields {
    fn new() -> Self {
        Fields(RawDocumentBuf::new())
    }

    fn signed(mut self, key: &CStr, value: i64) -> Self {
        self.0.append(key, value);
        self
    }

    fn number(self, key: &CStr, value: u64) -> Self {
        self.signed(key, signed(value))
    }

    fn small(self, key: &CStr, value: u32) -> Self {
        self.signed(key, i64::from(value))
    }

    fn amount(self, key: &CStr, value: Amount) -> Self {
        self.signed(key, value.0)
    }

    fn text(mut self, key: &CStr, value: &str) -> Self {
        self.0.append(key, value);
        self
    }

    fn hash(self, key: &CStr, value: Hash) -> Self {
        self.text(key, &value.to_hex())
    }

    fn time(mut self, key: &CStr, value: UnixMillis) -> Self {
        self.0.append(key, DateTime::from_millis(value.0));
        self
    }

    fn truth(mut self, key: &CStr, value: bool) -> Self {
        self.0.append(key, value);
        self
    }

    fn null(mut self, key: &CStr) -> Self {
        self.0.append(key, RawBsonRef::Null);
        self
    }

    fn array(mut self, key: &CStr, value: RawArrayBuf) -> Self {
        self.0.append(key, value);
        self
    }

    fn document(mut self, key: &CStr, value: RawDocumentBuf) -> Self {
        self.0.append(key, value);
        self
    }
}

/// A movement, for `rewards`.
pub fn movement(record: &Movement) -> RawDocumentBuf {
    let fields = Fields::new()
        .number(cstr!("_id"), record.seq)
        .text(cstr!("member"), record.member.as_str())
        .text(cstr!("kind"), record.kind.as_str())
        .amount(cstr!("amount"), record.amount)
        .amount(cstr!("balance"), record.balance);
    let fields = match record.interval {
        None => fields.null(cstr!("interval")),
        Some(interval) => fields.number(cstr!("interval"), interval.0),
    };
    fields
        .text(cstr!("reason"), &record.reason)
        .number(cstr!("index"), record.index.0)
        .number(cstr!("term"), record.term.0)
        .time(cstr!("at"), record.at)
        .hash(cstr!("prev_hash"), record.prev_hash)
        .hash(cstr!("hash"), record.hash)
        .0
}

/// A settled interval, for `intervals`.
pub fn interval(record: &Interval) -> RawDocumentBuf {
    let mut observers = RawArrayBuf::new();
    for observer in &record.observers {
        let mut item = RawDocumentBuf::new();
        item.append(cstr!("id"), observer.id.as_str());
        item.append(cstr!("used"), observer.used);
        item.append(cstr!("why"), observer.why.as_str());
        observers.push(item);
    }
    Fields::new()
        .number(cstr!("_id"), record.id.0)
        .time(cstr!("opened_at"), record.opened_at)
        .time(cstr!("cut_at"), record.cut_at)
        .time(cstr!("settled_at"), record.settled_at)
        .text(cstr!("leader"), record.leader.as_str())
        .number(cstr!("term"), record.term.0)
        .number(cstr!("index"), record.index.0)
        .number(cstr!("policy"), record.policy)
        .text(cstr!("verdict"), record.verdict.as_str())
        .text(cstr!("reason"), &record.reason)
        .array(cstr!("observers"), observers)
        .number(cstr!("members"), record.members)
        .amount(cstr!("rewarded"), record.rewarded)
        .amount(cstr!("penalised"), record.penalised)
        .number(cstr!("last_seq"), record.last_seq)
        .hash(cstr!("evidence_hash"), record.evidence_hash)
        .hash(cstr!("prev_hash"), record.prev_hash)
        .hash(cstr!("hash"), record.hash)
        .0
}

fn observation_id(interval: IntervalId, member: &MemberId) -> RawDocumentBuf {
    Fields::new().number(cstr!("i"), interval.0).text(cstr!("m"), member.as_str()).0
}

/// The evidence of one member and interval, for `observations`.
pub fn observation(record: &Observation) -> RawDocumentBuf {
    let mut by = RawDocumentBuf::new();
    for (observer, counts) in &record.by {
        let counts = Fields::new()
            .small(cstr!("sent"), counts.sent)
            .small(cstr!("answered"), counts.answered)
            .small(cstr!("missed"), counts.missed)
            .small(cstr!("p90_us"), counts.p90_us)
            .0;
        let key: &CStr = observer.as_str().try_into().expect("names hold no zero byte");
        by.append(key, counts);
    }
    Fields::new()
        .document(cstr!("_id"), observation_id(record.interval, &record.member))
        .number(cstr!("sent"), record.sent)
        .number(cstr!("answered"), record.answered)
        .number(cstr!("missed"), record.missed)
        .small(cstr!("availability_ppm"), record.availability_ppm)
        .small(cstr!("p50_us"), record.p50_us)
        .small(cstr!("p90_us"), record.p90_us)
        .small(cstr!("max_us"), record.max_us)
        .small(cstr!("score_ppm"), record.score_ppm)
        .amount(cstr!("reward"), record.reward)
        .amount(cstr!("penalty"), record.penalty)
        .small(cstr!("strikes"), record.strikes)
        .text(cstr!("status"), record.status.as_str())
        .document(cstr!("by"), by)
        .truth(cstr!("excused"), record.excused)
        .0
}

/// A member as it stands, for `members`.
pub fn member(record: &Member) -> RawDocumentBuf {
    Fields::new()
        .text(cstr!("_id"), record.id.as_str())
        .text(cstr!("kind"), record.kind.as_str())
        .text(cstr!("address"), &record.address)
        .text(cstr!("status"), record.status.as_str())
        .amount(cstr!("balance"), record.balance)
        .small(cstr!("strikes"), record.strikes)
        .small(cstr!("suspensions"), record.suspensions)
        .small(cstr!("remaining"), record.remaining)
        .time(cstr!("joined_at"), record.joined_at)
        .number(cstr!("as_of"), record.as_of)
        .number(cstr!("index"), record.index.0)
        .0
}

/// A won election, for `elections`.
pub fn election(record: &Election) -> RawDocumentBuf {
    let votes: RawArrayBuf = record.votes.iter().map(NodeId::as_str).collect();
    let fields =
        Fields::new().number(cstr!("_id"), record.term.0).text(cstr!("leader"), record.leader.as_str());
    let fields = match &record.previous {
        None => fields.null(cstr!("previous")),
        Some(previous) => fields.text(cstr!("previous"), previous.as_str()),
    };
    fields
        .text(cstr!("reason"), &record.reason)
        .array(cstr!("votes"), votes)
        .number(cstr!("leaderless_ms"), record.leaderless_ms)
        .time(cstr!("at"), record.at)
        .number(cstr!("index"), record.index.0)
        .0
}

/// Reads fields of a document; each error names the field.
struct Reading<'a>(&'a RawDocument);

impl<'a> Reading<'a> {
    fn wrong(field: &str, why: impl ToString) -> DocumentError {
        DocumentError { field: field.to_string(), why: why.to_string() }
    }

    fn signed(&self, field: &str) -> Result<i64, DocumentError> {
        self.0.get_i64(field).map_err(|error| Self::wrong(field, error))
    }

    fn number(&self, field: &str) -> Result<u64, DocumentError> {
        let value = self.signed(field)?;
        u64::try_from(value).map_err(|_| Self::wrong(field, format!("{value} is negative")))
    }

    fn small(&self, field: &str) -> Result<u32, DocumentError> {
        let value = self.signed(field)?;
        u32::try_from(value).map_err(|_| Self::wrong(field, format!("{value} is out of range")))
    }

    fn amount(&self, field: &str) -> Result<Amount, DocumentError> {
        self.signed(field).map(Amount)
    }

    fn text(&self, field: &str) -> Result<&'a str, DocumentError> {
        self.0.get_str(field).map_err(|error| Self::wrong(field, error))
    }

    fn truth(&self, field: &str) -> Result<bool, DocumentError> {
        self.0.get_bool(field).map_err(|error| Self::wrong(field, error))
    }

    fn node(&self, field: &str) -> Result<NodeId, DocumentError> {
        self.text(field)?.parse().map_err(|error| Self::wrong(field, error))
    }

    fn member(&self, field: &str) -> Result<MemberId, DocumentError> {
        self.text(field)?.parse().map_err(|error| Self::wrong(field, error))
    }

    fn hash(&self, field: &str) -> Result<Hash, DocumentError> {
        Hash::from_hex(self.text(field)?).ok_or_else(|| Self::wrong(field, "expected 64 hexadecimal digits"))
    }

    fn time(&self, field: &str) -> Result<UnixMillis, DocumentError> {
        let time = self.0.get_datetime(field).map_err(|error| Self::wrong(field, error))?;
        Ok(UnixMillis(time.timestamp_millis()))
    }

    fn is_null(&self, field: &str) -> Result<bool, DocumentError> {
        match self.0.get(field).map_err(|error| Self::wrong(field, error))? {
            None => Err(Self::wrong(field, "is missing")),
            Some(value) => Ok(value == RawBsonRef::Null),
        }
    }

    /// One of a few words, found by the word that the writer uses.
    fn word<T: Copy>(
        &self,
        field: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Result<T, DocumentError> {
        let text = self.text(field)?;
        let found = all.iter().copied().find(|value| name(*value) == text);
        found.ok_or_else(|| Self::wrong(field, format!("'{text}' is unknown")))
    }
}

const MEMBER_KINDS: [MemberKind; 2] = [MemberKind::Node, MemberKind::Agent];
const MEMBER_STATUSES: [MemberStatus; 4] =
    [MemberStatus::Active, MemberStatus::Suspended, MemberStatus::Probation, MemberStatus::Left];
const VERDICTS: [Verdict; 3] = [Verdict::Settled, Verdict::Void, Verdict::Correlated];
const MOVEMENT_KINDS: [MovementKind; 5] = [
    MovementKind::Reward,
    MovementKind::Penalty,
    MovementKind::Claim,
    MovementKind::ClaimPenalty,
    MovementKind::Adjustment,
];

/// The movement in a document of `rewards`.
pub fn read_movement(document: &RawDocument) -> Result<Movement, DocumentError> {
    let read = Reading(document);
    let interval = match read.is_null("interval")? {
        true => None,
        false => Some(IntervalId(read.number("interval")?)),
    };
    Ok(Movement {
        seq: read.number("_id")?,
        member: read.member("member")?,
        kind: read.word("kind", &MOVEMENT_KINDS, MovementKind::as_str)?,
        amount: read.amount("amount")?,
        balance: read.amount("balance")?,
        interval,
        reason: read.text("reason")?.to_string(),
        index: Index(read.number("index")?),
        term: Term(read.number("term")?),
        at: read.time("at")?,
        prev_hash: read.hash("prev_hash")?,
        hash: read.hash("hash")?,
    })
}

/// The interval in a document of `intervals`.
pub fn read_interval(document: &RawDocument) -> Result<Interval, DocumentError> {
    let read = Reading(document);
    let wrong = |why: &dyn ToString| Reading::wrong("observers", why.to_string());
    let mut observers = Vec::new();
    for item in document.get_array("observers").map_err(|error| wrong(&error))? {
        let item = item.map_err(|error| wrong(&error))?;
        let item = item.as_document().ok_or_else(|| wrong(&"an item is not a document"))?;
        let used = item.get_bool("used").map_err(|error| wrong(&error))?;
        let item = Reading(item);
        observers.push(Observer { id: item.node("id")?, used, why: item.text("why")?.to_string() });
    }
    Ok(Interval {
        id: IntervalId(read.number("_id")?),
        opened_at: read.time("opened_at")?,
        cut_at: read.time("cut_at")?,
        settled_at: read.time("settled_at")?,
        leader: read.node("leader")?,
        term: Term(read.number("term")?),
        index: Index(read.number("index")?),
        policy: read.number("policy")?,
        verdict: read.word("verdict", &VERDICTS, Verdict::as_str)?,
        reason: read.text("reason")?.to_string(),
        observers,
        members: read.number("members")?,
        rewarded: read.amount("rewarded")?,
        penalised: read.amount("penalised")?,
        last_seq: read.number("last_seq")?,
        evidence_hash: read.hash("evidence_hash")?,
        prev_hash: read.hash("prev_hash")?,
        hash: read.hash("hash")?,
    })
}

/// The observation in a document of `observations`.
pub fn read_observation(document: &RawDocument) -> Result<Observation, DocumentError> {
    let read = Reading(document);
    let id = Reading(document.get_document("_id").map_err(|error| Reading::wrong("_id", error))?);
    let mut by = std::collections::BTreeMap::new();
    for item in document.get_document("by").map_err(|error| Reading::wrong("by", error))? {
        let (observer, counts) = item.map_err(|error| Reading::wrong("by", error))?;
        let observer: NodeId = observer.as_str().parse().map_err(|error| Reading::wrong("by", error))?;
        let counts = counts.as_document().ok_or_else(|| Reading::wrong("by", "an item is not a document"))?;
        let counts = Reading(counts);
        let counts = Counts {
            sent: counts.small("sent")?,
            answered: counts.small("answered")?,
            missed: counts.small("missed")?,
            p90_us: counts.small("p90_us")?,
        };
        by.insert(observer, counts);
    }
    Ok(Observation {
        interval: IntervalId(id.number("i")?),
        member: id.member("m")?,
        sent: read.number("sent")?,
        answered: read.number("answered")?,
        missed: read.number("missed")?,
        availability_ppm: read.small("availability_ppm")?,
        p50_us: read.small("p50_us")?,
        p90_us: read.small("p90_us")?,
        max_us: read.small("max_us")?,
        score_ppm: read.small("score_ppm")?,
        reward: read.amount("reward")?,
        penalty: read.amount("penalty")?,
        strikes: read.small("strikes")?,
        status: read.word("status", &MEMBER_STATUSES, MemberStatus::as_str)?,
        by,
        excused: read.truth("excused")?,
    })
}

/// The member in a document of `members`.
pub fn read_member(document: &RawDocument) -> Result<Member, DocumentError> {
    let read = Reading(document);
    Ok(Member {
        id: read.member("_id")?,
        kind: read.word("kind", &MEMBER_KINDS, MemberKind::as_str)?,
        address: read.text("address")?.to_string(),
        status: read.word("status", &MEMBER_STATUSES, MemberStatus::as_str)?,
        balance: read.amount("balance")?,
        strikes: read.small("strikes")?,
        suspensions: read.small("suspensions")?,
        remaining: read.small("remaining")?,
        joined_at: read.time("joined_at")?,
        as_of: read.number("as_of")?,
        index: Index(read.number("index")?),
    })
}

/// The election in a document of `elections`.
pub fn read_election(document: &RawDocument) -> Result<Election, DocumentError> {
    let read = Reading(document);
    let wrong = |why: &dyn ToString| Reading::wrong("votes", why.to_string());
    let mut votes = std::collections::BTreeSet::new();
    for vote in document.get_array("votes").map_err(|error| wrong(&error))? {
        let vote = vote.map_err(|error| wrong(&error))?;
        let vote = vote.as_str().ok_or_else(|| wrong(&"an item is not text"))?;
        votes.insert(vote.parse().map_err(|error| wrong(&error))?);
    }
    let previous = match read.is_null("previous")? {
        true => None,
        false => Some(read.node("previous")?),
    };
    Ok(Election {
        term: Term(read.number("_id")?),
        leader: read.node("leader")?,
        previous,
        reason: read.text("reason")?.to_string(),
        votes,
        leaderless_ms: read.number("leaderless_ms")?,
        at: read.time("at")?,
        index: Index(read.number("index")?),
    })
}

/// The document of `projection`, as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// The cluster's name.
    pub cluster: String,
    /// The identity from its genesis: two clusters of one name are still different.
    pub identity: String,
    /// How far it has come.
    pub checkpoint: Checkpoint,
}

/// Reads a document of `projection`.
pub fn read_projection(document: &RawDocument) -> Result<Projection, DocumentError> {
    let read = Reading(document);
    Ok(Projection {
        cluster: read.text("_id")?.to_string(),
        identity: read.text("identity")?.to_string(),
        checkpoint: Checkpoint {
            rewards: read.number("checkpoint")?,
            intervals: IntervalId(read.number("intervals")?),
            elections: Term(read.number("elections")?),
            members: Index(read.number("members")?),
        },
    })
}

/// The `_id` of a document.
pub fn id_value(document: &RawDocument) -> Option<Bson> {
    document.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok())
}

/// Bytes that order and identify the `_id` of a document within its collection.
pub fn id_key(document: &RawDocument) -> Vec<u8> {
    match document.get("_id") {
        Ok(Some(RawBsonRef::Int64(id))) => id.to_be_bytes().to_vec(),
        Ok(Some(RawBsonRef::String(id))) => id.as_bytes().to_vec(),
        Ok(Some(RawBsonRef::Document(id))) => id.as_bytes().to_vec(),
        other => format!("{other:?}").into_bytes(),
    }
}

/// [`id_key`] of a document whose `_id` is this number.
pub fn id_number_key(id: u64) -> Vec<u8> {
    signed(id).to_be_bytes().to_vec()
}

/// The `_id` of a document for people.
pub fn id_text(document: &RawDocument) -> String {
    id_value(document).map_or_else(|| "without _id".to_string(), |id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> Hash {
        Hash([byte; 32])
    }

    fn name<T: std::str::FromStr>(text: &str) -> T
    where
        T::Err: std::fmt::Debug,
    {
        text.parse().expect("a valid name")
    }

    /// Claim: a record survives the way into a document and back, and its fields are those of the interface.
    #[test]
    fn movements_round_trip() {
        for kind in MOVEMENT_KINDS {
            let record = Movement {
                seq: 7,
                member: name("worker-1"),
                kind,
                amount: Amount(-5),
                balance: Amount(i64::MAX),
                interval: (kind == MovementKind::Reward).then_some(IntervalId(3)),
                reason: "why".to_string(),
                index: Index(9),
                term: Term(2),
                at: UnixMillis(1_700_000_000_123),
                prev_hash: hash(1),
                hash: hash(2),
            };
            let document = movement(&record);
            assert_eq!(read_movement(&document), Ok(record));
            let keys: Vec<_> =
                document.iter().map(|item| item.expect("valid").0.as_str().to_string()).collect();
            assert_eq!(
                keys.join(" "),
                "_id member kind amount balance interval reason index term at prev_hash hash"
            );
        }
    }

    #[test]
    fn intervals_round_trip() {
        for verdict in VERDICTS {
            let record = Interval {
                id: IntervalId(4),
                opened_at: UnixMillis(1),
                cut_at: UnixMillis(2),
                settled_at: UnixMillis(3),
                leader: name("n1"),
                term: Term(5),
                index: Index(6),
                policy: 1,
                verdict,
                reason: if verdict == Verdict::Settled { String::new() } else { "why".to_string() },
                observers: vec![
                    Observer { id: name("n1"), used: true, why: String::new() },
                    Observer { id: name("n2"), used: false, why: "absent".to_string() },
                ],
                members: 2,
                rewarded: Amount(10),
                penalised: Amount(0),
                last_seq: 8,
                evidence_hash: hash(3),
                prev_hash: hash(4),
                hash: hash(5),
            };
            assert_eq!(read_interval(&interval(&record)), Ok(record));
        }
    }

    #[test]
    fn observations_members_and_elections_round_trip() {
        for status in MEMBER_STATUSES {
            let counts = Counts { sent: 12, answered: 11, missed: 1, p90_us: 900 };
            let record = Observation {
                interval: IntervalId(4),
                member: name("worker-1"),
                sent: 24,
                answered: 23,
                missed: 1,
                availability_ppm: 958_333,
                p50_us: 400,
                p90_us: 900,
                max_us: 4_000,
                score_ppm: 958_333,
                reward: Amount(9_583_330),
                penalty: Amount(0),
                strikes: 1,
                status,
                by: [(name("n.1"), counts), (name("n2"), counts)].into(),
                excused: status == MemberStatus::Left,
            };
            assert_eq!(read_observation(&observation(&record)), Ok(record));
        }
        for kind in MEMBER_KINDS {
            let record = Member {
                id: name("worker-1"),
                kind,
                address: "127.0.0.1:7403".to_string(),
                status: MemberStatus::Active,
                balance: Amount(-1),
                strikes: 3,
                suspensions: 1,
                remaining: 2,
                joined_at: UnixMillis(5),
                as_of: 8,
                index: Index(9),
            };
            assert_eq!(read_member(&member(&record)), Ok(record));
        }
        for previous in [None, Some(name("n2"))] {
            let record = Election {
                term: Term(3),
                leader: name("n1"),
                previous,
                reason: "timeout".to_string(),
                votes: [name("n1"), name("n3")].into(),
                leaderless_ms: 412,
                at: UnixMillis(77),
                index: Index(12),
            };
            assert_eq!(read_election(&election(&record)), Ok(record));
        }
    }

    #[test]
    fn a_foreign_document_is_named_by_its_field() {
        let mut document = RawDocumentBuf::new();
        document.append(cstr!("_id"), "seven");
        let error = read_movement(&document).expect_err("no interval");
        assert_eq!(error.field, "interval");
        document.append(cstr!("interval"), RawBsonRef::Null);
        assert_eq!(read_movement(&document).expect_err("not a number").field, "_id");
    }
}
