//! A node without consensus behind a real [`Handle`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use super_node::api::{ApiParts, ApiState, Guard, Surroundings, serve_clients};
use super_node::config::{AgentsSettings, HttpSettings};
use super_node::ledger::apply::apply;
use super_node::ledger::command::{Answer, Applied, Command, Envelope, Request};
use super_node::ledger::keyspace::Keyspace;
use super_node::ledger::policy::Policy;
use super_node::metrics::Metrics;
use super_node::node::events::EventLog;
use super_node::node::handle::{Ask, Changed, Failure, Handle, Transferred};
use super_node::node::ports::StateStore;
use super_node::node::status::{NodeStatus, PeerStatus, RoleName};
use super_node::raft::{Change, Configuration};
use super_node::storage::MemoryState;
use super_node::types::{Index, NodeId, Term, UnixMillis};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How consensus is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Applies everything at once.
    Leads,
    /// n2 leads; what may be forwarded is applied, as if n2 had done it.
    Follows,
    /// Knows no leader.
    Lost,
    /// Never answers.
    Silent,
}

/// A served node and a client for it.
pub struct Fake {
    pub url: String,
    pub http: reqwest::Client,
    pub handle: Handle,
    pub stopping: CancellationToken,
    mood: watch::Sender<Mood>,
    status: watch::Sender<NodeStatus>,
}

pub fn node(name: &str) -> NodeId {
    name.parse().expect("a valid name")
}

fn status() -> NodeStatus {
    let peer = |name: &str, role| PeerStatus {
        id: node(name),
        address: "127.0.0.1:7411".to_string(),
        role,
        matched: None,
        lag: None,
        contact_ms: Some(40),
        up: true,
        url: None,
        joining: false,
        replaces: None,
        falls_behind: false,
    };
    NodeStatus {
        cluster: "test".to_string(),
        id: node("n1"),
        role: RoleName::Leader,
        term: Term(7),
        leader: Some(node("n1")),
        commit: Index(0),
        applied: Index(0),
        voters: vec![node("n1"), node("n2"), node("n3")],
        nodes: vec![peer("n1", RoleName::Leader), peer("n2", RoleName::Follower)],
        members: Default::default(),
        interval: Default::default(),
        ledger: Default::default(),
        projection: Default::default(),
        version: "0.0.0".to_string(),
        url: String::new(),
        learners: Vec::new(),
        identity: None,
        peer_protocol: 0,
        peer_protocol_max: 0,
        log: Default::default(),
        changing: false,
        removed: false,
        transfer: None,
        disk_degraded: false,
        disk_full: false,
        lacks_state: false,
        in_memory: false,
        webhooks: Vec::new(),
        receiving: None,
    }
}

struct Player {
    asks: mpsc::Receiver<Ask>,
    store: Arc<MemoryState>,
    applied: watch::Sender<Index>,
    mood: watch::Receiver<Mood>,
    index: AtomicU64,
    configuration: Configuration,
    /// Questions that nobody answers; dropping one would be an answer.
    ignored: Vec<Ask>,
}

impl Player {
    async fn play(mut self) {
        while let Some(ask) = self.asks.recv().await {
            let mood = *self.mood.borrow();
            let refusal = |forward: bool| match mood {
                Mood::Lost => Some(Failure::NoLeader),
                Mood::Follows if !forward => Some(Failure::NotLeader { leader: Some(node("n2")) }),
                _ => None,
            };
            match ask {
                ask if mood == Mood::Silent => self.ignored.push(ask),
                Ask::Submit { request, forward, reply, .. } => {
                    let result = match refusal(forward) {
                        Some(failure) => Err(failure),
                        None => Ok(self.apply(request, if mood == Mood::Leads { "n1" } else { "n2" })),
                    };
                    let _receiver_may_be_gone = reply.send(result);
                }
                Ask::ReadBarrier { forward, reply, .. } => {
                    let index = Index(self.index.load(Ordering::Relaxed));
                    let _receiver_may_be_gone = reply.send(refusal(forward).map_or(Ok(index), Err));
                }
                Ask::Projection(_) | Ask::Webhook(_) => {}
                Ask::Change { change, forward, reply, .. } => {
                    let result = refusal(forward).map_or_else(|| self.change(&change), Err);
                    let _receiver_may_be_gone = reply.send(result);
                }
                Ask::Transfer { to, forward, reply, .. } => {
                    let result = match (refusal(forward), to) {
                        (Some(failure), _) => Err(failure),
                        // n2 is the only other voter that is up.
                        (None, Some(to)) if to != node("n2") => Err(Failure::NoTarget),
                        (None, _) => Ok(Transferred { leader: node("n2"), term: Term(8) }),
                    };
                    let _receiver_may_be_gone = reply.send(result);
                }
            }
        }
    }

