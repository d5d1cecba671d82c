//! Settings: each row a mistake or a source, with what comes of it.

use std::path::PathBuf;

use super::*;

fn file(text: &str) -> Inputs {
    Inputs { file: Some((PathBuf::from("f.toml"), text.to_string())), ..Inputs::default() }
}

fn environment(rows: &[(&str, &str)]) -> Inputs {
    let environment = rows.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Inputs { environment, ..Inputs::default() }
}

fn refusal(inputs: &Inputs) -> String {
    match resolve(inputs) {
        Err(errors) => errors.to_string(),
        Ok(loaded) => panic!("accepted: {:?}", loaded.settings),
    }
}

#[test]
fn without_anything_it_is_one_node_on_loopback() {
    let loaded = resolve(&Inputs::default()).expect("defaults are valid");
    assert_eq!(loaded.settings, Settings::default());
    assert!(loaded.rows.iter().all(|row| row.source == Source::Default));
    assert_eq!(loaded.settings.client_url(), "http://127.0.0.1:7400");
}

#[test]
fn nodes_that_differ_in_their_peer_port_differ_in_the_port_for_agents() {
    for (variables, agents, from) in [
        (&[("SUPER_NODE_LISTEN__PEER", "127.0.0.1:27401")][..], "127.0.0.1:27402", "listen.peer"),
        // UDP beside TCP: the neighbour's port, and even the own client port, may have the same number.
        (
            &[
                ("SUPER_NODE_CLUSTER__PEERS", "n1=127.0.0.1:5000,n2=127.0.0.1:5001"),
                ("SUPER_NODE_LISTEN__CLIENT", "127.0.0.1:5001"),
            ],
            "127.0.0.1:5001",
            "listen.peer",
        ),
        (&[("SUPER_NODE_LISTEN__PEER", "[::1]:65535")], "[::1]:0", "listen.peer"),
        (&[("SUPER_NODE_LISTEN__PEER", "127.0.0.1:0")], "127.0.0.1:0", "listen.peer"),
    ] {
        let loaded = resolve(&environment(variables)).expect("valid");
        assert_eq!(loaded.settings.listen.agents.to_string(), agents, "{variables:?}");
        let row = loaded.rows.iter().find(|row| row.key == "listen.agents").expect("is listed");
        assert_eq!(row.source, Source::Derived(from));
    }
    let said =
        [("SUPER_NODE_LISTEN__PEER", "127.0.0.1:5001"), ("SUPER_NODE_LISTEN__AGENTS", "127.0.0.1:9000")];
    let loaded = resolve(&environment(&said)).expect("valid");
    assert_eq!(loaded.settings.listen.agents.port(), 9_000);
}

#[test]
fn the_documented_file_names_every_key_and_equals_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/super-node.toml");
    let text = std::fs::read_to_string(path).expect("the file is part of the project");
    let loaded = resolve(&file(&text)).expect("the documented file is valid");
    assert_eq!(loaded.settings, Settings::default());
    for row in &loaded.rows {
        assert!(matches!(row.source, Source::File { .. }), "{} is not in config/super-node.toml", row.key);
    }
}

#[test]
fn the_three_files_form_one_cluster() {
    let mut taken = std::collections::BTreeSet::new();
    for number in 1..=3 {
        let path = format!("{}/config/node-{number}.toml", env!("CARGO_MANIFEST_DIR"));
        let inputs = file(&std::fs::read_to_string(&path).expect("the file is part of the project"));
        let settings = resolve(&inputs).expect("valid").settings;
        assert_eq!(settings.cluster.peers.len(), 3);
        assert_eq!(settings.cluster.peers[&settings.node.id], settings.listen.peer.to_string());
        for address in [settings.listen.client, settings.listen.peer, settings.listen.agents] {
            assert!(taken.insert(address), "{address} is used twice");
        }
    }
}

