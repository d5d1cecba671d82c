//! The projection against a real mongod: exactly once, whatever happens to either side.

#[path = "support/history.rs"]
mod history;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/mongod.rs"]
mod mongod;
#[path = "support/node.rs"]
mod node;
#[path = "mongodb/queries.rs"]
mod queries;
#[path = "mongodb/streams.rs"]
mod streams;

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use history::append_interval;
use mongod::{AnyServer, Kind, Mongod, free_port};
use mongodb::Client;
use node::FakeNode;
use super_node::database::documents::COLLECTIONS;
use super_node::database::errors::{Class, ProjectionError};
use super_node::database::feed::{Feed as _, LedgerFeed, MemoryFeed};
use super_node::database::mongo::MongoSettings;
use super_node::database::schema;
use super_node::database::shell::{run, run_with_feed};
use super_node::database::target::Target;
use super_node::database::verify::{ComparisonReport, check_alone, compare};
use super_node::ledger::records::{Checkpoint, Genesis, Interval, Member, MemberKind, MemberStatus};
use super_node::metrics::Metrics;
use super_node::types::{Amount, Index, Term, UnixMillis};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const IDENTITY: &str = "00112233445566778899aabbccddeeff";

/// A node with a projector.
struct Projecting {
    node: FakeNode,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Projecting {
    fn start(id: &str, settings: &MongoSettings, feed: &Arc<MemoryFeed>) -> Projecting {
        let node = FakeNode::new(id);
        let metrics = Arc::new(Metrics::new());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run_with_feed(
            settings.clone(),
            feed.clone(),
            node.handle.clone(),
            metrics.clone(),
            shutdown.clone(),
        ));
        Projecting { node, metrics, shutdown, task }
    }

    /// Waits until MongoDB holds everything that `feed` has.
    async fn drained(&self, feed: &MemoryFeed) {
        let last = feed.records.read().expect("not poisoned").rewards.last().map_or(0, |last| last.seq);
        self.node
            .projection_where("drained", |status| {
                status.checkpoint == last && status.lag_records == 0 && status.error.is_none()
            })
            .await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("the projector does not panic");
    }
}

fn settings(uri: &str, database: &str) -> MongoSettings {
    MongoSettings { database: database.to_string(), ..MongoSettings::new(uri) }
}

fn scripted(intervals: usize, members: usize) -> Arc<MemoryFeed> {
    let feed = history::feed("test", IDENTITY);
    for _ in 0..intervals {
        append_interval(&feed, members);
    }
    Arc::new(feed)
}

async fn equal(settings: &MongoSettings, feed: &Arc<MemoryFeed>) -> ComparisonReport {
    let feed = feed.clone() as Arc<dyn super_node::database::feed::Feed>;
    compare(&settings.uri, &settings.database, "test", feed).await.expect("readable")
}

async fn count(client: &Client, database: &str, collection: &str) -> u64 {
    client
        .database(database)
        .collection::<Document>(collection)
        .count_documents(doc! {})
        .await
        .expect("count")
}

