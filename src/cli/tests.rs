//! What the command line understands, and how it says that something failed.

use std::collections::BTreeMap;

use clap::CommandFactory;

use super::start::SettingsArgs;
use super::*;
use crate::client::{ClientError, Outcome, Tried};
use crate::config::{Inputs, resolve};

/// A subcommand's arguments on their own.
#[derive(Debug, Parser)]
struct Alone<T: Args> {
    #[command(flatten)]
    args: T,
}

fn alone<T: Args>(words: &str) -> Result<T, clap::Error> {
    Alone::<T>::try_parse_from(std::iter::once("x").chain(words.split_whitespace())).map(|alone| alone.args)
}

#[test]
fn the_definitions_are_consistent() {
    Cli::command().debug_assert();
    Alone::<start::StartArgs>::command().debug_assert();
    Alone::<demo::DemoArgs>::command().debug_assert();
    Alone::<agent::AgentArgs>::command().debug_assert();
}

#[test]
fn a_failed_simulation_prints_the_command_that_reproduces_it() {
    // No cluster is live again at the very moment of healing, so every history of this scenario fails.
    let scenario = crate::sim::Scenario { live_within: Duration::ZERO, ..Default::default() };
    let fail = |words: &str| {
        let args = alone::<sim::SimArgs>(words).expect("is understood");
        let mut output = Output::to(Format::Plain, Box::new(std::io::sink()));
        let error = sim::simulate(&args, &scenario, &mut output).expect_err("cannot hold");
        assert_eq!(error.exit_code(), 1);
        error.render().expect("is told")
    };
    let told = fail("--seed 3 --nodes 3");
    assert!(told.contains("\n  reproduce: super-node sim --seed 3 --nodes 3 --acts none"), "{told}");
    let told = fail("--seeds 1 --from 9");
    assert!(
        told.contains("seed 9") && told.contains("\n  reproduce: super-node sim --seed 9 --acts"),
        "{told}"
    );
    let told = fail("--seed 9 --no-shrink");
    assert!(told.ends_with("\n  reproduce: super-node sim --seed 9\n"), "{told}");
}

#[test]
fn what_is_understood() {
    for line in [
        "status --watch",
        "-o json status --local",
        "kv get a/b --level stale",
        "kv set k -5 --if-revision 0",
        "kv set k [1,2]",
        "kv delete k --if-revision 3",
        "kv list --prefix a/ --limit 10",
        "kv watch a/ --prefix",
        "kv batch -",
        "add -5 3",
        "member add w1 10.0.0.1:7500",
        "member add n4 10.0.0.4:7401 --super-node --replaces n2",
        "member add r1 10.0.0.5:7401 --super-node --learner-only",
        "member promote r1",
        "member demote r1",
        "leader show",
        "leader transfer --to n3",
        "start --id n4 --data-dir d --join http://a:7400 --replaces n2",
        "start --id n4 --in-memory --join http://a:7400",
        "ledger rewards --member w1 --kind claim_penalty --from 2026-01-01T00:00:00Z --after 7 --limit 5",
        "ledger verify --timeout 30s",
        "interval explain w1 12",
        "election show 3",
        "events --follow --type leader_elected",
        "config check --config x.toml",
        "status --endpoints http://a:1,http://b:2 --timeout 2s --no-color",
    ] {
        let parsed = Cli::try_parse_from(std::iter::once("super-node").chain(line.split_whitespace()));
        assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("is wrong"));
    }
    for line in [
        "",
        "stauts",
        "add 1",
        "add one two",
        "kv set k",
        "start --in-memory --data-dir d",
        "-o yaml status",
        "ledger rewards --kind bribe",
        "member add w1 10.0.0.1:7500 --replaces n2",
        "member add n4 10.0.0.4:7401 --super-node --learner-only --replaces n2",
        "leader",
    ] {
        assert!(
            Cli::try_parse_from(std::iter::once("super-node").chain(line.split_whitespace())).is_err(),
            "{line}"
        );
    }
}

#[test]
fn start_flags_become_settings() {
    let words = "--id n2 --data-dir d --listen 127.0.0.1:1 --peer-listen 127.0.0.1:2 --agents-listen 127.0.0.1:3 \
                 --peers n1=h:1,n2=h:2 --mongodb mongodb://h --advertise h";
    let args: start::StartArgs = alone(words).expect("valid flags");
    let mut inputs = Inputs::default();
    args.settings.apply(&mut inputs);
    let settings = resolve(&inputs).expect("valid settings").settings;
    assert_eq!(settings.node.id.as_str(), "n2");
    assert_eq!(settings.client_url(), "http://h:1");
    assert_eq!(settings.listen.agents.port(), 3);
    assert_eq!(settings.cluster.peers.len(), 2);
    assert_eq!(settings.mongodb.uri.as_deref(), Some("mongodb://h"));
}

#[test]
fn a_wrong_flag_is_named_with_its_value() {
    let args: SettingsArgs = alone("--listen 7400").expect("clap takes any text");
    let mut inputs = Inputs::default();
    args.apply(&mut inputs);
    let errors = resolve(&inputs).expect_err("not an address").to_string();
    assert!(errors.contains("listen.client = \"7400\" (flag --listen) is not an address"), "{errors}");
}