#[test]
fn the_example_environment_is_valid_with_every_line_switched_on() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/.env.example");
    let text = std::fs::read_to_string(path).expect("the file is part of the project");
    let on = text
        .replace("\n#", "\n")
        .lines()
        .filter(|line| !line.starts_with(' '))
        .collect::<Vec<_>>()
        .join("\n");
    let lines: Vec<_> = on.lines().filter(|line| line.contains('=') && !line.contains(' ')).collect();
    let dotenv =
        lines.iter().map(|line| line.split_once('=').expect("has one")).map(|(n, v)| (n.into(), v.into()));
    let loaded = resolve(&Inputs { dotenv: dotenv.collect(), ..Inputs::default() }).expect("valid");
    assert_eq!(loaded.settings.ledger.interval_ms, 2_000);
    assert!(loaded.settings.mongodb.uri.is_some());
}

#[test]
fn a_flag_wins_over_the_environment_over_dotenv_over_the_file() {
    let name = "SUPER_NODE_RAFT__HEARTBEAT";
    let mut inputs = file("[raft]\nheartbeat = \"10ms\"\n");
    let value_and_source = |inputs: &Inputs| {
        let loaded = resolve(inputs).expect("valid");
        let row = loaded.rows.into_iter().find(|row| row.key == "raft.heartbeat").expect("a known key");
        (row.value, row.source.to_string())
    };
    assert_eq!(value_and_source(&inputs), ("10ms".into(), "f.toml:2".into()));
    inputs.dotenv.insert(name.into(), "20ms".into());
    assert_eq!(value_and_source(&inputs), ("20ms".into(), format!(".env {name}")));
    inputs.environment.insert(name.into(), "30ms".into());
    assert_eq!(value_and_source(&inputs), ("30ms".into(), format!("environment {name}")));
    inputs.flags.push(("raft.heartbeat", "--heartbeat", "40ms".into()));
    assert_eq!(value_and_source(&inputs), ("40ms".into(), "flag --heartbeat".into()));
}

#[test]
fn what_follows_from_other_keys() {
    let inputs = Inputs {
        flags: vec![
            ("node.id", "--id", "n2".into()),
            ("cluster.peers", "--peers", "n1=127.0.0.1:7401,n2=127.0.0.1:7411".into()),
        ],
        ..Inputs::default()
    };
    let settings = resolve(&inputs).expect("valid").settings;
    assert_eq!(settings.node.data_dir, PathBuf::from("data/n2"));
    assert_eq!(settings.listen.peer.port(), 7411);
}

#[test]
fn the_interface_example_forms_a_fast_cluster() {
    let fast = [("SUPER_NODE_LEDGER__INTERVAL", "2s"), ("SUPER_NODE_LEDGER__PING", "150ms")];
    let policy = resolve(&environment(&fast)).expect("valid").settings.ledger;
    assert_eq!((policy.interval_ms, policy.ping_ms, policy.pings_per_interval()), (2_000, 150, 13));
}

#[test]
fn secrets_are_not_shown() {
    let loaded = resolve(&environment(&[("MONGODB_URI", "mongodb://u:secret@h/?a=b")])).expect("valid");
    let row = loaded.rows.iter().find(|row| row.key == "mongodb.uri").expect("a known key");
    assert_eq!(row.value, "mongodb://u:***@h/?a=b");
    assert_eq!(row.source.to_string(), "environment MONGODB_URI");
    let message = refusal(&environment(&[("MONGODB_URI", "mongodb://u:secret@h/?socketTimeoutMS=1")]));
    assert!(!message.contains("secret") && message.contains("socketTimeoutMS"), "{message}");
    assert_eq!(
        resolve(&environment(&[("MONGODB_URI", "")])).expect("empty is off").settings.mongodb.uri,
        None
    );
}

