//! This machine, as the configuration describes it.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::api::Guard;
use crate::api::doctor::open_files_max;
use crate::client::{Call, Client, Options};
use crate::config::value::redact_uri;
use crate::config::{Settings, token_in};
use crate::database::examine::{Look, SERVER_MAJOR_MIN, examine};
use crate::network::tls::Tls;
use crate::node::ports::StorageError;
use crate::node::status::NodeStatus;
use crate::storage::DataDirectory;
use crate::storage::probe::{SyncLatency, sync_latency};

use super::{Finding, Level};

/// Fewer open files than this are soon used up: connections, segments, and a hundred members' requests.
pub(super) const OPEN_FILES_MIN: u64 = 4_096;
/// A disk whose median is beyond this makes every write slow.
const SYNC_SLOW: Duration = Duration::from_millis(10);
/// How long a connection to a peer may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks at all of it.
pub(super) async fn look(settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![open_files("this machine", open_files_max())];
    findings.push(directory(settings));
    findings.extend(disk_here(settings));
    findings.extend(security(settings));
    findings.extend(ports(settings).await);
    for (peer, address) in &settings.cluster.peers {
        if *peer != settings.node.id {
            findings.push(peer_reached(peer.as_str(), address).await);
        }
    }
    if let Some(uri) = &settings.mongodb.uri {
        findings.push(mongodb(&redact_uri(uri), examine(uri, &settings.mongodb.database).await));
    }
    findings
}

/// Whether certificates and tokens can be used.
fn security(settings: &Settings) -> Vec<Finding> {
    let certificates = settings.tls.files().map(|files| match Tls::load(&files) {
        Ok(_) => Finding::ok("tls", files.cert.display().to_string(), "can be used"),
        Err(error) => {
            Finding::bad(Level::Fail, "tls", files.cert.display().to_string(), error.what, error.hint)
        }
    });
    let tokens = settings.auth.tokens.as_deref().map(|file| match Guard::read(file) {
        Ok(_) => Finding::ok("tokens", file.display().to_string(), "can be used"),
        Err(error) => {
            let remedy = "write one ROLE TOKEN a line; docs/security.md tells how";
            Finding::bad(Level::Fail, "tokens", file.display().to_string(), error.to_string(), remedy)
        }
    });
    certificates.into_iter().chain(tokens).collect()
}

/// What a limit on open files means.
pub(super) fn open_files(subject: &str, limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < OPEN_FILES_MIN => Finding::bad(
            if limit < OPEN_FILES_MIN / 4 { Level::Fail } else { Level::Warn },
            "open_files",
            subject,
            format!("a process may open {limit} files, at least {OPEN_FILES_MIN} are needed"),
            "raise it: `ulimit -n 65536` before the start, or LimitNOFILE=65536 in the systemd unit",
        ),
        Some(limit) => Finding::ok("open_files", subject, format!("a process may open {limit} files")),
        None => Finding::ok("open_files", subject, "no limit"),
    }
}

/// What the latency of a disk means, to a node with this shortest election timeout.
pub(super) fn disk(subject: &str, latency: SyncLatency, election_min: Duration) -> Finding {
    let (median, worst) = (Duration::from_micros(latency.median_us), Duration::from_micros(latency.worst_us));
    let what = format!("a synced write takes {median:.1?}, the slowest of 20 {worst:.1?}");
    let remedy = "put the data directory on a local SSD, without other heavy writers; raise raft.election above \
                  twice the slowest";
    if worst >= election_min / 2 {
        return Finding::bad(Level::Fail, "disk", subject, what + ": leaders would step down", remedy);
    }
    if median >= SYNC_SLOW {
        return Finding::bad(Level::Warn, "disk", subject, what + ": every write waits for it", remedy);
    }
    Finding::ok("disk", subject, what)
}

fn disk_here(settings: &Settings) -> Option<Finding> {
    let path = settings.node.data_dir.as_path();
    // A directory that is still to be made will lie on the disk of the first one above it that is there.
    let existing = path.ancestors().map(|above| if above == Path::new("") { Path::new(".") } else { above });
    let directory = existing.into_iter().find(|above| above.is_dir())?;
    let subject = directory.display().to_string();
    Some(match sync_latency(directory) {
        Ok(latency) => disk(&subject, latency, settings.raft.election_min),
        Err(error) => Finding::bad(
            Level::Fail,
            "disk",
            subject,
            format!("cannot be written to: {error}"),
            "give the user that runs super-node this directory, and room on the disk; or use another --data-dir",
        ),
    })
}

fn directory(settings: &Settings) -> Finding {
    let path = &settings.node.data_dir;
    let subject = path.display().to_string();
    let remedy = "use another --data-dir, or correct node.id and node.cluster";
    match DataDirectory::identity_at(path) {
        Ok(None) => Finding::ok("data_dir", subject, "not made yet"),
        Ok(Some(identity))
            if identity.node != settings.node.id || identity.cluster != settings.node.cluster =>
        {
            let what = format!(
                "belongs to {} of cluster '{}', the settings say {} of '{}'",
                identity.node, identity.cluster, settings.node.id, settings.node.cluster
            );
            Finding::bad(Level::Fail, "data_dir", subject, what, remedy)
        }
        Ok(Some(identity)) => Finding::ok(
            "data_dir",
            subject,
            format!("belongs to {} of '{}'", identity.node, identity.cluster),
        ),
        Err(StorageError::Refused(text)) => {
            Finding::bad(Level::Fail, "data_dir", subject, text, "run the newer super-node")
        }
        Err(error) => Finding::bad(
            Level::Fail,
            "data_dir",
            subject,
            error.to_string(),
            "restore it, or let the node join again with an empty directory",
        ),
    }
}

