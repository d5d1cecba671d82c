//! `status --watch`: a live view on a terminal; elsewhere a line or an object for each change.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::super::output::Format;
use super::super::{CliError, Output};
use super::picture::{Picture, drawn};
use super::screen::{Deed, Screen};
use super::{changes, in_short, local_item, local_row, node_rows, or_dash, role};
use crate::client::{Call, Client};
use crate::node::status::NodeStatus;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// An endpoint that takes longer is shown as silent: a picture must not wait for one that hangs.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);
/// Endpoints that are asked at most: the named ones, and those that nodes tell of.
const ENDPOINTS_MAX: usize = 16;

/// What each endpoint said, or why it did not.
type Told = Vec<(String, Result<Value, String>)>;

/// Watches until it is told to stop.
pub(super) async fn run(
    local: bool,
    client: &Client,
    no_colour: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut watched = Watched { client, local, endpoints: client.endpoints().to_vec() };
    if output.is_terminal() && output.format() == Format::Table {
        // Without keys and a window there is nothing to draw on.
        if let Ok(screen) = Screen::open() {
            let colours = !no_colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            return live(&mut watched, screen, colours).await;
        }
    }
    stream(&mut watched, output).await
}

/// Whom to ask.
struct Watched<'c> {
    client: &'c Client,
    local: bool,
    endpoints: Vec<String>,
}

impl Watched<'_> {
    /// Asks all endpoints at once.
    async fn look(&mut self) -> Told {
        let call = Call::get("/v1/status");
        let ask = |endpoint: String| {
            let (client, call) = (self.client, call.clone());
            async move {
                let answer = tokio::time::timeout(ANSWER_MAX, client.ask(&endpoint, &call)).await;
                let told = match answer {
                    Ok(Ok(answer)) => Ok(answer.body),
                    Ok(Err(error)) => Err(in_short(&error)),
                    Err(_elapsed) => Err(format!("no answer within {ANSWER_MAX:?}")),
                };
                (endpoint, told)
            }
        };
        let told: Told = join_all(self.endpoints.iter().cloned().map(ask)).await;
        if !self.local {
            self.learn(&told);
        }
        told
    }

    /// Nodes tell where the others are: should all that were named die, those can still be asked.
    fn learn(&mut self, told: &Told) {
        let bodies = told.iter().filter_map(|(_, told)| told.as_ref().ok());
        let own = bodies.clone().filter_map(|body| body["url"].as_str().map(str::to_string));
        let own: Vec<String> = own.collect();
        let urls: Vec<String> = bodies
            .filter_map(|body| body["nodes"].as_array())
            .flatten()
            .filter_map(|node| node["url"].as_str().map(str::to_string))
            .collect();
        // A node that was reached under another name than its own is known already.
        for url in urls.into_iter().filter(|url| !own.contains(url)) {
            if !self.endpoints.contains(&url) && self.endpoints.len() < ENDPOINTS_MAX {
                self.endpoints.push(url);
            }
        }
    }
}

/// What the leader says, or else who has seen the highest term.
fn best(told: &Told) -> Option<&Value> {
    let rank = |body: &&Value| (body["term"].as_u64(), body["role"] == "leader", body["commit"].as_u64());
    told.iter().filter_map(|(_, told)| told.as_ref().ok()).max_by_key(rank)
}

/// Draws until `q`, Ctrl-C or SIGTERM.
async fn live(watched: &mut Watched<'_>, mut screen: Screen, colours: bool) -> Result<(), CliError> {
    let refused = |error| CliError::failed(format!("cannot listen for signals: {error}"));
    let mut terminated = signal(SignalKind::terminate()).map_err(refused)?;
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut picture = Picture::default();
    let mut memory = Memory::default();
    loop {
        let told = {
            let look = async {
                ticks.tick().await;
                watched.look().await
            };
            tokio::pin!(look);
            loop {
                tokio::select! {
                    told = &mut look => break told,
                    deed = screen.deed() => match deed {
                        Deed::Leave => return Ok(()),
                        Deed::Interrupt => return Err(CliError::Interrupted),
                        Deed::Resize => {
                            let text = drawn(&picture.lines(), screen.size(), colours);
                            screen.show(&text)?;
                        }
                    },
                    _ = terminated.recv() => return Err(CliError::Interrupted),
                }
            }
        };
        memory.add(&mut picture, watched.local, told);
        let text = drawn(&picture.lines(), screen.size(), colours);
        screen.show(&text)?;
    }
}

/// What a look is compared with.
#[derive(Default)]
struct Memory {
    /// When somebody answered last, and the commit index then.
    heard: Option<(Instant, u64)>,
    begun: Option<Instant>,
}

