//! `GET /`: whether the cluster works, how much it does, and how everybody does.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use crate::ledger::query;
use crate::ledger::records::{Election, Member, MemberStatus};
use crate::node::events::NodeEvent;
use crate::node::status::{NodeStatus, RoleName};
use crate::types::{MemberId, UnixMillis};

use super::super::ApiState;
use super::super::extract::Params;
use super::super::problem::Problem;
use super::chart::{self, Chart, Series};
use super::heartbeat::{Bar, Window};
use super::recorder::{Level, Sample};
use super::{Place, Quorum, Shell, page, text};

/// Members that the overview shows, the super-nodes aside; the others stand on their own page.
const MEMBERS_SHOWN: usize = 40;
/// Events at the foot of the page.
const EVENTS_SHOWN: usize = 6;
/// Seconds over which rates and quantiles are taken.
const SPAN_S: usize = 60;
/// Seconds of a point in the charts.
const POINT_S: usize = 10;

/// A figure with its name.
pub struct Figure {
    name: &'static str,
    /// Where more of it stands, on another node.
    href: Option<String>,
    value: String,
    unit: &'static str,
    note: String,
    /// The class: `good`, `bad`, or none.
    tone: &'static str,
}

/// A member with its bar.
pub struct Row {
    id: String,
    kind: &'static str,
    leads: bool,
    level: Level,
    availability: String,
    bar: Bar,
}

/// Something that happened.
pub struct News {
    at: String,
    message: String,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    shell: Shell,
    figures: Vec<Figure>,
    rows: Vec<Row>,
    more: u64,
    length: String,
    charts: Vec<Chart>,
    news: Vec<News>,
}

/// What was committed per second over the newest `seconds` samples; `None` before there are two.
pub fn commit_rate(samples: &[Sample], seconds: usize) -> Option<f64> {
    let newest = samples.last()?;
    let oldest = &samples[samples.len().saturating_sub(seconds + 1)];
    let elapsed = text::between(oldest.at, newest.at) as f64 / 1_000.0;
    (elapsed > 0.0).then(|| newest.commit.saturating_sub(oldest.commit) as f64 / elapsed)
}

/// Two quantiles of the writes that this node ordered within the newest `seconds` samples, in milliseconds.
fn commit_quantiles(samples: &[Sample], seconds: usize) -> Option<(f64, f64)> {
    let newest = samples.last()?;
    let oldest = &samples[samples.len().saturating_sub(seconds + 1)];
    let added = newest.commits.since(&oldest.commits);
    Some((added.quantile(0.5)? * 1e3, added.quantile(0.99)? * 1e3))
}

/// A node's address, if a browser can be sent there: what is known of other nodes is what they said of themselves.
pub fn followable(url: Option<&String>) -> Option<String> {
    url.filter(|url| url.starts_with("http://") || url.starts_with("https://")).cloned()
}