/// Whether the listeners can be had. They are let go at once.
async fn ports(settings: &Settings) -> Vec<Finding> {
    let listen = &settings.listen;
    let tcp = |address: SocketAddr| TcpListener::bind(address).map(drop);
    let udp = |address: SocketAddr| UdpSocket::bind(address).map(drop);
    let looks = [
        ("--listen", listen.client, tcp(listen.client)),
        ("--peer-listen", listen.peer, tcp(listen.peer)),
        ("--agents-listen", listen.agents, udp(listen.agents)),
    ];
    let runs =
        if looks.iter().any(|(_, _, result)| result.is_err()) { who_runs(settings).await } else { None };
    let own = runs
        .as_ref()
        .is_some_and(|status| status.id == settings.node.id && status.cluster == settings.node.cluster);
    looks.into_iter().map(|(flag, address, result)| port(flag, address, result, own, runs.as_ref())).collect()
}

/// The super-node that answers at an address.
async fn who_runs(settings: &Settings) -> Option<NodeStatus> {
    let scheme = if settings.tls.files().is_some() { "https" } else { "http" };
    let endpoint = format!("{scheme}://{}", settings.listen.client);
    let options = Options {
        endpoints: vec![endpoint.clone()],
        timeout: CONNECT_TIMEOUT,
        token: settings.auth.token_file.as_deref().and_then(|file| token_in(file).ok()),
        ca: settings.tls.ca.clone(),
        ..Options::default()
    };
    Client::new(options).ok()?.ask(&endpoint, &Call::get("/v1/status")).await.ok()?.read().ok()
}

fn port(
    flag: &str,
    address: SocketAddr,
    bound: io::Result<()>,
    own: bool,
    runs: Option<&NodeStatus>,
) -> Finding {
    let subject = format!("{flag} {address}");
    match bound {
        Ok(()) => Finding::ok("port", subject, "free"),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && own => {
            Finding::ok("port", subject, "used by this node, which runs")
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let by = runs.map_or("another program".to_string(), |status| {
                format!("super-node {} of cluster '{}'", status.id, status.cluster)
            });
            let remedy = format!("stop that one, or choose another with {flag}");
            Finding::bad(Level::Fail, "port", subject, format!("taken by {by}"), remedy)
        }
        Err(error) => {
            let remedy =
                format!("choose an address of this machine, and a port that its user may use, with {flag}");
            Finding::bad(Level::Fail, "port", subject, error.to_string(), remedy)
        }
    }
}

async fn peer_reached(peer: &str, address: &str) -> Finding {
    let subject = format!("{peer} at {address}");
    let why = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_connected)) => return Finding::ok("peer", subject, "can be reached from here"),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            "nobody listens there".to_string()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => format!("no connection within {CONNECT_TIMEOUT:?}"),
    };
    let remedy =
        "start that node; else correct cluster.peers, or open the way (firewall, routes) to its peer port";
    Finding::bad(Level::Fail, "peer", subject, format!("cannot be reached from here: {why}"), remedy)
}

fn mongodb(uri: &str, look: Look) -> Finding {
    let (what, remedy) = match look {
        Look::Well(version) => return Finding::ok("mongodb", uri, format!("MongoDB {version} answers")),
        Look::Unreachable(why) => (
            format!("cannot be reached: {why}"),
            "start it; correct MONGODB_URI; open the way to it".to_string(),
        ),
        Look::Denied(why) => (
            format!("does not let us in: {why}"),
            "correct user and password in MONGODB_URI, and grant readWrite on the database".to_string(),
        ),
        Look::TooOld(version) => (
            format!("is MongoDB {version}, which is too old"),
            format!("upgrade it to {SERVER_MAJOR_MIN}.0 or newer"),
        ),
        Look::Unusable(why) => (
            format!("the connection string cannot be used: {why}"),
            "write it as mongodb://USER:PASSWORD@HOST:27017".to_string(),
        ),
    };
    Finding::bad(Level::Fail, "mongodb", uri, what, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_latencies_are_judged() {
        for (limit, level) in [
            (Some(256), Level::Fail),
            (Some(1_024), Level::Warn),
            (Some(4_096), Level::Ok),
            (None, Level::Ok),
        ] {
            assert_eq!(open_files("n1", limit).level, level, "{limit:?}");
        }
        let election = Duration::from_millis(300);
        for (median_us, worst_us, level) in
            [(100, 5_000, Level::Ok), (10_000, 20_000, Level::Warn), (100, 150_000, Level::Fail)]
        {
            assert_eq!(disk("n1", SyncLatency { median_us, worst_us }, election).level, level, "{median_us}");
        }
    }

    #[test]
    fn every_trouble_with_mongodb_has_its_remedy() {
        let why = || "x".to_string();
        for (look, remedy) in [
            (Look::Unreachable(why()), "start it"),
            (Look::Denied(why()), "password"),
            (Look::TooOld("4.4.1".to_string()), "6.0 or newer"),
            (Look::Unusable(why()), "mongodb://"),
        ] {
            let finding = mongodb("mongodb://h", look);
            assert_eq!(finding.level, Level::Fail);
            assert!(finding.remedy.contains(remedy), "{finding:?}");
        }
        assert_eq!(mongodb("mongodb://h", Look::Well("6.0.5".to_string())).level, Level::Ok);
    }
}
