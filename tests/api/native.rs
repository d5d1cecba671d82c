//! The framed protocol on the client listener, beside HTTP.

use std::time::Duration;

use super_node::client::Outcome as ClientOutcome;
use super_node::client::native::{CallError, Cluster, Connection};
use super_node::ledger::command::KvOperation;
use super_node::network::native::{
    Done, Hello, Level, Offer, Operation, Outcome, PREFACE, PROTOCOL, PROTOCOL_MIN, PROTOCOL_WITH_TOKEN,
    Reader, Refusal, Request, Response, Welcome, greet, seal,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::fake::{Fake, Mood};

const PATIENCE: Duration = Duration::from_secs(5);

fn address(fake: &Fake) -> String {
    fake.url.trim_start_matches("http://").to_string()
}

async fn connect(fake: &Fake) -> Connection {
    Connection::open(&address(fake), "test").await.expect("a connection")
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.to_string(), value: value.to_string(), if_revision: None }
}

fn get(key: &str, level: Level) -> Operation {
    Operation::Get { key: key.to_string(), level }
}

async fn refused(connection: &Connection, operation: Operation) -> Refusal {
    match connection.call(operation, None, PATIENCE).await {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn metric(fake: &Fake, line: &str) -> bool {
    fake.get("/metrics").await.text.contains(line)
}

#[tokio::test]
async fn everything_that_frames_offer_is_done_and_http_sees_it() {
    let fake = Fake::start().await;
    let connection = connect(&fake).await;
    let call = |operation: Operation| connection.call(operation, None, PATIENCE);
    let Done::Written { revision: 1, .. } = call(put("a", " { \"x\" : 1 } ")).await.expect("written") else {
        panic!("the first revision")
    };
    for level in [Level::Linearizable, Level::Lease, Level::Stale] {
        let found = call(get("a", level)).await.expect("read");
        assert_eq!(found, Done::Found { value: "{\"x\":1}".to_string(), revision: 1 });
    }
    assert_eq!(call(get("b", Level::Linearizable)).await.expect("read"), Done::Absent);
    let operations = vec![
        KvOperation::Put { key: "b".to_string(), value: "2".to_string() },
        KvOperation::Delete { key: "a".to_string() },
    ];
    assert!(matches!(call(Operation::Batch { operations }).await, Ok(Done::Written { revision: 2, .. })));
    assert_eq!(fake.get("/v1/kv/b").await.json["value"], 2);
    assert_eq!(fake.get("/v1/kv/a").await.status, 404);
    assert!(matches!(call(Operation::Add { a: 5, b: 3 }).await, Ok(Done::Sum { result: 8, .. })));
    let delete = Operation::Delete { key: "b".to_string(), if_revision: Some(2) };
    assert!(matches!(call(delete).await, Ok(Done::Written { revision: 3, .. })));
    assert!(metric(&fake, "super_node_native_requests_total{result=\"answered\"} 8").await);
}

#[tokio::test]
async fn refusals_say_what_http_says() {
    let fake = Fake::start().await;
    let connection = connect(&fake).await;
    assert!(connection.call(put("a", "1"), None, PATIENCE).await.is_ok());
    let stale = Operation::Put { key: "a".to_string(), value: "2".to_string(), if_revision: Some(9) };
    let long = "k".repeat(513);
    let cases = [
        (put("a", "{"), "bad_request"),
        (put("", "1"), "bad_request"),
        (put(&long, "1"), "bad_request"),
        (put("a", &format!("\"{}\"", "1".repeat(1 << 20))), "too_large"),
        (Operation::Batch { operations: Vec::new() }, "bad_request"),
        (Operation::Batch { operations: vec![KvOperation::Delete { key: "x".into() }; 1_001] }, "too_large"),
        (Operation::Delete { key: "nobody".to_string(), if_revision: None }, "not_found"),
        (stale, "conflict"),
        (Operation::Add { a: i64::MAX, b: 1 }, "bad_request"),
        (get("", Level::Stale), "bad_request"),
    ];
    for (operation, code) in cases {
        let refusal = refused(&connection, operation).await;
        assert_eq!((refusal.code.as_str(), refusal.outcome), (code, Outcome::NotApplied), "{refusal:?}");
        assert!(!refusal.retryable && !refusal.detail.is_empty(), "{refusal:?}");
    }
    let key = Some("k".repeat(129));
    let long_key = connection.call(put("a", "1"), key, PATIENCE).await;
    assert!(matches!(long_key, Err(CallError::Refused(refusal)) if refusal.code == "bad_request"));
}

#[tokio::test]
async fn without_a_leader_the_outcome_is_told_honestly() {
    let fake = Fake::start().await;
    let connection = connect(&fake).await;
    fake.set_mood(Mood::Lost);
    let refusal = refused(&connection, put("a", "1")).await;
    assert_eq!(
        (refusal.code.as_str(), refusal.outcome, refusal.retryable),
        ("no_leader", Outcome::NotApplied, true)
    );
    fake.set_mood(Mood::Follows);
    assert!(connection.call(put("a", "1"), None, PATIENCE).await.is_ok(), "it is passed on");
    fake.set_mood(Mood::Silent);
    let write = connection.call(put("a", "2"), None, PATIENCE);
    let read = connection.call(get("a", Level::Linearizable), None, PATIENCE);
    let (write, read) = tokio::join!(write, read);
    let Err(CallError::Refused(write)) = write else { panic!("{write:?}") };
    assert_eq!((write.code.as_str(), write.outcome), ("timeout", Outcome::Unknown));
    let Err(CallError::Refused(read)) = read else { panic!("{read:?}") };
    assert_eq!((read.code.as_str(), read.outcome), ("timeout", Outcome::NotApplied));
    assert!(
        connection.call(get("a", Level::Stale), None, PATIENCE).await.is_ok(),
        "others are answered meanwhile"
    );
}

#[tokio::test]
async fn many_requests_are_under_way_at_once_and_each_gets_its_own_answer() {
    let fake = Fake::start().await;
    let connection = connect(&fake).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..50_i64 {
        let connection = connection.clone();
        calls.spawn(async move {
            let sum = connection.call(Operation::Add { a: number, b: 1_000 }, None, PATIENCE).await;
            (number, sum)
        });
    }
    let mut done = 0;
    while let Some(call) = calls.join_next().await {
        let (number, sum) = call.expect("no panic");
        assert!(matches!(sum, Ok(Done::Sum { result, .. }) if result == number + 1_000), "{number}: {sum:?}");
        done += 1;
    }
    assert_eq!(done, 50);
}

#[tokio::test]
async fn the_wrong_cluster_and_another_version_are_refused_with_a_reason() {
    let fake = Fake::start().await;
    let Err(CallError::NotSent(why)) = Connection::open(&address(&fake), "other").await else {
        panic!("it should be refused")
    };
    assert!(why.contains("cluster \"test\"") && why.contains("\"other\""), "{why}");
    let mut stream = TcpStream::connect(address(&fake)).await.expect("connected");
    let hello =
        Hello { protocol: PROTOCOL_WITH_TOKEN + 1, cluster: "test".to_string(), software: "x".to_string() };
    greet(&mut stream, &PREFACE, &hello).await.expect("sent");
    let Welcome::Refused { reason } = Reader::new(stream).hello().await.expect("an answer") else {
        panic!("it should be refused")
    };
    assert!(reason.contains("protocol"), "{reason}");
    assert!(metric(&fake, "super_node_native_connections_total{result=\"refused\"} 2").await);
}

/// | client speaks | answer |
/// |---|---|
/// | 1 | 1 |
/// | 1 to 7 | 1 |
/// | 6 to 7 | refused: upgrade the node |
/// | 0 | refused: use a newer client |
#[tokio::test]
async fn a_client_that_speaks_several_versions_gets_the_newest_common_one_or_a_clear_word() {
    let fake = Fake::start().await;
    for (oldest, newest, expected) in [
        (PROTOCOL_MIN, PROTOCOL_MIN, Ok(PROTOCOL_MIN)),
        (PROTOCOL_MIN, PROTOCOL + 6, Ok(PROTOCOL)),
        (PROTOCOL + 5, PROTOCOL + 6, Err(["not 7 to 8", "upgrade the node"])),
        (PROTOCOL_MIN - 1, PROTOCOL_MIN - 1, Err(["not 0", "use a newer client"])),
    ] {
        let mut stream = TcpStream::connect(address(&fake)).await.expect("connected");
        let hello = Hello { protocol: newest, cluster: "test".to_string(), software: "x".to_string() };
        greet(&mut stream, &PREFACE, &Offer { hello, oldest }).await.expect("sent");
        match (Reader::new(stream).hello().await.expect("an answer"), expected) {
            (Welcome::Ready { protocol, .. }, Ok(expected)) => assert_eq!(protocol, expected),
            (Welcome::Refused { reason }, Err(words)) => {
                assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
            }
            (answer, expected) => panic!("{oldest} to {newest}: {answer:?}, and not {expected:?}"),
        }
    }
}

/// A connection past its hello, without the client library.
async fn raw(fake: &Fake) -> (Reader<tokio::net::tcp::OwnedReadHalf>, tokio::net::tcp::OwnedWriteHalf) {
    let (reader, mut writer) = TcpStream::connect(address(fake)).await.expect("connected").into_split();
    let hello = Hello { protocol: PROTOCOL_MIN, cluster: "test".to_string(), software: "raw".to_string() };
    greet(&mut writer, &PREFACE, &hello).await.expect("sent");
    let mut reader = Reader::new(reader);
    assert!(matches!(reader.hello().await, Ok(Welcome::Ready { .. })));
    (reader, writer)
}

#[tokio::test]
async fn what_makes_no_sense_closes_the_connection_and_is_counted() {
    let fake = Fake::start().await;
    let mut twice = Vec::new();
    let request =
        Request { id: 7, patience_ms: 0, forward: true, idempotency_key: None, operation: put("a", "1") };
    seal(&request, &mut twice);
    seal(&request, &mut twice);
    fake.set_mood(Mood::Silent);
    let cases: [(&str, Vec<u8>); 4] = [
        ("an id that is under way", twice),
        ("a wrong checksum", vec![0, 0, 0, 5, 1, 2, 3, 4, 9]),
        ("a length beyond the bound", vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
        ("a body that is no request", {
            let mut out = Vec::new();
            seal(&"hello", &mut out);
            out
        }),
    ];
    for (number, (what, bytes)) in cases.into_iter().enumerate() {
        let (mut reader, mut writer) = raw(&fake).await;
        writer.write_all(&bytes).await.expect("sent");
        let end = reader.next::<Response>().await;
        assert!(end.is_err(), "{what}: {end:?}");
        let line = format!("super_node_native_connections_total{{result=\"malformed\"}} {}", number + 1);
        // The count follows the close.
        for _ in 0..100 {
            if metric(&fake, &line).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(metric(&fake, &line).await, "{what}: {line}");
    }
    let (mut reader, mut writer) = raw(&fake).await;
    fake.set_mood(Mood::Leads);
    let mut half = Vec::new();
    seal(&Request { id: 1, ..request }, &mut half);
    for byte in half {
        writer.write_all(&[byte]).await.expect("sent");
    }
    assert!(
        matches!(reader.next::<Response>().await, Ok(Response { id: 1, result: Ok(_) })),
        "byte by byte is fine"
    );
}

#[tokio::test]
async fn http_and_frames_share_the_listener_however_slowly_they_begin() {
    let fake = Fake::start().await;
    let mut slow = TcpStream::connect(address(&fake)).await.expect("connected");
    let mut bytes = PREFACE.to_vec();
    seal(
        &Hello { protocol: PROTOCOL_MIN, cluster: "test".to_string(), software: "slow".to_string() },
        &mut bytes,
    );
    for byte in bytes {
        slow.write_all(&[byte]).await.expect("sent");
        slow.flush().await.expect("sent");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(Reader::new(slow).hello().await, Ok(Welcome::Ready { .. })));
    // A beginning that is almost the preface is HTTP's to refuse.
    let mut almost = TcpStream::connect(address(&fake)).await.expect("connected");
    almost.write_all(b"SNATIVE9 / HTTP/1.1\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut almost, &mut answer).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(fake.put("/v1/kv/a", "1").await.status, 200);
}

#[tokio::test]
async fn a_lost_connection_leaves_writes_unknown_and_what_never_left_not_applied() {
    let fake = Fake::start().await;
    let connection = connect(&fake).await;
    fake.set_mood(Mood::Silent);
    let waiting = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.call(put("a", "1"), None, PATIENCE).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.stopping.cancel();
    assert!(matches!(waiting.await.expect("no panic"), Err(CallError::Lost(_))));
    assert!(matches!(connection.call(put("a", "1"), None, PATIENCE).await, Err(CallError::NotSent(_))));
    assert!(connection.is_closed());
}

#[tokio::test]
async fn a_cluster_asks_one_node_after_another_and_never_guesses() {
    let (fake, lost) = (Fake::start().await, Fake::start().await);
    lost.set_mood(Mood::Lost);
    let nobody = "127.0.0.1:1".to_string();
    let cluster =
        |addresses: Vec<String>, millis| Cluster::new(addresses, "test", Duration::from_millis(millis));
    let all = cluster(vec![nobody.clone(), address(&lost), address(&fake)], 5_000);
    assert!(matches!(all.call(put("a", "1")).await, Ok(Done::Written { .. })));
    assert!(matches!(all.call(get("a", Level::Linearizable)).await, Ok(Done::Found { .. })));
    let conflict = Operation::Put { key: "a".to_string(), value: "2".to_string(), if_revision: Some(77) };
    let error = all.call(conflict).await.expect_err("a conflict");
    assert_eq!((error.code.as_str(), error.outcome), ("conflict", Some(ClientOutcome::NotApplied)));
    let error = cluster(vec![nobody], 200).call(put("a", "1")).await.expect_err("nobody is there");
    assert_eq!((error.code.as_str(), error.outcome), ("unreachable", Some(ClientOutcome::NotApplied)));
    fake.set_mood(Mood::Silent);
    let silent = cluster(vec![address(&fake)], 400);
    let error = silent.call(put("a", "1")).await.expect_err("nobody answers");
    assert_eq!((error.code.as_str(), error.outcome), ("unknown", Some(ClientOutcome::Unknown)));
}
