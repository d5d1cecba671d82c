//! Consensus: the Raft protocol as a state machine without any input or output of its own.
//!
//! # What it is for
//!
//! A handful of nodes keep one log. A client's command counts as done when it is *committed*: then it will be applied,
//! at the same place, by every node, whatever crashes or disconnects afterwards, as long as a majority comes back. This
//! module decides what the log holds and what of it is committed. It does not know what the commands mean.
//!
//! References: D. Ongaro and J. Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014), called *the
//! paper*; D. Ongaro's dissertation "Consensus: Bridging Theory and Practice" (2014), called *the dissertation*. Where
//! and why this implementation departs from them is told in `docs/divergence.md`; which mistakes of real systems it
//! must not repeat, and what shows that it does not, in `docs/hazards.md`.
//!
//! # How it is driven
//!
//! [`Raft`] is a value. The shell feeds it with [`Input`]s through [`Raft::step`], each with the time and one random
//! word, and collects with [`Raft::take_effects`] what is to be done. In between it may feed as many inputs as it has:
//! a *batch*. The effects of a batch hold at most one write for the disk, and for each peer the entries of all
//! proposals of the batch together, so that throughput grows with load.
//!
//! ```text
//!   loop {
//!       wait for a message, a request, the disk, or until raft.deadline()
//!       for everything that is there: raft.step(now, random, input)
//!       for effect in raft.take_effects(now): start it
//!   }
//! ```
//!
//! Nothing has to wait for anything: effects are started in their order and that is all. In particular
//! every [`Effect::Send`] may leave at once, also beside a [`Effect::Persist`] of the same batch.
//!
//! * Time is [`Micros`], monotonic. The core never reads a clock; [`Raft::deadline`] says when it wants an [`Input::Tick`].
//! * The random word is used when a timeout must be drawn, and for nothing else.
//! * Maps are ordered. The same inputs give the same effects, on every machine and for ever.
//!
//! # Terms and votes
//!
//! Time is divided into *terms*, numbered upward. A node votes at most once in a term, for a candidate whose log is at
//! least as up to date as its own (paper, 5.4.1): the later last term, or with equal terms the longer log. A candidate
//! with the votes of a majority leads the term. Two majorities share a node, and that node has one vote: so a term has
//! at most one leader (*election safety*). And a committed entry sits on a majority, so at least one node of any
//! majority holds it, and that node votes for nobody who lacks it: so every later leader has it (*leader
//! completeness*).
//!
//! Whoever meets a newer term adopts it and follows. Whoever gets a request of an older one answers
//! [`Body::NewerTerm`], which ends the sender's term for the sender too.
//!
//! The term and the vote are the [`HardState`]. A node that forgot them in a crash could vote twice. The rule that
//! prevents it has one place, the outbox: *while the newest hard state is not durable, no message leaves*. Every
//! message names the sender's term, so nobody learns of a term, or of a vote, that a crash could take back. A candidate
//! likewise counts its own vote from when it is durable.
//!
//! # The roles
//!
//! ```text
//!              timeout, or the leader found silent
//!   Follower ─────────────────────────────────────▶ PreCandidate
//!     ▲  ▲  ▲ ◀──── refused, unanswered, or a leader ─┘   │ a majority would vote, or the leader asked: at once
//!     │  │  │                                             ▼
//!     │  │  └──── a leader, or a newer term ───────── Candidate ──▶ PreCandidate (timeout)
//!     │  │                                                │ a majority voted
//!     │  └─────── a newer term, or no quorum ───────── Leader
//!     └ Learner: a follower that the configuration gives no vote
//! ```
//!
//! Each role is a type, [`Raft`] holds one of them, and a transition consumes the node in its old role. What only a
//! leader can do (append, feed peers, serve reads) is written for `Node<Leader>` and cannot be called elsewhere.
//!
//! **Pre-vote** (dissertation, 9.6). A node that was cut off would come back with a higher term and depose a
//! healthy leader. So it first asks, in its old term, whether it *would* be elected. The question changes no state
//! anywhere: not the asked one's term, vote or timers. The answer is yes if the asked one has heard no leader for the
//! shortest election timeout *and* the asker's log is up to date. A majority of yeses starts the election.
//!
//! **Check-quorum** (dissertation, 6.2). A leader that has heard no quorum for the longest election timeout steps
//! down, so that its clients look elsewhere. And a node that hears its leader ignores vote requests altogether: nobody
//! with a huge term, a removed node for one, disturbs a leader that works.
//!
//! **A leader found silent.** The shell has faster detectors than the timeout: a connection that was reset, pings
//! without answer. [`Input::PeerSilent`] makes a follower of that leader forget that it heard it, and ask for
//! pre-votes within 10 ms. If the detector was wrong, the others still hear the leader and refuse, and no harm is done.
//! Usually all followers get the news at the same moment. Of two that stand at once, the one with the worse log makes way, or
//! between equals the one with the smaller name, so that votes do not split; and one that refused before it had the
//! news is asked again when it shows, by asking itself, that it has it by now.
//!
//! **Who would rather not lead**, by its settings or because its disk is slow, waits for a longest election timeout more
//! before it stands, and hands over when it leads all the same and somebody fit can take over. It votes like anybody else.
//!
//! Questions are repeated every heartbeat interval to those who have not answered (or not granted), so that a lost
//! message costs an interval and not an election timeout. Every [`Event::BecameLeader`] names the detector that fired.
//!
//! # Replication
//!
//! A leader appends proposals to its log and sends each peer what it lacks, as *append requests*: the place before the
//! entries (index and term), the entries, the commit index. A follower that holds that place takes the entries over; if
//! an entry of its own differs there in term, that entry and all after it go, and only then. By induction two logs that
//! have the same term at an index are equal up to it (*log matching*).
//!
//! Each peer is in one of three flows:
//! * *Probe*: where do the logs agree? One request at a time. A rejection carries a hint, the follower's last place whose
//!   term is not above that of the rejected one; the leader goes back to its own last place not after the hint and not of
//!   a higher term. Each round trip skips whole terms on one side or the other.
//! * *Replicate*: they agree; requests are sent without waiting, as many as the window allows, each bounded in bytes.
//! * *Snapshot*: what the peer needs is compacted. [`Effect::SendSnapshot`] asks the shell to transfer the state, once;
//!   [`Input::SnapshotSent`], which the shell must not give before the receiver has *installed* the snapshot, goes on from
//!   there. The log is kept from the start of the transfer on, as long as the receiver answers.
//!
//! A lost request is noticed in two ways: a later request does not fit and is rejected; or a heartbeat's answer names a
//! place before what had been sent by then. Either way the peer is probed again from where it stands. The
//! heartbeat's answer repeats the acknowledgement too, in case that was lost.
//!
//! Commit indexes travel with appends and heartbeats, not in messages of their own: a follower on an idle cluster learns
//! of the last commitment with the next heartbeat, or with the round of the next read.
//!
//! # The disk
//!
//! The core hands out [`Persist`] batches, numbered, and goes on without waiting; the shell reports each with
//! [`Input::Persisted`]. What depends on a batch is held inside the core until then:
//! * votes, and everything that would reveal a new term (see above);
//! * a follower's acknowledgement: it is not written before the entries are durable, and speaks only of durable ones;
//! * the leader's own part in the majority: it sends entries to its peers while its disk writes them, and counts itself
//!   only when its own batch is reported. The commit may well precede that: a majority of followers is a majority;
//! * application: [`Effect::Apply`] holds entries that are committed *and* durable here.
//!
//! *ABA.* A follower writes entry 7 of term 2 (batch 4), is told by a new leader to replace it by entry 7 of term 3
//! (batch 5), and then batch 4 is reported. That says nothing of the new entry 7. So truncation clips what earlier
//! batches can vouch for: after it, batch 4 makes durable what lies before 7, and only batch 5 the new 7. For the same
//! reason an acknowledgement counts only in the term in which it was given.
//!
//! *A disk that hangs* leaves heartbeats and connections intact, so nobody else would notice. The core measures how
//! long its batches take: at half the longest election timeout the disk is degraded, which makes a follower unfit and a
//! leader hand over; at the whole of it a leader steps down. Neither needs the disk. See `disk`.
//!
//! # Commitment
//!
//! An index is committed when a quorum holds it durably *and* its entry is of the leader's own term (paper, 5.4.2): an
//! older entry on a majority can still be replaced by a leader that never saw it (the paper's figure 8). Older entries
//! are committed along with the first own one, so a new leader appends an empty entry right away. A node without peers
//! is no exception: it is its own majority, and commits when its disk reports.
//!
//! # Reads
//!
//! A linearizable read must see every write that was acknowledged before it began, and a leader may have been replaced
//! without knowing. So (dissertation, 6.4) a read notes the commit index and waits for the proof that the leader still
//! led *after the read arrived*: heartbeats are numbered in *rounds*, answers echo the newest round, and a quorum of
//! echoes of a round that began after the arrival is the proof. All reads of a batch share a round. A round's number is
//! never used again, and a read never joins a round that is under way, so that an echo from before a pause proves
//! nothing about after it. A new leader lets reads wait until an entry of its own term is committed, since it may
//! not know yet how far its predecessor had come.
//!
//! *Leases* (off unless configured) spare the round: a follower that answers one promises to help nobody to power for the
//! shortest election timeout, so that for a shorter span, counted from the *sending* of a round that a quorum answered, the
//! leader reads by itself. The promise is kept through everything that a detector or a newer term may say; see `lease`.
//!
//! # Configuration
//!
//! Who votes is itself in the log. A [`Configuration`] entry is in force from its append, committed or not, and out of
//! force when it is truncated. While `outgoing` is set (joint consensus, paper, section 6), elections and commitment need a
//! majority of both sets. *Learners* receive the log without a vote, and never stand.
//!
//! [`Input::Change`] begins a change: one at a time, none before the leader has committed in its own term, and none that
//! touches the voters while a majority of the old or of the new ones does not answer. The leader, whichever it is by then,
//! leaves the joint configuration by itself once it is committed. A learner that is *joining* is promoted by itself when it has
//! kept up for a while, and the voter that it replaces leaves in the same change. A leader that is no voter any more
//! finishes the change, asks the best successor to stand, and steps down. Those who left are told. See `membership`.
//!
//! A node's configuration may be behind, so it listens to leaders and candidates that it does not know, by the rules of
//! term, log and loyalty that hold for all. Only *answers* are taken from members alone: nobody asked a stranger, and
//! a removed node with a huge term must not depose a leader by mentioning it.
//!
//! # Handing over
//!
//! [`Input::Transfer`] hands leadership to a named voter or the best one: proposals are refused, the lease ends, the target
//! catches up and is told to stand; it does so at once, and its vote requests say that they come from the leader's own will,
//! so that nobody's loyalty or promise stands in the way. After the longest election timeout the leader gives up and
//! goes on. The word to stand names the newest round, and a target that has heard a newer one ignores it: after a transfer
//! that failed there is no lease until the target has answered such a round. See `transfer`.
//!
//! # Compaction and snapshots
//!
//! The shell tells with [`Input::Compact`] how far its applied state is durable, and the log forgets up to there: its
//! [`Base`] moves. On a follower that got a snapshot, [`Input::SnapshotInstalled`] puts the base where the snapshot
//! ends; entries after it stay if the log holds the snapshot's last entry, otherwise they go. An append that begins
//! before the base is cut: what is compacted was committed, hence equal.
//!
//! The shell must never replace its state by one older than what it was handed by [`Effect::Apply`]; the core asserts
//! it. After a crash between the replacement and the [`Persist`] that records it, state and log differ:
//! [`Recovered::agree_with`], called before [`Raft::new`], settles that.
//!
//! # Trust
//!
//! Peers are believed to follow the protocol as far as *safety* goes (Raft is not Byzantine fault tolerant), but nothing
//! that they send can crash a node: every message passes the gateway ([`Message::is_well_formed`]; answers from members only), and what
//! is out of place later, such as a second leader in a term or an entry that contradicts a committed one, is dropped and
//! counted in [`Status::dropped_messages`]. Assertions guard our own invariants and the shell's promises, and stay on in
//! release builds: a node that would break one stops instead.
//!
//! # Where things are
//!
//! | file | subject |
//! |---|---|
//! | `message` | inputs, effects, events: the surface towards the shell |
//! | `wire` | the messages between nodes, and their gateway |
//! | `config` | settings, bounds, recovery errors |
//! | `quorum` | the arithmetic of majorities |
//! | `log` | entries, configurations, and what of them is durable |
//! | `outbox` | effects, and messages that wait for the disk |
//! | `core` | what a node is in every role |
//! | `follower`, `candidate`, `leader` | the roles |
//! | `progress`, `reads`, `lease` | a leader's peers; its reads; reads without a round |
//! | `membership`, `transfer` | changes of the configuration; handing over |
//! | `thrift` | few messages, where each one counts |
//! | `disk` | how long the disk takes |
//! | `recovered` | what batches mean, as a value: the reference for log stores |
//! | `state` | the role of the moment, and the rules about terms |