#[test]
fn mistakes_in_the_file() {
    for (text, wanted) in [
        ("[raft]\nhartbeat = \"50ms\"", "unknown key raft.hartbeat (f.toml:2); did you mean raft.heartbeat?"),
        (
            "[rafft]\nheartbeat = \"50ms\"",
            "unknown key rafft.heartbeat (f.toml:2); did you mean raft.heartbeat?",
        ),
        ("heartbeat = \"50ms\"", "unknown key heartbeat (f.toml:1); did you mean"),
        ("\n[tls]\ncert = \"x\"", "tls.cert (f.toml:3) is set without tls.ca and tls.key"),
        ("[tls]\ncrt = \"x\"", "unknown key tls.crt (f.toml:2); did you mean tls.cert?"),
        ("[raft]\nheartbeat = 50", "raft.heartbeat = 50 (f.toml:2) is an integer, where a duration"),
        (
            "[raft]\nheartbeat = \"50\"",
            "raft.heartbeat = \"50\" (f.toml:2) has no unit; write a number and a unit",
        ),
        (
            "[raft]\nheartbeat = \"1ms\"",
            "raft.heartbeat = \"1ms\" (f.toml:2) is out of range; allowed: 5ms to 10s",
        ),
        ("[raft]\nheartbeat = \"5 weeks\"", "has the unknown unit 'weeks'"),
        ("[raft]\nelection = \"300ms\"", "raft.election = \"300ms\" (f.toml:2) is not a range"),
        ("[raft]\nelection = \"600ms..300ms\"", "the first must be shorter than the second"),
        ("[raft]\nlease = \"soon\"", "write true, false, or a duration"),
        (
            "[raft]\nlease = \"280ms\"",
            "raft.lease (f.toml:2) = 280ms is too long for raft.election (default)",
        ),
        ("[raft]\nlease = true\ncheck_quorum = false", "raft.lease (f.toml:2) needs raft.check_quorum"),
        ("[cluster]\nreplaces = \"n2\"", "is set without cluster.join"),
        (
            "[raft]\nheartbeat = \"200ms\"",
            "raft.heartbeat (f.toml:2) = 200ms is too long for raft.election (default)",
        ),
        (
            "[raft]\npre_vote = \"yes\"",
            "is text, where a boolean is expected; write true or false, without quotes",
        ),
        ("[raft]\nsnapshot_entries = \"7\"", "is text, where an integer is expected"),
        ("[raft]\nsnapshot_entries = 7", "is out of range; allowed: 100 to 10000000"),
        ("[raft]\nmax_batch = \"1KiB\"", "is out of range; allowed: 4KiB to 8MiB"),
        ("[raft]\nmax_batch = \"1 parsec\"", "has the unknown unit 'parsec'"),
        ("[ledger]\nreward = \"ten\"", "ledger.reward = \"ten\" (f.toml:2) is not an amount; write points"),
        ("[ledger]\nreward = -1", "is out of range; write points"),
        ("[ledger]\npolicy = \"harsh\"", "is not known; allowed: standard, classic"),
        (
            "[ledger]\nping = \"2m\"",
            "ledger.ping (f.toml:2) = 2m is longer than ledger.interval (default) = 1m",
        ),
        ("[ledger]\nping_timeout = \"40s\"", "ledger.ping_timeout (f.toml:2) = 40s is too long"),
        ("[listen]\nclient = \"7400\"", "is not an address to listen on; write IP:PORT"),
        ("[listen]\nclient = \"0.0.0.0:7400\"", "is not on loopback, and traffic is neither encrypted"),
        (
            "[listen]\npeer = \"127.0.0.1:7400\"",
            "listen.client (default) and listen.peer (f.toml:2) both listen on",
        ),
        (
            "[listen]\nadvertise = \"a:b:c\"",
            "is not a host; write a host name or an IP address without a port",
        ),
        ("[cluster]\npeers = \"\"", "cluster.peers = \"\" (f.toml:2) names no peer"),
        (
            "[cluster]\npeers = [\"n2=h:1\"]",
            "cluster.peers (f.toml:2) does not name this node, node.id (default) = n1",
        ),
        ("[cluster]\npeers = [\"n1=h:1\", \"n1=h:2\"]", "names n1 twice"),
        ("[cluster]\npeers = \"n1=h:1,n2=h:1\"", "gives n1 and n2 the same address h:1"),
        ("[cluster]\npeers = \"n1=h:1,,n2=h:2\"", "has an empty entry"),
        ("[cluster]\npeers = \"n1=h\"", "has the unusable address 'h'"),
        ("[cluster]\npeers = \"n1\"", "has no '=' in 'n1'"),
        ("[cluster]\npeers = \"n 1=h:1\"", "has a bad id"),
        ("[cluster]\npeers = [1]", "is a list of other things than texts, where peers are expected"),
        ("[cluster]\npeers = \"n1=h:1\"\njoin = \"http://h:7400\"", "are both set; peers form a new cluster"),
        ("[cluster]\njoin = \"ftp://h:7400\"", "is not a URL; write http://HOST:PORT"),
        ("[mongodb]\nuri = \"localhost\"", "is not a MongoDB connection string; write mongodb://HOST:PORT"),
        ("[mongodb]\nwrite_concern = 0", "is not a write concern; allowed: majority, or"),
        ("[mongodb]\ndatabase = \"a.b\"", "is not a name for a MongoDB database"),
        ("[log]\nlevel = \"verbose\"", "is not a log level; allowed: off, error"),
        ("[log]\nformat = \"xml\"", "is not known; allowed: text, json"),
        ("[node]\nid = \"a b\"", "node.id = \"a b\" (f.toml:2) is not a usable name"),
        ("[node]\nid =", "f.toml is not TOML at line 2"),
        ("[node]\nid = \"n1\n", "f.toml is not TOML at line 2"),
        ("[node]\nid = \"a\"\nid = \"b\"", "f.toml is not TOML at line 3"),
    ] {
        let message = refusal(&file(text));
        assert!(message.contains(wanted), "{text}\ngave    {message}\nwanted  {wanted}");
    }
}

