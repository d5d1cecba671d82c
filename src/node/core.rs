//! The node as one synchronous machine: consensus, health and duties composed. No clock, no IO, no randomness.
//!
//! The shell (`driver`, or the simulator) feeds inputs, takes effects and carries them out. Whatever the shell does
//! between two steps, the machine stays consistent, because each input is complete in itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::health::{self, Health};
use crate::ledger::command::Command;
use crate::ledger::records::Member;
use crate::raft::{self, Base, Configuration, ElectionReason, Raft, Recovered};
use crate::types::{AgentKey, Index, MemberId, Micros, NodeId, Term};

use super::applier::{SNAPSHOT_PART_BYTES, Standing};
use super::autopilot::Autopilot;
use super::duties::{Duties, Retention};
use super::facts::Facts;
use super::heard::Heard;
use super::io::{Effect, Input, Notice};
use super::membership::{ACQUAINTANCES_MAX, Membership};
use super::mending;
use super::moment::Moment;
use super::requests::{AskId, Origin, PARKED_MAX, Requests};
use super::snapshot::{Incoming, Needs, Outgoings};
use super::status::{ProjectionStatus, WebhookStatus};

/// [`Bounds::requests_max`], as a rule.
pub const REQUESTS_MAX: usize = 16_384;

/// Bounds of one node that are its own affair; consensus has some more. No operator needs to change them: that they can be
/// changed is for simulated histories, which would never come near them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Most requests under way; more are refused as overloaded.
    pub requests_max: usize,
    /// Most requests that wait for a leader to be known; more are refused as [`super::handle::Failure::NoLeader`].
    pub parked_max: usize,
    /// Bytes of keys and values in one part of a snapshot; one more row may exceed it.
    pub snapshot_part_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            requests_max: REQUESTS_MAX,
            parked_max: PARKED_MAX,
            snapshot_part_bytes: SNAPSHOT_PART_BYTES,
        }
    }
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub id: NodeId,
    /// The configured name of the cluster.
    pub cluster: String,
    /// All super-nodes of the first configuration with their peer addresses, this one included; empty for a node that
    /// joins a running cluster. Who belongs to the cluster is asked here only once; afterwards the log says it, and
    /// what stands here only says where to reach those whom the configuration names, where it differs.
    pub peers: BTreeMap<NodeId, String>,
    /// Where the others reach this node (`host:port`); empty if it does not know.
    pub address: String,
    /// Consensus.
    pub raft: raft::Config,
    /// Health; its timing is renewed from the policy.
    pub health: health::Config,
    /// The command that founds the cluster if nobody has.
    pub genesis: Command,
    /// For how long the cluster keeps its history while this node leads; `None`: for ever.
    pub retention: Option<Retention>,
    /// How many applied entries the log keeps for followers that are behind.
    pub keep_entries: u64,
    /// And of how many bytes at most: they are in memory, too.
    pub keep_bytes: u64,
    /// What it takes at most of what there may be much of.
    pub bounds: Bounds,
    /// How fast a snapshot is sent to one receiver, bytes a second; 0: as fast as it takes it.
    pub snapshot_rate: u64,
    /// This node's client URL, for the status.
    pub url: String,
    /// The incarnation of its data directory; empty if it has none.
    pub incarnation: String,
    /// The newest version of the peer protocol that its network speaks, for the status.
    pub protocol_max: u16,
    /// Whether log and state are in memory only; for the status.
    pub in_memory: bool,
    /// While it leads, it replaces a voter that was silent for so long by a learner. `None`: never.
    pub replace_dead_after: Option<Duration>,
}

impl Settings {
    /// The configuration with which a cluster of these peers begins; an empty one for a node that joins.
    pub fn bootstrap(&self) -> Configuration {
        Configuration {
            voters: self.peers.keys().cloned().collect(),
            addresses: self.peers.clone(),
            ..Configuration::default()
        }
    }
}

