//! A real agent between a real pinger and an HTTP server that plays the super-node.

use std::collections::VecDeque;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::{delete, post};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::metrics::Metrics;
use crate::network::datagram::{Ping, Pong, is_authentic};
use crate::network::udp::{AgentEvent, UdpPinger};
use crate::node::ports::{AgentPing, Pinger};
use crate::types::IntervalId;

use super::*;

const KEY: AgentKey = AgentKey([5; 32]);

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the super-node was asked, as text, and with which key.
type Asked = (String, String);

#[derive(Clone)]
struct SuperNode {
    /// The next answers; when there are none left, 200.
    answers: Arc<Mutex<VecDeque<(u16, &'static str)>>>,
    asked: mpsc::UnboundedSender<Asked>,
}

impl SuperNode {
    fn answer(&self, what: String, headers: &HeaderMap) -> impl IntoResponse + use<> {
        let key = headers.get("Idempotency-Key").map(|key| key.to_str().unwrap().to_string());
        self.asked.send((what, key.unwrap_or_default())).unwrap();
        let (code, body) = self.answers.lock().unwrap().pop_front().unwrap_or((200, "{}"));
        (StatusCode::from_u16(code).unwrap(), body)
    }
}

async fn super_node(answers: &[(u16, &'static str)]) -> (String, mpsc::UnboundedReceiver<Asked>) {
    let (asked, asks) = mpsc::unbounded_channel();
    let state = SuperNode { answers: Arc::new(Mutex::new(answers.iter().copied().collect())), asked };
    let join = |State(node): State<SuperNode>, headers: HeaderMap, body: String| async move {
        node.answer(body, &headers)
    };
    let leave = |State(node): State<SuperNode>, Path(id): Path<String>, headers: HeaderMap| async move {
        node.answer(format!("leave {id}"), &headers)
    };
    let router = Router::new()
        .route("/v1/members:enrol", post(join))
        .route("/v1/members/{id}", delete(leave))
        .with_state(state);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asks)
}

fn settings(join: &[&str]) -> AgentSettings {
    AgentSettings {
        id: "worker-1".parse().unwrap(),
        join: join.iter().map(|url| url.to_string()).collect(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        cluster: Some("c".to_string()),
        key: KEY,
        token: Some("let me in".to_string()),
        status: None,
        silence: Duration::from_secs(600),
        ca: None,
        bearer: None,
        leave: false,
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it happens in the end")
}

fn spawn(settings: AgentSettings) -> (SocketAddr, CancellationToken, JoinHandle<Result<(), AgentError>>) {
    let agent = Agent::bind(settings).expect("it binds");
    let (address, token) = (agent.local_address(), CancellationToken::new());
    (address, token.clone(), tokio::spawn(agent.run(token)))
}

#[tokio::test]
async fn an_agent_registers_answers_pings_and_ends_quietly() {
    let (url, mut asks) = super_node(&[]).await;
    let (address, token, task) = spawn(settings(&[&url]));
    let (body, key) = within(asks.recv()).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({"id": "worker-1", "address": address.to_string(), "key": KEY.to_hex(),
        "version": Version::current().to_string(), "token": "let me in"});
    assert_eq!((body, key.as_str()), (expected, ""), "the same again does no harm, so it needs no key");

    let (sender, mut inbox) = mpsc::channel(10);
    let (metrics, stop) = (Metrics::new(), CancellationToken::new());
    let any = "127.0.0.1:0".parse().unwrap();
    let pinger = UdpPinger::start(any, "c", sender, &metrics, stop.clone()).unwrap();
    pinger.set_interval(IntervalId(9));
    for seq in [5, 6] {
        let member = "worker-1".parse().unwrap();
        pinger.ping(&[AgentPing { member, address: address.to_string().into(), key: KEY, seq }]);
        let expected =
            AgentEvent::Pong { member: "worker-1".parse().unwrap(), seq, version: Version::current() };
        assert_eq!(within(inbox.recv()).await, Some(expected));
    }
    token.cancel();
    assert!(within(task).await.unwrap().is_ok());
    assert!(asks.try_recv().is_err(), "not asked to leave");
}

#[tokio::test]
async fn an_agent_ignores_junk_and_other_clusters_and_goes_on_answering() {
    let (url, _asks) = super_node(&[]).await;
    let (address, _token, _task) = spawn(settings(&[&url]));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let ping = |seq: u8, cluster: &str, key: &AgentKey| {
        let (nonce, interval) = ([seq; 16], IntervalId(0));
        Ping { seq: seq.into(), nonce, interval, cluster, member: "worker-1" }.encode(key)
    };
    let true_ping = ping(1, "c", &KEY);
    let (foreign, forged) = (ping(99, "other", &KEY), ping(98, "c", &AgentKey([6; 32])));
    for junk in [&b""[..], b"SNOD", &[0xff; 192], &[0; 1_400], &foreign, &forged, &true_ping[..191]] {
        socket.send_to(junk, address).await.unwrap();
    }
    let mut buffer = [0; 512];
    for seq in [1, 2] {
        // The second time it is a replay, and the answer is that to the next one.
        socket.send_to(&true_ping, address).await.unwrap();
        socket.send_to(&ping(seq, "c", &KEY), address).await.unwrap();
        let (length, from) = within(socket.recv_from(&mut buffer)).await.unwrap();
        let pong = Pong::decode(&buffer[..length]).expect("the first answer is the one to the true ping");
        assert!(is_authentic(&buffer[..length], &KEY));
        assert_eq!((from, pong.seq, pong.nonce), (address, u64::from(seq), [seq; 16]));
        assert_eq!(pong.member.as_str(), "worker-1");
    }
}

#[tokio::test]
async fn an_agent_shows_that_it_lives_and_what_it_heard() {
    let (url, _asks) = super_node(&[]).await;
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let agent = Agent::bind(AgentSettings { status: Some(any), ..settings(&[&url]) }).expect("it binds");
    let (address, status, token) =
        (agent.local_address(), agent.status_address().unwrap(), CancellationToken::new());
    let task = tokio::spawn(agent.run(token.clone()));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"junk", address).await.unwrap();
    let (nonce, interval) = ([1; 16], IntervalId(0));
    let ping = Ping { seq: 1, nonce, interval, cluster: "c", member: "worker-1" }.encode(&KEY);
    socket.send_to(&ping, address).await.unwrap();
    within(socket.recv_from(&mut [0; 512])).await.unwrap();
    let http = tls::http(None).unwrap().build().unwrap();
    let get = async |path: &str| {
        within(http.get(format!("http://{status}{path}")).send()).await.unwrap().text().await
    };
    assert_eq!(get("/livez").await.unwrap(), "ok, 1 pings answered\n");
    let metrics = get("/metrics").await.unwrap();
    for line in [
        "super_node_agent_datagrams_total{result=\"answered\"} 1",
        "super_node_agent_datagrams_total{result=\"junk\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    token.cancel();
    assert!(within(task).await.unwrap().is_ok());
}

#[tokio::test]
async fn an_agent_that_waits_asks_again_and_learns_of_other_super_nodes() {
    let (other, mut other_asks) = super_node(&[]).await;
    let waits = format!(r#"{{"status":"waiting","fingerprint":"00","endpoints":["{other}","nonsense"]}}"#);
    let (url, mut asks) = super_node(&[(202, Box::leak(waits.into_boxed_str())), (503, "gone")]).await;
    let (_, _token, _task) = spawn(settings(&[&url]));
    within(asks.recv()).await.unwrap();
    within(asks.recv()).await.unwrap();
    within(other_asks.recv()).await.unwrap();
}

#[tokio::test]
async fn enrolment_is_tried_everywhere_and_again() {
    let nobody = {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", closed.local_addr().unwrap())
    };
    let (url, mut asks) = super_node(&[(503, "no leader"), (500, "")]).await;
    let (_, _token, _task) = spawn(settings(&[&nobody, &url]));
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(within(asks.recv()).await.unwrap().0);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
}

#[tokio::test]
async fn an_agent_that_is_not_pinged_registers_again() {
    let (url, mut asks) = super_node(&[]).await;
    let silence = Duration::from_millis(50);
    let (_, _token, _task) = spawn(AgentSettings { silence, ..settings(&[&url]) });
    let first = within(asks.recv()).await.unwrap();
    let second = within(asks.recv()).await.unwrap();
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_refusal_for_good_ends_the_agent_with_the_reason() {
    let taken = r#"{"code":"conflict","detail":"worker-1 is a super-node"}"#;
    for (code, body, expected) in [
        (409, taken, "worker-1 is a super-node; choose another --id"),
        (400, "bad address", "(400): bad address"),
        (401, r#"{"title":"unauthorized"}"#, "(401): unauthorized"),
    ] {
        let (url, _asks) = super_node(&[(code, body)]).await;
        let error = within(run(settings(&[&url]), CancellationToken::new())).await.unwrap_err();
        assert_eq!(matches!(error, AgentError::Conflict { .. }), code == 409);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn an_agent_leaves_when_asked_to() {
    let (url, mut asks) = super_node(&[]).await;
    let (_, token, task) = spawn(AgentSettings { leave: true, ..settings(&[&url]) });
    within(asks.recv()).await.unwrap();
    token.cancel();
    assert_eq!(within(asks.recv()).await.unwrap().0, "leave worker-1");
    assert!(within(task).await.unwrap().is_ok());
}

#[tokio::test]
async fn the_advertised_address_is_the_given_one_or_one_that_can_be_reached() {
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    for (advertise, host) in [(Some("agent.example:9".to_string()), "agent.example:"), (None, "127.0.0.1:")] {
        let (url, mut asks) = super_node(&[]).await;
        let (_, _token, _task) = spawn(AgentSettings { listen: any, advertise, ..settings(&[&url]) });
        let body: serde_json::Value = serde_json::from_str(&within(asks.recv()).await.unwrap().0).unwrap();
        let address = body["address"].as_str().unwrap();
        assert!(address.starts_with(host) && !address.ends_with(":0"), "{address}");
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_the_remedy() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let in_use = AgentSettings { listen: taken.local_addr().unwrap(), ..settings(&["http://127.0.0.1:1"]) };
    for (settings, expected) in [
        (in_use, "stop it, or choose another with --listen"),
        (settings(&[]), "--join http://HOST:7400"),
        (settings(&["nonsense"]), "expected a URL like"),
        (settings(&["ftp://127.0.0.1:1"]), "scheme \"ftp\" is not supported"),
    ] {
        let error = Agent::bind(settings).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
