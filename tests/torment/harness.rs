//! One torment: a cluster under load, what is done to it, and the judgement at the end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::cluster::{Cluster, PATIENCE, Setup, all_items};
use crate::dice::Dice;
use crate::field::Field;
use crate::load::{Load, is_acknowledged};
use crate::oracle::{Action, Content, Micros, Operation, Seen, judge, judge_content};

/// How long each torment lasts, in seconds, if not as long as it says itself.
const SECONDS: &str = "TORMENT_SECONDS";
/// The seed of its faults, if not a new one.
const SEED: &str = "TORMENT_SEED";
const ELECTION: &str = "SUPER_NODE_RAFT__ELECTION";
const LATE_ABDICATION: &str = "300ms..2s";
/// With fewer answers than this, of writes and of reads, a run shows nothing.
const ANSWERS_MIN: usize = 30;
/// Writes that must be acknowledged to call it progress.
const PROGRESS: usize = 5;

/// One at a time, also under `cargo test`: a cluster needs the machine for itself.
static ALONE: Mutex<()> = Mutex::const_new(());

/// A run; see the module's head.
pub struct Torment {
    // Fields are dropped in this order: the processes, then their network.
    pub cluster: Cluster,
    pub field: Option<Field>,
    pub load: Load,
    pub dice: Dice,
    name: &'static str,
    seed: u64,
    span: Duration,
    begun: Instant,
    frozen: BTreeSet<usize>,
    /// Those that were removed from the cluster and killed.
    retired: BTreeSet<usize>,
    leases: bool,
    /// What was done, and when.
    deeds: Vec<(Micros, String)>,
    http: reqwest::Client,
    _alone: MutexGuard<'static, ()>,
}

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: a whole number is needed")))
}

/// A network for so many nodes, or a clear word that this test shows nothing here.
pub fn field(nodes: usize) -> Option<Field> {
    match Field::lay(nodes) {
        Ok(field) => Some(field),
        Err(why) => {
            println!("SKIPPED, nothing was tested: no network namespaces on this machine: {why}");
            None
        }
    }
}

/// What a torment needs.
pub struct Plan {
    /// The name of the test, for the command that repeats it.
    pub name: &'static str,
    /// How long it lasts unless the environment says otherwise.
    pub seconds: u64,
    pub setup: Setup,
    pub field: Option<Field>,
    /// Whether half of the reads may be answered from leases; `None`: the dice say.
    pub leases: Option<bool>,
}

impl Plan {
    pub fn new(name: &'static str, seconds: u64, nodes: usize) -> Plan {
        Plan { name, seconds, setup: Setup::nodes(nodes), field: None, leases: None }
    }

    /// Elections begin early, but a leader gives up late: a leader that is cut off or frozen has a rival for long, and
    /// only what it must do for each read keeps it from serving what is stale.
    pub fn with_late_abdication(mut self) -> Plan {
        self.setup.set(ELECTION, LATE_ABDICATION);
        self
    }

    pub fn with_leases(mut self, leases: bool) -> Plan {
        self.leases = Some(leases);
        self
    }

    pub fn on(mut self, field: Field) -> Plan {
        self.setup.places = field.places();
        self.setup.set("SUPER_NODE_INSECURE", "true");
        self.field = Some(field);
        self
    }
}

impl Torment {
    /// Starts the cluster and its clients.
    pub async fn begin(plan: Plan) -> Torment {
        let alone = ALONE.lock().await;
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let fresh = u64::from(clock.subsec_nanos()) ^ (u64::from(std::process::id()) << 32);
        let seed = number(SEED).unwrap_or(fresh);
        let mut dice = Dice(seed);
        let Plan { name, seconds, mut setup, field, leases } = plan;
        // Few entries are kept in some runs, so that whoever is away for a while needs the whole state.
        setup.set("SUPER_NODE_RAFT__SNAPSHOT_ENTRIES", dice.one(&["100", "1000", "100000"]));
        if dice.percent(50) && !setup.environment.iter().any(|(name, _)| name == ELECTION) {
            setup.set(ELECTION, LATE_ABDICATION);
        }
        let by_dice = dice.percent(50);
        let leases = leases.unwrap_or(by_dice);
        setup.set("SUPER_NODE_RAFT__LEASE", &leases.to_string());
        let cluster = Cluster::start(&setup);
        cluster.leader().await;
        let load = Load::begin(leases);
        for node in &cluster.nodes {
            load.ask(&node.id, &node.url(), dice.split());
        }
        let http = super_node::network::tls::http(None)
            .expect("public authorities")
            .no_proxy()
            .timeout(Duration::from_millis(500))
            .build();
        let torment = Torment {
            cluster,
            field,
            load,
            dice,
            name,
            seed,
            span: Duration::from_secs(number(SECONDS).unwrap_or(seconds)),
            begun: Instant::now(),
            frozen: BTreeSet::new(),
            retired: BTreeSet::new(),
            leases,
            deeds: Vec::new(),
            http: http.expect("an HTTP client"),
            _alone: alone,
        };
        torment.progress("the beginning").await;
        torment
    }

