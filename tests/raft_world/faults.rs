//! What clients ask for, and what goes wrong.

use super_node::raft::{Change, ElectionReason, Input, Raft};
use super_node::types::Index;

use super::{Happening, Read, World, name};

impl World {
    pub(super) fn crash(&mut self, node: usize) {
        self.seen.crashes += 1;
        let written = self.random.below(self.machines[node].queue.len() as u64 + 1) as usize;
        let machine = &mut self.machines[node];
        machine.raft = None;
        machine.reads.clear();
        machine.stopped_until = 0;
        // Some of what was not confirmed may have reached the disk all the same.
        for batch in machine.queue.drain(..).take(written) {
            machine.disk.record(&batch);
        }
        if self.random.percent(50) {
            for other in 0..self.machines.len() {
                self.silent(other, node, ElectionReason::ConnectionLost);
            }
        }
        let after = 10_000 + self.random.below(600_000);
        self.plan(after, Happening::Restart { node });
    }

    fn silent(&mut self, node: usize, of: usize, reason: ElectionReason) {
        self.plan(1, Happening::Asked { node, input: Input::PeerSilent { node: name(of), reason } });
    }

    /// Something is asked of a node that runs; a read must see from the moment at which it is asked.
    fn ask(&mut self, node: usize, input: Input) {
        if self.machines[node].raft.is_none() {
            return;
        }
        if let Input::Read { request, lease } = input {
            let least = self.book.last_key_value().map_or(Index(0), |(index, _)| *index);
            self.machines[node].reads.insert(request, Read { least, lease });
        }
        self.plan(1, Happening::Asked { node, input });
    }

    pub(super) fn asked(&mut self, node: usize, input: Input) {
        // The process that was asked may be gone.
        if let Input::Read { request, .. } = &input
            && !self.machines[node].reads.contains_key(request)
        {
            return;
        }
        self.step(node, input);
    }

    /// Whoever believes to lead; of several the one with the greatest term.
    pub fn leader(&self) -> Option<usize> {
        let terms = self.machines.iter().map(|machine| machine.raft.as_ref().and_then(Raft::leads));
        terms.enumerate().filter_map(|(node, term)| Some((term?, node))).max().map(|(_, node)| node)
    }

    pub(super) fn client(&mut self) {
        let anybody = self.random.below(self.machines.len() as u64) as usize;
        // Clients mostly find the leader.
        let node = self.leader().filter(|_| self.random.percent(70)).unwrap_or(anybody);
        self.requests += 1;
        let request = self.requests;
        match self.random.below(100) {
            0..=64 => {
                let command = vec![request as u8; self.random.below(120) as usize].into();
                self.ask(node, Input::Propose { request, command });
            }
            65..=86 => {
                let lease = self.random.percent(60);
                self.ask(node, Input::Read { request, lease });
            }
            87..=91 if self.faults && self.random.percent(40) => {
                let change = self.some_change();
                self.ask(node, Input::Change { request, change });
            }
            92 if self.faults && self.random.percent(30) => {
                let to = self.random.percent(50).then(|| name(anybody));
                self.ask(node, Input::Transfer { request, to });
            }
            93 if self.machines[anybody].raft.is_some() => {
                let machine = &mut self.machines[anybody];
                machine.applied_durably = machine.applied;
                let index = machine.applied.index;
                self.step(anybody, Input::Compact { index });
            }
            _ => {}
        }
        let after = 500 + self.random.below(self.pause_max);
        self.plan(after, Happening::Client);
    }

    fn some_change(&mut self) -> Change {
        let count = self.machines.len() as u64;
        let node = name(self.random.below(count) as usize);
        let address = format!("host-{node}:{}", self.random.below(9));
        match self.random.below(10) {
            0..=3 => {
                let promote = self.random.percent(80);
                let replaces =
                    (promote && self.random.percent(40)).then(|| name(self.random.below(count) as usize));
                Change::AddLearner { node, address, promote, replaces }
            }
            4 | 5 => Change::Promote { node },
            6 => Change::Demote { node },
            7 | 8 => Change::Remove { node },
            _ => Change::Readdress { node, address },
        }
    }

    pub(super) fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let count = self.machines.len() as u64;
        let anybody = self.random.below(count) as usize;
        let node = self.leader().filter(|_| self.random.percent(40)).unwrap_or(anybody);
        match self.random.below(11) {
            0..=2 if self.machines[node].raft.is_some() => self.crash(node),
            3 => {
                let other = self.random.below(count) as usize;
                self.cut.insert((node, other));
            }
            4 => (0..self.machines.len()).for_each(|other| {
                self.cut.extend([(node, other), (other, node)]);
            }),
            5 => {
                let of = self.random.below(count) as usize;
                self.silent(node, of, ElectionReason::PingsSilent);
            }
            6 => {
                let until = self.now + 200_000 + self.random.below(1_500_000);
                self.machines[node].disk_hangs_until = until;
            }
            7 => {
                let until = self.now + 50_000 + self.random.below(1_000_000);
                self.machines[node].stopped_until = until;
            }
            _ => self.cut.clear(),
        }
        let after = 20_000 + self.random.below(400_000);
        self.plan(after, Happening::Fault);
    }
}
