//! A replica set of several mongods, each its own process.

use std::time::{Duration, Instant};

use bson::doc;

use crate::mongod::{Kind, Mongod, connect};

/// Only a bound for broken machines.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without a primary the others elect one, milliseconds: short, for a test.
const ELECTION_MS: i32 = 1_000;

/// Its servers; those that were killed keep their place.
pub struct ReplicaSet {
    servers: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts the servers and waits for a primary.
    pub async fn start(servers: usize) -> ReplicaSet {
        let starting = (0..servers).map(|_| Mongod::start(Kind::Member));
        let servers = futures_util::future::join_all(starting).await;
        let members: Vec<bson::Document> = (0..)
            .zip(&servers)
            .map(|(id, server): (i32, &Mongod)| doc! { "_id": id, "host": format!("127.0.0.1:{}", server.port()) })
            .collect();
        let settings = doc! { "electionTimeoutMillis": ELECTION_MS, "heartbeatIntervalMillis": 200 };
        let command = doc! { "replSetInitiate": { "_id": "rs0", "members": members, "settings": settings } };
        let admin = connect(&servers[0].uri()).await.database("admin");
        admin.run_command(command).await.expect("replSetInitiate");
        let set = ReplicaSet { servers };
        set.primary().await;
        set
    }

    /// The connection string of all of them.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> =
            self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("mongodb://{}/?replicaSet=rs0", hosts.join(","))
    }

    /// Which one is primary, as soon as one is.
    async fn primary(&self) -> usize {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            for (at, server) in self.servers.iter().enumerate().filter(|(_, server)| server.is_running()) {
                let admin = connect(&server.uri()).await.database("admin");
                let hello = admin.run_command(doc! { "hello": 1 }).await;
                if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                    return at;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no primary within {PATIENCE:?}");
    }

    /// kill -9 of the primary; returns which one it was.
    pub async fn kill_primary(&mut self) -> usize {
        let at = self.primary().await;
        self.servers[at].kill9();
        at
    }

    /// Starts a killed one again and waits until it has what the others have.
    pub async fn restart(&mut self, at: usize) {
        self.servers[at].restart().await;
        let admin = connect(&self.servers[at].uri()).await.database("admin");
        let begun = Instant::now();
        loop {
            let hello = admin.run_command(doc! { "hello": 1 }).await;
            let state = |hello: &bson::Document, key| hello.get_bool(key).unwrap_or(false);
            if hello.is_ok_and(|hello| state(&hello, "secondary") || state(&hello, "isWritablePrimary")) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "a restarted server did not come back to its replica set");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