/// The figures at the top.
fn figures(status: &NodeStatus, samples: &[Sample], last: Option<&Election>) -> Vec<Figure> {
    let quorum = Quorum::of(status);
    let tone = |good: bool| if good { "good" } else { "bad" };
    let plain = |name, value, unit, note| Figure { name, href: None, value, unit, note, tone: "" };
    let leader = status.leader.as_ref();
    let there = status.nodes.iter().find(|node| Some(&node.id) == leader && node.id != status.id);
    let there = || there.and_then(|node| followable(node.url.as_ref()));
    let since = last.filter(|election| Some(&election.leader) == leader && election.term == status.term);
    let mut figures = vec![
        Figure {
            href: there(),
            name: "Leader",
            value: leader.map_or("nobody".to_string(), ToString::to_string),
            unit: "",
            note: match (since, leader) {
                (Some(election), _) => {
                    format!("since {} UTC: {}", text::stamp(election.at), election.reason.replace('_', " "))
                }
                (None, Some(_)) => "elected a moment ago".to_string(),
                (None, None) => "an election is due".to_string(),
            },
            tone: tone(leader.is_some()),
        },
        plain(
            "Term",
            status.term.to_string(),
            "",
            format!("{}, this node, is {}", status.id, super::role_name(status.role)),
        ),
        Figure {
            href: None,
            name: "Quorum",
            value: format!("{} of {}", quorum.up, quorum.voters),
            unit: "voters",
            note: if quorum.holds() {
                let spare = quorum.up - (quorum.voters / 2 + 1);
                format!("answer; {spare} more may fail")
            } else {
                "answer; too few, nothing is written".to_string()
            },
            tone: tone(quorum.holds()),
        },
        plain(
            "Writes",
            commit_rate(samples, SPAN_S).map_or("\u{2013}".to_string(), text::rate),
            "entries/s",
            format!("committed, mean of the last {SPAN_S} s; {} in all", text::count(status.commit.0)),
        ),
    ];
    let quantiles = commit_quantiles(samples, SPAN_S);
    let note = match (status.role, quantiles) {
        (_, Some(_)) => format!("from proposal to application here, last {SPAN_S} s"),
        (RoleName::Leader, None) => format!("no write within {SPAN_S} s"),
        (_, None) => "measured on the leader".to_string(),
    };
    let ms = |value: f64| text::millis(value * 1_000.0);
    let value = quantiles.map_or("\u{2013}".to_string(), |(p50, p99)| format!("{} / {}", ms(p50), ms(p99)));
    let href = if quantiles.is_none() { there() } else { None };
    figures.push(Figure { name: "Write p50 / p99", href, value, unit: "ms", note, tone: "" });
    let projection = &status.projection;
    figures.push(Figure {
        href: None,
        name: "MongoDB lags",
        value: if projection.enabled { text::count(projection.lag_records) } else { "off".to_string() },
        unit: if projection.enabled { "records" } else { "" },
        note: match &projection.error {
            Some(error) => error.clone(),
            None if projection.enabled => {
                format!("projected up to movement {}", text::count(projection.checkpoint))
            }
            None => "no MongoDB is configured on this node".to_string(),
        },
        tone: if projection.error.is_some() { "bad" } else { "" },
    });
    figures
}

/// A chart of what is committed per second.
fn rate_chart(samples: &[Sample], now: UnixMillis) -> Chart {
    let points = samples
        .windows(POINT_S + 1)
        .step_by(POINT_S / 2)
        .map(|part| (part[POINT_S].at, commit_rate(part, POINT_S)))
        .collect();
    let about = chart::About {
        id: "rate",
        title: "Commit rate",
        unit: "entries/s",
        nothing: "The first minute is being recorded.",
    };
    chart::time_chart(
        about,
        begin(samples, now),
        now,
        vec![Series { class: "line-a", name: "entries", points }],
    )
}

fn latency_chart(samples: &[Sample], now: UnixMillis) -> Chart {
    let parts: Vec<_> = samples
        .windows(POINT_S + 1)
        .step_by(POINT_S / 2)
        .map(|part| (part[POINT_S].at, commit_quantiles(part, POINT_S)))
        .collect();
    let points = |of: fn((f64, f64)) -> f64| parts.iter().map(|(at, both)| (*at, both.map(of))).collect();
    let about = chart::About {
        id: "latency",
        title: "Write latency, ordered here",
        unit: "ms",
        nothing: "This node has ordered no writes of late: only a leader measures them.",
    };
    let series = vec![
        Series { class: "line-a", name: "p50", points: points(|both| both.0) },
        Series { class: "line-b", name: "p99", points: points(|both| both.1) },
    ];
    chart::time_chart(about, begin(samples, now), now, series)
}

/// Charts show at least two minutes, and no more than there is.
fn begin(samples: &[Sample], now: UnixMillis) -> UnixMillis {
    let latest = UnixMillis(now.0 - 120_000);
    samples.first().map_or(latest, |first| first.at.min(latest))
}

/// Whether an event only says that all is as ever: those come by the dozen.
fn is_usual(event: &NodeEvent) -> bool {
    match event.kind.as_str() {
        "report_accepted" | "interval_cut" | "version_stated" | "node_seen" => true,
        "interval_settled" => {
            event.data.get("verdict").and_then(|verdict| verdict.as_str()) == Some("settled")
        }
        _ => false,
    }
}

/// The newest events that are news to people, newest first.
pub fn newest(events: &[NodeEvent], count: usize) -> Vec<News> {
    let news = events.iter().rev().filter(|event| !is_usual(event)).take(count);
    news.map(|event| News { at: text::clock_ms(event.at), message: event.message.clone() }).collect()
}