    /// Whether there is time left; at least one thing is done.
    pub fn goes_on(&self) -> bool {
        self.begun.elapsed() < self.span || self.deeds.is_empty()
    }

    pub fn id(&self, at: usize) -> String {
        self.cluster.nodes[at].id.clone()
    }

    /// Notes what is done to whom.
    pub fn deed(&mut self, what: String) {
        self.deeds.push((self.load.now(), what));
    }

    /// Lets a random time pass.
    pub async fn pause(&mut self, least_ms: usize, most_ms: usize) {
        let pause = self.dice.between(least_ms, most_ms);
        tokio::time::sleep(pause).await;
    }

    /// The node that leads: of those that can be asked and say so, the one of the highest term.
    pub async fn leader(&self) -> usize {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(leader) = self.leader_now().await {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        panic!("nobody led within {PATIENCE:?}");
    }

    /// The same, if there is one just now.
    pub async fn leader_now(&self) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for at in self.awake() {
            let Some(status) = self.status(at).await else { continue };
            if status["role"] == json!("leader") {
                best = best.max(status["term"].as_u64().map(|term| (term, at)));
            }
        }
        best.map(|(_, at)| at)
    }

    /// Somebody, who leads as often as not.
    pub async fn somebody(&mut self) -> usize {
        let members = self.members();
        let anybody = self.dice.one(&members);
        if self.dice.percent(50) { self.leader_now().await.unwrap_or(anybody) } else { anybody }
    }

    async fn status(&self, at: usize) -> Option<Value> {
        let url = format!("{}/v1/status", self.cluster.nodes[at].url());
        self.http.get(url).send().await.ok()?.json().await.ok()
    }

    /// Waits until a node says that it serves.
    pub async fn ready(&self, at: usize) {
        let url = format!("{}/readyz", self.cluster.nodes[at].url());
        let ask =
            async || self.http.get(&url).send().await.ok().filter(|answer| answer.status().is_success());
        self.cluster.wait_for("the node is ready", ask).await;
    }

    /// The nodes that were not retired.
    pub fn members(&self) -> Vec<usize> {
        (0..self.cluster.nodes.len()).filter(|at| !self.retired.contains(at)).collect()
    }

    /// A node that left the cluster is not needed any more.
    pub fn retire(&mut self, at: usize) {
        self.load.leave(&self.id(at));
        if self.cluster.nodes[at].is_running() {
            self.kill(&[at]);
        }
        self.retired.insert(at);
    }

    /// A new node's clients begin.
    pub fn ask(&mut self, at: usize) {
        let node = &self.cluster.nodes[at];
        self.load.ask(&node.id, &node.url(), self.dice.split());
    }

    /// The voters of the configuration in force, as whoever leads sees them.
    pub async fn voters(&self) -> BTreeSet<String> {
        let leader = self.leader().await;
        let status = self.status(leader).await.unwrap_or_default();
        let voters = status["voters"].as_array().into_iter().flatten();
        voters.filter_map(|id| id.as_str().map(str::to_string)).collect()
    }

    /// Undoes what was done to one node.
    pub fn restore(&mut self, at: usize) {
        if self.frozen.contains(&at) {
            self.thaw(at);
        } else if !self.cluster.nodes[at].is_running() {
            self.start(at);
        }
    }

    /// The nodes that run and are not frozen.
    pub fn awake(&self) -> Vec<usize> {
        let all = self.members().into_iter();
        all.filter(|at| self.cluster.nodes[*at].is_running() && !self.frozen.contains(at)).collect()
    }

    /// kill -9, all at once.
    pub fn kill(&mut self, all: &[usize]) {
        let names: Vec<String> = all.iter().map(|at| self.id(*at)).collect();
        self.deed(format!("kill -9 {}", names.join(" ")));
        self.cluster.kill_all(all);
        self.frozen.retain(|at| !all.contains(at));
    }

    pub fn start(&mut self, at: usize) {
        self.deed(format!("start {}", self.id(at)));
        self.cluster.start_node(at);
    }

    pub fn freeze(&mut self, at: usize) {
        self.deed(format!("freeze {}", self.id(at)));
        self.cluster.signal(at, "STOP");
        self.frozen.insert(at);
    }

    pub fn thaw(&mut self, at: usize) {
        self.deed(format!("thaw {}", self.id(at)));
        self.cluster.signal(at, "CONT");
        self.frozen.remove(&at);
    }

    /// Many reads at once through one node.
    pub fn burst(&self, at: usize) {
        let node = &self.cluster.nodes[at];
        self.load.burst(&node.id, &node.url(), 32);
    }

