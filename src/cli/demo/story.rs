//! The story: what is done to the cluster, and what must then be seen. Every line with a mark is a check.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cli::CliError;
use crate::client::{Call, Client};
use crate::types::Amount;

use super::teller::Teller;
use crate::local::Fleet;

/// Patience for anything that should happen; a healthy cluster needs a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a new cluster must have a leader.
const FIRST_LEADER_MAX: Duration = Duration::from_secs(3);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// The cluster, the story so far, and who tells it.
pub struct Story<'a> {
    /// The processes.
    pub fleet: &'a mut Fleet,
    /// The words.
    pub teller: &'a mut Teller,
    /// When the binary was started.
    pub begun: Instant,
    /// How many agents there are.
    pub agents: usize,
    /// The database in MongoDB, if that is beside it.
    pub mongodb: Option<String>,
}

type Told = Result<(), CliError>;

impl Story<'_> {
    /// All chapters in order.
    pub async fn tell(&mut self) -> Told {
        self.elect().await?;
        self.write().await?;
        self.pay().await?;
        if self.fleet.nodes.len() >= 3 {
            let victim = self.kill().await?;
            self.penalise(victim).await?;
            self.heal(victim).await?;
            self.isolate().await?;
        }
        self.grow().await?;
        self.verify().await
    }

    async fn elect(&mut self) -> Told {
        let count = self.fleet.nodes.len();
        self.teller.chapter(
            "elect",
            &match count {
                1 => "1 super-node starts, as a process of its own, and leads".to_string(),
                _ => format!("{count} super-nodes start, as processes of their own, and elect a leader"),
            },
        )?;
        for at in 0..count {
            self.fleet.start_node(at)?;
        }
        let (leader, term) = self.leader_after(0).await?;
        let took = self.begun.elapsed();
        let id = self.fleet.nodes[leader].id.clone();
        self.teller.data("leader", json!(id));
        self.teller.data("leader_after_ms", json!(took.as_millis()));
        let fact = format!("{id} leads term {term}, {} ms after the binary started", took.as_millis());
        self.teller.check(took <= FIRST_LEADER_MAX, &fact)?;
        for node in &self.fleet.nodes {
            let line = format!("{}  pid {}  {}", node.id, node.pid().unwrap_or(0), node.url);
            self.teller.aside(&line)?;
        }
        self.teller.aside(&format!("look at it while it runs: {}/", self.fleet.nodes[leader].url))?;
        let election = self.election(leader, term).await?;
        let votes = election["votes"].as_array().map_or(0, Vec::len);
        let plural = if votes == 1 { "" } else { "s" };
        let fact =
            format!("the election is on record: reason {}, {votes} vote{plural}", text(&election["reason"]));
        self.teller.check(votes * 2 > count, &fact)?;
        for number in 1..=self.agents {
            self.fleet.start_agent(&format!("worker-{number}"))?;
        }
        Ok(())
    }

    async fn write(&mut self) -> Told {
        self.teller.chapter("write", "A value is written through one node and read through another")?;
        let values = [
            ("message", json!("Hello World")),
            ("count", json!(42)),
            ("ready", json!(true)),
            ("numbers", json!([1, 2, 3, 4])),
            ("config", json!({"host": "localhost", "port": 8080})),
        ];
        let nodes = self.fleet.nodes.len();
        for (number, (key, value)) in values.iter().enumerate() {
            let (writer, reader) = (number % nodes, (number + 1) % nodes);
            put(&self.fleet.client_at(writer)?, key, value).await?;
            let read = self.get(reader, &format!("/v1/kv/{key}")).await?;
            let names = (self.fleet.nodes[writer].id.clone(), self.fleet.nodes[reader].id.clone());
            let fact = format!("{key} = {value}, written through {}, read through {}", names.0, names.1);
            self.teller.check(&read["value"] == value, &fact)?;
        }
        let call = Call::new(Method::POST, "/v1/add").body(&json!({"a": 5, "b": 3}));
        let sum = self.fleet.client_at(nodes - 1)?.send(call).await?.body;
        let fact = format!(
            "5 + 3 = {}, ordered by {}, asked at {}",
            sum["result"],
            text(&sum["leader"]),
            text(&sum["node"])
        );
        self.teller.check(sum["result"] == json!(8), &fact)?;
        Ok(())
    }

    async fn pay(&mut self) -> Told {
        self.teller.chapter("pay", "Everybody is pinged; who answers is paid, once per interval")?;
        let nodes = self.fleet.nodes.len();
        // Nobody judges itself: a lone super-node earns nothing.
        let mut members: Vec<String> = (1..=self.agents).map(|number| format!("worker-{number}")).collect();
        if nodes > 1 {
            members.extend(self.fleet.nodes.iter().map(|node| node.id.clone()));
        }
        let balances = self
            .wait("the first payments", async |story: &Story<'_>| {
                let page = story.get_any("/v1/balances").await.ok()?;
                let items = page["items"].as_array()?.clone();
                let paid = |member: &String| {
                    items.iter().any(|item| &item["member"] == member && item["balance"].as_i64() > Some(0))
                };
                members.iter().all(paid).then_some(items)
            })
            .await?;
        for item in balances.iter().filter(|item| members.iter().any(|member| &item["member"] == member)) {
            let fact = format!("{:<10} has {} points", text(&item["member"]), points(&item["balance"]));
            self.teller.check(item["balance"].as_i64() > Some(0), &fact)?;
        }
        let Some(member) = members.first() else { return Ok(()) };
        let page = self.get_any(&format!("/v1/rewards?member={member}&kind=reward")).await?;
        let Some(reward) = page["items"].as_array().and_then(|items| items.last()).cloned() else {
            self.teller.check(false, &format!("a reward of {member} is on record"))?;
            return Ok(());
        };
        self.explain(member, &reward).await
    }

    /// The evidence and the arithmetic behind a movement.
    async fn explain(&mut self, member: &str, movement: &Value) -> Told {
        let path = format!("/v1/intervals/{}/members/{member}", movement["interval"]);
        let explained = self.get_any(&path).await?;
        let amount = movement["amount"].as_i64().unwrap_or(0).abs();
        let kind = text(&movement["kind"]);
        let agrees = explained["explanation"]["agrees"] == json!(true);
        let same = agrees && explained[kind.as_str()].as_i64() == Some(amount);
        let fact = format!(
            "{kind} of {} for {member} in interval {}: the evidence and the formula give the same",
            points(&movement["amount"]),
            movement["interval"]
        );
        self.teller.check(same, &fact)?;
        for line in explained["explanation"]["lines"].as_array().into_iter().flatten() {
            self.teller.aside(&text(line))?;
        }
        Ok(())
    }

    async fn kill(&mut self) -> Result<usize, CliError> {
        self.teller.chapter("kill", "The leader is killed with kill -9 while a client writes")?;
        let (leader, term) = self.leader_after(0).await?;
        let id = self.fleet.nodes[leader].id.clone();
        let others: Vec<String> = self
            .fleet
            .nodes
            .iter()
            .filter(|node| node.is_running() && node.id != id)
            .map(|node| node.url.clone())
            .collect();
        let writer = Writer::start(others)?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let killed_at = Instant::now();
        self.fleet.kill_node(leader).await?;
        let (next, next_term) = self.leader_after(term).await?;
        let gap = self
            .wait("the next acknowledged write", async |_: &Story<'_>| writer.first_after(killed_at))
            .await?
            .duration_since(killed_at);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let acknowledged = writer.stop().await;
        let next_id = self.fleet.nodes[next].id.clone();
        let fact = format!("{id} is dead, {next_id} leads term {next_term}");
        self.teller.check(next_id != id && next_term > term, &fact)?;
        self.teller.data("write_gap_ms", json!(gap.as_millis()));
        let fact = format!("the next write was acknowledged {} ms after the kill", gap.as_millis());
        self.teller.check(gap < PATIENCE, &fact)?;
        let election = self.election(next, next_term).await?;
        let fact = format!(
            "on record: reason {}, votes of {}, nobody led for {} ms",
            text(&election["reason"]),
            names(&election["votes"]),
            election["leaderless_ms"]
        );
        self.teller.check(election["previous"] == json!(id), &fact)?;
        let missing = self.missing(next, &acknowledged).await?;
        let fact = format!("all {} acknowledged writes are there", acknowledged.len());
        self.teller.check(missing == 0 && !acknowledged.is_empty(), &fact)?;
        Ok(leader)
    }

    async fn missing(&self, at: usize, acknowledged: &[String]) -> Result<usize, CliError> {
        let client = self.fleet.client_at(at)?;
        let listed = client.pages(Call::get("/v1/kv").query("prefix", "writer/"), None).await?;
        let there: std::collections::BTreeSet<&str> =
            listed.iter().filter_map(|item| item["key"].as_str()).collect();
        Ok(acknowledged.iter().filter(|key| !there.contains(key.as_str())).count())
    }

    async fn penalise(&mut self, victim: usize) -> Told {
        let id = self.fleet.nodes[victim].id.clone();
        self.teller.chapter("penalise", "Who does not answer is penalised; who answers is not")?;
        let mut silent = vec![id];
        if self.agents > 0 {
            let agent = format!("worker-{}", self.agents);
            self.fleet.kill_agent(&agent).await?;
            self.teller.aside(&format!("{agent} is killed too"))?;
            silent.push(agent);
        }
        for member in &silent {
            let path = format!("/v1/rewards?member={member}&kind=penalty");
            let penalty = self
                .wait("a whole interval of silence is judged", async |story: &Story<'_>| {
                    let page = story.get_any(&path).await.ok()?;
                    page["items"].as_array()?.iter().find(|item| item["amount"] == json!(-5_000_000)).cloned()
                })
                .await?;
            self.explain(member, &penalty).await?;
        }
        let page = self.get_any("/v1/rewards?kind=penalty&limit=1000").await?;
        let unjust: Vec<String> = page["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| !silent.iter().any(|member| &item["member"] == member))
            .map(|item| text(&item["member"]))
            .collect();
        self.teller.check(unjust.is_empty(), &format!("nobody else was penalised{}", listed(&unjust)))?;
        Ok(())
    }

    async fn heal(&mut self, victim: usize) -> Told {
        let id = self.fleet.nodes[victim].id.clone();
        self.teller.chapter("heal", &format!("{id} comes back and learns what it missed"))?;
        let before = self.get_any("/v1/status").await?;
        self.fleet.start_node(victim)?;
        let begun = Instant::now();
        if self.agents > 0 {
            self.fleet.start_agent(&format!("worker-{}", self.agents))?;
        }
        let applied = before["applied"].as_u64().unwrap_or(0);
        self.wait("it catches up", async |story: &Story<'_>| {
            let status = story.get(victim, "/v1/status").await.ok()?;
            (status["applied"].as_u64()? >= applied).then_some(())
        })
        .await?;
        let fact = format!(
            "{id} has applied everything up to {applied}, {} ms after its start",
            begun.elapsed().as_millis()
        );
        self.teller.check(true, &fact)?;
        let read = self.get(victim, "/v1/kv/message?level=stale").await?;
        self.teller.check(
            read["value"] == json!("Hello World"),
            &format!("{id} knows message = {}", read["value"]),
        )?;
        Ok(())
    }

    async fn isolate(&mut self) -> Told {
        let (leader, term) = self.leader_after(0).await?;
        let id = self.fleet.nodes[leader].id.clone();
        self.teller.chapter(
            "isolate",
            &format!("The leader {id} is frozen: nobody hears it, and its connections stay open"),
        )?;
        self.fleet.freeze(leader, true)?;
        let others: Vec<usize> = (0..self.fleet.nodes.len()).filter(|at| *at != leader).collect();
        let (next, next_term) = self
            .wait("the others elect", async |story: &Story<'_>| {
                for at in &others {
                    if let Ok(status) = story.get(*at, "/v1/status").await
                        && status["role"] == json!("leader")
                        && status["term"].as_u64() > Some(term)
                    {
                        return Some((*at, status["term"].as_u64()?));
                    }
                }
                None
            })
            .await?;
        let next_id = self.fleet.nodes[next].id.clone();
        put(&self.fleet.client_at(next)?, "while-frozen", &json!(next_id)).await?;
        let election = self.election(next, next_term).await?;
        let fact = format!(
            "{next_id} leads term {next_term}: reason {}, nobody led for {} ms",
            text(&election["reason"]),
            election["leaderless_ms"]
        );
        self.teller.check(next != leader, &fact)?;
        self.fleet.freeze(leader, false)?;
        self.wait("the old leader follows", async |story: &Story<'_>| {
            let status = story.get(leader, "/v1/status").await.ok()?;
            let follows = status["role"] == json!("follower") && status["term"].as_u64() >= Some(next_term);
            follows.then_some(())
        })
        .await?;
        let read = self.get(leader, "/v1/kv/while-frozen").await?;
        let fact = format!("{id} woke up, follows, and serves what was written meanwhile");
        self.teller.check(read["value"] == json!(next_id), &fact)?;
        Ok(())
    }

    async fn grow(&mut self) -> Told {
        let agent = format!("worker-{}", self.agents + 1);
        self.teller.chapter("grow", &format!("The fleet grows: {agent} joins with one command"))?;
        self.fleet.start_agent(&agent)?;
        self.wait("it is paid", async |story: &Story<'_>| {
            let page = story.get_any("/v1/balances").await.ok()?;
            let items = page["items"].as_array()?;
            let member = items.iter().find(|item| item["member"] == json!(agent))?;
            (member["balance"].as_i64()? > 0).then_some(())
        })
        .await?;
        self.teller.check(true, &format!("{agent} is pinged by every super-node and paid"))?;
        Ok(())
    }

    async fn verify(&mut self) -> Told {
        self.teller.chapter("verify", "The books are checked, on every node")?;
        let status = self.get_any("/v1/status").await?;
        let records = status["ledger"]["records"].as_u64().unwrap_or(0);
        let mut hashes = Vec::new();
        for at in 0..self.fleet.nodes.len() {
            self.wait("every node has the records", async |story: &Story<'_>| {
                let status = story.get(at, "/v1/status").await.ok()?;
                (status["ledger"]["records"].as_u64()? >= records).then_some(())
            })
            .await?;
            let report = self.get(at, "/v1/ledger/verify").await?;
            let fact = format!(
                "{}: {} movements and {} intervals recomputed, hashes chained, sums conserved{}",
                self.fleet.nodes[at].id,
                report["records"],
                report["intervals"],
                listed(&problems(&report))
            );
            self.teller.check(report["ok"] == json!(true), &fact)?;
            let page =
                self.get(at, &format!("/v1/rewards?after={}&limit=1", records.saturating_sub(1))).await?;
            hashes.push(page["items"][0]["hash"].clone());
        }
        self.teller.data("records", json!(records));
        let same = hashes.iter().all(|hash| hash == &hashes[0] && hash.is_string());
        self.teller
            .check(same, &format!("all nodes agree on movement {records}: {:.16}…", text(&hashes[0])))?;
        let intervals = self.fleet.client()?.pages(Call::get("/v1/intervals"), None).await?;
        let contiguous = intervals.iter().zip(1_u64..).all(|(interval, id)| interval["id"] == json!(id));
        let fact =
            format!("intervals 1 to {} were each settled once, over every change of leader", intervals.len());
        self.teller.check(contiguous && !intervals.is_empty(), &fact)?;
        if let Some(database) = self.mongodb.clone() {
            self.teller.data("database", json!(database));
            self.compare(records).await?;
        }
        Ok(())
    }

    async fn compare(&mut self, records: u64) -> Told {
        self.wait("MongoDB has everything", async |story: &Story<'_>| {
            let status = story.get_any("/v1/status").await.ok()?;
            (status["projection"]["checkpoint"].as_u64()? >= records).then_some(())
        })
        .await?;
        let (leader, _) = self.leader_after(0).await?;
        let report = self.get(leader, "/v1/ledger/verify?mongodb=true").await?;
        let mongodb = &report["mongodb"];
        let fact = format!(
            "MongoDB equals the ledger: {} rewards, {} intervals, {} observations, {} elections, {} members{}",
            mongodb["rewards"],
            mongodb["intervals"],
            mongodb["observations"],
            mongodb["elections"],
            mongodb["members"],
            listed(&problems(mongodb))
        );
        self.teller.check(mongodb["ok"] == json!(true), &fact)?;
        Ok(())
    }

    /// Waits for a leader in a term after `term` that every running node knows.
    async fn leader_after(&mut self, term: u64) -> Result<(usize, u64), CliError> {
        self.wait("a leader", async |story: &Story<'_>| {
            let mut found = None;
            for at in (0..story.fleet.nodes.len()).filter(|at| story.fleet.nodes[*at].is_running()) {
                let status = story.get(at, "/v1/status").await.ok()?;
                let seen = (status["leader"].as_str()?.to_string(), status["term"].as_u64()?);
                if seen.1 <= term || found.as_ref().is_some_and(|found| found != &seen) {
                    return None;
                }
                found = Some(seen);
            }
            let (leader, term) = found?;
            let at = story.fleet.nodes.iter().position(|node| node.id == leader)?;
            story.fleet.nodes[at].is_running().then_some((at, term))
        })
        .await
    }

    async fn election(&mut self, at: usize, term: u64) -> Result<Value, CliError> {
        self.wait("the election is recorded", async |story: &Story<'_>| {
            story.get(at, &format!("/v1/elections/{term}")).await.ok()
        })
        .await
    }

    async fn get(&self, at: usize, path: &str) -> Result<Value, CliError> {
        let url = self.fleet.nodes[at].url.clone();
        Ok(self.fleet.client_at(at)?.ask(&url, &Call::get(path)).await?.body)
    }

    async fn get_any(&self, path: &str) -> Result<Value, CliError> {
        Ok(self.fleet.client()?.send(Call::get(path)).await?.body)
    }

    /// Looks again and again until there is something to see.
    async fn wait<T>(
        &mut self,
        what: &str,
        look: impl AsyncFn(&Story<'_>) -> Option<T>,
    ) -> Result<T, CliError> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self).await {
                return Ok(found);
            }
            if let Some(dead) = self.fleet.dead_child() {
                return Err(CliError::failed(dead));
            }
            if begun.elapsed() > PATIENCE {
                return Err(CliError::failed(format!("waited {} s in vain: {what}", PATIENCE.as_secs())));
            }
            self.teller.waiting(what, begun.elapsed())?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// A client that writes one key after the other and remembers what was acknowledged, and when.
