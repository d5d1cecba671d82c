//! The projector in virtual time: what it tells, to whom, and when. Nothing here waits for a real clock or a real MongoDB.

#[path = "support/history.rs"]
mod history;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use history::append_interval;
use super_node::database::documents::{self, PROJECTION, REWARDS};
use super_node::database::errors::{Class, ProjectionError};
use super_node::database::feed::{Feed as _, MemoryFeed};
use super_node::database::ports::{Limits, News};
use super_node::ledger::records::Checkpoint;
use super_node::sim::mongodb::{Reply, Request, Tables};
use super_node::sim::projection::{Projecting, Sight, Wish};
use super_node::types::{Amount, Index, Micros, Term, UnixMillis};

/// One projector that leads term 1, its ledger, and a MongoDB that answers at once.
struct Bench {
    feed: Arc<MemoryFeed>,
    projecting: Projecting,
    tables: Tables,
    sight: Sight,
    wakes: BTreeSet<Micros>,
    /// What became of each request, in order.
    requests: Vec<(Request, bool)>,
    proposed: Vec<(Micros, Checkpoint)>,
    news: Vec<News>,
}

impl Bench {
    fn new(intervals: usize) -> Bench {
        let feed = history::feed("test", "00112233445566778899aabbccddeeff");
        (0..intervals).for_each(|_| append_interval(&feed, 4));
        let feed = Arc::new(feed);
        let id = "n1".parse().expect("a name");
        let leading = Some(Term(1));
        Bench {
            projecting: Projecting::new(id, feed.clone(), Limits::default()),
            feed,
            tables: Tables::default(),
            sight: Sight { now: Micros(0), wall: UnixMillis(0), leading, applied: Index(1) },
            wakes: BTreeSet::new(),
            requests: Vec::new(),
            proposed: Vec::new(),
            news: Vec::new(),
        }
    }

    /// Lets virtual time pass. `refuses`: which requests meet a broken connection.
    fn run(&mut self, span: Duration, refuses: impl Fn(&Request) -> bool) {
        let end = self.sight.now.after(span);
        loop {
            let mut answered = false;
            for wish in self.projecting.poll(self.sight) {
                match wish {
                    Wish::Wake(at) => {
                        self.wakes.insert(at);
                    }
                    Wish::Call(call, request) => {
                        let reply = self.execute(&request, &refuses);
                        self.requests.push((request, reply.is_ok()));
                        self.projecting.answered(call, reply);
                        answered = true;
                    }
                    Wish::Propose(checkpoint) => self.proposed.push((self.sight.now, checkpoint)),
                    Wish::Tell(news) => self.news.push(news),
                    Wish::Report(_) | Wish::Written(_) => {}
                }
            }
            if answered {
                continue;
            }
            match self.wakes.pop_first() {
                Some(at) if at <= end => self.sight.now = self.sight.now.max(at),
                Some(at) => {
                    self.wakes.insert(at);
                    break;
                }
                None => break,
            }
        }
        self.sight.now = end;
    }

    fn execute(
        &mut self,
        request: &Request,
        refuses: &impl Fn(&Request) -> bool,
    ) -> Result<Reply, ProjectionError> {
        if refuses(request) {
            return Err(ProjectionError::Timeout { action: "test", seconds: 0 });
        }
        let mut reply = Reply::default();
        self.tables.execute(request, 0..request.steps(), &mut reply)?;
        Ok(reply)
    }

    fn head(&self) -> Checkpoint {
        self.feed.next(&Checkpoint::default(), 10_000).expect("memory").upto
    }
}

fn moves_the_checkpoint(request: &Request) -> bool {
    matches!(request, Request::Update { collection: PROJECTION, change, .. } if change.contains_key("$max"))
}

fn never(_: &Request) -> bool {
    false
}

/// Claim: records go first, an interval after everything it refers to, the checkpoint last.
#[test]
fn the_checkpoint_follows_what_it_covers() {
    let mut bench = Bench::new(2);
    bench.run(Duration::from_secs(3), never);
    let told: Vec<String> = bench.requests.iter().map(|(request, _)| word(request)).collect();
    assert_eq!(
        told.join("\n"),
        "prepare\n\
         find in projection\n\
         update projection\n\
         find in projection\n\
         find in projection\n\
         checkpoint 0\n\
         insert 8 into rewards\n\
         insert 8 into observations\n\
         insert 2 into elections\n\
         insert 2 into intervals\n\
         replace 4 in members\n\
         checkpoint 8"
    );
    assert_eq!(bench.tables.collection(REWARDS).len(), 8);
}

fn word(request: &Request) -> String {
    match request {
        Request::Update { change, .. } if change.contains_key("$max") => {
            let fields = change.get_document("$max").expect("fields");
            format!("checkpoint {}", fields.get_i64("checkpoint").expect("a number"))
        }
        Request::Update { collection, .. } => format!("update {collection}"),
        Request::Find { collection, .. } => format!("find in {collection}"),
        other => other.words(),
    }
}

