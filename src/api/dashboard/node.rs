//! `GET /node`: this node and how it sees the others: match, lag, the window of its log, how fast its disk syncs.

use askama::Template;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::network::peers::Link;
use crate::node::status::{NodeStatus, PeerStatus};
use crate::types::UnixMillis;

use super::super::extract::Params;
use super::super::problem::Problem;
use super::super::{ApiState, role_name};
use super::chart::{self, Chart, Series, tenth};
use super::member::Fact;
use super::overview::followable;
use super::recorder::Sample;
use super::{Place, Shell, page, text};

/// Seconds of a point in the chart of syncs, and over which the quantiles beside it are taken.
const POINT_S: usize = 10;
const SPAN_S: usize = 60;

/// A super-node in the table.
pub struct Row {
    id: String,
    role: &'static str,
    up: bool,
    own: bool,
    matched: String,
    lag: String,
    contact: String,
    link: String,
    address: String,
    url: Option<String>,
    note: String,
}

/// The log as a bar: what is forgotten, what is applied, what is committed, what is only there.
pub struct LogBar {
    applied: f64,
    committed: f64,
    durable: f64,
    summary: String,
}

#[derive(Template)]
#[template(path = "node.html")]
struct Page {
    shell: Shell,
    rows: Vec<Row>,
    leads: bool,
    facts: Vec<Fact>,
    log: LogBar,
    base: String,
    last: String,
    chart: Chart,
}

/// The log of a node, drawn over a width of 600.
fn log_bar(status: &NodeStatus) -> LogBar {
    let log = status.log;
    let (base, last) = (log.base_index.0, log.last_index.0);
    let length = last.saturating_sub(base).max(1) as f64;
    let part =
        |index: u64| tenth(600.0 * index.saturating_sub(base).min(last - base.min(last)) as f64 / length);
    LogBar {
        applied: part(status.applied.0),
        committed: part(status.commit.0),
        durable: part(log.durable_index.0),
        summary: format!(
            "log entries {} to {last}: applied up to {}, committed up to {}, on disk up to {}",
            base + 1,
            status.applied,
            status.commit,
            log.durable_index
        ),
    }
}

fn row(status: &NodeStatus, peer: &PeerStatus, links: &[Link]) -> Row {
    let dash = || "\u{2013}".to_string();
    let own = peer.id == status.id;
    let link = links.iter().find(|link| link.node == peer.id);
    let mut notes = Vec::new();
    if peer.joining {
        notes.push("joins".to_string());
    }
    notes.extend(peer.replaces.as_ref().map(|replaced| format!("replaces {replaced}")));
    if peer.falls_behind {
        notes.push("needs one snapshot after the other".to_string());
    }
    notes.extend(link.and_then(|link| link.trouble.clone()));
    Row {
        id: peer.id.to_string(),
        role: role_name(peer.role),
        up: peer.up,
        own,
        matched: peer.matched.map_or_else(dash, |index| text::count(index.0)),
        lag: peer.lag.map_or_else(dash, text::count),
        contact: match peer.contact_ms {
            _ if own => "this node".to_string(),
            None => "never".to_string(),
            Some(ms) => format!("{} ago", text::span(ms)),
        },
        link: match link {
            None => dash(),
            Some(link) => match (link.outgoing, link.incoming) {
                (true, true) => "both ways".to_string(),
                (true, false) => "out only".to_string(),
                (false, true) => "in only".to_string(),
                (false, false) => "none".to_string(),
            },
        },
        address: peer.address.clone(),
        url: followable(peer.url.as_ref()),
        note: notes.join("; "),
    }
}

/// Median and 99th percentile of the syncs within the newest seconds, in milliseconds.
fn sync_quantiles(samples: &[Sample], seconds: usize) -> Option<(f64, f64)> {
    let newest = samples.last()?;
    let oldest = &samples[samples.len().saturating_sub(seconds + 1)];
    let added = newest.syncs.since(&oldest.syncs);
    Some((added.quantile(0.5)? * 1e3, added.quantile(0.99)? * 1e3))
}

fn sync_chart(samples: &[Sample], now: UnixMillis) -> Chart {
    let parts: Vec<_> = samples
        .windows(POINT_S + 1)
        .step_by(POINT_S / 2)
        .map(|part| (part[POINT_S].at, sync_quantiles(part, POINT_S)))
        .collect();
    let points = |of: fn((f64, f64)) -> f64| parts.iter().map(|(at, both)| (*at, both.map(of))).collect();
    let latest = UnixMillis(now.0 - 120_000);
    let from = samples.first().map_or(latest, |first| first.at.min(latest));
    let about = chart::About {
        id: "syncs",
        title: "Write and sync of the log",
        unit: "ms",
        nothing: "Nothing was synced of late.",
    };
    let series = vec![
        Series { class: "line-a", name: "p50", points: points(|both| both.0) },
        Series { class: "line-b", name: "p99", points: points(|both| both.1) },
    ];
    chart::time_chart(about, from, now, series)
}

