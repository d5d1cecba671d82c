//! The members as a node needs to see them: whom to ping and where, which of them are super-nodes, how many are suspended.
//!
//! A node reads all of them once, when it starts or its state is replaced by a snapshot. From then on each applied batch
//! brings only those that it changed ([`News`]): a fleet of a hundred thousand must not be read again because one more
//! joined.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::health::Target;
use crate::ledger::agents;
use crate::ledger::apply::Happening;
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query;
use crate::ledger::records::{Member, MemberKind, MemberStatus};
use crate::types::{AgentKey, MemberId};

/// A member that has not left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub kind: MemberKind,
    /// Where it answers pings: `host:port`.
    pub address: Arc<str>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// The key of an agent. `None`: it was added and has not come yet, and nobody could prove to be it.
    pub key: Option<AgentKey>,
}

impl Seen {
    fn new(member: &Member, key: Option<AgentKey>) -> Seen {
        let suspended = member.status == MemberStatus::Suspended;
        Seen { kind: member.kind, address: member.address.as_str().into(), suspended, key }
    }

    /// How it is pinged; `None`: not at all.
    fn target(&self, id: &MemberId) -> Option<Target> {
        match self.kind {
            MemberKind::Agent => {
                self.key.map(|key| Target::Agent { address: Arc::clone(&self.address), key })
            }
            MemberKind::Node => id.as_str().parse().ok().map(Target::Node),
        }
    }
}

/// What the state says of members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum News {
    /// Nothing has changed.
    #[default]
    None,
    /// These may have changed; `None`: it is no member, or not any more.
    Some(BTreeMap<MemberId, Option<Seen>>),
    /// These are all.
    All(BTreeMap<MemberId, Seen>),
}

/// Of which members a node wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concerned {
    /// Of these.
    Some(BTreeSet<MemberId>),
    /// Of all.
    All,
}

impl Concerned {
    /// Whose address, kind, key or standing may have changed. (Balances change with every settlement; the node does not need
    /// them.)
    pub fn by(happenings: &[Happening]) -> Concerned {
        let mut members = BTreeSet::new();
        for happening in happenings {
            match happening {
                Happening::GenesisDone { .. } | Happening::ClusterRecovered(_) => return Concerned::All,
                Happening::MemberJoined { member, .. }
                | Happening::MemberMoved { member, .. }
                | Happening::MemberLeft { member }
                | Happening::MemberSuspended { member, .. }
                | Happening::MemberProbation { member }
                | Happening::MemberReinstated { member }
                | Happening::AgentAdmitted { member, .. } => {
                    members.insert(member.clone());
                }
                _ => {}
            }
        }
        Concerned::Some(members)
    }
}

impl News {
    /// Reads what the state says of the members concerned.
    pub fn read(reader: &dyn Reader, concerned: &Concerned) -> Result<News, KeyspaceError> {
        match concerned {
            Concerned::Some(ids) if ids.is_empty() => Ok(News::None),
            Concerned::Some(ids) => {
                let mut found: BTreeMap<MemberId, Option<Seen>> =
                    ids.iter().map(|id| (id.clone(), None)).collect();
                for member in query::some_members(reader, ids)? {
                    if member.status != MemberStatus::Left {
                        let key = agents::key_of(reader, &member.id)?;
                        found.insert(member.id.clone(), Some(Seen::new(&member, key)));
                    }
                }
                Ok(News::Some(found))
            }
            Concerned::All => {
                let mut keys = agents::keys_in_force(reader)?;
                let mut members = query::members(reader, None, usize::MAX)?;
                members.retain(|member| member.status != MemberStatus::Left);
                let seen = members.iter().map(|member| {
                    let key = keys.remove(&member.id);
                    (member.id.clone(), Seen::new(member, key))
                });
                Ok(News::All(seen.collect()))
            }
        }
    }
}

/// What has changed about whom to ping.
#[derive(Debug, PartialEq, Eq)]
pub enum Retarget {
    /// These; `None`: it is pinged no more.
    Some(Vec<(MemberId, Option<Target>)>),
    /// Everything.
    All,
}

/// See the module's head. Invariants: `nodes` names exactly the super-nodes among `members`; `suspended` counts the
/// suspended ones.
#[derive(Debug, Default)]
pub struct Fleet {
    members: BTreeMap<MemberId, Seen>,
    nodes: BTreeSet<MemberId>,
    suspended: u64,
}

impl Fleet {
    /// Takes news in; says what has changed about whom to ping, `None` if there were no news at all.
    pub fn take(&mut self, news: News) -> Option<Retarget> {
        match news {
            News::None => None,
            News::Some(changed) => {
                let mut retarget = Vec::new();
                for (id, seen) in changed {
                    let target = seen.as_ref().and_then(|seen| seen.target(&id));
                    let before = self.set(&id, seen).and_then(|before| before.target(&id));
                    if target != before {
                        retarget.push((id, target));
                    }
                }
                Some(Retarget::Some(retarget))
            }
            News::All(members) => {
                *self = Fleet::default();
                for (id, seen) in members {
                    self.set(&id, Some(seen));
                }
                Some(Retarget::All)
            }
        }
    }

    /// Sets or removes one; gives back what was known before.
    fn set(&mut self, id: &MemberId, seen: Option<Seen>) -> Option<Seen> {
        if seen.as_ref().is_some_and(|seen| seen.kind == MemberKind::Node) {
            self.nodes.insert(id.clone());
        } else {
            self.nodes.remove(id);
        }
        self.suspended += u64::from(seen.as_ref().is_some_and(|seen| seen.suspended));
        let before = match seen {
            Some(seen) => self.members.insert(id.clone(), seen),
            None => self.members.remove(id),
        };
        self.suspended -= u64::from(before.as_ref().is_some_and(|before| before.suspended));
        before
    }

