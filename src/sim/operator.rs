//! The operator of a simulated cluster: adds, removes and replaces nodes, hands leadership over, one thing after the
//! other; asks again when something fails; and never takes so many machines away that a majority is gone for good.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ledger::query;
use crate::node::handle::Failure;
use crate::node::ports::StateStore;
use crate::node::requests::{AskId, Outcome, Want};
use crate::raft::{Change, ChangeError};
use crate::types::{Micros, NodeId};

use super::dice::Dice;
use super::host::{Death, Host};
use super::plan::{Act, Fault};
use super::world::{Answered, Due, World, address, name};

/// How often the operator looks after what is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the operator waits for an answer before it asks another node.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often something is tried that need not be.
const TRIES_MAX: u32 = 6;
/// Most machines beyond those that found the cluster.
pub const SPARES_MAX: u32 = 4;
/// The stream of a seed for the operator.
const OPERATOR_STREAM: u64 = 999;

/// Something to be done.
#[derive(Debug, Clone)]
struct Task {
    act: u32,
    want: Want,
    /// What follows when it is done.
    then: Option<Then>,
    /// The cluster cannot be whole again without it.
    must: bool,
    tries: u32,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    /// The machine, which has lost everything, joins as a new node.
    Rejoin(usize),
    /// The machine is switched off.
    SwitchOff(usize),
}

/// See the module's head.
pub struct Operator {
    dice: Dice,
    tasks: VecDeque<Task>,
    asked: Option<(AskId, Micros)>,
}

/// The index of a host, by its name.
fn host_of(world: &World, node: &NodeId) -> Option<usize> {
    world.hosts.iter().position(|host| &host.id == node)
}

/// Whether the voters of a configuration can decide with the machines that are not lost for good.
fn can_decide(world: &World, voters: impl Iterator<Item = NodeId>) -> bool {
    let lost = |node: &NodeId| host_of(world, node).is_none_or(|host| world.hosts[host].lost);
    let (mut all, mut left) = (0, 0);
    for voter in voters {
        all += 1;
        left += usize::from(!lost(&voter));
    }
    left > all / 2
}

/// Whether most of the voters have what a leader needs, with the machines in `without` out of account: a machine that is
/// not lost for good, and its state.
pub(super) fn can_lead<'v>(
    world: &World,
    voters: impl Iterator<Item = &'v NodeId>,
    without: &[NodeId],
) -> bool {
    let able = |node: &NodeId| {
        let host = host_of(world, node).map(|host| &world.hosts[host]);
        !without.contains(node) && host.is_some_and(|host| !host.lost && !host.state_lost)
    };
    let (mut all, mut left) = (0, 0);
    for voter in voters {
        all += 1;
        left += usize::from(able(voter));
    }
    left > all / 2
}

/// One of a list, by a number that a plan drew without knowing the list.
fn choose<T: Clone>(list: Vec<T>, pick: u32) -> Option<T> {
    let at = usize::try_from(pick).expect("small").checked_rem(list.len())?;
    list.get(at).cloned()
}

impl Operator {
    /// Begins to look after things.
    pub fn new(world: &mut World) -> Operator {
        world.schedule(LOOK_EVERY, Due::Operator);
        Operator { dice: Dice::stream(world.plan.seed, OPERATOR_STREAM), tasks: VecDeque::new(), asked: None }
    }

