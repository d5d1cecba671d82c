//! The settlement against another one: `tests/reference/settle.py`, written from the documentation in another language,
//! keeps books of its own and must come to the same, to the micro-point, in ten thousand random intervals.

#[path = "support/dice.rs"]
mod dice;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command as Program, Stdio};

use serde_json::{Value, json};
use super_node::ledger::apply::apply;
use super_node::ledger::command::{Answer, Command, Envelope, ObserverHealth, Report, Request, Row};
use super_node::ledger::keyspace::MemoryKeyspace;
use super_node::ledger::policy::{Policy, PolicyKind};
use super_node::ledger::query;
use super_node::ledger::records::MemberKind;
use super_node::types::{Amount, Index, IntervalId, MemberId, Term, UnixMillis, Version};

use dice::Dice;

const HISTORIES: u64 = 250;
const INTERVALS: u64 = 40;
const AGENTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

/// The replicated machine, and what is told to the other one.
struct Play {
    space: MemoryKeyspace,
    index: u64,
    nodes: Vec<&'static str>,
    policy: Policy,
    /// What the other one hears.
    told: String,
    /// What it must answer.
    expected: Vec<Value>,
    present: BTreeSet<String>,
    /// Who left just now is still judged for its part.
    leaving: BTreeSet<String>,
    claims: BTreeMap<String, u64>,
}

impl Play {
    fn run(&mut self, command: Command) -> Answer {
        self.index += 1;
        let at = UnixMillis(i64::try_from(self.index).expect("small") * 1_000);
        let envelope = Envelope { at, term: Term(1), leader: name("n1"), request: Request::new(command) };
        let outcome = apply(&mut self.space, Index(self.index), Term(1), &envelope);
        outcome.expect("memory does not fail").applied.answer
    }

    fn tell(&mut self, event: &Value) {
        self.told.push_str(&event.to_string());
        self.told.push('\n');
    }

    fn begin(dice: &mut Dice) -> Play {
        let nodes = ["n1", "n2", "n3", "n4", "n5"][..dice.one(&[1, 3, 5])].to_vec();
        let pings = dice.one(&[1, 2, 7, 12, 13]);
        let ping_ms = dice.one(&[1_000, 5_000, 70_000]);
        let amounts = [0, 1, 999_999, 5_000_000, 10_000_000, 77_777_777];
        let policy = Policy {
            kind: if dice.below(4) == 0 { PolicyKind::Classic } else { PolicyKind::Standard },
            interval_ms: pings * ping_ms,
            ping_ms,
            reward: Amount(dice.one(&amounts)),
            penalty: Amount(dice.one(&amounts)),
            ..Policy::default()
        };
        let mut play = Play {
            space: MemoryKeyspace::default(),
            index: 0,
            nodes,
            policy: policy.clone(),
            told: String::new(),
            expected: Vec::new(),
            present: BTreeSet::new(),
            leaving: BTreeSet::new(),
            claims: BTreeMap::new(),
        };
        let nodes = play.nodes.iter().map(|node| (name(node), format!("{node}:1"))).collect();
        let (cluster, identity) = ("reference".to_string(), "0".repeat(32));
        play.run(Command::Genesis { cluster, identity, policy: policy.clone(), nodes });
        // A budget comes with a revision, and a revision with the third interval.
        let budget = if dice.below(2) == 0 { 0 } else { 1 + dice.below(30_000_000) as i64 };
        let wanted = Command::SetPolicy {
            policy: Policy { revision: 2, ..policy.clone() },
            budget: Amount(budget),
            activate_at: None,
        };
        play.run(wanted);
        for interval in 1..=5 {
            play.run(Command::Cut { interval: IntervalId(interval) });
        }
        for interval in 1..=2 {
            assert_eq!(play.run(Command::Settle { interval: IntervalId(interval) }), Answer::Done);
        }
        play.tell(&json!({"cluster": {
            "kind": policy.kind, "n": pings, "interval_ms": policy.interval_ms,
            "reward": policy.reward, "penalty": policy.penalty, "budget": budget,
        }}));
        for node in play.nodes.clone() {
            play.tell(&json!({"join": node}));
            play.present.insert(node.to_string());
        }
        for agent in ["a", "b", "c"] {
            let address = format!("{agent}:1");
            let join = Command::MemberJoin { member: name(agent), kind: MemberKind::Agent, address };
            assert_eq!(play.run(join), Answer::Done);
            play.tell(&json!({"join": agent}));
            play.present.insert(agent.to_string());
        }
        play
    }