/// Claim: everything arrives once, the checkpoint says so, and projecting all of it again changes nothing.
async fn projects_and_reprojects(uri: &str, database: &str) {
    let settings = settings(uri, database);
    let client = mongod::connect(uri).await;
    let feed = scripted(3, 2_500);
    let first = Projecting::start("n1", &settings, &feed);
    first.node.lead(4);
    first.drained(&feed).await;
    append_interval(&feed, 10);
    first.node.news();
    first.drained(&feed).await;

    let report = equal(&settings, &feed).await;
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(
        (report.rewards, report.intervals, report.observations, report.elections, report.members),
        (7_510, 4, 7_510, 4, 2_500)
    );
    let projection = client.database(database).collection::<Document>("projection");
    let document = projection.find_one(doc! { "_id": "test" }).await.expect("find").expect("one");
    assert_eq!(document.get("checkpoint"), Some(&Bson::Int64(7_510)));
    assert_eq!(document.get("term"), Some(&Bson::Int64(4)));
    assert_eq!(document.get("node"), Some(&Bson::from("n1")));
    assert!(
        first.metrics.render().contains("super_node_projection_documents_total{collection=\"rewards\"} 7510")
    );
    let proposed = first.node.proposed.lock().expect("not poisoned").clone();
    assert!(
        proposed.is_sorted_by_key(|checkpoint| checkpoint.rewards) && !proposed.is_empty(),
        "{proposed:?}"
    );
    first.stop().await;

    // As if the checkpoint had been lost with the leader that wrote it.
    let back =
        doc! { "$set": { "checkpoint": 0_i64, "intervals": 0_i64, "elections": 0_i64, "members": 0_i64 } };
    projection.update_one(doc! { "_id": "test" }, back).await.expect("update");
    let second = Projecting::start("n2", &settings, &feed);
    second.node.lead(5);
    second.drained(&feed).await;
    assert!(
        second.metrics.render().contains("super_node_projection_documents_total{collection=\"rewards\"} 0")
    );
    assert_eq!(equal(&settings, &feed).await, report);
    second.stop().await;
    client.database(database).drop().await.expect("drop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_holds_everything_once() {
    let server = AnyServer::get().await;
    projects_and_reprojects(server.uri(), &server.database_name("once")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_holds_everything_once() {
    let server = Mongod::start(Kind::Standalone).await;
    projects_and_reprojects(&server.uri(), "super_node").await;
}

/// Claim: a mongod that is killed in the middle of batches, twice, ends equal to the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_mongod_ends_equal() {
    for kind in [Kind::ReplicaSet, Kind::Standalone] {
        let mut server = Mongod::start(kind).await;
        let settings = settings(&server.uri(), "super_node");
        let feed = scripted(4, 3_000);
        let projecting = Projecting::start("n1", &settings, &feed);
        projecting.node.lead(1);
        for above in [0, 4_000] {
            let client = server.client().await;
            while count(&client, "super_node", "rewards").await <= above {
                tokio::task::yield_now().await;
            }
            server.kill9();
            append_interval(&feed, 3_000);
            projecting.node.news();
            projecting
                .node
                .projection_where("an error while it is away", |status| status.error.is_some())
                .await;
            server.restart().await;
        }
        projecting.drained(&feed).await;
        assert_eq!(equal(&settings, &feed).await.problems, Vec::<String>::new());
        let events = projecting.node.handle.events.subscribe(0).0;
        assert!(events.iter().any(|event| event.kind == "projection_failing"));
        assert!(events.iter().any(|event| event.kind == "projection_recovered"));
        projecting.stop().await;
    }
}

/// Claim: what the replicated machine itself records arrives, and passes the machine's own rules in MongoDB.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_ledger_arrives_whole() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("machine"));
    let node = FakeNode::new("n1");
    let mut machine = machine::Machine::new(node.handle.state.clone());
    let metrics = Arc::new(Metrics::new());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(settings.clone(), node.handle.clone(), metrics, shutdown.clone()));
    // It leads before the cluster's first command has been applied.
    node.lead(1);
    machine.form(&["n1", "n2", "n3"], &["worker-1", "worker-2"]);
    for missed in [0, 3, 12, 0] {
        machine.elect();
        machine.interval(missed);
        node.news();
    }
    let movements = machine.records();
    assert!(movements >= 12, "{movements}");
    node.projection_where("drained", |status| status.checkpoint == movements && status.lag_records == 0)
        .await;
    let feed = Arc::new(LedgerFeed::new(node.handle.clone()));
    let report = compare(&settings.uri, &settings.database, "test", feed).await.expect("readable");
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.rewards, report.intervals, report.observations), (movements, 4, 20));
    assert_eq!((report.elections, report.members), (4, 5));
    shutdown.cancel();
    task.await.expect("the projector does not panic");
    mongod::connect(server.uri()).await.database(&settings.database).drop().await.expect("drop");
}