/// `GET /`
pub async fn overview(State(state): State<ApiState>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(&uri, &[])?;
    let status = state.handle.status.borrow().clone();
    let samples = state.recorder().samples(usize::MAX);
    let now = text::now();
    let nodes: BTreeSet<MemberId> = status.nodes.iter().map(|node| MemberId::from(&node.id)).collect();
    let names: Vec<MemberId> = nodes.into_iter().collect();
    let (members, others, window, last, total) = state
        .look(move |reader| {
            let members = query::members(reader, None, MEMBERS_SHOWN)?;
            let known = |id: &MemberId| members.iter().any(|member| member.id == *id);
            let beyond: Vec<MemberId> = names.into_iter().filter(|id| !known(id)).collect();
            let mut others = Vec::new();
            for id in &beyond {
                others.extend(query::member(reader, id)?);
            }
            let window = Window::read(reader, None, &members, &beyond)?;
            Ok((members, others, window, query::last_election(reader)?, query::member_count(reader)?))
        })
        .await?;
    let shown = (members.len() + others.len()) as u64;
    let mut rows: Vec<Row> = others
        .into_iter()
        .chain(members)
        .filter(|member| member.status != MemberStatus::Left)
        .map(|member| row(&state, &status, &window, member))
        .collect();
    // Super-nodes first, each kind by name.
    rows.sort_by(|a, b| (a.kind != "node", &a.id).cmp(&(b.kind != "node", &b.id)));
    let length = match (window.intervals.first(), window.intervals.last()) {
        (Some(first), Some(last)) => format!(
            "{} to {} UTC, {}",
            text::clock(first.opened_at),
            text::clock(last.cut_at),
            text::span(text::between(first.opened_at, last.cut_at))
        ),
        _ => String::new(),
    };
    let (events, _) = state.handle.events.subscribe(0);
    page(&Overview {
        shell: Shell::new(&state, Place::Overview, "overview"),
        figures: figures(&status, &samples, last.as_ref()),
        rows,
        more: total.saturating_sub(shown),
        length,
        charts: vec![rate_chart(&samples, now), latency_chart(&samples, now)],
        news: newest(&events, EVENTS_SHOWN),
    })
}

fn row(state: &ApiState, status: &NodeStatus, window: &Window, member: Member) -> Row {
    let level = state.recorder().level(&state.metrics, &status.id, member.id.as_str());
    let availability = window.availability_ppm(&member.id);
    Row {
        leads: status.leader.as_ref().is_some_and(|leader| leader.as_str() == member.id.as_str()),
        kind: member.kind.as_str(),
        availability: availability.map_or("\u{2013}".to_string(), text::about_percent),
        bar: window.bar(&member.id, Some(level)),
        id: member.id.to_string(),
        level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_rate_is_that_of_the_newest_samples() {
        let sample = |second: u64, commit| Sample {
            at: UnixMillis(second as i64 * 1_000),
            commit,
            ..Sample::default()
        };
        let samples: Vec<Sample> = (0..=20).map(|second| sample(second, second.min(10) * 5)).collect();
        assert_eq!(commit_rate(&samples, 5), Some(0.0));
        assert_eq!(commit_rate(&samples, 20), Some(2.5));
        assert_eq!(commit_rate(&samples[..1], 5), None);
        assert_eq!(commit_rate(&[], 5), None);
    }

    #[test]
    fn news_are_newest_first_and_without_what_is_usual() {
        let event = |id: u64, kind: &str| NodeEvent {
            id,
            at: UnixMillis(id as i64),
            kind: kind.to_string(),
            message: format!("no. {id}"),
            data: Value::Null,
        };
        let mut settled = event(4, "interval_settled");
        settled.data = serde_json::json!({"verdict": "settled"});
        let mut void = event(5, "interval_settled");
        void.data = serde_json::json!({"verdict": "void"});
        let events =
            [event(1, "leader_elected"), event(2, "report_accepted"), event(3, "member_down"), settled, void];
        let news = newest(&events, 5);
        let told: Vec<&str> = news.iter().map(|news| news.message.as_str()).collect();
        assert_eq!(told, ["no. 5", "no. 3", "no. 1"]);
    }
}
