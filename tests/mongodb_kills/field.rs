//! Three super-nodes, a mongod behind a proxy, clients that keep the projector busy, and the faults.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::Database;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::backup::Backup;
use crate::cluster::{Cluster, PATIENCE, Setup};
use crate::dice::Dice;
use crate::dice_pause;
use crate::mongod::{Kind, Mongod, connect};
use crate::proxy::{Line, Proxy};

/// Movements that a burst asks for.
const BURST: usize = 200;
/// Of them under way at once.
const BURST_AT_ONCE: usize = 24;
/// Leading ledger records that may still be on their way when the rest is compared: an interval of all members.
const ON_THE_WAY: u64 = 12;
const DATABASE: &str = "super_node";

/// What happens in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of mongod, which is started again.
    MongodKilled,
    /// kill -9 of the super-node that leads; it is started again once another leads.
    LeaderKilled,
    /// The leader is stopped, another leads and writes, and the first wakes up in the middle of its batch.
    LeaderPaused,
    /// Connections to MongoDB break for a while.
    NetworkCut,
    /// Connections to MongoDB go silent for a while, then everything that was sent arrives.
    NetworkSilent,
    /// Somebody drops the whole database.
    Emptied,
    /// Somebody puts an old backup in place, while nobody can reach MongoDB.
    Restored,
    /// The leader and mongod are killed in one moment.
    BothKilled,
}

impl Fault {
    pub const ALL: [Fault; 8] = [
        Fault::MongodKilled,
        Fault::LeaderKilled,
        Fault::LeaderPaused,
        Fault::NetworkCut,
        Fault::NetworkSilent,
        Fault::Emptied,
        Fault::Restored,
        Fault::BothKilled,
    ];
}

/// The mongod of a field, if it may be killed.
struct Own {
    server: Mongod,
    proxy: Proxy,
    backup: Option<Backup>,
}

/// See the module's head.
pub struct Field {
    cluster: Cluster,
    own: Option<Own>,
    load: JoinSet<()>,
}

fn setup(uri: &str) -> Setup {
    Setup::nodes(3)
        .with("MONGODB_URI", uri)
        .with("SUPER_NODE_LEDGER__INTERVAL", "1s")
        .with("SUPER_NODE_LOG__LEVEL", "info")
}

impl Field {
    /// With a mongod of its own, behind a proxy.
    pub async fn lay(dice: &mut Dice) -> Field {
        let server = Mongod::start(Kind::ReplicaSet).await;
        let proxy = Proxy::to(server.port()).await;
        let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", proxy.port());
        let mut field = Field::beside(&uri, dice).await;
        field.own = Some(Own { server, proxy, backup: None });
        field
    }

    /// Beside a MongoDB that somebody else looks after.
    pub async fn beside(uri: &str, dice: &mut Dice) -> Field {
        let cluster = Cluster::start(&setup(uri));
        cluster.leader().await;
        let mut field = Field { cluster, own: None, load: JoinSet::new() };
        field.burst(dice);
        field.drained().await;
        field
    }

    fn own(&mut self) -> &mut Own {
        self.own.as_mut().expect("this field has a mongod of its own")
    }

    async fn database(&mut self) -> Database {
        connect(&self.own().server.uri()).await.database(DATABASE)
    }

    /// Asks for a few hundred movements, through nodes that may die meanwhile; does not wait.
    pub fn burst(&mut self, dice: &mut Dice) {
        let urls: Vec<String> = self.cluster.nodes.iter().map(crate::cluster::Node::url).collect();
        let permits = Arc::new(tokio::sync::Semaphore::new(BURST_AT_ONCE));
        for number in 0..BURST {
            let url = format!("{}/v1/adjustments", dice.one(&urls.iter().collect::<Vec<_>>()));
            let member = format!("n{}", 1 + dice.below(3));
            let body =
                json!({ "member": member, "delta": 1 + number, "reason": "burst", "operator": "test" });
            let (http, permits) = (self.cluster.http.clone(), Arc::clone(&permits));
            self.load.spawn(async move {
                let _permit = permits.acquire().await.expect("never closed");
                // A dead or frozen node refuses or never answers: what is not acknowledged is nobody's promise.
                let asked = http.post(url).json(&body).timeout(Duration::from_secs(2)).send();
                let _refused_or_done = asked.await;
            });
        }
    }