/// Claim: an old and a new leader that project at once make nothing double, lose nothing and leave no member behind.
#[tokio::test(flavor = "multi_thread")]
async fn two_leaders_at_once_do_no_harm() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("two"));
    let feed = scripted(2, 1_500);
    let old = Projecting::start("n1", &settings, &feed);
    let new = Projecting::start("n2", &settings, &feed);
    old.node.lead(1);
    new.node.lead(2);
    for _ in 0..6 {
        append_interval(&feed, 1_500);
        old.node.news();
        new.node.news();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    old.drained(&feed).await;
    new.drained(&feed).await;
    let report = equal(&settings, &feed).await;
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!((report.rewards, report.members), (12_000, 1_500));
    old.stop().await;
    new.stop().await;
    mongod::connect(server.uri()).await.database(&settings.database).drop().await.expect("drop");
}

fn genesis(cluster: &str, identity: &str) -> Genesis {
    Genesis { cluster: cluster.to_string(), identity: identity.to_string(), at: UnixMillis(0) }
}

fn member(index: u64, balance: i64) -> Member {
    Member {
        id: "worker-1".parse().expect("name"),
        kind: MemberKind::Agent,
        address: "127.0.0.1:1".to_string(),
        status: MemberStatus::Active,
        balance: Amount(balance),
        strikes: 0,
        suspensions: 0,
        remaining: 0,
        joined_at: UnixMillis(0),
        as_of: 0,
        index: Index(index),
    }
}

/// Claim: a member and a checkpoint never move back, in whatever order two writers come, even at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_writer_moves_nothing_back() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("guard"));
    let client = mongod::connect(server.uri()).await;
    let open = |node: &str| {
        let node = node.parse().expect("name");
        let settings = settings.clone();
        async move { Target::open(&settings, genesis("test", IDENTITY), node).await.expect("opens").0 }
    };
    let (old, new) = (open("n1").await, open("n2").await);
    let batch = |index, balance| super_node::database::feed::Batch {
        members: vec![member(index, balance)],
        ..Default::default()
    };
    let members = client.database(&settings.database).collection::<Document>("members");
    for round in 1..=50 {
        members.delete_many(doc! {}).await.expect("delete");
        let (older, newer) = (batch(round * 2, 1), batch(round * 2 + 1, 2));
        // Both insert the member for the first time, in one moment.
        let (a, b) = tokio::join!(old.write(older.clone()), new.write(newer));
        a.expect("written");
        b.expect("written");
        old.write(older).await.expect("written");
        let found = members.find_one(doc! {}).await.expect("find").expect("one");
        assert_eq!(found.get("balance"), Some(&Bson::Int64(2)), "round {round}");
    }
    let at = |rewards| Checkpoint { rewards, ..Checkpoint::default() };
    new.advance(at(0), at(9), Term(2)).await.expect("moves");
    old.advance(at(0), at(5), Term(1)).await.expect("does nothing");
    // Nobody has seen it there: what lies between would be skipped.
    let error = old.advance(at(10), at(12), Term(3)).await.expect_err("refused");
    assert!(matches!(error, ProjectionError::WentBack { from: 10, found: 9 }), "{error}");
    let (_, checkpoint) =
        Target::open(&settings, genesis("test", IDENTITY), "n3".parse().expect("name")).await.expect("opens");
    assert_eq!(checkpoint, at(9));
    client.database(&settings.database).drop().await.expect("drop");
}