/// Claim: a checkpoint that was only read is not told to the cluster. An older leader may have moved it a moment ago, and
/// a power cut of MongoDB may take that back; the ledger would have let go of records by then.
#[test]
fn a_checkpoint_is_confirmed_before_the_cluster_is_told() {
    let mut bench = Bench::new(1);
    bench.run(Duration::from_secs(3), never);
    let head = bench.head();
    assert_eq!(bench.proposed.last().map(|(_, checkpoint)| *checkpoint), Some(head));

    // A new leader finds the checkpoint where it is, and cannot write.
    let tables = std::mem::take(&mut bench.tables);
    let mut next = Bench { tables, feed: bench.feed.clone(), ..Bench::new(0) };
    next.projecting = Projecting::new("n2".parse().expect("a name"), bench.feed.clone(), Limits::default());
    next.run(Duration::from_secs(20), moves_the_checkpoint);
    assert!(next.requests.iter().filter(|(request, _)| moves_the_checkpoint(request)).count() > 3);
    assert_eq!(next.proposed, []);
    next.run(Duration::from_secs(20), never);
    assert_eq!(next.proposed.first().map(|(_, checkpoint)| *checkpoint), Some(head));
}

/// Claim: the cluster is told until it knows, at most once a second; then no more.
#[test]
fn a_lost_proposal_is_made_again() {
    let mut bench = Bench::new(1);
    bench.run(Duration::from_secs(10), never);
    let head = bench.head();
    assert!(bench.proposed.len() > 5, "{:?}", bench.proposed);
    assert!(bench.proposed.windows(2).all(|pair| pair[1].0.since(pair[0].0) >= Duration::from_secs(1)));
    assert!(bench.proposed.iter().all(|(_, checkpoint)| *checkpoint == head));
    bench.feed.records.write().expect("not poisoned").projected = head;
    bench.run(Duration::from_secs(2), never);
    let told = bench.proposed.len();
    bench.run(Duration::from_secs(60), never);
    assert_eq!(bench.proposed.len(), told);
}

/// Claim: what MongoDB refuses is told once, however often it is tried, and its end is told once.
#[test]
fn a_failure_that_stays_is_told_once() {
    let mut bench = Bench::new(1);
    let mut forged = bench.feed.records.read().expect("not poisoned").rewards[2].clone();
    forged.amount = Amount(77);
    let insert = Request::Insert { collection: REWARDS, documents: vec![documents::movement(&forged)] };
    bench.tables.execute(&insert, 0..1, &mut Reply::default()).expect("inserted");
    bench.run(Duration::from_secs(60), never);
    let [
        News::Started { checkpoint, lag: 5.. },
        News::Failing { gap: None, class: Class::Operator, error, first: true },
    ] = &bench.news[..]
    else {
        panic!("{:?}", bench.news);
    };
    assert_eq!(*checkpoint, Checkpoint::default());
    assert!(error.contains("document 3 in collection 'rewards' differs"), "{error}");
    let tries = bench.requests.iter().filter(|(request, _)| *request == Request::Prepare).count();
    assert!((10..15).contains(&tries), "every five seconds: {tries}");

    let repair = Request::Delete { collection: REWARDS, filter: bson::doc! { "_id": 3_i64 } };
    bench.tables.execute(&repair, 0..1, &mut Reply::default()).expect("deleted");
    bench.run(Duration::from_secs(10), never);
    let [News::Recovered, News::CaughtUp { checkpoint }] = &bench.news[2..] else {
        panic!("{:?}", bench.news);
    };
    assert_eq!(checkpoint.intervals.0, 1);
    // Who leads no more says so, once.
    bench.sight.leading = None;
    bench.run(Duration::from_secs(5), never);
    assert_eq!(bench.news[4..], [News::Stopped]);
}

/// Claim: an operation that is never answered is given up after ten seconds, and all of it is tried again.
#[test]
fn an_operation_without_an_answer_is_given_up() {
    let mut bench = Bench::new(1);
    bench.run(Duration::from_secs(3), never);
    let (mut calls, mut given_up) = (0, None);
    append_interval(&bench.feed, 4);
    bench.sight.applied = Index(2);
    let begun = bench.sight.now;
    while given_up.is_none() {
        for wish in bench.projecting.poll(bench.sight) {
            match wish {
                Wish::Wake(at) => {
                    bench.wakes.insert(at);
                }
                Wish::Call(..) => calls += 1,
                Wish::Tell(News::Failing { error, .. }) => given_up = Some(error),
                _ => {}
            }
        }
        let next = bench.wakes.pop_first().expect("it sleeps until something");
        bench.sight.now = bench.sight.now.max(next);
    }
    assert_eq!(calls, 3, "rewards, observations, elections");
    assert_eq!(given_up.as_deref(), Some("MongoDB: no answer to insert within 10 s"));
    assert!(bench.sight.now.since(begun) < Duration::from_secs(12));
}