mod candidate;
mod config;
mod core;
mod disk;
mod follower;
mod leader;
mod lease;
mod log;
mod membership;
pub mod message;
mod outbox;
mod progress;
mod quorum;
mod reads;
mod recovered;
mod state;
mod thrift;
mod transfer;
pub mod wire;

use std::collections::BTreeMap;

use crate::types::{Index, Micros, NodeId, Term};

pub use config::{
    ADDRESS_BYTES_MAX, Config, HELD_MESSAGES_MAX, NODES_MAX, READS_PENDING_MAX, RecoveryError,
    SILENT_JITTER_MICROS_MAX, VOTERS_MAX,
};
pub use message::*;
pub use quorum::VoteResult;
pub use wire::{Body, Message, Position};

use self::core::{Core, Node};
use self::disk::Disk;
use self::follower::Follower;
use self::log::Log;
use self::outbox::Outbox;
use self::state::State;

/// The consensus core of one node. See the module's documentation.
#[derive(Debug)]
pub struct Raft {
    /// Absent only while a step is under way, which a panic may have interrupted.
    state: Option<State>,
}

const WHOLE: &str = "the core is not used again after one of its assertions failed";

impl Raft {
    /// A node with what its log store found. `configuration`: as of `recovered.base`, or of any later applied
    /// place; for a new cluster the first
    /// one, for a node that waits to be found an empty one. `applied`: how far the state is durably applied. `entropy`: one
    /// random word.
    ///
    /// A node that is the only voter stands at once; its first effects are ready.
    pub fn new(
        config: Config,
        configuration: Configuration,
        recovered: Recovered,
        applied: Index,
        now: Micros,
        entropy: u64,
    ) -> Result<Raft, RecoveryError> {
        let (base, last) = (recovered.base.index, recovered.last());
        if applied < base {
            return Err(RecoveryError::AppliedBeforeBase { applied, base });
        }
        if applied > last {
            return Err(RecoveryError::AppliedBeyondLog { applied, last });
        }
        let node = Raft::follower(config, configuration, recovered, applied, now, entropy)?;
        let alone = node.core.log.configuration().is_sole_voter(node.core.id());
        // Who decides alone has nobody to wait for; but it may be the last of several, and have promised one of them that it
        // starts nothing before that one's lease is over.
        let state = if alone && !node.core.has_promised() {
            node.start_election(ElectionReason::Startup)
        } else {
            State::Follower(node)
        };
        Ok(Raft { state: Some(state) })
    }

