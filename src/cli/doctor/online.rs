//! The running nodes: what each tells of itself, compared with what the others tell.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::api::doctor::{SelfReport, clock_ms};
use crate::client::{Call, Client};
use crate::node::status::{NodeStatus, WebhookError, WebhookStatus};

use super::local::{disk, open_files};
use super::{Finding, Level};

/// Clocks that are further apart make the times of records wrong, and leases unsafe to trust.
const SKEW_MAX_MS: u64 = 500;

/// A node's report, and when it came.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    report: SelfReport,
    /// The middle between question and answer, by this machine's clock, and how far the true moment may be from it.
    at_ms: u64,
    margin_ms: u64,
}

/// Asks the endpoints, and the other nodes that they know of. `expected`: somebody should answer.
pub(super) async fn look(client: &Client, expected: bool) -> Vec<Finding> {
    let (mut told, mut silent) = (Vec::new(), Vec::new());
    let mut waiting: Vec<String> = client.endpoints().to_vec();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    while let Some(endpoint) = waiting.pop() {
        if !asked.insert(endpoint.clone()) {
            continue;
        }
        let begun = clock_ms();
        let answer = client.ask(&endpoint, &Call::get("/v1/doctor")).await;
        let margin_ms = clock_ms().saturating_sub(begun) / 2;
        match answer.and_then(|answer| answer.read::<SelfReport>()) {
            Ok(report) => {
                told.push(Told { report, at_ms: begun + margin_ms, margin_ms });
                let status = client.ask(&endpoint, &Call::get("/v1/status")).await;
                if let Ok(status) = status.and_then(|answer| answer.read::<NodeStatus>()) {
                    waiting.extend(status.nodes.into_iter().filter_map(|node| node.url));
                }
            }
            Err(error) => {
                let why =
                    error.tried.first().map_or_else(|| error.message.clone(), |tried| tried.what.clone());
                silent.push((endpoint, why));
            }
        }
    }
    told.sort_by(|a, b| a.report.id.cmp(&b.report.id));
    let mut findings: Vec<Finding> = silent
        .into_iter()
        .filter(|_| expected || !told.is_empty())
        .map(|(endpoint, why)| {
            let remedy = "start that node, or correct --endpoints; look at its log if it should be running";
            Finding::bad(Level::Fail, "node", endpoint, format!("does not answer: {why}"), remedy)
        })
        .collect();
    findings.extend(judge(&told));
    findings
}

/// What the reports mean.
pub(super) fn judge(told: &[Told]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in told {
        let report = &node.report;
        let id = report.id.as_str();
        findings.push(open_files(id, report.open_files_max));
        if let Some(latency) = report.disk {
            findings.push(disk(id, latency, Duration::from_millis(report.election_min_ms)));
        }
        if report.disk_degraded {
            let what = "writes have been waiting for this disk for half an election timeout or more";
            let remedy = "find what else uses the disk, or replace it; the node does not lead meanwhile";
            findings.push(Finding::bad(Level::Fail, "disk", id, what, remedy));
        }
        if let Some(error) = &report.projection.error {
            let remedy = "see `super-node doctor --offline` with that node's MONGODB_URI";
            findings.push(Finding::bad(Level::Fail, "mongodb", id, error, remedy));
        }
        findings.extend(report.webhooks.iter().filter_map(|hook| webhook(id, hook)));
    }
    findings.extend(clusters(told));
    findings.extend(versions(told));
    findings.extend(clocks(told));
    findings.extend(links(told));
    findings
}

/// What is wrong with a webhook of a node.
fn webhook(node: &str, hook: &WebhookStatus) -> Option<Finding> {
    let WebhookError { at, what, lost } = hook.last_error.as_ref()?;
    let WebhookStatus { hook, place, failing, .. } = hook;
    let subject = format!("{node}: {hook} at {place}");
    if *failing {
        let remedy = "mend the receiver, or correct its url, ca or secret_file in [[webhooks]]; what happens meanwhile is told \
                      later, up to max_age";
        let what = format!("the receiver takes nothing: {what} ({at})");
        return Some(Finding::bad(Level::Fail, "webhook", subject, what, remedy));
    }
    let remedy = "look up what it is in the ledger (docs/webhooks.md, \"What is guaranteed\"); restarting the node clears this";
    let what = format!("it was not told of something: {what} ({at})");
    lost.then(|| Finding::bad(Level::Warn, "webhook", subject, what, remedy))
}