#[test]
fn mistakes_in_the_environment() {
    for (name, text, wanted) in [
        ("SUPER_NODE_RAFT__HARTBEAT", "50ms", "did you mean SUPER_NODE_RAFT__HEARTBEAT?"),
        ("SUPER_NODE_RAFT_HEARTBEAT", "50ms", "did you mean SUPER_NODE_RAFT__HEARTBEAT?"),
        (
            "SUPER_NODE_RAFT__PRE_VOTE",
            "maybe",
            "(environment SUPER_NODE_RAFT__PRE_VOTE) is neither true nor false",
        ),
        ("SUPER_NODE_CLUSTER__PEERS", "", "names no peer"),
        ("SUPER_NODE_INSECURE", "perhaps", "SUPER_NODE_INSECURE = \"perhaps\""),
    ] {
        let message = refusal(&environment(&[(name, text)]));
        assert!(message.contains(wanted), "{name}={text}\ngave    {message}\nwanted  {wanted}");
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    let others =
        [("SUPER_NODE_PORT_7400_TCP_ADDR", "10.0.0.1"), ("SUPER_NODE_ENDPOINTS", "x"), ("PATH", "/bin")];
    assert!(resolve(&environment(&others)).is_ok());
}

#[test]
fn insecure_listeners_need_a_word() {
    let open = [("SUPER_NODE_LISTEN__CLIENT", "0.0.0.0:7400")];
    assert!(refusal(&environment(&open)).contains("--insecure"));
    let mut inputs = environment(&open);
    inputs.insecure = true;
    assert!(resolve(&inputs).is_ok());
    // Or certificates and tokens, both.
    let mut guarded = vec![open[0], ("SUPER_NODE_AUTH__TOKENS", "tokens")];
    assert!(refusal(&environment(&guarded)).contains("traffic is not encrypted"));
    guarded.extend([
        ("SUPER_NODE_TLS__CA", "c"),
        ("SUPER_NODE_TLS__CERT", "n"),
        ("SUPER_NODE_TLS__KEY", "k"),
    ]);
    let loaded = resolve(&environment(&guarded)).expect("encrypted and guarded");
    assert_eq!(loaded.settings.client_url(), "https://0.0.0.0:7400");
    guarded.remove(1);
    assert!(refusal(&environment(&guarded)).contains("anybody may ask for anything"));
    let said = [open[0], ("SUPER_NODE_INSECURE", "true")];
    assert!(resolve(&environment(&said)).expect("allowed").settings.insecure);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let errors = resolve(&file("[raft]\nheartbeat = 1\n[log]\nformat = 2\n")).expect_err("two mistakes");
    assert_eq!(errors.0.len(), 2);
}

#[test]
fn a_lease_follows_the_shortest_election_timeout_unless_it_is_given() {
    for (lease, span) in [("false", None), ("true", Some(225)), ("100ms", Some(100)), ("270ms", Some(270))] {
        let settings = resolve(&environment(&[("SUPER_NODE_RAFT__LEASE", lease)])).expect(lease).settings;
        assert_eq!(settings.raft.lease_span(), span.map(Duration::from_millis), "{lease}");
    }
}