    /// An act of the plan is the operator's.
    pub fn begin(&mut self, world: &mut World, act: &Act) -> Result<(), String> {
        let configuration = world.members();
        let voters: Vec<NodeId> = configuration.voters.iter().cloned().collect();
        let want = match &act.fault {
            Fault::Grow => {
                let Some(node) = self.new_machine(world)? else { return Ok(()) };
                add(node, None)
            }
            Fault::Replace { pick, dead } => {
                let Some(voter) = choose(voters, *pick) else { return Ok(()) };
                let Some(node) = self.new_machine(world)? else { return Ok(()) };
                let dies = *dead && self.tasks.is_empty() && self.lose(world, &voter);
                let task = Task { must: dies, ..task(act, add(node, Some(voter))) };
                self.tasks.push_back(task);
                return Ok(());
            }
            Fault::Shrink { pick } => {
                let Some(voter) = choose(voters.clone(), *pick).filter(|_| voters.len() > 1) else {
                    return Ok(());
                };
                let switched_off = act.number.is_multiple_of(2).then(|| host_of(world, &voter)).flatten();
                let task = Task {
                    then: switched_off.map(Then::SwitchOff),
                    ..task(act, Want::Change(Change::Remove { node: voter }))
                };
                self.tasks.push_back(task);
                return Ok(());
            }
            Fault::Demote { pick } => match choose(voters.clone(), *pick).filter(|_| voters.len() > 1) {
                Some(node) => Want::Change(Change::Demote { node }),
                None => return Ok(()),
            },
            Fault::Promote { pick } => match choose(configuration.learners.into_iter().collect(), *pick) {
                Some(node) => Want::Change(Change::Promote { node }),
                None => return Ok(()),
            },
            Fault::Transfer { pick } => Want::Transfer(pick.and_then(|pick| choose(voters.clone(), pick))),
            Fault::Readdress { pick } => {
                let nodes = configuration.all_nodes().into_iter().collect();
                let Some(host) = choose(nodes, *pick).and_then(|node| host_of(world, &node)) else {
                    return Ok(());
                };
                if self.move_house(world, host, act.number) {
                    world.evidence.felt(act.number);
                }
                return Ok(());
            }
            Fault::Wipe { node } => {
                let host = (usize::try_from(*node).expect("small") - 1) % world.hosts.len();
                if self.wipe(world, act, host) {
                    world.evidence.felt(act.number);
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.tasks.push_back(task(act, want));
        Ok(())
    }

    /// A machine that joins; `None`: there are enough.
    fn new_machine(&mut self, world: &mut World) -> Result<Option<NodeId>, String> {
        let most = usize::try_from(world.plan.nodes + SPARES_MAX).expect("small");
        if world.hosts.len() >= most {
            return Ok(None);
        }
        let host = world.add_host(false);
        world.start(host)?;
        Ok(Some(name(host)))
    }

    /// Takes a voter's machine away for good, if the others can do without it.
    fn lose(&mut self, world: &mut World, voter: &NodeId) -> bool {
        let Some(host) = host_of(world, voter).filter(|host| !world.hosts[*host].lost) else {
            return false;
        };
        world.hosts[host].lost = true;
        if !can_lead(world, world.members().voters.iter(), &[]) {
            world.hosts[host].lost = false;
            return false;
        }
        world.hosts[host].retired = true;
        let entropy = self.dice.word();
        world.die(host, Death::PowerCut, entropy);
        true
    }

    /// A machine loses everything. Its name leaves the cluster and joins it again.
    fn wipe(&mut self, world: &mut World, act: &Act, host: usize) -> bool {
        let node = name(host);
        let configuration = world.members();
        let alone = configuration.voters.len() < 2;
        if alone || !self.tasks.is_empty() || !configuration.contains(&node) || !self.lose(world, &node) {
            return false;
        }
        // A machine that founded the cluster alone would found another one.
        let alone = world.plan.nodes == 1 && host == 0;
        let unaware = act.number.is_multiple_of(2) && !alone && self.is_bound_everywhere(world, &node);
        let end = if unaware { ", and is started as if nothing had happened" } else { "" };
        world.note(|| format!("{node} has lost everything{end}"));
        world.hosts[host].wipe();
        world.watch.wiped(&node);
        // As it was started for the first time.
        let founder = host < usize::try_from(world.plan.nodes).expect("small");
        world.hosts[host].settings = world.settings(host, founder);
        if unaware {
            world.hosts[host].retired = false;
            world.start_later(host);
        }
        let then = Some(Then::Rejoin(host));
        let want = Want::Change(Change::Remove { node });
        self.tasks.push_back(Task { then, must: true, ..task(act, want) });
        true
    }

    /// Whether every other node knows, whatever crashes, which data directory speaks for a node.
    fn is_bound_everywhere(&self, world: &World, node: &NodeId) -> bool {
        let Some(bound) = world.bound.get(node) else { return false };
        let knows = |host: &Host| {
            // A node that lost its vote is bound no more.
            let known = host.state.view().and_then(|view| query::incarnations(view.as_ref()));
            host.flushed >= *bound && known.is_ok_and(|known| known.contains_key(node))
        };
        world.hosts.iter().filter(|host| host.id != *node && !host.lost).all(knows)
    }

    /// A node is started again at another address, and says so itself.
    fn move_house(&mut self, world: &mut World, host: usize, act: u32) -> bool {
        if world.hosts[host].alive.is_none() {
            return false;
        }
        world.die(host, Death::Killed, 0);
        world.hosts[host].settings.address = format!("{}-{act}", address(host));
        world.start_later(host);
        true
    }

    /// Looks after what is to be done.
    pub fn look(&mut self, world: &mut World, healed: bool) {
        world.schedule(LOOK_EVERY, Due::Operator);
        if let Some((_, since)) = self.asked {
            if world.now.since(since) < PATIENCE {
                return;
            }
            self.asked = None;
            self.again("no answer", world);
        }
        if healed {
            self.tasks.retain(|task| task.must);
            if self.tasks.is_empty() {
                self.tidy(world);
            }
        }
        let Some(next) = self.tasks.front() else { return };
        if !is_safe(world, next) {
            let act = next.act;
            world.note(|| format!("#{act} is given up: too few would be left"));
            self.tasks.pop_front();
            return;
        }
        // Mostly it asks a member; a removed or new node has to know what to say, too.
        let members = world.members();
        let mut asked = world.living();
        if self.dice.chance(900_000) {
            asked.retain(|host| members.contains(&name(*host)));
        }
        if asked.is_empty() {
            return;
        }
        let host = *self.dice.pick(&asked);
        let (act, want, id) = (next.act, next.want.clone(), world.hosts[host].id.clone());
        world.note(|| format!("#{act} the operator asks {id}: {want:?}"));
        let ask = world.ask(host, want);
        self.asked = Some((ask, world.now));
    }

    /// After the last fault: whoever is gone for good leaves the configuration.
    fn tidy(&mut self, world: &World) {
        let configuration = world.members();
        let gone = |node: &NodeId| host_of(world, node).is_none_or(|host| world.hosts[host].lost);
        if let Some(node) = configuration.all_nodes().into_iter().find(gone) {
            let want = Want::Change(Change::Remove { node });
            self.tasks.push_back(Task { act: 0, want, then: None, must: true, tries: 0 });
        }
    }

    /// Takes an answer in, if it is to the operator.
    pub fn take_answer(&mut self, world: &mut World, answered: &Answered) -> Result<(), String> {
        if self.asked.is_none_or(|(ask, _)| ask != answered.ask) {
            return Ok(());
        }
        self.asked = None;
        let failure = match &answered.outcome {
            Outcome::Change(Ok(_)) | Outcome::Transfer(Ok(_)) => None,
            Outcome::Change(Err(failure)) | Outcome::Transfer(Err(failure)) => Some(failure.clone()),
            other => return Err(format!("unexpected error: the operator is answered {other:?}")),
        };
        let Some(task) = self.tasks.front().cloned() else { return Ok(()) };
        let done = match &failure {
            None => true,
            // An earlier try, or somebody else, has done it.
            Some(Failure::Change(error)) => is_done_already(&task.want, *error),
            Some(_) => false,
        };
        if let Some(Failure::Change(error)) = &failure
            && !done
            && !may_succeed_later(*error)
        {
            world.note(|| format!("#{} cannot be: {error}", task.act));
            self.tasks.pop_front();
            return Ok(());
        }
        if !done {
            let why = failure.map_or(String::new(), |failure| failure.to_string());
            self.again(&why, world);
            return Ok(());
        }
        world.note(|| format!("#{} is done", task.act));
        world.evidence.felt(task.act);
        self.tasks.pop_front();
        match task.then {
            None => Ok(()),
            Some(Then::SwitchOff(host)) => {
                world.die(host, Death::Killed, 0);
                world.hosts[host].retired = true;
                world.hosts[host].lost = true;
                Ok(())
            }
            Some(Then::Rejoin(host)) => self.rejoin(world, task.act, host),
        }
    }

    fn rejoin(&mut self, world: &mut World, act: u32, host: usize) -> Result<(), String> {
        let entropy = self.dice.word();
        world.die(host, Death::PowerCut, entropy);
        world.hosts[host].wipe();
        world.hosts[host].settings = world.settings(host, false);
        world.hosts[host].retired = false;
        world.hosts[host].lost = false;
        world.watch.wiped(&name(host));
        let want = add(name(host), None);
        self.tasks.push_front(Task { act, want, then: None, must: true, tries: 0 });
        world.start(host)
    }

    /// The first task is tried again, unless it need not be and was tried often.
    fn again(&mut self, why: &str, world: &mut World) {
        let Some(task) = self.tasks.front_mut() else { return };
        task.tries += 1;
        let (act, given_up) = (task.act, !task.must && task.tries >= TRIES_MAX);
        let end = if given_up { ", and is given up" } else { "" };
        world.note(|| format!("#{act} is not done: {why}{end}"));
        if given_up {
            self.tasks.pop_front();
        }
    }

    /// Whether nothing is left to be done.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }
}

fn is_done_already(want: &Want, error: ChangeError) -> bool {
    match want {
        Want::Change(Change::AddLearner { .. }) => error == ChangeError::AlreadyMember,
        Want::Change(Change::Remove { .. }) => error == ChangeError::NotMember,
        _ => false,
    }
}

fn may_succeed_later(error: ChangeError) -> bool {
    matches!(error, ChangeError::NotCaughtUp | ChangeError::QuorumOutOfReach)
}

fn task(act: &Act, want: Want) -> Task {
    Task { act: act.number, want, then: None, must: false, tries: 0 }
}

fn add(node: NodeId, replaces: Option<NodeId>) -> Want {
    let address = format!("sim:{node}");
    Want::Change(Change::AddLearner { node, address, promote: true, replaces })
}

/// Whether enough voters would be left that are not lost for good; and, unless it must be, that can lead.
fn is_safe(world: &World, task: &Task) -> bool {
    let (Want::Change(Change::Remove { node }) | Want::Change(Change::Demote { node })) = &task.want else {
        return true;
    };
    let mut voters = world.members().voters;
    voters.remove(node);
    can_decide(world, voters.iter().cloned()) && (task.must || can_lead(world, voters.iter(), &[]))
}