    /// One member that has not left.
    pub fn get(&self, id: &MemberId) -> Option<&Seen> {
        self.members.get(id)
    }

    /// The super-nodes among them, ordered by name.
    pub fn nodes(&self) -> impl Iterator<Item = &MemberId> {
        self.nodes.iter()
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.members.len() as u64
    }

    /// How many of them are suspended.
    pub fn suspended(&self) -> u64 {
        self.suspended
    }

    /// Whom to ping, and how.
    pub fn targets(&self) -> impl Iterator<Item = (MemberId, Target)> {
        self.members.iter().filter_map(|(id, seen)| Some((id.clone(), seen.target(id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::apply::apply;
    use crate::ledger::command::{Command, Envelope, Request};
    use crate::ledger::keyspace::MemoryKeyspace;
    use crate::ledger::policy::Policy;
    use crate::types::{Index, NodeId, Term, UnixMillis};

    fn id(name: &str) -> MemberId {
        name.parse().expect("a valid name")
    }

    fn agent(address: &str, key: Option<u8>, suspended: bool) -> Seen {
        let key = key.map(|byte| AgentKey([byte; 32]));
        Seen { kind: MemberKind::Agent, address: address.into(), suspended, key }
    }

    fn node(address: &str) -> Seen {
        Seen { kind: MemberKind::Node, ..agent(address, None, false) }
    }

    fn target(address: &str, key: u8) -> Target {
        Target::Agent { address: address.into(), key: AgentKey([key; 32]) }
    }

    /// Applies commands, and gives what happened.
    fn run(space: &mut MemoryKeyspace, first: u64, commands: Vec<Command>) -> Vec<Happening> {
        let leader: NodeId = "n1".parse().expect("a valid name");
        let applied = (first..).zip(commands).flat_map(|(index, command)| {
            let request = Request::new(command);
            let envelope = Envelope { at: UnixMillis(1), term: Term(1), leader: leader.clone(), request };
            apply(space, Index(index), Term(1), &envelope).expect("memory does not fail").happenings
        });
        applied.collect()
    }

    fn enrol(number: u64) -> Command {
        Command::AgentEnrol {
            member: id(&format!("w{number:04}")),
            address: format!("w:{number}"),
            key: AgentKey([7; 32]),
            approved: true,
        }
    }

    #[test]
    fn one_more_of_many_has_one_read_and_a_new_state_all_of_them() {
        let mut space = MemoryKeyspace::default();
        let genesis = Command::Genesis {
            cluster: "c".to_string(),
            identity: "0".repeat(32),
            policy: Policy::default(),
            nodes: vec![("n1".parse().expect("a valid name"), "n1:1".to_string())],
        };
        let mut commands = vec![genesis];
        commands.extend((1..=500).map(enrol));
        let happenings = run(&mut space, 1, commands);
        assert_eq!(Concerned::by(&happenings), Concerned::All, "the genesis is among them");
        let News::All(all) = News::read(&space, &Concerned::All).expect("readable") else {
            panic!("all were asked for");
        };
        assert_eq!(all.len(), 501);
        assert_eq!(all[&id("w0007")], agent("w:7", Some(7), false));

        let leave = Command::MemberLeave { member: id("w0007") };
        let happenings = run(&mut space, 1_000, vec![enrol(501), leave]);
        let concerned = Concerned::by(&happenings);
        assert_eq!(concerned, Concerned::Some([id("w0007"), id("w0501")].into()));
        let changed = [(id("w0007"), None), (id("w0501"), Some(agent("w:501", Some(7), false)))];
        assert_eq!(News::read(&space, &concerned), Ok(News::Some(changed.into())));
        let nobody = Concerned::by(&run(&mut space, 2_000, vec![enrol(501)]));
        assert_eq!(News::read(&space, &nobody), Ok(News::None), "the same again changes nothing");
    }

    #[test]
    fn news_change_what_they_are_about_and_nothing_else() {
        let mut fleet = Fleet::default();
        let all = [
            (id("a"), agent("a:1", Some(1), false)),
            (id("b"), agent("b:1", None, true)),
            (id("n1"), node("n:1")),
        ];
        assert_eq!(fleet.take(News::All(all.into())), Some(Retarget::All));
        assert_eq!((fleet.total(), fleet.suspended()), (3, 1));
        let targets: Vec<_> = fleet.targets().map(|(id, _)| id).collect();
        assert_eq!(targets, [id("a"), id("n1")], "b has no key yet");

        for (claim, who, seen, expected, counts) in [
            ("it comes", "b", Some(agent("b:1", Some(2), true)), Some(Some(target("b:1", 2))), (3, 1)),
            ("it moves", "b", Some(agent("b:2", Some(2), true)), Some(Some(target("b:2", 2))), (3, 1)),
            ("its standing concerns no ping", "b", Some(agent("b:2", Some(2), false)), None, (3, 0)),
            ("and again", "a", Some(agent("a:1", Some(1), true)), None, (3, 1)),
            ("it leaves", "a", None, Some(None), (2, 0)),
            ("it was never here", "c", None, None, (2, 0)),
            ("a super-node leaves", "n1", None, Some(None), (1, 0)),
        ] {
            let news = News::Some([(id(who), seen)].into());
            let changed = expected.map(|target| (id(who), target)).into_iter().collect();
            assert_eq!(fleet.take(news), Some(Retarget::Some(changed)), "{claim}");
            assert_eq!((fleet.total(), fleet.suspended()), counts, "{claim}");
        }
        assert_eq!(fleet.nodes().count(), 0);
        assert_eq!(fleet.take(News::None), None);
    }
}