/// See the module's head.
pub struct Node {
    pub(super) settings: Settings,
    pub(super) raft: Raft,
    pub(super) health: Health,
    pub(super) facts: Facts,
    pub(super) members: Arc<Vec<Member>>,
    pub(super) agent_keys: Arc<BTreeMap<MemberId, AgentKey>>,
    pub(super) applied: Base,
    pub(super) projection: ProjectionStatus,
    /// By name.
    pub(super) webhooks: BTreeMap<String, WebhookStatus>,
    pub(super) peer_contact: BTreeMap<NodeId, Micros>,
    pub(super) peer_urls: BTreeMap<NodeId, String>,
    pub(super) duties: Duties,
    pub(super) requests: Requests,
    pub(super) heard: Heard,
    pub(super) outgoing: Outgoings,
    /// Who needed snapshots lately.
    pub(super) needs: Needs,
    pub(super) incoming: Incoming,
    /// A received snapshot is being installed; further parts are dropped meanwhile.
    pub(super) installing: bool,
    pub(super) known_leader: Option<(Term, NodeId)>,
    pub(super) compact_asked: Index,
    pub(super) membership: Membership,
    /// The disk has no room for further entries.
    pub(super) disk_full: bool,
    /// When to ask for the state next; `None`: it is there.
    pub(super) ask_for_state_at: Option<Micros>,
    pub(super) autopilot: Autopilot,
    /// Something has ended that requests waited for.
    pub(super) unpark: bool,
    pub(super) effects: Vec<Effect>,
}

impl Node {
    /// Begins with what the disk holds: `recovered` from the log, `standing` and `facts` from the state.
    pub fn new(
        settings: Settings,
        mut recovered: Recovered,
        standing: &Standing,
        facts: Facts,
        moment: Moment,
    ) -> Result<Node, raft::RecoveryError> {
        let lacks_state = mending::state_is_lost(&recovered, standing);
        let configuration = match &standing.configuration {
            Some(configuration) => configuration.clone(),
            None if lacks_state => Configuration::default(),
            None => settings.bootstrap(),
        };
        let membership = Membership::new(configuration.clone());
        let applied = standing.applied;
        // A snapshot may have replaced the state just before a crash, while the log still holds what it replaced.
        let snapshot_unrecorded = recovered.agree_with(applied);
        let base = recovered.base.index;
        let (config, now, entropy) = (settings.raft.clone(), moment.now, moment.entropy);
        let mut raft = if lacks_state {
            Raft::without_state(config, recovered, now, entropy)?
        } else {
            Raft::new(config, configuration.clone(), recovered, applied.index, now, entropy)?
        };
        if snapshot_unrecorded {
            let installed = raft::Input::SnapshotInstalled { base: applied, configuration };
            raft.step(moment.now, moment.entropy, installed);
        }
        let health = Health::new(settings.health.clone(), moment.now);
        let mut duties = Duties::new(settings.genesis.clone(), settings.retention);
        duties.met(settings.id.clone(), settings.incarnation.clone());
        let mut node = Node {
            raft,
            health,
            members: Arc::default(),
            agent_keys: Arc::default(),
            applied,
            projection: ProjectionStatus::default(),
            webhooks: BTreeMap::new(),
            peer_contact: BTreeMap::new(),
            peer_urls: BTreeMap::new(),
            duties,
            requests: Requests::new(moment.entropy, settings.bounds.parked_max),
            heard: Heard::default(),
            outgoing: Outgoings::new(settings.snapshot_rate, settings.bounds.snapshot_part_bytes),
            needs: Needs::default(),
            incoming: Incoming::default(),
            installing: false,
            known_leader: None,
            compact_asked: Index(0),
            membership,
            disk_full: false,
            ask_for_state_at: lacks_state.then_some(moment.now),
            autopilot: Autopilot::default(),
            unpark: false,
            effects: Vec::new(),
            facts: facts.clone(),
            settings,
        };
        node.take_facts(facts, moment);
        if lacks_state {
            node.effects.push(Effect::Tell(Notice::StateLost { base }));
        }
        Ok(node)
    }