#[test]
fn demo_and_agent_flags() {
    let demo: demo::DemoArgs = alone("").expect("all have defaults");
    assert_eq!((demo.nodes, demo.agents, demo.fast), (3, 4, false));
    assert!(alone::<demo::DemoArgs>("--nodes 8").is_err());
    let agent: agent::AgentArgs = alone("--id w1 --join http://h:7400,http://i:7400/").expect("valid flags");
    assert_eq!(agent.join, ["http://h:7400", "http://i:7400"]);
    assert!(agent.listen.ip().is_loopback());
    for bad in [
        "--id w1",
        "--id a,b --join http://h:1",
        "--id w1 --join h:1",
        "--id w1 --join http://h:1 --listen x",
    ] {
        assert!(alone::<agent::AgentArgs>(bad).is_err(), "{bad}");
    }
}

fn client_of(words: &str, variables: &[(&str, &str)]) -> Result<Client, String> {
    let rows: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let global: Global = alone(words).map_err(|error| error.to_string())?;
    global.client(&Environment { rows }).map_err(|error| error.render().unwrap_or_default())
}

#[test]
fn endpoints_come_from_flag_or_environment() {
    let variable = [("SUPER_NODE_ENDPOINTS", "http://a:1, http://b:2/")];
    assert_eq!(client_of("", &[]).expect("default").endpoints(), ["http://127.0.0.1:7400"]);
    assert_eq!(client_of("", &variable).expect("variable").endpoints(), ["http://a:1", "http://b:2"]);
    assert_eq!(client_of("--endpoints http://c:3", &variable).expect("flag").endpoints(), ["http://c:3"]);
    for (words, wanted) in [
        (
            "--endpoints c:3",
            "error: --endpoints: \"c:3\" is not a URL   [usage]\n  hint: write http://HOST:PORT",
        ),
        ("--endpoints https://c:3 --ca /does/not/exist", "cannot read /does/not/exist"),
        ("--timeout 5", "error: --timeout: \"5\" has no unit"),
        ("--timeout 0s", "out of range"),
        ("--token-file /does/not/exist", "error: --token-file /does/not/exist"),
    ] {
        let text = client_of(words, &[]).err().unwrap_or_default();
        assert!(text.contains(wanted), "{words}: {text}");
    }
}

fn failure(code: &str, outcome: Option<Outcome>, retryable: bool) -> ClientError {
    let mut error = ClientError::failed("no leader: 1 of 3 voters reachable, n2 is candidate in term 8");
    error.code = code.to_string();
    error.outcome = outcome;
    error.retryable = retryable;
    error.hint = Some("super-node status --local".to_string());
    error
}

#[test]
fn errors_look_like_the_interface_says() {
    let mut error = failure("no_leader", Some(Outcome::NotApplied), true);
    for (name, what) in [("n1", "refused"), ("n2", "503 no_leader"), ("n3", "timeout 2s")] {
        error.tried.push(Tried { endpoint: String::new(), name: name.to_string(), what: what.to_string() });
    }
    let text = CliError::Client(error).render().expect("has a text");
    assert_eq!(
        text,
        "error: no leader: 1 of 3 voters reachable, n2 is candidate in term 8   [no_leader]\n  \
         tried  n1 refused · n2 503 no_leader · n3 timeout 2s\n  \
         write not applied; safe to retry.  hint: super-node status --local\n"
    );
}

#[test]
fn exit_codes_are_those_of_the_interface() {
    for (code, outcome, exit) in [
        ("unreachable", None, 3),
        ("no_leader", None, 4),
        ("timeout", None, 4),
        ("timeout", Some(Outcome::Unknown), 8),
        ("unknown", Some(Outcome::Unknown), 8),
        ("conflict", Some(Outcome::NotApplied), 5),
        ("not_found", None, 6),
        ("unauthorized", None, 7),
        ("bad_request", Some(Outcome::NotApplied), 2),
        ("overloaded", Some(Outcome::NotApplied), 1),
        ("damaged", None, 9),
    ] {
        assert_eq!(CliError::Client(failure(code, outcome, false)).exit_code(), exit, "{code}");
    }
    assert_eq!(CliError::usage("", "").exit_code(), 2);
    assert_eq!(CliError::Interrupted.exit_code(), 130);
    let closed = CliError::Output(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
    assert_eq!((closed.exit_code(), closed.render()), (0, None));
}

#[test]
fn formats_print_what_they_promise() {
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let items = [serde_json::json!({"a": 1}), serde_json::json!({"a": 2})];
    let rows = [vec!["1".to_string(), "x".to_string()], vec!["2".to_string(), "y".to_string()]];
    for (format, wanted) in [
        (Format::Plain, "1\tx\n2\ty\n"),
        (Format::Json, "[{\"a\":1},{\"a\":2}]\n"),
        (Format::Table, " A  B\n 1  x\n 2  y\n"),
    ] {
        let sink = Sink::default();
        Output::to(format, Box::new(sink.clone())).list(&["A", "B"], &rows, &items).expect("written");
        let text = String::from_utf8(sink.0.lock().expect("one thread").clone()).expect("text");
        assert_eq!(text, wanted);
    }
}
