//! `database/queries/`: each file, run as it is against a projected ledger, says what the ledger says.
//!
//! A file is a comment and one statement whose arguments are JSON, so that mongosh runs it and this test can too.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bson::{Bson, DateTime, Document, doc};
use futures_util::TryStreamExt as _;
use mongodb::{Client, Database};
use serde_json::{Map, Value, json};
use super_node::database::feed::{Batch, Feed as _, LedgerFeed};
use super_node::database::shell::run;
use super_node::ledger::command::Command;
use super_node::ledger::records::{Checkpoint, MemberStatus, Movement, MovementKind, Observation, Verdict};
use super_node::metrics::Metrics;
use super_node::types::{Amount, UnixMillis};
use tokio_util::sync::CancellationToken;

use crate::machine::Machine;
use crate::mongod::{self, AnyServer};
use crate::node::FakeNode;
use crate::settings;

/// Where the files are.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/database");
const DAY_MS: i64 = 86_400_000;

/// A file of `database/queries/` or the beginning of one of `database/streams/`.
pub struct Script {
    /// The comment.
    pub head: String,
    /// The collection that it is about.
    pub collection: String,
    /// `aggregate` or `watch`.
    pub method: String,
    pub pipeline: Vec<Value>,
    pub options: Map<String, Value>,
    /// What follows the arguments.
    pub rest: String,
}

impl Script {
    /// Reads `db.COLLECTION.METHOD(JSON, JSON)`, with what stands before `db` in `lead`.
    pub fn read(path: &Path, lead: &str) -> Script {
        let text = std::fs::read_to_string(path).expect("a readable file");
        let (head, statement) = text.split_at(text.find(&format!("\n{lead}db.")).expect("a statement") + 1);
        let call =
            statement.strip_prefix(lead).and_then(|call| call.strip_prefix("db.")).expect("just found");
        let (name, mut rest) = call.split_once('(').expect("a call");
        let (collection, method) = name.split_once('.').expect("a method of a collection");
        let mut arguments = Vec::new();
        loop {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            arguments.push(values.next().expect("an argument").expect("strict JSON"));
            rest = rest[values.byte_offset()..].trim_start();
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        let mut arguments = arguments.into_iter();
        let Some(Value::Array(pipeline)) = arguments.next() else { panic!("a pipeline comes first") };
        let options = match arguments.next() {
            Some(Value::Object(options)) => options,
            None => Map::new(),
            other => panic!("options, not {other:?}"),
        };
        Script {
            head: head.to_string(),
            collection: collection.to_string(),
            method: method.to_string(),
            pipeline,
            options,
            rest: rest.strip_prefix(')').expect("the end of the call").to_string(),
        }
    }

    /// The scripts of a folder by name.
    fn all(folder: &str) -> BTreeMap<String, Script> {
        let files = std::fs::read_dir(format!("{FOLDER}/{folder}")).expect("a folder");
        let paths = files.map(|file| file.expect("a file").path());
        paths
            .map(|path| {
                let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
                assert!(path.extension().is_some_and(|extension| extension == "js"), "{path:?}");
                (name, Script::read(&path, ""))
            })
            .collect()
    }

    fn parameters(&self) -> Map<String, Value> {
        self.options.get("let").map_or_else(Map::new, |all| all.as_object().expect("an object").clone())
    }

    /// The command, with some parameters changed.
    fn command(&self, changed: &[(&str, Value)]) -> Document {
        let mut options = self.options.clone();
        for (name, value) in changed {
            let parameters = options["let"].as_object_mut().expect("parameters");
            assert!(parameters.insert((*name).to_string(), value.clone()).is_some(), "there is no {name}");
        }
        let mut command = doc! { "aggregate": &self.collection };
        command.insert("pipeline", to_bson(&Value::Array(self.pipeline.clone())));
        command.insert("cursor", doc! { "batchSize": 10_000 });
        command.extend(options.iter().map(|(name, value)| (name.clone(), to_bson(value))));
        command
    }
}

/// As mongosh takes it: a key like `$date` is a key, not a type.
pub fn to_bson(value: &Value) -> Bson {
    bson::serialize_to_bson(value).expect("JSON fits into BSON")
}

fn to_json(value: Bson) -> Value {
    match value {
        Bson::Document(document) => {
            document.into_iter().map(|(name, value)| (name, to_json(value))).collect::<Map<_, _>>().into()
        }
        Bson::Array(items) => items.into_iter().map(to_json).collect::<Vec<_>>().into(),
        Bson::String(text) => text.into(),
        Bson::Int64(number) => number.into(),
        Bson::Int32(number) => number.into(),
        Bson::Double(number) => number.into(),
        Bson::Boolean(truth) => truth.into(),
        Bson::DateTime(time) => time.timestamp_millis().into(),
        Bson::Null => Value::Null,
        other => panic!("{other:?} in a result"),
    }
}

/// A moment, as a parameter.
fn moment(at: UnixMillis) -> Value {
    json!({ "$toDate": at.0 })
}

fn points(micros: i64) -> f64 {
    micros as f64 / 1e6
}

/// Some fields of each document.
fn pick(documents: &[Value], fields: &[&str]) -> Value {
    let rows = documents.iter().map(|document| {
        let fields = fields
            .iter()
            .map(|field| document.get(*field).unwrap_or_else(|| panic!("no {field} in {document}")).clone());
        Value::Array(fields.collect())
    });
    rows.collect()
}

/// A projected ledger and the files.
struct Bench {
    database: Database,
    scripts: BTreeMap<String, Script>,
    ledger: Batch,
    /// Which of the scripts were compared with the ledger.
    checked: std::cell::RefCell<std::collections::BTreeSet<String>>,
}

impl Bench {
    /// What a file answers with these parameters.
    async fn ask(&self, name: &str, changed: &[(&str, Value)]) -> Vec<Value> {
        self.checked.borrow_mut().insert(name.to_string());
        let script = self.scripts.get(name).unwrap_or_else(|| panic!("there is no {name}.js"));
        let answer = self.database.run_cursor_command(script.command(changed)).await;
        let cursor = answer.unwrap_or_else(|error| panic!("{name}.js: {error}"));
        let documents: Vec<Document> = cursor.try_collect().await.expect("readable");
        documents.into_iter().map(|document| to_json(document.into())).collect()
    }

