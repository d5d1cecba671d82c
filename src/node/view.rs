//! The status of a node, from its own state alone.

use crate::health::Level;
use crate::ledger::records::MemberStatus;
use crate::raft::{Role, Status};
use crate::types::{MemberId, Micros, NodeId};

use super::core::Node;
use super::frame::PROTOCOL_MIN;
use super::status::{
    IntervalCounts, LedgerHead, LogWindow, MemberCounts, NodeStatus, PeerStatus, ProjectionStatus, RoleName,
};

impl Node {
    /// What this node says about itself.
    pub fn status(&self, now: Micros) -> NodeStatus {
        let raft = self.raft.status();
        let me = &self.settings.id;
        let mut ids = raft.configuration.all_nodes();
        ids.insert(me.clone());
        let nodes = ids.iter().map(|id| self.peer_status(&raft, id, now)).collect();
        NodeStatus {
            cluster: self.settings.cluster.clone(),
            id: me.clone(),
            role: role_name(raft.role),
            term: raft.term,
            leader: raft.leader.clone(),
            commit: raft.commit,
            applied: self.applied.index,
            voters: raft.configuration.voters.iter().cloned().collect(),
            learners: raft.configuration.learners.iter().cloned().collect(),
            nodes,
            members: self.member_counts(),
            interval: self.facts.interval.map_or_else(IntervalCounts::default, |interval| IntervalCounts {
                open: interval.open,
                next_settle: interval.next_settle,
            }),
            ledger: LedgerHead {
                records: self.facts.totals.records,
                head_hash: self.facts.totals.head_hash.to_hex(),
            },
            projection: ProjectionStatus {
                checkpoint: self.facts.checkpoint.rewards.max(self.projection.checkpoint),
                lag_records: if self.projection.enabled { self.projection_lag() } else { 0 },
                ..self.projection.clone()
            },
            version: env!("CARGO_PKG_VERSION").to_string(),
            url: self.settings.url.clone(),
            identity: self.facts.genesis.as_ref().map(|genesis| genesis.identity.clone()),
            peer_protocol: PROTOCOL_MIN,
            peer_protocol_max: self.settings.protocol_max,
            log: LogWindow {
                base_index: raft.base.index,
                base_term: raft.base.term,
                last_index: raft.last,
                durable_index: raft.durable,
            },
            changing: raft.configuration.outgoing.is_some(),
            removed: self.membership.is_removed(),
            transfer: raft.transfer.clone(),
            disk_degraded: raft.disk_degraded,
            disk_full: self.disk_full,
            lacks_state: self.lacks_state(),
            in_memory: self.settings.in_memory,
            webhooks: self.webhooks.values().cloned().collect(),
            receiving: self.incoming.receiving(),
        }
    }

    /// The leader's projector knows better than the log how far it is.
    fn projection_lag(&self) -> u64 {
        if self.leading().is_some() { self.projection.lag_records } else { self.facts.projection_lag }
    }

    fn peer_status(&self, raft: &Status, id: &NodeId, now: Micros) -> PeerStatus {
        let me = &self.settings.id;
        let leads = raft.role == Role::Leader;
        let progress = raft.peers.get(id).filter(|_| leads);
        let matched = if id == me { Some(raft.durable) } else { progress.map(|progress| progress.matched) };
        let role = if id == me {
            role_name(raft.role)
        } else if raft.leader.as_ref() == Some(id) {
            RoleName::Leader
        } else if raft.configuration.is_voter(id) {
            RoleName::Follower
        } else {
            RoleName::Learner
        };
        let address = match self.address_of(&raft.configuration, id) {
            None if id == me => Some(self.settings.address.as_str()),
            address => address,
        };
        let contact = self.peer_contact.get(id).map(|at| now.since(*at));
        PeerStatus {
            id: id.clone(),
            address: address.unwrap_or_default().to_string(),
            role,
            joining: raft.configuration.joining.contains_key(id),
            replaces: raft.configuration.joining.get(id).cloned().flatten(),
            falls_behind: self.needs.falls_behind(id),
            matched: matched.filter(|_| leads || id == me),
            lag: matched.filter(|_| leads).map(|matched| raft.last.0.saturating_sub(matched.0)),
            contact_ms: if id == me {
                Some(0)
            } else {
                contact.map(|span| span.as_millis().try_into().unwrap_or(u64::MAX))
            },
            up: match self.health.level(&MemberId::from(id)) {
                _ if id == me => true,
                Some(Level::Up) => true,
                Some(Level::Down) => false,
                // One that has just joined was not pinged yet; what it says otherwise tells as much.
                Some(Level::Suspect) | None => {
                    contact.is_some_and(|silence| silence < self.settings.raft.election_min)
                }
            },
            url: if id == me { Some(self.settings.url.clone()) } else { self.peer_urls.get(id).cloned() },
        }
    }

    fn member_counts(&self) -> MemberCounts {
        let mut counts = MemberCounts::default();
        for member in self.members.iter() {
            counts.total += 1;
            counts.suspended += u64::from(member.status == MemberStatus::Suspended);
            let me = member.id.as_str() == self.settings.id.as_str();
            match self.health.level(&member.id) {
                _ if me => counts.up += 1,
                Some(Level::Up) => counts.up += 1,
                Some(Level::Suspect) => counts.suspect += 1,
                Some(Level::Down) => counts.down += 1,
                _ => {}
            }
        }
        counts
    }
}

fn role_name(role: Role) -> RoleName {
    match role {
        Role::Leader => RoleName::Leader,
        Role::Follower => RoleName::Follower,
        Role::PreCandidate | Role::Candidate => RoleName::Candidate,
        Role::Learner => RoleName::Learner,
    }
}