    /// A node whose log is whole, and whose applied state is gone. Its term, its vote and its entries count: it votes, and
    /// acknowledges entries. But it never stands, and nothing is applied, until [`Input::SnapshotInstalled`] has given it a
    /// state, at or after the log's base. Until then it knows no configuration but those in its log.
    pub fn without_state(
        config: Config,
        recovered: Recovered,
        now: Micros,
        entropy: u64,
    ) -> Result<Raft, RecoveryError> {
        let base = recovered.base.index;
        let mut node = Raft::follower(config, Configuration::default(), recovered, base, now, entropy)?;
        node.core.lacks_state = true;
        Ok(Raft { state: Some(State::Follower(node)) })
    }

    fn follower(
        config: Config,
        configuration: Configuration,
        recovered: Recovered,
        applied: Index,
        now: Micros,
        entropy: u64,
    ) -> Result<Node<Follower>, RecoveryError> {
        let Recovered { hard_state, base, entries } = recovered;
        let log = Log::recover(base, configuration, entries)?;
        let last = log.last();
        if hard_state.term < last.term {
            return Err(RecoveryError::TermBehindLog { stored: hard_state.term, last: last.term });
        }
        // A vote of an earlier run may have been promised to nobody's rival; see `lease`.
        let promised = config.lease.is_some() && hard_state.term > Term(0);
        let core = Box::new(Core {
            disk: Disk::new(config.election_max),
            promised_until: if promised { now.after(config.promise_span()) } else { Micros(0) },
            outbox: Outbox::new(config.held_messages_max),
            config,
            hard: hard_state,
            log,
            commit: applied,
            applied,
            now,
            entropy,
            leader_contact: None,
            last_leader: None,
            last_word: now,
            announced: None,
            round: 0,
            attempts: 0,
            dropped: 0,
            disk_full: false,
            lacks_state: false,
            commit_heard: Index(0),
        });
        let role = Follower::new(&core);
        Ok(Node { core, role })
    }