    /// The same, a few fields of it, and it must be more than nothing.
    async fn some(&self, name: &str, changed: &[(&str, Value)], fields: &[&str]) -> Value {
        let documents = self.ask(name, changed).await;
        assert!(!documents.is_empty(), "{name}.js answers nothing");
        pick(&documents, fields)
    }

    /// The observations of intervals that were cut then or later.
    fn observed_since(&self, since: UnixMillis) -> Vec<&Observation> {
        let cut = |observation: &Observation| {
            let interval = self.ledger.intervals.iter().find(|one| one.id == observation.interval);
            interval.expect("every observation has its interval").cut_at
        };
        self.ledger.observations.iter().filter(|one| cut(one) >= since).collect()
    }

    fn moved_since(&self, since: UnixMillis, kinds: &[MovementKind]) -> Vec<&Movement> {
        let wanted = |one: &&Movement| one.at >= since && kinds.contains(&one.kind);
        self.ledger.rewards.iter().filter(wanted).collect()
    }

    async fn update(&self, collection: &str, filter: Document, change: Document) {
        let result = self.database.collection::<Document>(collection).update_one(filter, change).await;
        assert_eq!(result.expect("updated").modified_count, 1);
    }
}

/// Two days with everything that there is to ask about.
fn live(machine: &mut Machine) {
    machine.form(&["n1", "n2", "n3"], &["worker-1", "worker-2", "worker-3"]);
    machine.elect_after("startup", 375);
    machine.interval(0);
    // One observer cannot reach worker-2.
    machine.interval_seen(&[], &[], &|node, member| {
        if (node.as_str(), member.as_str()) == ("n2", "worker-2") { 6 } else { 0 }
    });
    machine.elect_after("connection_lost", 10);
    // A super-node reports nothing; then two were not there all the time, and one alone is not enough.
    machine.interval_seen(&["n3"], &[], &|_, _| 0);
    machine.interval_seen(&[], &["n2", "n3"], &|_, _| 0);
    machine.idle(DAY_MS);
    machine.elect_after("pings_silent", 346);
    machine.elect_after("connection_lost", 14);
    // worker-3 is dark until it is suspended.
    for _ in 0..10 {
        machine.interval(12);
    }
    let member = || "worker-1".parse().expect("a name");
    machine.apply(Command::Claim { member: member(), seq: 1, amount: Amount(15_000_000) });
    let (reason, operator) = ("a gift".to_string(), "ann".to_string());
    machine.apply(Command::Adjust { member: member(), delta: Amount(2_500_000), reason, operator });
    machine.interval(0);
}

/// Claim: every file of `database/queries/` runs as it is, says what its parameters are, and answers what the ledger
/// says; those that look for damage are silent until there is some, and then name it.
#[tokio::test(flavor = "multi_thread")]
async fn every_query_answers_what_the_ledger_says() {
    let server = AnyServer::get().await;
    let settings = settings(server.uri(), &server.database_name("queries"));
    let client: Client = mongod::connect(server.uri()).await;
    let node = FakeNode::new("n1");
    let mut machine = Machine::new(node.handle.state.clone());
    live(&mut machine);
    let shutdown = CancellationToken::new();
    let metrics = Arc::new(Metrics::new());
    let task = tokio::spawn(run(settings.clone(), node.handle.clone(), metrics, shutdown.clone()));
    node.lead(5);
    let movements = machine.records();
    node.projection_where("drained", |status| status.checkpoint == movements && status.lag_records == 0)
        .await;
    shutdown.cancel();
    task.await.expect("the projector does not panic");

    let ledger = LedgerFeed::new(node.handle.clone()).next(&Checkpoint::default(), 10_000).expect("readable");
    let bench = Bench {
        database: client.database(&settings.database),
        scripts: Script::all("queries"),
        ledger,
        checked: Default::default(),
    };
    assert_eq!(bench.ledger.rewards.len() as u64, movements, "the ledger is one batch");
    for (name, script) in &bench.scripts {
        well_formed(name, script);
        // Also with the parameters that stand there.
        let answer = bench.database.run_cursor_command(script.command(&[])).await;
        answer.unwrap_or_else(|error| panic!("{name}.js as it is: {error}"));
    }
    accounts(&bench).await;
    answers(&bench).await;
    elections(&bench).await;
    intervals(&bench).await;
    progress(&bench).await;
    damage(&bench).await;
    indexes(&bench).await;
    let names: Vec<_> = bench.scripts.keys().cloned().collect();
    let checked: Vec<_> = bench.checked.borrow().iter().cloned().collect();
    assert_eq!(names, checked, "every file is compared with the ledger");
    bench.database.drop().await.expect("drop");
}

fn well_formed(name: &str, script: &Script) {
    assert_eq!(
        (script.method.as_str(), script.rest.as_str()),
        ("aggregate", ".forEach(printjson)\n"),
        "{name}"
    );
    let question = script.head.lines().next().expect("a comment");
    assert!(question.starts_with("// ") && question.ends_with('?'), "{name}.js begins with its question");
    for line in script.head.lines() {
        assert!(line.starts_with("//") && line.len() <= 130, "{name}.js: {line}");
    }
    for parameter in script.parameters().keys() {
        let explained = script.head.contains(&format!("\n//   {parameter} "));
        assert!(explained, "{name}.js does not explain `{parameter}`");
    }
}

async fn accounts(bench: &Bench) {
    // Before the first movement, at each, and between.
    let own: Vec<_> = bench.ledger.rewards.iter().filter(|one| one.member.as_str() == "worker-1").collect();
    assert!(own.len() > 10);
    let at = |at| [("at", moment(at))];
    assert!(bench.ask("balance-at", &at(UnixMillis(own[0].at.0 - 1))).await.is_empty());
    for movement in &own {
        for later in [0, 1] {
            let at = at(UnixMillis(movement.at.0 + later));
            let found = bench.some("balance-at", &at, &["seq", "points"]).await;
            assert_eq!(found, json!([[movement.seq, points(movement.balance.0)]]));
        }
    }

    let since = bench.ledger.intervals[1].settled_at;
    let mut days: BTreeMap<(i64, &str), (u64, i64)> = BTreeMap::new();
    for movement in bench.ledger.rewards.iter().filter(|one| one.at >= since) {
        let day = days.entry((movement.at.0 / DAY_MS, movement.kind.as_str())).or_default();
        *day = (day.0 + 1, day.1 + movement.amount.0);
    }
    let name = |day: i64| {
        let day = DateTime::from_millis(day * DAY_MS).try_to_rfc3339_string().expect("a date");
        day[..10].to_string()
    };
    let expected =
        days.iter().map(|((day, kind), (count, sum))| json!([name(*day), kind, count, points(*sum)]));
    let fields = ["day", "kind", "movements", "points"];
    let found = bench.some("payouts-by-day", &[("since", moment(since))], &fields).await;
    assert_eq!(found, expected.collect::<Value>());
    assert!(days.len() >= 4, "two days and several kinds: {days:?}");

    let mut earned: BTreeMap<&str, i64> = BTreeMap::new();
    for movement in bench.moved_since(since, &[MovementKind::Reward, MovementKind::Penalty]) {
        *earned.entry(movement.member.as_str()).or_default() += movement.amount.0;
    }
    let mut best: Vec<_> = earned.iter().map(|(member, sum)| (-sum, *member)).collect();
    best.sort_unstable();
    let expected: Value = best.iter().map(|(sum, member)| json!([member, points(-sum)])).collect();
    let found = bench.some("top-earners", &[("since", moment(since))], &["_id", "net"]).await;
    assert_eq!(found, expected);

    let fines = bench.moved_since(since, &[MovementKind::Penalty, MovementKind::ClaimPenalty]);
    let sum: i64 = fines.iter().map(|one| one.amount.0).sum();
    let all = bench.some("penalties-by-reason", &[("since", moment(since))], &["times", "points"]).await;
    let rows = all.as_array().expect("rows");
    let times: u64 = rows.iter().filter_map(|row| row[0].as_u64()).sum();
    let total: f64 = rows.iter().filter_map(|row| row[1].as_f64()).sum();
    assert_eq!((times, (total * 1e6).round()), (fines.len() as u64, (points(sum) * 1e6).round()));
    let reasons = bench.some("penalties-by-reason", &[("since", moment(since))], &["kind", "reason"]).await;
    assert_eq!(reasons[0], json!(["penalty", "availability ppm"]));
}

async fn answers(bench: &Bench) {
    let since = bench.ledger.intervals[1].cut_at;
    // Sent, answered, missed, bad intervals, fined.
    let mut members: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
    for one in bench.observed_since(since).into_iter().filter(|one| !one.excused && one.sent > 0) {
        let row = members.entry(one.member.as_str()).or_default();
        let fined = u64::try_from(one.penalty.0).expect("not negative");
        let this = [one.sent, one.answered, one.missed, u64::from(one.missed > 0), fined];
        row.iter_mut().zip(this).for_each(|(sum, value)| *sum += value);
    }
    let mut worst: Vec<_> = members.iter().collect();
    // By the share of answers, as products.
    worst.sort_by(|(a, x), (b, y)| (x[1] * y[0]).cmp(&(y[1] * x[0])).then(a.cmp(b)));
    let row = |(member, row): &(&&str, &[u64; 5])| {
        let fined = points(i64::try_from(row[4]).expect("small"));
        json!([member, row[0], row[2], row[3], fined])
    };
    let fields = ["_id", "sent", "missed", "bad_intervals", "fined_points"];
    let found = bench.some("worst-members", &[("since", moment(since))], &fields).await;
    assert_eq!(found, worst.iter().map(row).collect::<Value>());
    assert_eq!((found[0][0].as_str(), found[1][0].as_str()), (Some("worker-3"), Some("worker-2")));

    let first = moment(UnixMillis(0));
    let fields = ["interval", "member", "spread"];
    let found = bench.some("observers-disagreed", &[("since", first.clone())], &fields).await;
    assert_eq!(found, json!([[2, "worker-2", 0.5]]));
    let wider = [("since", first), ("spread", json!(0.51))];
    assert!(bench.ask("observers-disagreed", &wider).await.is_empty());

    let suspended = |one: &&super_node::ledger::records::Member| one.status == MemberStatus::Suspended;
    let member = bench.ledger.members.iter().find(suspended).expect("worker-3 is suspended");
    let found = bench.some("suspended", &[], &["_id", "status", "strikes", "remaining", "points"]).await;
    let balance = points(member.balance.0);
    let expected = json!([[member.id.as_str(), "suspended", member.strikes, member.remaining, balance]]);
    assert_eq!(found, expected);
    let dark = bench.ledger.observations.iter().filter(|one| one.member == member.id && one.missed > 0);
    let mut dark: Vec<_> =
        dark.map(|one| json!([one.interval.0, one.missed, points(one.penalty.0)])).collect();
    dark.reverse();
    dark.truncate(5);
    let cause = bench.some("suspended", &[], &["cause"]).await;
    let cause = cause[0][0].as_array().expect("a list");
    assert_eq!(pick(cause, &["interval", "missed", "fined_points"]), Value::Array(dark));

    let asked = [("member", json!("worker-2")), ("interval", json!(2))];
    let found =
        bench.some("why-paid", &asked, &["sent", "missed", "reward", "by", "movements", "judged"]).await;
    let one =
        bench.ledger.observations.iter().find(|one| one.interval.0 == 2 && one.member.as_str() == "worker-2");
    let one = one.expect("worker-2 was observed");
    let found = &found[0];
    assert_eq!(
        (&found[0], &found[1], &found[2]),
        (&json!(one.sent), &json!(one.missed), &json!(one.reward.0))
    );
    assert_eq!(found[3]["n2"]["missed"], json!(6));
    let paid = bench
        .ledger
        .rewards
        .iter()
        .filter(|paid| paid.interval == Some(one.interval) && paid.member == one.member);
    let paid: Value = paid.map(|paid| json!([paid.seq, paid.amount.0])).collect();
    assert_eq!(pick(found[4].as_array().expect("a list"), &["seq", "amount"]), paid);
    assert_eq!(found[5]["verdict"], json!("settled"));
}

async fn elections(bench: &Bench) {
    let mut expected: Vec<_> = bench.ledger.elections.iter().collect();
    expected.sort_by_key(|one| (std::cmp::Reverse(one.leaderless_ms), one.term));
    let rows = expected.iter().map(|one| json!([one.term.0, one.leaderless_ms, one.reason, one.at.0]));
    let fields = ["term", "leaderless_ms", "reason", "at"];
    let found = bench.some("elections", &[("since", moment(UnixMillis(0)))], &fields).await;
    assert_eq!(found, rows.collect::<Value>());
    let last = bench.ledger.elections.last().expect("some");
    let found = bench.some("elections", &[("since", moment(last.at))], &["term"]).await;
    assert_eq!(found, json!([[last.term.0]]));
    let fields = ["_id", "elections", "shortest_ms", "mean_ms", "longest_ms", "total_ms"];
    let found = bench.some("leaderless-by-reason", &[], &fields).await;
    let expected = json!([
        ["startup", 1, 375, 375.0, 375, 375],
        ["pings_silent", 1, 346, 346.0, 346, 346],
        ["connection_lost", 2, 10, 12.0, 14, 24]
    ]);
    assert_eq!(found, expected);
}

async fn intervals(bench: &Bench) {
    let unusual = bench.ledger.intervals.iter().rev().filter(|one| one.verdict != Verdict::Settled);
    let expected = unusual.map(|one| json!([one.id.0, one.verdict.as_str(), one.reason, one.cut_at.0]));
    let found = bench.some("unsettled", &[], &["interval", "verdict", "reason", "cut_at"]).await;
    assert_eq!(found, expected.collect::<Value>());
    assert_eq!(found[0][0], json!(4));

    let since = bench.ledger.intervals[0].cut_at;
    let mut aside: BTreeMap<(&str, &str), (u64, u64, u64)> = BTreeMap::new();
    for interval in bench.ledger.intervals.iter().filter(|one| one.cut_at >= since) {
        for observer in interval.observers.iter().filter(|observer| !observer.used) {
            let row =
                aside.entry((observer.id.as_str(), observer.why.as_str())).or_insert((0, interval.id.0, 0));
            *row = (row.0 + 1, row.1, interval.id.0);
        }
    }
    let mut rows: Vec<_> = aside.into_iter().collect();
    rows.sort_by_key(|((observer, why), (count, ..))| (std::cmp::Reverse(*count), *observer, *why));
    let expected =
        rows.iter().map(|((observer, why), (count, first, last))| json!([observer, why, count, first, last]));
    let fields = ["observer", "why", "intervals", "first", "last"];
    let found = bench.some("set-aside", &[("since", moment(since))], &fields).await;
    assert_eq!(found, expected.collect::<Value>());
}

async fn progress(bench: &Bench) {
    let movement = bench.ledger.rewards.last().expect("some");
    let interval = bench.ledger.intervals.last().expect("some");
    let fields = ["chain", "checkpoint", "head", "beyond", "hash"];
    let found = bench.some("chain-heads", &[], &fields).await;
    let expected = json!([
        ["rewards", movement.seq, movement.seq, 0, movement.hash.to_hex()],
        ["intervals", interval.id.0, interval.id.0, 0, interval.hash.to_hex()]
    ]);
    assert_eq!(found, expected);
    let fields = ["_id", "node", "term", "checkpoint", "interval", "interval_age_ms", "checkpoint_age_ms"];
    let found = bench.some("lag", &[], &fields).await;
    let found = found[0].as_array().expect("a row");
    assert_eq!(found[..5], [json!("test"), json!("n1"), json!(5), json!(movement.seq), json!(interval.id.0)]);
    let settled_ago = DateTime::now().timestamp_millis() - interval.settled_at.0;
    let told = found[5].as_i64().expect("a number");
    assert!((0..60_000).contains(&(settled_ago - told)), "{told} is not {settled_ago}");
    assert!((0..60_000).contains(&found[6].as_i64().expect("a number")), "{found:?}");
}

async fn damage(bench: &Bench) {
    for name in ["gaps", "broken-links", "conservation"] {
        assert_eq!(bench.ask(name, &[]).await, Vec::<Value>::new(), "{name}.js without damage");
    }
    // Sequence and interval holes.
    for (collection, hole) in [("rewards", 5..=6_i64), ("intervals", 3..=3)] {
        let target = bench.database.collection::<Document>(collection);
        let filter = doc! { "_id": { "$gte": *hole.start(), "$lte": *hole.end() } };
        let find = target.find(filter.clone()).await.expect("find");
        let originals: Vec<Document> = find.try_collect().await.expect("readable");
        target.delete_many(filter).await.expect("delete");
        let found = bench.some("gaps", &[], &["collection", "first", "last"]).await;
        assert_eq!(found, json!([[collection, hole.start(), hole.end()]]));
        let found = bench.some("broken-links", &[], &["collection", "number"]).await;
        assert_eq!(found, json!([[collection, hole.end() + 1]]));
        target.insert_many(originals).await.expect("as before");
    }
    // Money from nowhere: in a movement, and in a member.
    let (id, more, less) =
        (7_i64, doc! { "$inc": { "amount": 1_i64 } }, doc! { "$inc": { "amount": -1_i64 } });
    let movement = &bench.ledger.rewards[6];
    bench.update("rewards", doc! { "_id": id }, more).await;
    let found = bench.some("conservation", &[], &["_id", "sum", "last", "balance"]).await;
    let member = bench.ledger.members.iter().find(|one| one.id == movement.member).expect("known");
    let balance = member.balance.0;
    assert_eq!(found, json!([[member.id.as_str(), balance + 1, balance, balance]]));
    bench.update("rewards", doc! { "_id": id }, less).await;
    for by in [-3_i64, 3] {
        bench.update("members", doc! { "_id": "n1" }, doc! { "$inc": { "balance": by } }).await;
        let found = pick(&bench.ask("conservation", &[]).await, &["_id"]);
        assert_eq!(found, if by < 0 { json!([["n1"]]) } else { json!([]) });
    }
}

/// What is asked about a time, a member or an interval reads an index, not the collection.
async fn indexes(bench: &Bench) {
    for (name, index) in [
        ("balance-at", "member_1__id_1"),
        ("elections", "at_1"),
        ("observers-disagreed", "cut_at_1"),
        ("payouts-by-day", "at_1"),
        ("penalties-by-reason", "at_1"),
        ("set-aside", "cut_at_1"),
        ("top-earners", "at_1"),
        ("why-paid", "interval_1_member_1"),
        ("worst-members", "cut_at_1"),
    ] {
        let command = bench.scripts[name].command(&[]);
        let explain = doc! { "explain": command, "verbosity": "queryPlanner" };
        let plan = bench.database.run_command(explain).await.expect("explained").to_string();
        assert!(plan.contains(index) && !plan.contains("COLLSCAN"), "{name}.js: {plan}");
    }
}