    /// As a cluster does whose nodes are all well.
    fn change(&mut self, change: &Change) -> Result<Changed, Failure> {
        let begun = self.configuration.changed(change).map_err(Failure::Change)?;
        self.configuration = begun.settled().unwrap_or(begun);
        let index = Index(self.index.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(Changed { index, configuration: self.configuration.clone() })
    }

    fn apply(&self, request: Request, leader: &str) -> Applied {
        let index = Index(self.index.fetch_add(1, Ordering::Relaxed) + 1);
        let at = UnixMillis(1_700_000_000_000 + i64::try_from(index.0).expect("small") * 1_000);
        let envelope = Envelope { at, term: Term(7), leader: node(leader), request };
        let mut applied = None;
        let work = &mut |space: &mut dyn Keyspace| {
            applied = Some(apply(space, index, Term(7), &envelope)?.applied);
            Ok(())
        };
        self.store.update(work).expect("memory does not fail");
        self.applied.send_replace(index);
        applied.expect("apply ran")
    }
}

impl Fake {
    /// A node that leads a formed cluster.
    pub async fn start() -> Fake {
        let (asks, asked) = mpsc::channel(64);
        let (status, status_seen) = watch::channel(status());
        let (applied, applied_seen) = watch::channel(Index(0));
        let (_, leading) = watch::channel(Some(Term(7)));
        let (mood, mood_seen) = watch::channel(Mood::Leads);
        let store = Arc::new(MemoryState::new());
        let handle = Handle {
            asks,
            status: status_seen,
            applied: applied_seen,
            leading,
            state: store.clone(),
            events: Arc::new(EventLog::default()),
        };
        let player = Player {
            asks: asked,
            store,
            applied,
            mood: mood_seen,
            index: AtomicU64::new(0),
            configuration: Configuration {
                voters: ["n1", "n2", "n3"].map(node).into(),
                ..Configuration::default()
            },
            ignored: Vec::new(),
        };
        tokio::spawn(player.play());
        let stopping = CancellationToken::new();
        let state = ApiState::from(ApiParts {
            handle: handle.clone(),
            metrics: Arc::new(Metrics::new()),
            compare: None,
            newest: AtomicU64::new(0),
            client_url: Arc::new(|id| (id.as_str() == "n2").then(|| "http://n2:7400".to_string())),
            http: HttpSettings {
                timeout: Duration::from_millis(300),
                body_bytes_max: 4 << 20,
                keep_alive: Duration::from_secs(1),
            },
            agents: AgentsSettings { open: false, token: Some("let me in".to_string()) },
            stopping: stopping.clone(),
            about: Surroundings { links: Arc::new(Vec::new), data_dir: None, election_min_ms: 300 },
            tracer: None,
            guard: Guard::default(),
            tls: None,
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(serve_clients(listener, state));
        let http = super_node::network::tls::http(None)
            .expect("public authorities")
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("a client");
        let fake = Fake { url, http, handle, stopping, mood, status };
        fake.form().await;
        fake
    }

    async fn form(&self) {
        let command = Command::Genesis {
            cluster: "test".to_string(),
            identity: "0".repeat(32),
            policy: Policy::default(),
            nodes: vec![(node("n1"), "127.0.0.1:7401".to_string())],
        };
        self.command(command).await;
    }

    /// Applies a command that no HTTP request makes.
    pub async fn command(&self, command: Command) {
        let request = Request::new(command);
        let applied = self.handle.submit(request, true, Duration::from_secs(5)).await.expect("is applied");
        assert!(!matches!(applied.answer, Answer::Rejected(_)), "{:?}", applied.answer);
    }

    pub fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
        self.status.send_modify(|status| match mood {
            Mood::Leads => status.leader = Some(node("n1")),
            Mood::Follows => {
                status.leader = Some(node("n2"));
                status.role = RoleName::Follower;
            }
            Mood::Lost | Mood::Silent => {
                status.leader = None;
                status.role = RoleName::Candidate;
            }
        });
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub async fn put(&self, path: &str, body: &str) -> Reply {
        Reply::of(self.request(Method::PUT, path).body(body.to_string())).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        Reply::of(self.request(Method::POST, path).body(body.to_string())).await
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Reply {
    pub async fn of(request: RequestBuilder) -> Reply {
        let response: Response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Reply { status, headers, text, json }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Checks that this is a whole problem of this code and gives its detail.
    pub fn problem(&self, status: u16, code: &str) -> &str {
        assert_eq!((self.status, &self.json["code"]), (status, &Value::from(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        for field in ["type", "title", "status", "detail", "code", "leader", "term", "retryable", "outcome"] {
            assert!(self.json.get(field).is_some(), "{field} is missing in {}", self.text);
        }
        assert_eq!(self.json["status"], status);
        self.json["detail"].as_str().expect("text")
    }
}