    /// Takes one input in. Cheap; may be called any number of times per batch. `now` never goes back (if it does, it is
    /// taken to stand still). `entropy` is one random word, used only if a timeout must be drawn.
    pub fn step(&mut self, now: Micros, entropy: u64, input: Input) {
        let mut state = self.state.take().expect(WHOLE);
        let core = state.core_mut();
        core.now = core.now.max(now);
        core.entropy = entropy;
        match &input {
            // Time in which this process did not run is not the disk's: what it has finished meanwhile is heard after this.
            Input::Stalled { span } => core.disk.stood_still(*span, core.now),
            // A disk that has just finished is not judged by how long it had not.
            Input::Persisted { .. } => {}
            _ => core.observe_disk(),
        }
        self.state = Some(state.step(input));
    }

    /// Ends the batch: what is to be done, in the order in which it is to be started. At most one [`Effect::Persist`],
    /// and it comes first.
    pub fn take_effects(&mut self, now: Micros) -> Vec<Effect> {
        let state = self.state.as_mut().expect(WHOLE);
        let core = state.core_mut();
        core.now = core.now.max(now);
        state.take_effects()
    }

    /// The newest position that this node knows to be committed, whether or not it has it.
    pub fn commit_heard(&self) -> Index {
        let core = self.state.as_ref().expect(WHOLE).core();
        core.commit_heard.max(core.commit)
    }

