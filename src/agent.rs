//! A fleet agent: registers with the super-nodes and answers their pings. What `super-node agent` runs.
//!
//! An agent keeps one thing: its key, which it draws itself and enrols with. Until it is let in it asks again and again; then
//! it enrols anew whenever it has not been pinged for a while, because then the cluster may have forgotten it, or holds an old
//! address. It asks the super-nodes that it was given and those that they named, one after the other, so it
//! finds the cluster as long as one of them lives. Which pings it answers is decided in [`crate::network::answer`].

mod status;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::network::answer::{Answerer, Heard};
use crate::network::datagram::PING_BYTES;
use crate::network::{tls, udp};
use crate::types::{AgentKey, MemberId, Micros, Version};

use status::Status;

/// Without a ping for so long an agent registers again: three ping periods of the default policy.
pub const SILENCE_DEFAULT: Duration = Duration::from_secs(15);
/// How long one request to a super-node may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The first wait between attempts to register, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often an agent that waits for approval asks whether it was let in.
const WAITING_POLL: Duration = Duration::from_secs(2);
/// Super-nodes that an agent remembers beyond those that it was given.
const LEARNED_MAX: usize = 64;
/// How much of a super-node's answer is shown, in characters.
const ANSWER_CHARS_MAX: usize = 500;

/// What an agent needs to know.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Its name.
    pub id: MemberId,
    /// Client URLs of super-nodes, such as `http://127.0.0.1:7400`; any one is enough.
    pub join: Vec<String>,
    /// Where it answers pings; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The `host:port` under which super-nodes reach it, if that is not where it listens.
    pub advertise: Option<String>,
    /// The cluster whose pings it answers; `None` answers any that has its key.
    pub cluster: Option<String>,
    /// Its key.
    pub key: AgentKey,
    /// What lets it in at once, if the super-nodes know it.
    pub token: Option<String>,
    /// Where it shows `/livez` and `/metrics`; `None`: nowhere.
    pub status: Option<SocketAddr>,
    /// Without a ping for so long it registers again; see [`SILENCE_DEFAULT`].
    pub silence: Duration,
    /// The certificate of the authority that vouches for the super-nodes, for `https`; without it, the public ones do.
    pub ca: Option<PathBuf>,
    /// What it shows with every request; super-nodes with tokens want an admin's from who leaves.
    pub bearer: Option<String>,
    /// Whether to leave the fleet at the end. Otherwise it stays a member, and its absence is counted.
    pub leave: bool,
}

/// Why an agent cannot run, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The settings make no sense (exit code 2).
    #[error("{0}")]
    Settings(String),
    /// The address cannot be bound (exit code 1).
    #[error("cannot listen on {address}: {source}; {}", remedy(.source))]
    Bind {
        /// Which.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The name belongs to another member (exit code 5).
    #[error(
        "{url} refused the registration: {answer}; choose another --id, or remove the other member first"
    )]
    Conflict {
        /// Who said so.
        url: String,
        /// What it said.
        answer: String,
    },
    /// The registration is not acceptable, and will not be if tried again (exit code 7 for 401 and 403, else 2).
    #[error("{url} refused the registration ({status}): {answer}")]
    Refused {
        /// Who said so.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        answer: String,
    },
}