    /// Waits until writes are acknowledged that were asked for from now on: whatever was done, a majority can talk.
    pub async fn progress(&self, since: &str) {
        let moment = self.load.now();
        let begun = Instant::now();
        while self.load.acknowledged_since(moment) < PROGRESS {
            assert!(begun.elapsed() < PATIENCE, "since {since}, no progress within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Undoes everything, and waits until everybody serves.
    async fn mend(&mut self) {
        if let Some(field) = &mut self.field {
            field.heal();
        }
        for at in self.members() {
            self.restore(at);
        }
        self.cluster.leader().await;
        self.progress("everything was mended").await;
    }

    /// Mends, ends the load and judges.
    pub async fn end(mut self) {
        let until = self.load.now();
        self.mend().await;
        let served = self.load.now();
        let operations = self.load.end().await;
        if let Err(why) = judge(&operations) {
            panic!("{why}");
        }
        let contents = self.contents().await;
        for (at, content) in self.members().into_iter().zip(&contents) {
            if let Err(why) = judge_content(&operations, &self.id(at), content) {
                panic!("{why}");
            }
        }
        self.books().await;
        self.report(&operations, until, served - until);
    }

    /// What every node holds, once that is the same: writes that nobody waits for any more may still arrive.
    async fn contents(&self) -> Vec<Content> {
        let begun = Instant::now();
        loop {
            let mut contents = Vec::new();
            for at in self.members() {
                contents.push(self.content(at).await);
            }
            if contents.windows(2).all(|pair| pair[0] == pair[1]) {
                return contents;
            }
            if begun.elapsed() > PATIENCE {
                let differ = |pair: &[Content]| {
                    pair[0]
                        .iter()
                        .find(|(key, held)| pair[1].get(*key) != Some(held))
                        .map(|row| format!("{row:?}"))
                };
                let differences: Vec<_> = contents.windows(2).map(differ).collect();
                panic!("nodes hold different things {PATIENCE:?} after the last write: {differences:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn content(&self, at: usize) -> Content {
        let items = all_items(&self.cluster, at, "/v1/kv?level=stale").await;
        let row = |item: &Value| {
            let key = item["key"].as_str().expect("a key").to_string();
            let value = item["value"].as_u64().expect("only the load writes, and it writes numbers");
            (key, Seen { value, revision: item["revision"].as_u64().expect("a revision") })
        };
        items.iter().map(row).collect()
    }

    /// Every interval once, the same movements everywhere, and each chain whole.
    async fn books(&self) {
        let first = self.members()[0];
        let settled = async || {
            let movements = all_items(&self.cluster, first, "/v1/rewards").await;
            (!movements.is_empty()).then_some(movements)
        };
        let reference = self.cluster.wait_for("something is paid", settled).await;
        for at in self.members() {
            let ids: Vec<u64> = all_items(&self.cluster, at, "/v1/intervals")
                .await
                .iter()
                .filter_map(|i| i["id"].as_u64())
                .collect();
            assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "contiguous, each once");
            let movements = all_items(&self.cluster, at, "/v1/rewards").await;
            let common = reference.len().min(movements.len());
            assert_eq!(reference[..common], movements[..common], "the movements of {}", self.id(at));
            self.cluster.cli_json(&["--endpoints", &self.cluster.nodes[at].url(), "ledger", "verify"]);
        }
    }

    fn report(&self, operations: &[Operation], until: Micros, mending: Micros) {
        let mut ends: Vec<Micros> =
            operations.iter().filter(|o| is_acknowledged(o)).map(|o| o.returned).collect();
        ends.sort_unstable();
        let (writes, reads): (Vec<_>, Vec<_>) =
            operations.iter().partition(|operation| matches!(operation.action, Action::Write { .. }));
        let gap = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        println!(
            "{}: {} things done in {:.1} s (seed {}, leases {}); {} of {} writes acknowledged, {} reads answered, {} requests \
             failed; longest time without an acknowledged write {} ms; all served {} ms after the mending, judged in {} ms; \
             nothing lost, nothing stale",
            self.name,
            self.deeds.len(),
            seconds(until),
            self.seed,
            if self.leases { "on" } else { "off" },
            ends.len(),
            writes.len(),
            reads.len(),
            self.load.failed(),
            gap / 1000,
            mending / 1000,
            (self.load.now() - until - mending) / 1000,
        );
        assert!(ends.len() >= ANSWERS_MIN, "{} writes were acknowledged: the run shows nothing", ends.len());
        assert!(reads.len() >= ANSWERS_MIN, "{} reads were answered: the run shows nothing", reads.len());
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}

impl Drop for Torment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what was done:");
            for (at, what) in &self.deeds {
                eprintln!("  {:9.3} s  {what}", seconds(*at));
            }
            eprintln!(
                "the same faults again (what they meet is up to the machine):\n  {SEED}={} {SECONDS}={} cargo test \
                 --test torment {}",
                self.seed,
                self.span.as_secs(),
                self.name
            );
        }
    }
}