    /// Something may happen between two intervals.
    fn between(&mut self, dice: &mut Dice) {
        let agent = dice.one(&AGENTS);
        let member: MemberId = name(agent);
        match dice.below(8) {
            0..=3 => {
                let address = format!("{agent}:1");
                let answer = self.run(Command::MemberJoin { member, kind: MemberKind::Agent, address });
                assert_eq!(answer, Answer::Done);
                self.present.insert(agent.to_string());
                self.tell(&json!({"join": agent}));
            }
            4 if self.present.remove(agent) => {
                assert_eq!(self.run(Command::MemberLeave { member }), Answer::Done);
                self.tell(&json!({"leave": agent}));
                self.leaving.insert(agent.to_string());
            }
            5 => {
                let delta = Amount(dice.below(60_000_000) as i64 - 30_000_000);
                let (reason, operator) = ("reference".to_string(), "test".to_string());
                let answer = self.run(Command::Adjust { member, delta, reason, operator });
                if matches!(answer, Answer::Adjusted { .. }) {
                    self.tell(&json!({"adjust": agent, "delta": delta}));
                }
            }
            6 => {
                let seq = self.claims.get(agent).copied().unwrap_or(0) + 1;
                let held = query::member(&self.space, &member).expect("readable");
                let held = held.map_or(0, |member| member.balance.0);
                if held <= 0 {
                    return;
                }
                let amount = Amount(1 + dice.below(usize::try_from(held).expect("positive")) as i64);
                let answer = self.run(Command::Claim { member, seq, amount });
                if matches!(answer, Answer::Claimed(_)) {
                    self.claims.insert(agent.to_string(), seq);
                    self.tell(&json!({"claim": agent, "amount": amount}));
                }
            }
            7 => {
                let intervals = 1 + dice.below(3) as u64;
                if let Answer::Maintenance { from, to, .. } =
                    self.run(Command::Maintain { member, from: None, intervals })
                {
                    self.tell(&json!({"maintain": agent, "from": from, "to": to}));
                }
            }
            _ => {}
        }
    }

    /// The report of one observer, in a world in which `dark` members are dark.
    fn report(&mut self, dice: &mut Dice, id: u64, observer: &str, dark: &BTreeSet<String>) -> Value {
        let n = usize::try_from(self.policy.pings_per_interval()).expect("small");
        if dice.below(12) == 0 {
            return Value::Null;
        }
        let well = dice.below(5) > 0;
        let health = ObserverHealth {
            whole_interval: well || dice.below(3) > 0,
            longest_stall_ms: if well { 0 } else { dice.one(&[0, 999, 1_000]) },
            score: if well { 0 } else { dice.one(&[0, 3, 4]) },
        };
        let blind = dice.below(10) == 0;
        let mut rows = Vec::new();
        let concerned: BTreeSet<&String> = self.present.union(&self.leaving).collect();
        for member in concerned.into_iter().filter(|member| *member != observer) {
            if dice.below(20) == 0 {
                continue;
            }
            let sent = if dice.below(6) == 0 { dice.below(2 * n + 2) } else { n };
            let answered = match dice.below(10) {
                _ if blind || dark.contains(member) => 0,
                0 => dice.below(sent + 1),
                1 => sent.saturating_sub(1),
                2 => sent / 2,
                _ => sent,
            };
            let p90 = dice.one(&[900, 250_000, 250_001, 700_000, 1_999_999, 2_000_000, 5_000_000]);
            let stated = dice.one(&[None, Some((1, 2)), Some((1, 3)), Some((1, 4)), Some((2, 0))]);
            let sent = u32::try_from(sent).expect("small");
            let answered = u32::try_from(answered).expect("small");
            let version = stated.map(|(major, minor)| Version { major, minor, patch: 0 });
            rows.push(Row {
                member: name(member),
                sent,
                answered,
                late: 0,
                missed: sent - answered,
                bad: 0,
                unsolicited: 0,
                min_us: 1,
                p50_us: p90 / 2,
                p90_us: p90,
                max_us: p90,
                version,
            });
        }
        let shown: serde_json::Map<String, Value> = rows
            .iter()
            .map(|row| {
                let version = row.version.map(|version| (version.major, version.minor));
                (row.member.to_string(), json!([row.sent, row.answered, row.p90_us, version]))
            })
            .collect();
        let answer = self.run(Command::Report(Report {
            interval: IntervalId(id),
            observer: name(observer),
            part: 0,
            parts: 1,
            health,
            rows,
        }));
        assert_eq!(answer, Answer::Done);
        json!({"whole": health.whole_interval, "stall": health.longest_stall_ms, "score": health.score, "rows": shown})
    }