/// Claim: while nobody listens, or somebody accepts and never answers, the status says so, the lag grows, and all of
/// it drains once MongoDB is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_mongodb_is_told_and_made_up_for() {
    // Nothing listens.
    let nobody = settings(&format!("mongodb://127.0.0.1:{}", free_port()), "super_node");
    let feed = scripted(1, 5);
    let projecting = Projecting::start("n1", &nobody, &feed);
    projecting.node.lead(1);
    let status = projecting.node.projection_where("refused", |status| status.error.is_some()).await;
    assert_eq!((status.enabled, status.checkpoint, status.lag_records), (true, 0, 7));
    append_interval(&feed, 5);
    projecting.node.projection_where("the lag grows", |status| status.lag_records == 14).await;
    projecting.stop().await;

    // Somebody accepts and never answers, until a real server is reached through the same port.
    let server = Mongod::start(Kind::Standalone).await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let front = listener.local_addr().expect("bound").port();
    let mute = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let back = server.uri();
    let back = back.trim_start_matches("mongodb://").split('/').next().expect("an address").to_string();
    let proxy = tokio::spawn({
        let mute = mute.clone();
        async move {
            let mut held = Vec::new();
            while let Ok((mut inward, _)) = listener.accept().await {
                if mute.load(std::sync::atomic::Ordering::SeqCst) {
                    held.push(inward);
                    continue;
                }
                let back = back.clone();
                tokio::spawn(async move {
                    let mut outward = tokio::net::TcpStream::connect(back).await.expect("the server");
                    let _ended = tokio::io::copy_bidirectional(&mut inward, &mut outward).await;
                });
            }
        }
    });
    let slow = settings(&format!("mongodb://127.0.0.1:{front}/?directConnection=true"), "super_node");
    let projecting = Projecting::start("n1", &slow, &feed);
    projecting.node.lead(1);
    projecting.node.projection_where("mute", |status| status.error.is_some()).await;
    mute.store(false, std::sync::atomic::Ordering::SeqCst);
    projecting.drained(&feed).await;
    let direct = settings(&server.uri(), "super_node");
    assert_eq!(equal(&direct, &feed).await.problems, Vec::<String>::new());
    projecting.stop().await;
    proxy.abort();
}

/// Claim: a server that refuses is the operator's business, and the password shows nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_mongodb_needs_the_operator() {
    let server = Mongod::start(Kind::AuthRequired).await;
    let feed = scripted(1, 5);
    let address = server.uri();
    let address = address.trim_start_matches("mongodb://");
    for (uri, expected) in [
        (format!("mongodb://{address}"), "not authorized on super_node (code 13)"),
        (format!("mongodb://ann:s3cret@{address}"), "uthentication"),
    ] {
        let settings = settings(&uri, "super_node");
        assert!(!format!("{settings:?}").contains("s3cret"));
        let opened = Target::open(&settings, genesis("test", IDENTITY), "n1".parse().expect("name")).await;
        let error = opened.err().expect("refused");
        assert_eq!(error.class(), Class::Operator, "{error}");
        let projecting = Projecting::start("n1", &settings, &feed);
        projecting.node.lead(1);
        let status = projecting.node.projection_where("refused", |status| status.error.is_some()).await;
        let error = status.error.expect("an error");
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
        projecting.stop().await;
    }
    let bad = settings("mongodb://ann:s3cret@", "super_node");
    let error = Target::open(&bad, genesis("test", IDENTITY), "n1".parse().expect("name")).await;
    assert_eq!(error.err().expect("refused").class(), Class::Operator);
}

/// Claim: another cluster's database is refused, whether it has another name or only another identity.
#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_database_is_refused() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("identity"));
    let node: super_node::types::NodeId = "n1".parse().expect("name");
    Target::open(&settings, genesis("test", IDENTITY), node.clone()).await.expect("claims");
    for (cluster, identity) in [("test", "ffffffffffffffffffffffffffffffff"), ("other", IDENTITY)] {
        let error = Target::open(&settings, genesis(cluster, identity), node.clone()).await.err();
        let error = error.expect("refused");
        assert!(matches!(error, ProjectionError::WrongCluster { .. }), "{error}");
        assert_eq!(error.class(), Class::Operator);
    }
    let feed = Arc::new(history::feed("test", "ffffffffffffffffffffffffffffffff"));
    append_interval(&feed, 3);
    let projecting = Projecting::start("n1", &settings, &feed);
    projecting.node.lead(1);
    let status = projecting.node.projection_where("refused", |status| status.error.is_some()).await;
    assert!(status.error.expect("an error").contains("cluster"));
    let client = mongod::connect(server.uri()).await;
    assert_eq!(count(&client, &settings.database, "rewards").await, 0);
    projecting.stop().await;
    client.database(&settings.database).drop().await.expect("drop");
}