impl Memory {
    /// Brings the picture up to date.
    fn add(&mut self, picture: &mut Picture, local: bool, told: Told) {
        let now = Instant::now();
        let begun = *self.begun.get_or_insert(now);
        let time = OffsetDateTime::now_utc();
        picture.at = format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second());
        let silent = told.iter().filter_map(|(endpoint, told)| Some((endpoint.clone(), told.clone().err()?)));
        let silent: Vec<(String, String)> = silent.collect();
        let known = |list: &[(String, String)], endpoint: &str| list.iter().any(|(name, _)| name == endpoint);
        let fallen = silent.iter().filter(|(endpoint, _)| !known(&picture.silent, endpoint));
        let mut news: Vec<String> =
            fallen.map(|(endpoint, why)| format!("{endpoint} does not answer: {why}")).collect();
        let back = picture.silent.iter().filter(|(endpoint, _)| !known(&silent, endpoint));
        news.extend(back.map(|(endpoint, _)| format!("{endpoint} answers again")));
        picture.silent = silent;
        picture.local = if local {
            told.iter().map(|(endpoint, told)| local_row(endpoint, told)).collect()
        } else {
            Vec::new()
        };
        let status = best(&told).and_then(|body| serde_json::from_value::<NodeStatus>(body.clone()).ok());
        match status {
            Some(status) => {
                if let Some(before) = &picture.status {
                    news.extend(changes::told(before, &status));
                }
                picture.entries_per_s = self.heard.and_then(|(at, commit)| {
                    let grown = status.commit.0.checked_sub(commit)?;
                    Some(grown as f64 / now.duration_since(at).as_secs_f64().max(0.001))
                });
                self.heard = Some((now, status.commit.0));
                picture.silent_s = 0;
                picture.status = Some(status);
            }
            None => {
                picture.entries_per_s = None;
                let since = self.heard.map_or(begun, |(at, _)| at);
                picture.silent_s = now.duration_since(since).as_secs().max(1);
            }
        }
        picture.note(news);
    }
}

/// Prints a line or an object whenever something is different.
async fn stream(watched: &mut Watched<'_>, output: &mut Output) -> Result<(), CliError> {
    let mut last = None;
    loop {
        let told = watched.look().await;
        let shown = shown(&told, watched.local);
        let lasting = lasting(&shown);
        if last.as_ref() != Some(&lasting) {
            if output.format() == Format::Json {
                output.json(&shown)?;
            } else {
                output.line(&as_line(&shown))?;
            }
            last = Some(lasting);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is printed as JSON: the status with the endpoints that are silent, or that nobody answers.
fn shown(told: &Told, local: bool) -> Value {
    if local {
        return told.iter().map(|(endpoint, told)| local_item(endpoint, told)).collect();
    }
    let silent = told
        .iter()
        .filter_map(|(endpoint, told)| Some(json!({ "endpoint": endpoint, "error": told.as_ref().err()? })));
    let silent: Vec<Value> = silent.collect();
    match best(told) {
        Some(body) => {
            let mut body = body.clone();
            body["silent"] = silent.into();
            body
        }
        None => json!({ "error": "no node answers", "code": "unreachable", "silent": silent }),
    }
}

fn lasting(shown: &Value) -> Value {
    match shown {
        Value::Array(items) => items
            .iter()
            .map(|item| json!([item["endpoint"], item["error"], changes::lasting(&item["status"])]))
            .collect(),
        one => changes::lasting(one),
    }
}

/// The same as a line of columns, separated by tabs.
fn as_line(shown: &Value) -> String {
    let silent = |value: &Value| {
        let names =
            value["silent"].as_array().into_iter().flatten().filter_map(|one| one["endpoint"].as_str());
        names.collect::<Vec<_>>().join(",")
    };
    if let Value::Array(items) = shown {
        let one = |item: &Value| {
            let told = match item["error"].as_str() {
                Some(why) => Err(why.to_string()),
                None => Ok(item["status"].clone()),
            };
            local_row(item["endpoint"].as_str().unwrap_or_default(), &told).join(" ")
        };
        return items.iter().map(one).collect::<Vec<_>>().join("\t");
    }
    let Ok(status) = serde_json::from_value::<NodeStatus>(shown.clone()) else {
        return format!("no node answers\t{}", silent(shown));
    };
    let nodes: Vec<String> = node_rows(&status)
        .into_iter()
        .map(|row| format!("{}:{}:lag={}:{}", row[0], row[1], row[4], row[6]))
        .collect();
    let members = status.members;
    [
        format!("leader={}", or_dash(status.leader.as_ref())),
        format!("term={}", status.term),
        format!("commit={}", status.commit),
        format!("applied={}", status.applied),
        format!("seen_by={}:{}", status.id, role(status.role)),
        format!("nodes={}", nodes.join(",")),
        format!(
            "members={}:up={}:suspect={}:down={}",
            members.total, members.up, members.suspect, members.down
        ),
        format!("interval={}", status.interval.open),
        format!("records={}", status.ledger.records),
        format!("projection_lag={}", status.projection.lag_records),
        format!("silent={}", silent(shown)),
    ]
    .join("\t")
}