    fn interval(&mut self, dice: &mut Dice, id: u64) {
        if dice.below(3) == 0 {
            for node in self.nodes.clone() {
                let version = Version { major: 1, minor: 3, patch: 7 };
                self.run(Command::NodeVersion { node: name(node), version });
            }
        }
        // Three are cut ahead, so that one without a majority of reports can be settled as void.
        self.run(Command::Cut { interval: IntervalId(id + 3) });
        let cut =
            super_node::ledger::evidence::cut(&self.space, IntervalId(id)).expect("readable").expect("cut");
        let share = dice.one(&[0, 1, 8]);
        let mut dark: BTreeSet<String> =
            self.present.iter().filter(|_| dice.below(10) < share).cloned().collect();
        // One member has a bad time for long, so that it is suspended and comes back.
        if id < 25 && dice.below(10) > 0 {
            dark.insert("a".to_string());
        }
        let mut reports = serde_json::Map::new();
        for observer in self.nodes.clone() {
            reports.insert(observer.to_string(), self.report(dice, id, observer, &dark));
        }
        let version = cut.version.map(|found| (found.major, found.minor));
        self.tell(&json!({"interval": id, "members": cut.members, "version": version, "reports": reports}));
        assert_eq!(self.run(Command::Settle { interval: IntervalId(id) }), Answer::Done);
        self.leaving.clear();
        self.expect(id);
    }

    /// What is on record.
    fn expect(&mut self, id: u64) {
        let record = query::interval(&self.space, IntervalId(id)).expect("readable").expect("settled");
        let whys: serde_json::Map<String, Value> =
            record.observers.iter().map(|observer| (observer.id.to_string(), json!(observer.why))).collect();
        let mut members = serde_json::Map::new();
        for observation in query::observations(&self.space, IntervalId(id)).expect("readable") {
            let member =
                query::member(&self.space, &observation.member).expect("readable").expect("a member");
            members.insert(
                observation.member.to_string(),
                json!({
                    "availability": observation.availability_ppm, "score": observation.score_ppm,
                    "reward": observation.reward, "penalty": observation.penalty, "balance": member.balance,
                    "strikes": member.strikes,
                    "status": member.status,
                    "suspensions": member.suspensions, "remaining": member.remaining,
                    "excused": observation.excused,
                }),
            );
        }
        let verdict = record.verdict;
        self.expected.push(json!({"interval": id, "verdict": verdict, "whys": whys, "members": members}));
    }
}

/// Runs the other settlement.
fn ask_python(told: &str) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/settle.py");
    let mut python = Program::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let mut stdin = python.stdin.take().expect("piped");
    let told = told.to_string();
    let writer = std::thread::spawn(move || stdin.write_all(told.as_bytes()));
    let output = python.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads to the end");
    assert!(output.status.success(), "the reference failed");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn ten_thousand_random_intervals_are_settled_alike_in_another_language() {
    let (mut told, mut expected) = (String::new(), Vec::new());
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for history in 0..HISTORIES {
        let mut dice = Dice(history);
        let mut play = Play::begin(&mut dice);
        for id in 3..3 + INTERVALS {
            for _ in 0..dice.below(3) {
                play.between(&mut dice);
            }
            play.interval(&mut dice, id);
        }
        told.push_str(&play.told);
        for answer in &play.expected {
            let verdict = answer["verdict"].as_str().expect("a word").to_string();
            *seen.entry(verdict).or_default() += 1;
            for member in answer["members"].as_object().expect("members").values() {
                *seen.entry(member["status"].as_str().expect("a word").to_string()).or_default() += 1;
                *seen.entry("excused".to_string()).or_default() += u64::from(member["excused"] == true);
            }
            for why in answer["whys"].as_object().expect("observers").values() {
                *seen.entry(format!("why {}", why.as_str().expect("a word"))).or_default() += 1;
            }
        }
        expected.extend(play.expected);
    }
    assert_eq!(expected.len() as u64, HISTORIES * INTERVALS);
    // What never happened would not have been compared.
    for what in [
        "settled",
        "void",
        "correlated",
        "active",
        "suspended",
        "probation",
        "left",
        "excused",
        "why ",
        "why absent",
        "why cold",
        "why stalled",
        "why unhealthy",
        "why alone",
    ] {
        assert!(seen.get(what).copied().unwrap_or(0) > 20, "{what} was hardly ever seen: {seen:?}");
    }
    let found = ask_python(&told);
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let history = at as u64 / INTERVALS;
        assert_eq!(found, expected, "history {history}, interval {}", expected["interval"]);
    }
}