struct Writer {
    acknowledged: std::sync::Arc<std::sync::Mutex<Vec<(String, Instant)>>>,
    stop: mpsc::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(endpoints: Vec<String>) -> Result<Writer, CliError> {
        let options =
            crate::client::Options { endpoints, timeout: Duration::from_secs(5), ..Default::default() };
        let client = Client::new(options)?;
        let acknowledged = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (stop, mut stopped) = mpsc::channel(1);
        let seen = std::sync::Arc::clone(&acknowledged);
        let task = tokio::spawn(async move {
            for number in 0_u64.. {
                let key = format!("writer/{number:06}");
                if put(&client, &key, &json!(number)).await.is_ok() {
                    lock(&seen).push((key, Instant::now()));
                }
                let pause = tokio::time::timeout(Duration::from_millis(2), stopped.recv());
                if pause.await.is_ok() {
                    return;
                }
            }
        });
        Ok(Writer { acknowledged, stop, task })
    }

    fn first_after(&self, at: Instant) -> Option<Instant> {
        lock(&self.acknowledged).iter().map(|(_, when)| *when).find(|when| *when > at)
    }

    async fn stop(self) -> Vec<String> {
        let _already_gone = self.stop.send(()).await;
        let _ended = self.task.await;
        lock(&self.acknowledged).iter().map(|(key, _)| key.clone()).collect()
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn put(client: &Client, key: &str, value: &Value) -> Told {
    let path = format!("/v1/kv/{}", crate::client::segment(key)?);
    client.send(Call::new(Method::PUT, path).body(value)).await?;
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

fn points(value: &Value) -> String {
    Amount(value.as_i64().unwrap_or(0)).to_string()
}

fn names(value: &Value) -> String {
    value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" and ")
}

fn problems(report: &Value) -> Vec<String> {
    report["problems"].as_array().into_iter().flatten().map(text).collect()
}

fn listed(items: &[String]) -> String {
    if items.is_empty() { String::new() } else { format!(" — but: {}", items.join("; ")) }
}
