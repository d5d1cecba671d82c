//! What an observer exchanges with the world: settings, inputs, effects, reports.

use std::sync::Arc;
use std::time::Duration;

use crate::types::{AgentKey, IntervalId, MemberId, NodeId, Version};

/// A stall of the process from which on its pings under way are sent anew instead of being judged.
pub const STALL_FORGIVEN: Duration = Duration::from_secs(1);
/// A stall of the process that costs a point of its own score.
pub const STALL_COUNTED: Duration = Duration::from_millis(250);

/// Settings of an observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The observer itself; never pinged.
    pub id: MemberId,
    /// Time between two pings of one member; at least 1 ms.
    pub ping_every: Duration,
    /// How long one try waits.
    pub ping_timeout: Duration,
}

impl Config {
    /// The defaults of the first policy: a ping every 5 s, 500 ms per try.
    pub fn new(id: MemberId) -> Config {
        Config { id, ping_every: Duration::from_secs(5), ping_timeout: Duration::from_millis(500) }
    }
}

/// How a member is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A super-node: over the peer connection.
    Node(NodeId),
    /// An agent: over UDP.
    Agent {
        /// `host:port`.
        address: Arc<str>,
        /// What authenticates its answers; of no meaning here.
        key: AgentKey,
    },
}

/// What the detector holds of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Answers.
    Up,
    /// Missed a few pings in a row, or has never answered yet.
    Suspect,
    /// Missed so many that it is held dead.
    Down,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time has passed; due whenever [`super::Health::deadline`] is reached, harmless at any other time.
    Tick,
    /// The whole new set of members. The observer itself may be among them and is left out.
    Members(Vec<(MemberId, Target)>),
    /// These members came, moved, or (`None`) left; the others stay as they are. The observer itself is left out.
    Changed(Vec<(MemberId, Option<Target>)>),
    /// A member answered.
    Answered {
        /// Who.
        member: MemberId,
        /// The number of the try, as in [`Effect::Ping`].
        seq: u64,
        /// What it says it runs.
        version: Version,
    },
    /// The interval has ended; its counters are frozen and reported. Interval 0 stands for the time before the first
    /// one: feed it when the cluster is formed, so that the first interval can be seen as a whole.
    Cut {
        /// The interval that ended.
        interval: IntervalId,
    },
    /// The policy changed.
    Timing {
        /// See [`Config::ping_every`].
        ping_every: Duration,
        /// See [`Config::ping_timeout`].
        ping_timeout: Duration,
    },
    /// This process stood still for so long, until now. To be fed before anything else that waited meanwhile.
    Stalled(Duration),
    /// A super-node asks whether a member answers here. Always answered with [`Effect::Word`].
    HelpAsked {
        /// Who asks.
        from: NodeId,
        /// Its number for the question.
        id: u64,
        /// About whom.
        member: MemberId,
    },
    /// The answer to [`Effect::AskHelp`].
    Word {
        /// Whose.
        from: NodeId,
        /// The question's number.
        id: u64,
        /// Whether the member answered there.
        alive: bool,
    },
    /// A ping could not be sent: a fault of the observer, not of the member.
    SendFailed,
}

/// What the shell must do, or may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send a ping.
    Ping {
        /// To whom.
        member: MemberId,
        /// Where it is.
        target: Target,
        /// The number of this try; never reused by this process.
        seq: u64,
    },
    /// A ping was judged. For metrics.
    Judged {
        /// Whose.
        member: MemberId,
        /// What came of it.
        outcome: Outcome,
    },
    /// The detector changed its mind.
    Edge {
        /// About whom.
        member: MemberId,
        /// The level before.
        from: Level,
        /// The level now.
        to: Level,
        /// Tries missed in a row that led here; for a change to [`Level::Up`], those that the answer ended.
        misses: u32,
    },
    /// Ask another super-node to try a member.
    AskHelp {
        /// Whom.
        helper: NodeId,
        /// The question's number.
        id: u64,
        /// About whom.
        member: MemberId,
    },
    /// Answer a [`Input::HelpAsked`].
    Word {
        /// To whom.
        to: NodeId,
        /// Its number for the question.
        id: u64,
        /// Whether the member answered here.
        alive: bool,
    },
    /// The counters of an interval, in answer to [`Input::Cut`].
    Report(Frozen),
}

/// What came of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered in time; the round trip in microseconds, unless a stall of our own lies in it.
    Answered {
        /// Microseconds.
        round_trip_us: Option<u32>,
    },
    /// Both tries failed.
    Missed,
}

/// The counters of one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// Which interval.
    pub interval: IntervalId,
    /// One row per member about which something was counted, ordered by member.
    pub rows: Vec<Row>,
    /// How well the observer itself was.
    pub health: ObserverHealth,
}

/// The evidence about one member. Same fields as the row of a ledger report, which this layer does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The member.
    pub member: MemberId,
    /// Pings whose outcome became known: `answered + missed`.
    pub sent: u32,
    /// Answered in time (perhaps at the second try).
    pub answered: u32,
    /// Answers that came after both tries had been given up.
    pub late: u32,
    /// Both tries failed.
    pub missed: u32,
    /// Answers that were not what was asked for.
    pub bad: u32,
    /// Messages that nobody had asked for.
    pub unsolicited: u32,
    /// Shortest round trip, in microseconds, exact; 0 when none was measured. So are the next three.
    pub min_us: u32,
    /// Median round trip, at most 1/32 too low.
    pub p50_us: u32,
    /// 90th percentile of round trips, at most 1/32 too low.
    pub p90_us: u32,
    /// Longest round trip, exact.
    pub max_us: u32,
    /// The version the member stated last, in this interval or before.
    pub version: Option<Version>,
}

/// How well an observer itself was during an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObserverHealth {
    /// Whether it saw the cut before this one, at least one ping period ago.
    pub whole_interval: bool,
    /// The longest stall of its own, in milliseconds.
    pub longest_stall_ms: u32,
    /// Its own score, 0 is well: one more per fault of its own, one less per ping period without. Faults are stalls of
    /// [`STALL_COUNTED`] or longer and pings that could not be sent.
    pub score: u32,
}

/// How many members the detector holds at each level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelCounts {
    /// See [`Level::Up`].
    pub up: u64,
    /// See [`Level::Suspect`].
    pub suspect: u64,
    /// See [`Level::Down`].
    pub down: u64,
}

impl LevelCounts {
    pub(super) fn of(&mut self, level: Level) -> &mut u64 {
        match level {
            Level::Up => &mut self.up,
            Level::Suspect => &mut self.suspect,
            Level::Down => &mut self.down,
        }
    }
}