/// Puts an old state in place: no movement and no interval after the first, and the checkpoint says so.
fn restore_the_first_interval(bench: &mut Bench) {
    let first = bench.feed.records.read().expect("not poisoned").intervals[0].last_seq;
    let after = i64::try_from(first).expect("small");
    let mut run = |request: Request| bench.tables.execute(&request, 0..1, &mut Reply::default()).map(drop);
    for seq in after + 1..=after + 4 {
        run(Request::Delete { collection: REWARDS, filter: bson::doc! { "_id": seq } }).expect("deleted");
    }
    run(Request::Delete { collection: "intervals", filter: bson::doc! { "_id": 2_i64 } }).expect("deleted");
    let old = bson::doc! { "$set": { "checkpoint": after, "intervals": 1_i64, "elections": 1_i64 } };
    let filter = bson::doc! { "_id": "test" };
    run(Request::Update { collection: PROJECTION, filter, change: old, upsert: false }).expect("set back");
}

/// Claim: an old state that is put in place under a projector at work is noticed by its checkpoint, and filled up again.
#[test]
fn an_old_state_put_in_place_meanwhile_is_filled_up() {
    let mut bench = Bench::new(2);
    bench.run(Duration::from_secs(3), never);
    restore_the_first_interval(&mut bench);
    assert_eq!(bench.tables.collection(REWARDS).len(), 4);
    append_interval(&bench.feed, 4);
    bench.sight.applied = Index(2);
    bench.run(Duration::from_secs(20), never);
    assert_eq!(bench.tables.collection(REWARDS).len(), 12, "nothing is left out");
    assert_eq!(bench.tables.collection("intervals").len(), 3);
    let failing = bench.news.iter().find_map(|news| match news {
        News::Failing { class, error, .. } => Some((*class, error.as_str())),
        _ => None,
    });
    let (class, error) = failing.expect("it is told");
    assert_eq!(class, Class::Retry);
    assert!(error.contains("went back from movement 8 to 4"), "{error}");
    assert!(bench.news.contains(&News::Recovered));
}

/// Claim: a leader that finds MongoDB behind what the cluster knows of it tells so, once, and fills it up again.
#[test]
fn a_mongodb_that_went_back_is_told() {
    let mut bench = Bench::new(2);
    bench.run(Duration::from_secs(3), never);
    let head = bench.head();
    bench.feed.records.write().expect("not poisoned").projected = head;
    restore_the_first_interval(&mut bench);
    let tables = std::mem::take(&mut bench.tables);
    let mut next = Bench { tables, feed: bench.feed.clone(), ..Bench::new(0) };
    next.projecting = Projecting::new("n2".parse().expect("a name"), bench.feed.clone(), Limits::default());
    // It cannot write at first, and begins again and again.
    next.run(Duration::from_secs(20), |request| matches!(request, Request::Insert { .. }));
    next.run(Duration::from_secs(20), never);
    let told: Vec<&News> = next.news.iter().filter(|news| matches!(news, News::WentBack { .. })).collect();
    let [News::WentBack { found, agreed }] = told[..] else { panic!("{:?}", next.news) };
    assert_eq!((found.rewards, agreed.rewards), (4, 8));
    assert_eq!(next.tables.collection(REWARDS).len(), 8);
}

/// Claim: while the records of a batch are inserted, the batch before it is concluded and the checkpoint moves over the one
/// before that; a checkpoint covers only what is concluded.
#[test]
fn batches_overlap_and_the_checkpoint_keeps_their_order() {
    let mut bench = Bench::new(0);
    (0..6).for_each(|_| append_interval(&bench.feed, 4));
    let limits = Limits { batch_records: 4, ..Limits::default() };
    bench.projecting = Projecting::new("n1".parse().expect("a name"), bench.feed.clone(), limits);
    let mut under_way = std::collections::BTreeMap::new();
    let (mut overlapped, mut covered) = (false, 0);
    for _ in 0..200 {
        for wish in bench.projecting.poll(bench.sight) {
            match wish {
                Wish::Wake(at) => {
                    bench.wakes.insert(at);
                }
                Wish::Call(call, request) => {
                    under_way.insert(call, request);
                }
                _ => {}
            }
        }
        let words: Vec<String> = under_way.values().map(word).collect();
        let any =
            |start: &str, end: &str| words.iter().any(|one| one.starts_with(start) && one.ends_with(end));
        overlapped |= any("insert", "rewards") && any("insert", "intervals") && any("checkpoint", "");
        // The newest is answered first: the worst order.
        let Some((call, request)) = under_way.pop_last() else {
            let Some(at) = bench.wakes.pop_first() else { break };
            bench.sight.now = bench.sight.now.max(at);
            continue;
        };
        let mut reply = Reply::default();
        bench.tables.execute(&request, 0..request.steps(), &mut reply).expect("well formed");
        bench.projecting.answered(call, Ok(reply));
        if moves_the_checkpoint(&request) {
            let found = bench.tables.collection(PROJECTION).values().next().expect("one");
            covered = found.get_i64("checkpoint").expect("a number");
            let intervals = bench.tables.collection("intervals").len();
            assert!(i64::try_from(intervals * 4).expect("small") >= covered, "{covered} of {intervals}");
        }
    }
    assert!(overlapped, "three batches at once");
    assert_eq!(covered, 24);
}