    /// When the next [`Input::Tick`] is due. Valid after [`Raft::take_effects`], until the next step.
    pub fn deadline(&self) -> Micros {
        self.state.as_ref().expect(WHOLE).deadline()
    }

    /// What the node knows of itself and its cluster. Copies the configuration: not for every message.
    pub fn status(&self) -> Status {
        let state = self.state.as_ref().expect(WHOLE);
        let core = state.core();
        let peers = match state {
            State::Leader(node) => node.role.peers.iter(),
            _ => Default::default(),
        };
        let progress = |peer: &progress::Progress| PeerProgress {
            matched: peer.matched,
            next: peer.next,
            last_contact: peer.heard.then_some(peer.contact),
            fit: peer.fit,
            caught_up_since: peer.caught_up_since,
        };
        Status {
            role: match state {
                State::Follower(_) if core.is_voter() => Role::Follower,
                State::Follower(_) => Role::Learner,
                State::PreCandidate(_) => Role::PreCandidate,
                State::Candidate(_) => Role::Candidate,
                State::Leader(_) => Role::Leader,
            },
            term: core.term(),
            leader: state.leader().cloned(),
            commit: core.commit,
            applied: core.applied,
            last: core.log.last().index,
            durable: core.log.durable(),
            base: core.log.base(),
            configuration: core.log.configuration().clone(),
            leader_contact: core.leader_contact,
            peers: peers.map(|(id, peer)| (id.clone(), progress(peer))).collect(),
            dropped_messages: core.dropped,
            disk_degraded: core.disk.degraded(),
            transfer: match state {
                State::Leader(node) => node.role.transfer.as_ref().map(|transfer| transfer.to.clone()),
                _ => None,
            },
            lease_until: match state {
                State::Leader(node) => node.lease_until(),
                _ => None,
            },
        }
    }