/// Claim: clusters that share a server, each with its own database, do not meet, though their ids are the same.
#[tokio::test(flavor = "multi_thread")]
async fn clusters_share_a_server() {
    let server = AnyServer::get().await;
    let mut running = Vec::new();
    for (identity, intervals) in [(IDENTITY, 2), ("ffffffffffffffffffffffffffffffff", 3)] {
        let settings = settings(server.uri(), &server.database_name("shared"));
        let feed = Arc::new(history::feed("test", identity));
        (0..intervals).for_each(|_| append_interval(&feed, 50 * intervals));
        let projecting = Projecting::start("n1", &settings, &feed);
        projecting.node.lead(1);
        running.push((settings, feed, projecting));
    }
    for (settings, feed, projecting) in running {
        projecting.drained(&feed).await;
        assert_eq!(equal(&settings, &feed).await.problems, Vec::<String>::new());
        projecting.stop().await;
        let client = mongod::connect(server.uri()).await;
        client.database(&settings.database).drop().await.expect("drop");
    }
}

/// Claim: validators refuse what the projector would not write; both validators and indexes may be applied again; an
/// index that somebody made is named, not dropped.
#[tokio::test(flavor = "multi_thread")]
async fn validators_and_indexes_hold() {
    let server = AnyServer::get().await;
    let name = server.database_name("schema");
    let database = mongod::connect(server.uri()).await.database(&name);
    schema::apply(&database).await.expect("first");
    schema::apply(&database).await.expect("again");
    for collection in COLLECTIONS {
        let error = database.collection::<Document>(collection).insert_one(doc! { "x": 1 }).await;
        let error = ProjectionError::from(error.expect_err("refused"));
        assert_eq!(error.class(), Class::Operator, "{collection}: {error}");
    }
    let indexes = database.collection::<Document>("observations").list_index_names().await.expect("list");
    assert!(indexes.contains(&"member_1_interval_-1".to_string()), "{indexes:?}");

    // A validator that somebody removed comes back.
    database.run_command(doc! { "collMod": "rewards", "validator": {} }).await.expect("collMod");
    schema::apply(&database).await.expect("repairs");
    database.collection::<Document>("rewards").insert_one(doc! { "x": 1 }).await.expect_err("refused");

    // Whoever runs an older version, or none, is brought up to date; a newer version is left alone.
    let titled = |title: &str| {
        let mut validator = schema::validator("elections").expect("ours");
        let inner = validator.get_document_mut("$jsonSchema").expect("a schema");
        inner.insert("title", title);
        inner.get_document_mut("properties").expect("properties").remove("reason");
        validator
    };
    for (title, kept) in [
        ("super-node, version 0", false),
        ("somebody's", false),
        ("super-node, version 1", false),
        ("super-node, version 99", true),
    ] {
        database
            .run_command(doc! { "collMod": "elections", "validator": titled(title) })
            .await
            .expect("collMod");
        schema::apply(&database).await.expect("applies");
        let filter = doc! { "name": "elections" };
        let mut listed = database.list_collections().filter(filter).await.expect("list");
        assert!(listed.advance().await.expect("one"));
        let found = listed.deserialize_current().expect("readable").options.validator.expect("a validator");
        let expected = if kept { titled(title) } else { schema::validator("elections").expect("ours") };
        assert_eq!(found, expected, "{title}");
    }

    let rewards = database.collection::<Document>("rewards");
    rewards.drop_index("at_1").await.expect("drop");
    let theirs = doc! { "createIndexes": "rewards", "indexes": [{ "name": "at_1", "key": { "at": -1 } }] };
    database.run_command(theirs).await.expect("another index of that name");
    let error = schema::apply(&database).await.expect_err("conflict");
    assert_eq!(error.class(), Class::Operator);
    assert!(error.to_string().contains("'at_1' on collection 'rewards'"), "{error}");
    let names = rewards.list_index_names().await.expect("list");
    assert!(names.contains(&"at_1".to_string()), "{names:?}");
    database.drop().await.expect("drop");
}