impl AgentError {
    /// The exit code of the interface.
    pub fn exit_code(&self) -> u8 {
        match self {
            AgentError::Settings(_) => 2,
            AgentError::Conflict { .. } => 5,
            AgentError::Refused { status: 401 | 403, .. } => 7,
            AgentError::Refused { .. } => 2,
            AgentError::Bind { .. } => 1,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process uses the port: stop it, or choose another with --listen or --status"
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address: correct --listen",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose another with --listen",
        _ => "choose another address with --listen",
    }
}

/// Binds, and runs until `shutdown`. See [`Agent`].
pub async fn run(settings: AgentSettings, shutdown: CancellationToken) -> Result<(), AgentError> {
    Agent::bind(settings)?.run(shutdown).await
}

/// An agent whose socket is bound. Nothing is answered before [`Agent::run`].
#[derive(Debug)]
pub struct Agent {
    settings: AgentSettings,
    join: Vec<Url>,
    local: SocketAddr,
    socket: UdpSocket,
    status: Option<(SocketAddr, std::net::TcpListener)>,
    counts: Arc<Status>,
    answerer: Mutex<Answerer>,
    began: Instant,
}

impl Agent {
    /// Checks the settings and binds the socket. Must be called within a tokio runtime.
    pub fn bind(settings: AgentSettings) -> Result<Agent, AgentError> {
        let join = settings.join.iter().map(|url| parse_url(url)).collect::<Result<Vec<_>, _>>()?;
        if join.is_empty() {
            let text = "no super-node to join: give at least one with --join http://HOST:7400";
            return Err(AgentError::Settings(text.to_string()));
        }
        let address = settings.listen;
        let bound = udp::bind(address).and_then(|(_, socket)| Ok((socket.local_addr()?, socket)));
        let (local, socket) = bound.map_err(|source| AgentError::Bind { address, source })?;
        let status = settings.status.map(|address| {
            let bound = std::net::TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok((listener.local_addr()?, listener))
            });
            bound.map_err(|source| AgentError::Bind { address, source })
        });
        let status = status.transpose()?;
        let keys = [(settings.id.clone(), settings.key)].into();
        let answerer = Mutex::new(Answerer::new(settings.cluster.clone(), keys, Version::current()));
        let (counts, began) = (Arc::new(Status::new()), Instant::now());
        Ok(Agent { settings, join, local, socket, status, counts, answerer, began })
    }

    /// Where it answers pings.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Where it shows how it is, if it does.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(|(address, _)| *address)
    }

    /// Answers pings and keeps itself registered, until `shutdown` or until a super-node refuses it for good.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), AgentError> {
        let mut shown = HeaderMap::new();
        if let Some(token) = &self.settings.bearer
            && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            shown.insert(AUTHORIZATION, value);
        }
        let builder = tls::http(self.settings.ca.as_deref());
        let builder = builder.map_err(|error| AgentError::Settings(error.to_string()))?;
        let client = builder.default_headers(shown).timeout(REQUEST_TIMEOUT).build();
        let client = client.map_err(|error| AgentError::Settings(format!("no HTTP client: {error}")))?;
        let (pinged, last_ping) = watch::channel(Instant::now());
        let shown = self.status.take().map(|(address, listener)| {
            tracing::info!("shows /livez and /metrics at http://{address}");
            status::serve(listener, Arc::clone(&self.counts), shutdown.clone())
        });
        if let Some(Err(error)) = shown {
            return Err(AgentError::Settings(format!("cannot serve /livez and /metrics: {error}")));
        }
        let registrar = Registrar { agent: &self, client, learned: Mutex::default() };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.answer_pings(pinged) => {}
            error = registrar.keep_registered(last_ping) => return Err(error),
        }
        if self.settings.leave {
            // Still answering: the members' counters run until the cluster knows.
            let (pinged, _) = watch::channel(Instant::now());
            tokio::select! {
                () = registrar.leave() => {}
                () = self.answer_pings(pinged) => {}
            }
        }
        Ok(())
    }

    /// Never returns; a socket in trouble is tried again.
    async fn answer_pings(&self, pinged: watch::Sender<Instant>) {
        let mut buffer = [0; 2 * PING_BYTES];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!("cannot receive pings: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let now = Micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX));
            let heard = {
                let mut answerer = self.answerer.lock().unwrap_or_else(PoisonError::into_inner);
                answerer.hear(&buffer[..length], from.ip(), now)
            };
            self.counts.heard(&heard);
            let Heard::Ping { answer } = heard else {
                tracing::debug!(%from, length, ?heard, "not answered");
                continue;
            };
            // A pong that the system will not take is a lost pong; the pinger tries again.
            match self.socket.try_send_to(&answer, from) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _lost = self.socket.send_to(&answer, from).await;
                }
                Err(error) => tracing::debug!(%from, "cannot answer: {error}"),
            }
            pinged.send_replace(Instant::now());
        }
    }
}