    /// Strikes in the middle of a burst, and waits until MongoDB has everything again.
    pub async fn round(&mut self, fault: Fault, dice: &mut Dice) {
        if self.own().backup.is_none() || dice.percent(20) {
            let database = self.database().await;
            self.own().backup = Some(Backup::take(&database).await);
        }
        self.burst(dice);
        dice_pause(dice).await;
        match fault {
            Fault::MongodKilled => {
                self.own().server.kill9();
                dice_pause(dice).await;
                self.own().server.restart().await;
            }
            Fault::LeaderKilled => self.kill_leader().await,
            Fault::LeaderPaused => self.pause_leader(dice).await,
            Fault::NetworkCut => self.interrupt(Line::Cut, dice).await,
            Fault::NetworkSilent => self.interrupt(Line::Silent, dice).await,
            Fault::Emptied => self.database().await.drop().await.expect("drop"),
            Fault::Restored => self.restore(dice).await,
            Fault::BothKilled => {
                self.own().server.kill9();
                self.kill_leader().await;
                self.own().server.restart().await;
            }
        }
        self.drained().await;
        self.arrived().await;
    }

    /// Waits until MongoDB itself says that it has what the ledger holds now: a projector that has not written since the
    /// database was emptied does not know it yet.
    async fn arrived(&mut self) {
        let projection = self.database().await.collection::<bson::Document>("projection");
        let ledger = async || self.cluster.leader_status().await?["ledger"]["records"].as_i64();
        let records = self.cluster.wait_for("a leader", ledger).await;
        let there = async || {
            let found = projection.find_one(bson::doc! {}).await.ok()??;
            (found.get_i64("checkpoint").ok()? >= records).then_some(())
        };
        self.cluster.wait_for("MongoDB has what the ledger held", there).await;
    }

    async fn interrupt(&mut self, line: Line, dice: &mut Dice) {
        self.own().proxy.set(line);
        tokio::time::sleep(dice.between(50, 900)).await;
        self.own().proxy.set(Line::Open);
    }

    /// An old state appears under a projector that keeps its connections and knows nothing of it.
    async fn restore(&mut self, dice: &mut Dice) {
        let database = self.database().await;
        let line = dice.one(&[Line::Silent, Line::Cut]);
        self.own().proxy.set(line);
        // What was under way on the server is over by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let backup = self.own().backup.take().expect("taken before");
        assert!(backup.checkpoint() > 0);
        backup.restore(&database).await;
        self.own().backup = Some(backup);
        self.own().proxy.set(Line::Open);
    }

    /// kill -9 of the leader; it is started again once another leads.
    pub async fn kill_leader(&mut self) {
        let (leader, term) = self.cluster.leader().await;
        self.cluster.kill(leader);
        self.cluster.leader_after(term).await;
        self.cluster.start_node(leader);
        self.cluster.leader_after(term).await;
    }

    /// SIGSTOP of the leader until another leads and has written, then SIGCONT: for a moment both believe.
    async fn pause_leader(&mut self, dice: &mut Dice) {
        let (leader, term) = self.cluster.leader().await;
        self.cluster.signal(leader, "STOP");
        let others: Vec<usize> = (0..self.cluster.nodes.len()).filter(|at| *at != leader).collect();
        let led = async || {
            for at in &others {
                let status = self.cluster.try_get(*at, "/v1/status").await?;
                let caught_up = status["projection"]["lag_records"].as_u64()? < ON_THE_WAY;
                if status["role"] == "leader" && status["term"].as_u64()? > term && caught_up {
                    return Some(());
                }
            }
            None
        };
        self.cluster.wait_for("another leads and projects", led).await;
        self.burst(dice);
        dice_pause(dice).await;
        self.cluster.signal(leader, "CONT");
        self.cluster.leader_after(term).await;
    }

    /// Waits until MongoDB has what the ledger holds now.
    pub async fn drained(&mut self) {
        while self.load.join_next().await.is_some() {}
        drained(&self.cluster).await;
    }

    /// Compares everything, by the leader's own ledger.
    pub async fn equal(&self) -> Value {
        let (leader, _) = self.cluster.leader().await;
        self.cluster.get(leader, "/v1/ledger/verify?mongodb=true").await
    }
}

/// Waits until the leader says that MongoDB has everything but what is just being written.
pub async fn drained(cluster: &Cluster) {
    let begun = Instant::now();
    let mut target = None;
    let mut last = Value::Null;
    while begun.elapsed() < PATIENCE {
        if let Some(status) = cluster.leader_status().await {
            let projection = &status["projection"];
            // Everything that was there when it was first asked.
            let records = *target.get_or_insert(status["ledger"]["records"].as_u64().unwrap_or(0));
            let reached = projection["checkpoint"].as_u64() >= Some(records) && records > 0;
            if reached
                && projection["error"].is_null()
                && projection["lag_records"].as_u64() < Some(ON_THE_WAY)
            {
                return;
            }
            last = status;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    panic!("the projection did not drain within {PATIENCE:?}: {}", last["projection"]);
}

/// Waits until MongoDB has what the ledger holds, then compares everything.
pub async fn drained_and_equal(cluster: &Cluster, leader: usize) -> Value {
    drained(cluster).await;
    cluster.get(leader, "/v1/ledger/verify?mongodb=true").await
}