fn facts(state: &ApiState, status: &NodeStatus, samples: &[Sample]) -> Vec<Fact> {
    let log = status.log;
    let fact = |name, value| Fact { name, value };
    let sync = sync_quantiles(samples, SPAN_S).map_or("nothing synced of late".to_string(), |(p50, p99)| {
        let ms = |value: f64| text::millis(value * 1_000.0);
        format!("{} / {} ms, last {SPAN_S} s", ms(p50), ms(p99))
    });
    let protocol = match (status.peer_protocol, status.peer_protocol_max) {
        (low, high) if high > low => format!("{low} to {high}"),
        (low, _) => low.to_string(),
    };
    let place = state.about.data_dir.as_ref().map_or("memory".to_string(), |path| path.display().to_string());
    let storage = u64::try_from(state.metrics.storage_bytes.get()).unwrap_or(0);
    let mut facts = vec![
        fact(
            "Log window",
            format!("{} to {}", text::count(log.base_index.0 + 1), text::count(log.last_index.0)),
        ),
        fact("Committed", text::count(status.commit.0)),
        fact("Applied", text::count(status.applied.0)),
        fact("On disk", text::count(log.durable_index.0)),
        fact("Sync p50 / p99", sync),
        fact("Log and state", format!("{}\u{a0}KiB in {place}", text::count(storage / 1_024))),
        fact("Shortest election timeout", text::span(state.about.election_min_ms)),
        fact(
            "Cluster",
            status.identity.clone().map_or("not founded yet".to_string(), |identity| {
                format!("{}, {}", status.cluster, text::short(&identity))
            }),
        ),
        fact(
            "Ledger",
            format!(
                "{} movements, head {}",
                text::count(status.ledger.records),
                text::short(&status.ledger.head_hash)
            ),
        ),
        fact("Version", format!("{}, peer protocol {protocol}", status.version)),
    ];
    let hooks = status.webhooks.iter();
    facts.extend(
        hooks.map(|hook| fact("Webhook", format!("{} at {}: {}", hook.hook, hook.place, hook.in_words()))),
    );
    facts
}

/// `GET /node`
pub async fn node(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(&uri, &[])?;
    let status = state.handle.status.borrow().clone();
    let links = (state.about.links)();
    let samples = state.recorder().samples(usize::MAX);
    page(&Page {
        shell: Shell::new(&state, Place::Node, "node"),
        rows: status.nodes.iter().map(|peer| row(&status, peer, &links)).collect(),
        leads: status.leader.as_ref() == Some(&status.id),
        facts: facts(&state, &status, &samples),
        log: log_bar(&status),
        base: text::count(status.log.base_index.0 + 1),
        last: text::count(status.log.last_index.0),
        chart: sync_chart(&samples, text::now()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::status::{LogWindow, RoleName};
    use crate::types::Index;
    use serde_json::json;

    fn status() -> NodeStatus {
        let mut status: NodeStatus = serde_json::from_value(json!({
            "cluster": "c", "id": "n1", "role": "leader", "term": 3, "leader": "n1", "commit": 150, "applied": 125,
            "voters": ["n1", "n2"], "nodes": [],
            "members": {"total": 0, "up": 0, "suspect": 0, "down": 0, "suspended": 0},
            "interval": {"open": 0, "next_settle": 0}, "ledger": {"records": 0, "head_hash": ""},
            "projection": {"enabled": false, "checkpoint": 0, "lag_records": 0, "error": null},
            "version": "", "url": "",
        }))
        .expect("a status");
        let (base_index, last_index, durable_index) = (Index(100), Index(200), Index(200));
        status.log = LogWindow { base_index, last_index, durable_index, ..LogWindow::default() };
        status
    }

    #[test]
    fn the_log_is_drawn_to_scale_even_when_it_is_empty() {
        let bar = log_bar(&status());
        assert_eq!((bar.applied, bar.committed, bar.durable), (150.0, 300.0, 600.0));
        let mut empty = status();
        empty.log = LogWindow::default();
        let bar = log_bar(&empty);
        assert_eq!((bar.applied, bar.committed, bar.durable), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_peer_that_is_unknown_shows_what_is_not_known_and_no_address_that_is_none() {
        let peer = PeerStatus {
            id: "n2".parse().expect("a name"),
            address: "10.0.0.2:7401".to_string(),
            role: RoleName::Learner,
            matched: None,
            lag: Some(12_345),
            contact_ms: None,
            up: false,
            url: Some("javascript:alert(1)".to_string()),
            joining: true,
            replaces: None,
            falls_behind: true,
        };
        let row = row(&status(), &peer, &[]);
        assert_eq!((row.matched.as_str(), row.contact.as_str(), row.url), ("\u{2013}", "never", None));
        assert_eq!((row.lag.as_str(), row.role), ("12\u{a0}345", "learner"));
        assert_eq!(row.note, "joins; needs one snapshot after the other");
    }
}