fn parse_url(text: &str) -> Result<Url, AgentError> {
    let bad = |why: &str| {
        AgentError::Settings(format!("--join {text:?}: {why}; expected a URL like http://127.0.0.1:7400"))
    };
    let mut url: Url = text.parse().map_err(|error| bad(&format!("{error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(&format!("the scheme {:?} is not supported by this build", url.scheme())));
    }
    // So that joining a path keeps a prefix under which a proxy may serve the node.
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// What one attempt to register came to.
enum Attempt {
    Registered,
    /// An operator has to let it in.
    Waits {
        fingerprint: String,
    },
    /// To be tried again, here or elsewhere.
    Failed(String),
}

struct Registrar<'a> {
    agent: &'a Agent,
    client: Client,
    /// Super-nodes that super-nodes have named.
    learned: Mutex<Vec<Url>>,
}

impl Registrar<'_> {
    /// Registers now and after every silence. Returns only when refused for good.
    async fn keep_registered(&self, mut last_ping: watch::Receiver<Instant>) -> AgentError {
        loop {
            if let Err(error) = self.register().await {
                return error;
            }
            let registered = Instant::now();
            loop {
                let quiet_since = registered.max(*last_ping.borrow_and_update());
                let silent_at = quiet_since + self.agent.settings.silence;
                tokio::select! {
                    () = tokio::time::sleep_until(silent_at) => break,
                    changed = last_ping.changed() => if changed.is_err() {
                        // The answering side ends together with this one.
                        std::future::pending::<()>().await;
                    },
                }
            }
            tracing::info!("not pinged for {:?}: registering again", self.agent.settings.silence);
        }
    }

    /// Whom to ask: those that were given, then those that were learned.
    fn super_nodes(&self) -> Vec<Url> {
        let mut urls = self.agent.join.clone();
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        urls.extend(learned.iter().filter(|url| !self.agent.join.contains(url)).cloned());
        urls
    }

    /// The super-nodes that an answer names.
    fn learn(&self, answer: &serde_json::Value) {
        let named = answer["endpoints"].as_array().into_iter().flatten();
        let urls = named.filter_map(|url| parse_url(url.as_str()?).ok()).take(LEARNED_MAX).collect();
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    /// Asks all super-nodes in turn until one lets it in.
    async fn register(&self) -> Result<(), AgentError> {
        let (mut wait, mut told) = (BACKOFF.0, false);
        loop {
            let mut failures = Vec::new();
            let mut waits = false;
            for url in self.super_nodes() {
                match self.register_with(&url).await? {
                    Attempt::Registered => {
                        self.agent.counts.registered();
                        tracing::info!(id = %self.agent.settings.id, %url, "enrolled");
                        return Ok(());
                    }
                    Attempt::Waits { fingerprint } => {
                        if !told {
                            let id = &self.agent.settings.id;
                            tracing::warn!(
                                "waits for an operator: super-node member approve {id} --fingerprint {fingerprint}"
                            );
                        }
                        (waits, told) = (true, true);
                        break;
                    }
                    Attempt::Failed(why) => failures.push(format!("{url} {why}")),
                }
            }
            if waits {
                wait = BACKOFF.0;
                tokio::time::sleep(WAITING_POLL.mul_f64(rand::random_range(0.5..=1.0))).await;
                continue;
            }
            tracing::warn!("not enrolled yet, trying again: {}", failures.join(" · "));
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Enrolling needs no idempotency key: with the same key and address it changes nothing.
    async fn register_with(&self, url: &Url) -> Result<Attempt, AgentError> {
        let address = match self.advertised(url).await {
            Ok(address) => address,
            Err(error) => return Ok(Attempt::Failed(format!("cannot be reached: {error}"))),
        };
        let target = url.join("v1/members:enrol").map_err(|error| AgentError::Settings(error.to_string()))?;
        let settings = &self.agent.settings;
        let body = serde_json::json!({ "id": settings.id, "address": address, "key": settings.key.to_hex(),
            "version": Version::current().to_string(), "token": settings.token });
        let response = match self.client.post(target).json(&body).send().await {
            Ok(response) => response,
            Err(error) => return Ok(Attempt::Failed(plain(&error))),
        };
        let status = response.status();
        let text = response.text().await.unwrap_or_default();
        if status.is_success() {
            let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            self.learn(&answer);
            if status == StatusCode::ACCEPTED {
                let fingerprint = answer["fingerprint"].as_str().unwrap_or_default().to_string();
                return Ok(Attempt::Waits { fingerprint });
            }
            return Ok(Attempt::Registered);
        }
        let answer = explain(&text);
        let url = url.to_string();
        match status {
            StatusCode::CONFLICT => Err(AgentError::Conflict { url, answer }),
            StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(AgentError::Refused { url, status: status.as_u16(), answer })
            }
            // Overloaded, no leader, starting, not this URL: another attempt may well succeed.
            _ => Ok(Attempt::Failed(format!("{status} {answer}"))),
        }
    }

    /// Where super-nodes reach this agent. One that listens on all addresses names the one from which it would reach
    /// the super-node.
    async fn advertised(&self, url: &Url) -> io::Result<String> {
        let (settings, mut local) = (&self.agent.settings, self.agent.local);
        if let Some(address) = &settings.advertise {
            return Ok(address.clone());
        }
        if local.ip().is_unspecified() {
            local.set_ip(own_address_towards(url, local.ip()).await?);
        }
        Ok(local.to_string())
    }

    /// Asks each super-node once to be forgotten.
    async fn leave(&self) {
        let id = &self.agent.settings.id;
        let key = format!("agent-leave-{id}-{:032x}", rand::random::<u128>());
        for url in self.super_nodes() {
            let Ok(target) = url.join(&format!("v1/members/{id}")) else { continue };
            match self.client.delete(target).header("Idempotency-Key", &key).send().await {
                Ok(response) if response.status().is_success() => {
                    tracing::info!(%id, "left the fleet");
                    return;
                }
                Ok(response) if response.status() == StatusCode::NOT_FOUND => return,
                Ok(response) => tracing::warn!(%url, "could not leave the fleet: {}", response.status()),
                Err(error) => tracing::warn!(%url, "could not leave the fleet: {}", plain(&error)),
            }
        }
    }
}

/// The address that the system would use towards a super-node. Connecting a UDP socket sends nothing.
pub(crate) async fn own_address_towards(url: &Url, any: IpAddr) -> io::Result<IpAddr> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect((host, port)).await?;
    Ok(socket.local_addr()?.ip())
}

/// An HTTP client's error with its cause, which it leaves out by itself.
fn plain(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        if let Some(why) = source.downcast_ref().and_then(tls::explain) {
            return why;
        }
        cause = source;
    }
    cause.to_string()
}

/// The words of a problem document (RFC 9457), or the beginning of whatever else it is.
fn explain(body: &str) -> String {
    let document: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let field = |name: &str| document.as_ref()?.get(name)?.as_str().map(str::to_string);
    let text = field("detail").or_else(|| field("title")).unwrap_or_else(|| body.trim().to_string());
    text.chars().take(ANSWER_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