/// Claim: a document under one of our ids that differs from the ledger stops the projection instead of passing for
/// ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_duplicate_is_noticed() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("forged"));
    let client = mongod::connect(server.uri()).await;
    let feed = scripted(1, 20);
    let database = client.database(&settings.database);
    schema::apply(&database).await.expect("prepared");
    let mut forged = feed.records.read().expect("not poisoned").rewards[6].clone();
    forged.amount = Amount(1_000_000_000_000);
    let forged = super_node::database::documents::movement(&forged);
    let rewards = database.collection::<bson::RawDocumentBuf>("rewards");
    rewards.insert_one(forged).await.expect("a valid document");
    let projecting = Projecting::start("n1", &settings, &feed);
    projecting.node.lead(1);
    let status = projecting.node.projection_where("noticed", |status| status.error.is_some()).await;
    let error = status.error.expect("an error");
    assert!(error.contains("document 7 in collection 'rewards' differs from the ledger"), "{error}");
    assert_eq!(status.checkpoint, 0);
    rewards.delete_one(doc! { "_id": 7_i64 }).await.expect("repaired by hand");
    projecting.drained(&feed).await;
    assert_eq!(equal(&settings, &feed).await.problems, Vec::<String>::new());
    projecting.stop().await;
    database.drop().await.expect("drop");
}

/// Claim: every kind of tampering is found, from MongoDB alone where the chains cover it.
#[tokio::test(flavor = "multi_thread")]
async fn tampering_is_found() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("tamper"));
    let client = mongod::connect(server.uri()).await;
    let database = client.database(&settings.database);
    let feed = scripted(3, 20);
    let projecting = Projecting::start("n1", &settings, &feed);
    projecting.node.lead(1);
    projecting.drained(&feed).await;
    projecting.stop().await;
    assert!(equal(&settings, &feed).await.ok);

    let second = || doc! { "_id": 30_i64 };
    let observed = || doc! { "_id": { "i": 2_i64, "m": "m-00004" } };
    // Collection, filter, what is done to it, whether MongoDB alone shows it, and a word of the finding.
    let cases: [(&str, Document, Option<Document>, bool, &str); 7] = [
        ("rewards", second(), Some(doc! { "amount": 5_i64 }), true, "its hash is not that of its fields"),
        ("rewards", second(), None, true, "movement 31: it follows 29"),
        (
            "intervals",
            doc! { "_id": 2_i64 },
            Some(doc! { "members": 9_i64 }),
            true,
            "its hash is not that of its fields",
        ),
        (
            "observations",
            observed(),
            Some(doc! { "missed": 0_i64, "answered": 99_i64 }),
            true,
            "evidence hash",
        ),
        ("observations", observed(), None, true, "evidence hash"),
        ("elections", doc! { "_id": 2_i64 }, Some(doc! { "leader": "n9" }), false, "elections 2: differs"),
        (
            "members",
            doc! { "_id": "m-00004" },
            Some(doc! { "balance": 5_i64 }),
            true,
            "members m-00004: differs",
        ),
    ];
    for (collection, filter, change, alone_shows, word) in cases {
        let target = database.collection::<bson::RawDocumentBuf>(collection);
        let original = target.find_one(filter.clone()).await.expect("find").expect("one");
        match &change {
            Some(change) => {
                target.update_one(filter.clone(), doc! { "$set": change.clone() }).await.expect("update");
            }
            None => {
                target.delete_one(filter.clone()).await.expect("delete");
            }
        }
        let alone = check_alone(&settings.uri, &settings.database, "test").await.expect("readable");
        assert_eq!(alone.ok, !alone_shows, "{collection} {change:?}: {:?}", alone.problems);
        let report = equal(&settings, &feed).await;
        assert!(!report.ok);
        assert!(report.problems.iter().any(|one| one.contains(word)), "{word}: {:?}", report.problems);
        target.delete_one(filter).await.expect("delete");
        target.insert_one(original).await.expect("as before");
        assert!(equal(&settings, &feed).await.ok);
    }
    // Beyond the ledger's end.
    let mut extra: Interval = feed.records.read().expect("not poisoned").intervals[2].clone();
    extra.id = extra.id.next();
    let extra = super_node::database::documents::interval(&extra);
    database.collection::<bson::RawDocumentBuf>("intervals").insert_one(extra).await.expect("insert");
    let report = equal(&settings, &feed).await;
    assert_eq!(report.problems, ["intervals go to 4, the ledger here ends at 3"]);
    database.drop().await.expect("drop");
}