    /// The node's term. Cheap.
    pub fn term(&self) -> Term {
        self.state.as_ref().expect(WHOLE).core().term()
    }

    /// Who leads this term, as far as this node knows. Cheap.
    pub fn leader(&self) -> Option<&NodeId> {
        self.state.as_ref().expect(WHOLE).leader()
    }

    /// Known to be committed up to here. Cheap.
    pub fn commit(&self) -> Index {
        self.state.as_ref().expect(WHOLE).core().commit
    }

    /// The configuration in force. Cheap.
    pub fn configuration(&self) -> &Configuration {
        self.state.as_ref().expect(WHOLE).core().log.configuration()
    }

    /// The configuration as of `index`: what a snapshot that ends there must carry. `None` before the log's base.
    pub fn configuration_as_of(&self, index: Index) -> Option<&Configuration> {
        self.state.as_ref().expect(WHOLE).core().log.configuration_as_of(index)
    }

    /// Where the node's log begins. Cheap.
    pub fn base(&self) -> Base {
        self.state.as_ref().expect(WHOLE).core().log.base()
    }

    /// Up to where the log may be forgotten so that, of what lies after `from` and is applied (up to `applied`), the newest
    /// entries stay: at most `entries_max`, and at most `bytes_max` bytes. `None` while it is not worth it.
    /// Looks at each of those entries.
    pub fn superfluous(
        &self,
        from: Index,
        applied: Index,
        entries_max: u64,
        bytes_max: u64,
    ) -> Option<Index> {
        let log = &self.state.as_ref().expect(WHOLE).core().log;
        log.superfluous(from, applied, entries_max, bytes_max)
    }

    /// Whether this node leads and sees a peer close to the end of its log. Cheap.
    pub fn has_caught_up(&self, peer: &NodeId) -> bool {
        match self.state.as_ref().expect(WHOLE) {
            State::Leader(node) => {
                node.role.peers.get(peer).is_some_and(|progress| progress.caught_up_since.is_some())
            }
            State::Follower(_) | State::PreCandidate(_) | State::Candidate(_) => false,
        }
    }

    /// Whether this node believes to lead; the term if so. Cheap.
    pub fn leads(&self) -> Option<Term> {
        match self.state.as_ref().expect(WHOLE) {
            State::Leader(node) => Some(node.core.term()),
            State::Follower(_) | State::PreCandidate(_) | State::Candidate(_) => None,
        }
    }
}

/// The role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Orders the log.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Follows without a vote.
    Learner,
}

/// What a node knows of itself and its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads this term, as far as it knows.
    pub leader: Option<NodeId>,
    /// Known to be committed up to here.
    pub commit: Index,
    /// Handed out to be applied up to here.
    pub applied: Index,
    /// The end of its log.
    pub last: Index,
    /// Its log is on disk up to here. May lie before the base while the record of a snapshot is being written.
    pub durable: Index,
    /// Where its log begins.
    pub base: Base,
    /// The configuration in force.
    pub configuration: Configuration,
    /// When it last heard this term's leader; `None` also on the leader, and when the leader was found silent.
    pub leader_contact: Option<Micros>,
    /// The peers, as a leader sees them; empty on all others.
    pub peers: BTreeMap<NodeId, PeerProgress>,
    /// Messages ignored since the start as malformed, out of place or from strangers, or for want of room.
    pub dropped_messages: u64,
    /// Whether a write to its disk takes, or of late took, suspiciously long.
    pub disk_degraded: bool,
    /// To whom it is handing leadership.
    pub transfer: Option<NodeId>,
    /// Until when its lease holds, on a leader that has one.
    pub lease_until: Option<Micros>,
}

/// A peer, as a leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// Its log durably equals the leader's up to here.
    pub matched: Index,
    /// The next entry to send to it.
    pub next: Index,
    /// When it was last heard in this leadership; `None` if never.
    pub last_contact: Option<Micros>,
    /// Whether it called itself fit to lead when it last answered.
    pub fit: bool,
    /// Since when its log has been close to the leader's end; `None` when it is not.
    pub caught_up_since: Option<Micros>,
}