    /// Takes one input in. Effects collect until [`Node::take_effects`].
    pub fn step(&mut self, moment: Moment, input: Input) {
        match input {
            Input::Tick => self.step_raft(moment, raft::Input::Tick),
            Input::Frame { from, frame } => self.handle_frame(moment, from, frame),
            Input::PeerGone { node } => self.peer_silent(moment, node, ElectionReason::ConnectionLost),
            Input::AgentPong { member, seq, version } => {
                self.step_health(moment, health::Input::Answered { member, seq, version });
            }
            Input::PeerMet { node, url, incarnation } => {
                let room = self.peer_urls.len() < ACQUAINTANCES_MAX || self.knows(&node);
                if room {
                    self.peer_urls.insert(node.clone(), url);
                    self.duties.met(node, incarnation);
                }
            }
            Input::Ask { ask, want, forward, patience } => {
                let request = self.requests.begin(Origin::Ask(ask), want, moment.now, patience);
                self.route(moment, request, forward);
            }
            Input::Projection(status) => self.projection = status,
            Input::Webhook(status) => {
                self.webhooks.insert(status.hook.clone(), status);
            }
            Input::Persisted { seq } => self.step_raft(moment, raft::Input::Persisted { seq }),
            Input::Applied(batch) => self.handle_applied(moment, *batch),
            Input::Flushed { index } => self.handle_flushed(moment, index),
            Input::Exported { to, transfer, chunk } => self.handle_exported(moment, to, transfer, chunk),
            Input::DiskRoom { full } => {
                if std::mem::replace(&mut self.disk_full, full) != full {
                    self.effects.push(Effect::Tell(Notice::DiskRoom { full }));
                    self.step_raft(moment, raft::Input::DiskRoom { full });
                }
            }
            Input::Installed { snapshot, intake } => self.handle_installed(moment, *snapshot, intake),
            Input::PingNotSent => self.step_health(moment, health::Input::SendFailed),
            Input::Stalled(span) => {
                self.effects.push(Effect::Tell(Notice::Stalled(span)));
                self.step_raft(moment, raft::Input::Stalled { span });
                self.step_health(moment, health::Input::Stalled(span));
            }
        }
    }

    /// Ends a batch of steps: does what is due, and gives what the shell must do.
    pub fn take_effects(&mut self, moment: Moment) -> Vec<Effect> {
        self.step_health(moment, health::Input::Tick);
        for finished in self.requests.expire(moment.now) {
            self.finish(finished);
        }
        for next in self.outgoing.tick(moment.now) {
            self.snapshot_next(moment, next);
        }
        for node in self.needs.due(moment.now) {
            self.send_snapshot(moment, &node);
        }
        self.needs.forget(|node| self.raft.has_caught_up(node));
        self.do_duties(moment);
        self.replace_dead_voters(moment);
        self.run_raft(moment);
        let moved = self.notice_leader(moment);
        if moved | self.retry_parked(moment) {
            // Requests that waited may have been proposed.
            self.run_raft(moment);
        }
        self.follow_configuration(moment);
        self.ask_for_state(moment);
        std::mem::take(&mut self.effects)
    }

    /// The next time at which [`Input::Tick`] is wanted.
    pub fn deadline(&self, now: Micros) -> Micros {
        let others = [
            Some(self.health.deadline()),
            self.requests.deadline(),
            self.outgoing.deadline(),
            self.membership.deadline(),
            self.state_deadline(),
            self.needs.deadline(),
            self.autopilot.deadline(),
            self.duties.deadline(&self.facts, self.leading().is_some(), now),
        ];
        others.into_iter().flatten().fold(self.raft.deadline(), Micros::min)
    }

    /// The last applied position.
    pub fn applied_index(&self) -> Index {
        self.applied.index
    }

    /// The state of consensus.
    pub fn raft_status(&self) -> raft::Status {
        self.raft.status()
    }

    /// Its term, and who leads it.
    pub fn term_and_leader(&self) -> (Term, Option<&NodeId>) {
        (self.raft.term(), self.raft.leader())
    }

    /// Whether the disk has no room for further entries.
    pub fn disk_is_full(&self) -> bool {
        self.disk_full
    }

    /// Moves with every change of the configuration in force, and when this node is removed or taken in again.
    pub fn membership_changes(&self) -> u64 {
        self.membership.changes
    }

    /// Who above asked for what was passed on to another node under this number.
    pub fn passed_on(&self, id: u64) -> Option<AskId> {
        self.requests.passed_on(id)
    }

    /// Where its log begins.
    pub fn log_base(&self) -> Base {
        self.raft.base()
    }

    /// The term that this node leads, once it has applied an entry of that term: then its state holds everything
    /// that was committed before, and its decisions rest on it.
    pub fn leading(&self) -> Option<Term> {
        self.raft.leads().filter(|term| self.applied.term >= *term)
    }
}