/// Claim: a ledger that no longer reaches back to MongoDB's checkpoint is told, not papered over.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("gap"));
    let feed = scripted(2, 10);
    feed.records.write().expect("not poisoned").rewards.drain(..4);
    let projecting = Projecting::start("n1", &settings, &feed);
    projecting.node.lead(1);
    let status = projecting.node.projection_where("told", |status| status.error.is_some()).await;
    let error = status.error.expect("an error");
    assert!(error.contains("lacks ledger records from 1 on, and the ledger here begins at 5"), "{error}");
    projecting.stop().await;
    mongod::connect(server.uri()).await.database(&settings.database).drop().await.expect("drop");
}

/// Claim: a follower reports what the cluster has agreed on and touches nothing; a deposed leader stops.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_writes() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("roles"));
    let client = mongod::connect(server.uri()).await;
    let feed = scripted(1, 10);
    feed.records.write().expect("not poisoned").projected.rewards = 4;
    let projecting = Projecting::start("n1", &settings, &feed);
    let status = projecting.node.projection_where("a follower's view", |status| status.enabled).await;
    assert_eq!((status.checkpoint, status.lag_records), (4, 6 + 1 + 1));
    assert_eq!(count(&client, &settings.database, "projection").await, 0);
    projecting.node.lead(1);
    projecting.drained(&feed).await;
    projecting.node.leading.send_replace(None);
    append_interval(&feed, 10);
    projecting.node.news();
    projecting.node.projection_where("a follower again", |status| status.checkpoint == 4).await;
    assert_eq!(count(&client, &settings.database, "rewards").await, 10);
    assert_eq!(feed.remaining(&Checkpoint::default()), Ok(20 + 2 + 2));
    projecting.stop().await;
    client.database(&settings.database).drop().await.expect("drop");
}

/// Claim: when somebody removes the projection document or a whole collection, everything is written again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_checkpoint_is_made_again() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("lost"));
    let database = mongod::connect(server.uri()).await.database(&settings.database);
    let feed = scripted(2, 10);
    let projecting = Projecting::start("n1", &settings, &feed);
    projecting.node.lead(1);
    projecting.drained(&feed).await;
    database.collection::<Document>("projection").delete_many(doc! {}).await.expect("delete");
    database.collection::<Document>("rewards").drop().await.expect("drop");
    append_interval(&feed, 10);
    projecting.node.news();
    projecting.drained(&feed).await;
    assert_eq!(equal(&settings, &feed).await.problems, Vec::<String>::new());
    projecting.stop().await;
    database.drop().await.expect("drop");
}
