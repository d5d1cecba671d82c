//! A cluster that grows, shrinks, replaces its nodes and hands its leadership around, while some of them die.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::cluster::PATIENCE;
use crate::harness::{Plan, Torment};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_grows_to_five_and_shrinks_back() {
    let mut torment = Torment::begin(Plan::new("one_node_grows_to_five_and_shrinks_back", 12, 1)).await;
    while torment.goes_on() {
        while torment.members().len() < 5 {
            torment.join(None).await;
        }
        while torment.members().len() > 1 {
            let members = torment.members();
            let leaver = torment.dice.one(&members);
            torment.remove(leaver).await;
        }
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_replaced_one_after_the_other() {
    let mut torment = Torment::begin(Plan::new("nodes_are_replaced_one_after_the_other", 9, 3)).await;
    while torment.goes_on() {
        let members = torment.members();
        let leaver = torment.dice.one(&members);
        if torment.dice.percent(60) {
            torment.kill(&[leaver]);
        }
        torment.join(Some(leaver)).await;
        torment.pause(0, 300).await;
        torment.retire(leaver);
    }
    torment.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_around() {
    let plan = Plan::new("leadership_is_handed_around", 8, 3).with_leases(true);
    let mut torment = Torment::begin(plan).await;
    while torment.goes_on() {
        let leader = torment.leader().await;
        let to = (leader + 1 + torment.dice.below(2)) % 3;
        let name = torment.id(to);
        let words = ["leader", "transfer", "--to", &name];
        let mut asking = None;
        let harmed = match torment.dice.below(5) {
            // The chosen one cannot take it: the leader must go on.
            0 => {
                torment.freeze(to);
                Some(to)
            }
            // The old one is gone in the middle of it.
            1 => {
                asking = Some(torment.begin_command(&words));
                torment.pause(0, 50).await;
                torment.kill(&[leader]);
                Some(leader)
            }
            _ => None,
        };
        let _asking = asking.unwrap_or_else(|| torment.begin_command(&words));
        torment.burst(leader);
        torment.progress("leadership was to be handed over").await;
        torment.burst(leader);
        torment.pause(0, 300).await;
        if let Some(harmed) = harmed {
            torment.restore(harmed);
        }
    }
    torment.end().await;
}

impl Torment {
    /// Starts a command of the binary; what becomes of it shows in what the cluster does.
    fn begin_command(&mut self, arguments: &[&str]) -> tokio::process::Child {
        self.deed(arguments.join(" "));
        let mut command = tokio::process::Command::from(self.cluster.cli_command(arguments));
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.kill_on_drop(true).spawn().expect("the command runs")
    }

    /// A new node joins, in the place of another if one is given, while things go wrong.
    async fn join(&mut self, replaces: Option<usize>) {
        let awake = self.awake();
        let through = self.dice.one(&awake);
        let id = format!("n{}", self.cluster.nodes.len() + 1);
        let at = self.cluster.add_node(&id, through);
        let mut wanted: BTreeSet<String> = self.members().into_iter().map(|at| self.id(at)).collect();
        let address = format!("127.0.0.1:{}", self.cluster.nodes[at].peer_port);
        let mut words = vec!["member", "add", &id, &address, "--super-node"];
        let leaver = replaces.map(|leaver| self.id(leaver));
        if let Some(leaver) = &leaver {
            wanted.remove(leaver);
            words.extend(["--replaces", leaver]);
            self.cluster.nodes[at].replaces = Some(leaver.clone());
        }
        self.start(at);
        self.ask(at);
        // A node that is only added joins by its own word; one that replaces by that or by the operator's, whichever comes
        // first: they say the same.
        let words = replaces.map(|_| &words[..]);
        self.change(words, Some(at), replaces, &wanted).await;
    }

    /// A node is removed while things go wrong; afterwards it is stopped.
    async fn remove(&mut self, leaver: usize) {
        let id = self.id(leaver);
        let wanted = self.members().into_iter().filter(|at| *at != leaver).map(|at| self.id(at)).collect();
        self.change(Some(&["member", "remove", &id]), None, Some(leaver), &wanted).await;
        self.burst(leaver);
        self.pause(0, 200).await;
        self.retire(leaver);
    }

    /// Has a change made by a command, by a node that joins, or by both, harms somebody meanwhile, and asks again until
    /// the voters are as wanted.
    async fn change(
        &mut self,
        words: Option<&[&str]>,
        joins: Option<usize>,
        leaves: Option<usize>,
        wanted: &BTreeSet<String>,
    ) {
        let mut command = words.map(|words| self.begin_command(words));
        let harmed = if self.dice.percent(40) { Some(self.harm(leaves).await) } else { None };
        let begun = Instant::now();
        if let Some(harmed) = harmed {
            self.pause(0, 400).await;
            self.restore(harmed);
        }
        while self.voters().await != *wanted {
            assert!(begun.elapsed() < PATIENCE, "the voters did not become {wanted:?} within {PATIENCE:?}");
            // Whoever was told that the outcome is unknown, or was refused, looks and asks again.
            if let (Some(command), Some(words)) = (&mut command, words)
                && command.try_wait().expect("it can be waited for").is_some()
            {
                *command = self.begin_command(words);
            }
            if let Some(joins) = joins
                && self.cluster.has_ended(joins)
            {
                self.start(joins);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        self.progress("the voters changed").await;
    }

    /// Kills or freezes somebody, the leader as often as not, after a moment.
    async fn harm(&mut self, leaves: Option<usize>) -> usize {
        let leader = self.leader().await;
        self.pause(0, 100).await;
        // Somebody who is dead already and is to be replaced stays dead.
        let alive: Vec<usize> = self.awake().into_iter().filter(|at| Some(*at) != leaves).collect();
        let victim =
            if alive.contains(&leader) && self.dice.percent(50) { leader } else { self.dice.one(&alive) };
        if self.dice.percent(60) {
            self.kill(&[victim])
        } else {
            self.freeze(victim)
        }
        victim
    }
}