fn clusters(told: &[Told]) -> Option<Finding> {
    let mut clusters: BTreeMap<(&str, Option<&str>), Vec<&str>> = BTreeMap::new();
    for node in told {
        let report = &node.report;
        let cluster = (report.cluster.as_str(), report.identity.as_deref());
        clusters.entry(cluster).or_default().push(report.id.as_str());
    }
    // One that has not heard of its cluster yet is no other cluster.
    let names: BTreeSet<&str> = clusters.keys().map(|(name, _)| *name).collect();
    let identities: BTreeSet<&str> = clusters.keys().filter_map(|(_, identity)| *identity).collect();
    if names.len() <= 1 && identities.len() <= 1 {
        return None;
    }
    let shown = clusters.iter().map(|((name, identity), nodes)| {
        format!("{} in '{name}' ({:.8})", nodes.join(", "), identity.unwrap_or("unfounded"))
    });
    Some(Finding::bad(
        Level::Fail,
        "cluster",
        "all nodes",
        format!("they belong to different clusters: {}", shown.collect::<Vec<_>>().join("; ")),
        "correct --endpoints, or node.cluster and cluster.peers of the odd one, and give that an empty directory",
    ))
}

fn versions(told: &[Told]) -> Option<Finding> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in told {
        versions.entry(&node.report.version).or_default().push(node.report.id.as_str());
    }
    let newest = |report: &SelfReport| report.peer_protocol_max.max(report.peer_protocol);
    let oldest = told.iter().map(|node| node.report.peer_protocol).max();
    let common = told.iter().map(|node| newest(&node.report)).min();
    if common < oldest {
        let what = "some of them have no version of the peer protocol in common, and refuse each other";
        let remedy = "run the same super-node on all";
        return Some(Finding::bad(Level::Fail, "version", "all nodes", what, remedy));
    }
    let protocols: BTreeSet<u16> = told.iter().map(|node| newest(&node.report)).collect();
    if versions.len() <= 1 && protocols.len() <= 1 {
        let (version, _) = versions.first_key_value()?;
        return Some(Finding::ok("version", "all nodes", format!("super-node {version}")));
    }
    let shown = told.iter().map(|node| {
        format!("{} {} (peer protocol {})", node.report.id, node.report.version, newest(&node.report))
    });
    Some(Finding::bad(
        Level::Warn,
        "version",
        "all nodes",
        format!("a mix: {}", shown.collect::<Vec<_>>().join(", ")),
        "finish the upgrade: restart the older ones with the newer super-node, one after the other",
    ))
}

/// The least and the largest offset from this machine's clock that a node's clock can have.
fn offset(node: &Told) -> (i128, i128, &Told) {
    let offset = i128::from(node.report.clock_ms) - i128::from(node.at_ms);
    (offset - i128::from(node.margin_ms), offset + i128::from(node.margin_ms), node)
}

fn clocks(told: &[Told]) -> Option<Finding> {
    let offsets: Vec<_> = told.iter().map(offset).collect();
    let ahead = offsets.iter().max_by_key(|(from, _, _)| *from)?;
    let behind = offsets.iter().min_by_key(|(_, upto, _)| *upto)?;
    if told.len() < 2 {
        return None;
    }
    let skew = ahead.0 - behind.1;
    if skew <= i128::from(SKEW_MAX_MS) {
        return Some(Finding::ok("clock", "all nodes", format!("at most {} ms apart for sure", skew.max(0))));
    }
    let (fast, slow) = (&ahead.2.report.id, &behind.2.report.id);
    Some(Finding::bad(
        Level::Fail,
        "clock",
        format!("{fast}, {slow}"),
        format!("the clock of {fast} is at least {skew} ms ahead of that of {slow}"),
        "run chrony or systemd-timesyncd on both; until then the times of records are wrong",
    ))
}

