//! Whether the values fit together.

use std::net::SocketAddr;
use std::time::Duration;

use super::value::show_duration;
use super::{ConfigError, Settings, Source};

/// Looks at everything that single values cannot know. `source` says where a key was set.
pub fn check(settings: &Settings, source: &dyn Fn(&str) -> Source) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut refuse = |message: String, hint: String| errors.push(ConfigError { message, hint });
    let at = |name: &str| format!("{name} ({})", source(name));
    check_times(settings, &at, &mut refuse);
    check_cluster(settings, &at, &mut refuse);
    check_tls(settings, &at, &mut refuse);
    check_listeners(settings, &at, &mut refuse);
    errors
}

type At<'a> = &'a dyn Fn(&str) -> String;
type Refuse<'a> = &'a mut dyn FnMut(String, String);

fn check_times(settings: &Settings, at: At<'_>, refuse: Refuse<'_>) {
    let (heartbeat, election) = (settings.raft.heartbeat, settings.raft.election_min);
    if heartbeat * 2 >= election {
        refuse(
            format!(
                "{} = {} is too long for {}, which begins at {}",
                at("raft.heartbeat"),
                show_duration(heartbeat),
                at("raft.election"),
                show_duration(election)
            ),
            "followers must be able to miss one heartbeat: keep it below half of the shortest election timeout"
                .to_string(),
        );
    }
    if let Some(lease) = settings.raft.lease_span()
        && lease > election * 9 / 10
    {
        refuse(
            format!(
                "{} = {} is too long for {}, which begins at {}",
                at("raft.lease"),
                show_duration(lease),
                at("raft.election"),
                show_duration(election)
            ),
            "a lease must be over before anybody else can be elected, with room for clocks that drift: keep it at or \
             below nine tenths of the shortest election timeout, the same on all nodes"
                .to_string(),
        );
    }
    if settings.raft.lease_span().is_some() && !settings.raft.check_quorum {
        refuse(
            format!("{} needs {}", at("raft.lease"), at("raft.check_quorum")),
            "only nodes that keep faith with the leader they hear make a lease safe: set raft.check_quorum = true"
                .to_string(),
        );
    }
    let ledger = &settings.ledger;
    let show = |millis: u64| show_duration(Duration::from_millis(millis));
    if ledger.ping_ms > ledger.interval_ms {
        refuse(
            format!(
                "{} = {} is longer than {} = {}",
                at("ledger.ping"),
                show(ledger.ping_ms),
                at("ledger.interval"),
                show(ledger.interval_ms)
            ),
            "every member must be pinged at least once per interval".to_string(),
        );
    }
    if ledger.ping_timeout_ms.saturating_mul(2) > ledger.interval_ms {
        refuse(
            format!(
                "{} = {} is too long for {} = {}",
                at("ledger.ping_timeout"),
                show(ledger.ping_timeout_ms),
                at("ledger.interval"),
                show(ledger.interval_ms)
            ),
            "a ping and its retry must both end within one interval: keep it at or below half of it"
                .to_string(),
        );
    }
}

fn check_cluster(settings: &Settings, at: At<'_>, refuse: Refuse<'_>) {
    let (peers, id) = (&settings.cluster.peers, &settings.node.id);
    if !peers.is_empty() && settings.cluster.join.is_some() {
        refuse(
            format!("{} and {} are both set", at("cluster.peers"), at("cluster.join")),
            "peers form a new cluster, join enters a running one: keep one of them".to_string(),
        );
    }
    if settings.cluster.replaces.is_some() && settings.cluster.join.is_none() {
        refuse(
            format!("{} is set without cluster.join", at("cluster.replaces")),
            "it says whom a joining node replaces: set cluster.join (--join) too, or leave it out"
                .to_string(),
        );
    }
    if !peers.is_empty() && !peers.contains_key(id) {
        let known: Vec<&str> = peers.keys().map(|peer| peer.as_str()).collect();
        refuse(
            format!("{} does not name this node, {} = {id}", at("cluster.peers"), at("node.id")),
            format!("add {id}=HOST:PORT, or set node.id (--id) to one of {}", known.join(", ")),
        );
    }
}

fn check_tls(settings: &Settings, at: At<'_>, refuse: Refuse<'_>) {
    let files =
        [("tls.ca", &settings.tls.ca), ("tls.cert", &settings.tls.cert), ("tls.key", &settings.tls.key)];
    let (given, missing): (Vec<_>, Vec<_>) = files.iter().partition(|(_, file)| file.is_some());
    if let (Some((given, _)), false) = (given.first(), missing.is_empty()) {
        let missing: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        refuse(
            format!("{} is set without {}", at(given), missing.join(" and ")),
            "name all three files, which super-node certs makes, or none".to_string(),
        );
    }
}

fn check_listeners(settings: &Settings, at: At<'_>, refuse: Refuse<'_>) {
    let listen = &settings.listen;
    let listeners: [(&str, SocketAddr); 3] =
        [("listen.client", listen.client), ("listen.peer", listen.peer), ("listen.agents", listen.agents)];
    for (position, (name, address)) in listeners.iter().enumerate() {
        for (other, taken) in &listeners[..position] {
            // Port 0 lets the system choose, and it never chooses the same twice.
            // The port for agents is UDP and disturbs no TCP port.
            if address == taken && address.port() != 0 && *name != "listen.agents" {
                refuse(
                    format!("{} and {} both listen on {address}", at(other), at(name)),
                    "give each listener a port of its own".to_string(),
                );
            }
        }
        let (encrypted, guarded) = (settings.tls.files().is_some(), settings.auth.tokens.is_some());
        let covered = settings.insecure || (encrypted && guarded);
        if !address.ip().is_loopback() && !covered {
            let lacks = match (encrypted, guarded) {
                (true, _) => "anybody may ask for anything there",
                (_, true) => "traffic is not encrypted",
                _ => "traffic is neither encrypted nor authenticated",
            };
            refuse(
                format!("{} = {address} is not on loopback, and {lacks}", at(name)),
                "listen on 127.0.0.1, or configure [tls] and auth.tokens (docs/security.md), or say --insecure \
                 (SUPER_NODE_INSECURE=true) on a network that you trust"
                    .to_string(),
            );
        }
    }
}