/// Compares who is connected with whom, as both ends see it.
fn links(told: &[Told]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut connected = 0;
    for node in told {
        let from = &node.report.id;
        for link in &node.report.links {
            let to = &link.node;
            if link.outgoing {
                connected += 1;
                continue;
            }
            let why = link.trouble.clone().unwrap_or_else(|| "no attempt has ended yet".to_string());
            let subject = format!("{from} to {to} at {}", link.address);
            let refused = ["belongs to cluster", "two clusters", "another data directory", "peer protocol"];
            let finding = if refused.iter().any(|words| why.contains(words)) {
                Finding::bad(Level::Fail, "peer", subject, format!("refused: {why}"), "as it says")
            } else if link.incoming {
                Finding::bad(
                    Level::Fail,
                    "peer",
                    subject,
                    format!("one way only: {to} reaches {from}, but not the other way round: {why}"),
                    format!(
                        "open the way from {from} to {}; or correct listen.advertise of {to}",
                        link.address
                    ),
                )
            } else {
                Finding::bad(
                    Level::Fail,
                    "peer",
                    subject,
                    format!("no connection: {why}"),
                    format!("start {to}; else open the way to it, or correct its address"),
                )
            };
            findings.push(finding);
        }
    }
    if findings.is_empty() && connected > 0 {
        findings.push(Finding::ok("peer", "all nodes", format!("{connected} connections stand, both ways")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::peers::Link;
    use crate::node::frame::PROTOCOL;
    use crate::storage::probe::SyncLatency;
    use crate::types::UnixMillis;

    fn link(node: &str, outgoing: bool, incoming: bool, trouble: &str) -> Link {
        Link {
            node: node.parse().unwrap(),
            address: "10.0.0.9:7401".to_string(),
            outgoing,
            incoming,
            protocol: Some(3),
            trouble: Some(trouble.to_string()).filter(|text| !text.is_empty()),
        }
    }

    fn node(id: &str) -> Told {
        let report = SelfReport {
            id: id.parse().unwrap(),
            cluster: "blue".to_string(),
            identity: Some("0123456789abcdef".to_string()),
            version: "1.2.3".to_string(),
            peer_protocol: 2,
            peer_protocol_max: PROTOCOL,
            clock_ms: 1_000_000,
            open_files_max: Some(65_536),
            disk: Some(SyncLatency { median_us: 100, worst_us: 900 }),
            disk_degraded: false,
            election_min_ms: 300,
            links: vec![link(if id == "n1" { "n2" } else { "n1" }, true, true, "")],
            projection: Default::default(),
            webhooks: Vec::new(),
        };
        Told { report, at_ms: 1_000_000, margin_ms: 2 }
    }

    /// The findings that are not in order, of n1 and a changed n2.
    fn wrong(change: impl Fn(&mut Told)) -> Vec<(Level, &'static str, String)> {
        let (one, mut two) = (node("n1"), node("n2"));
        change(&mut two);
        let findings = judge(&[one, two]).into_iter().filter(|finding| finding.level != Level::Ok);
        findings
            .map(|finding| {
                assert!(!finding.remedy.is_empty(), "{finding:?}");
                (finding.level, finding.check, finding.what)
            })
            .collect()
    }

    fn hook(failing: bool, lost: bool) -> WebhookStatus {
        let what = "it answered 500".to_string();
        let last_error = Some(WebhookError { at: UnixMillis(7_000), what, lost });
        let (hook, place) = ("pager".to_string(), "https://example.org".to_string());
        WebhookStatus { hook, place, failing, last_error }
    }

    #[test]
    fn two_healthy_nodes_are_in_order() {
        assert_eq!(wrong(|_| {}), []);
        // One that took everything in the end is no trouble.
        assert_eq!(wrong(|n| n.report.webhooks = vec![hook(false, false)]), []);
    }

    #[test]
    fn each_trouble_is_found_alone() {
        type Change = fn(&mut Told);
        let cases: [(Change, Level, &str, &str); 12] = [
            (|n| n.report.disk_degraded = true, Level::Fail, "disk", "half an election timeout"),
            (|n| n.report.clock_ms += 700, Level::Fail, "clock", "n2 is at least 696 ms ahead of that of n1"),
            (|n| n.report.clock_ms -= 700, Level::Fail, "clock", "n1 is at least 696 ms ahead of that of n2"),
            (|n| n.report.version = "1.3.0".to_string(), Level::Warn, "version", "n2 1.3.0"),
            (|n| n.report.peer_protocol = PROTOCOL + 1, Level::Fail, "version", "refuse each other"),
            (|n| n.report.cluster = "red".to_string(), Level::Fail, "cluster", "n2 in 'red'"),
            (|n| n.report.identity = Some("fedc".to_string()), Level::Fail, "cluster", "(fedc)"),
            (
                |n| n.report.links = vec![link("n1", false, true, "no connection within 1s")],
                Level::Fail,
                "peer",
                "one way only: n1 reaches n2",
            ),
            (
                |n| n.report.links = vec![link("n1", false, false, "n1 belongs to cluster \"red\"")],
                Level::Fail,
                "peer",
                "refused: n1 belongs",
            ),
            (
                |n| n.report.projection.error = Some("MongoDB: away".to_string()),
                Level::Fail,
                "mongodb",
                "MongoDB: away",
            ),
            (
                |n| n.report.webhooks = vec![hook(true, false)],
                Level::Fail,
                "webhook",
                "takes nothing: it answered 500",
            ),
            (|n| n.report.webhooks = vec![hook(false, true)], Level::Warn, "webhook", "1970-01-01T00:00:07"),
        ];
        for (change, level, check, words) in cases {
            let found = wrong(change);
            let [(found_level, found_check, what)] = &found[..] else { panic!("{words}: {found:?}") };
            assert_eq!((*found_level, *found_check), (level, check), "{what}");
            assert!(what.contains(words), "'{words}' is not in: {what}");
        }
    }

    #[test]
    fn a_slow_answer_is_not_taken_for_a_wrong_clock() {
        let slow = wrong(|node| {
            node.report.clock_ms += 700;
            node.margin_ms = 700;
        });
        assert_eq!(slow, []);
    }
}
