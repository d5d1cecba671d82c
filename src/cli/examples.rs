//! Examples of every subcommand: the end of its `--help`, and a section of its man page.
//!
//! A test holds that there are some for each subcommand, and that each is understood.

use clap::Command;

/// A command line, and what it does; empty where the line says it.
type Example = (&'static str, &'static str);

/// Of each subcommand, by the words that lead to it; the program itself has no words.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "",
        &[
            ("super-node demo --fast", "see it work"),
            ("super-node start", "one node on loopback"),
            ("super-node status --watch", "a live view"),
            ("super-node doctor", "what is wrong, and what to do"),
            ("super-node explain no_leader", "what an error means: the word in its brackets"),
        ],
    ),
    (
        "explain",
        &[
            ("super-node explain no_leader", "the word in brackets at the end of an error"),
            ("super-node explain 8", "an exit code"),
            ("super-node explain | less", "all of them"),
        ],
    ),
    (
        "demo",
        &[
            ("super-node demo --fast", "rewards and penalties within seconds"),
            ("super-node demo --nodes 5 --agents 10 --seconds 60", "go on for a minute after the story"),
            ("super-node demo --mongodb mongodb://127.0.0.1:27017", "MongoDB must equal the ledger"),
            ("super-node demo -o json", "one object per step, for machines"),
        ],
    ),
    (
        "start",
        &[
            ("super-node start", "one node on loopback, with its data in data/n1"),
            ("super-node start --config config/node-1.toml", ""),
            (
                "super-node start --id n4 --data-dir data/n4 --listen 127.0.0.1:7430 --peer-listen 127.0.0.1:7431 --join http://127.0.0.1:7400",
                "enter a running cluster",
            ),
        ],
    ),
    (
        "agent",
        &[
            ("super-node agent --id worker-1 --join http://127.0.0.1:7400", ""),
            (
                "super-node agent --id worker-1 --join http://10.0.0.1:7400,http://10.0.0.2:7400 --listen 10.0.0.9:7500 --key-file worker-1.key",
                "through any of two nodes, with a key that lasts",
            ),
        ],
    ),
    (
        "status",
        &[
            ("super-node status", ""),
            ("super-node status --watch", "a live view; q leaves"),
            ("super-node status --watch -o json | jq .leader", "one object for each change"),
            ("super-node status --local", "what each endpoint says of itself, also without a leader"),
        ],
    ),
    (
        "kv",
        &[
            ("super-node kv set greeting hello", ""),
            ("super-node kv get greeting", ""),
            ("super-node kv list --prefix g", ""),
        ],
    ),
    (
        "kv get",
        &[
            ("super-node kv get greeting", ""),
            ("super-node kv get greeting --level stale", "of the asked node, also without a leader"),
            ("super-node kv get greeting -o json", "with the revision"),
        ],
    ),
    (
        "kv set",
        &[
            ("super-node kv set greeting hello", "a string"),
            ("super-node kv set limits '{\"cpu\": 2}'", "JSON"),
            ("super-node kv set lock mine --if-revision 0", "only if nobody has it"),
        ],
    ),
    (
        "kv delete",
        &[
            ("super-node kv delete greeting", ""),
            ("super-node kv delete lock --if-revision 17", "only if it is still as read"),
        ],
    ),
    (
        "kv list",
        &[
            ("super-node kv list", "all keys, and who leads"),
            ("super-node kv list --prefix config/ --limit 100", ""),
        ],
    ),
    (
        "kv watch",
        &[
            ("super-node kv watch greeting", ""),
            ("super-node kv watch config/ --prefix", "all keys below it"),
        ],
    ),
    (
        "kv batch",
        &[
            ("echo '{\"op\":\"put\",\"key\":\"a\",\"value\":1}' | super-node kv batch -", ""),
            ("super-node kv batch changes.json", "all of the file, or nothing of it"),
        ],
    ),
    ("add", &[("super-node add 5 3", "prints the leader, the node that was asked, and 5 + 3 = 8")]),
    (
        "member",
        &[
            ("super-node member list", ""),
            ("super-node member show worker-1", ""),
            ("super-node member remove worker-1", ""),
        ],
    ),
    ("member list", &[("super-node member list", ""), ("super-node member list -o json", "")]),
    ("member show", &[("super-node member show worker-1", "")]),
    (
        "member add",
        &[
            ("super-node member add worker-1 10.0.0.9:7500", "an agent"),
            (
                "super-node member add n4 10.0.0.4:7401 --super-node --replaces n2",
                "then start n4 with --join: it takes the place of n2 in one change",
            ),
            ("super-node member add r1 10.0.0.5:7401 --super-node --learner-only", "a copy for reading"),
        ],
    ),
    ("member promote", &[("super-node member promote r1", "a learner becomes a voter")]),
    ("member demote", &[("super-node member demote n3", "a voter becomes a learner")]),
    (
        "member maintain",
        &[(
            "super-node member maintain worker-1 --intervals 10",
            "for the next 10 it is excused, and unpaid",
        )],
    ),
    ("member waiting", &[("super-node member waiting", "")]),
    (
        "member approve",
        &[
            ("super-node member approve worker-1", ""),
            ("super-node member approve worker-1 --fingerprint 1f2e3d4c", ""),
        ],
    ),
    ("member refuse", &[("super-node member refuse worker-1", "")]),
    ("member remove", &[("super-node member remove n4", "whether it runs or not")]),
    ("leader", &[("super-node leader show", ""), ("super-node leader transfer --to n2", "")]),
    ("leader show", &[("super-node leader show", ""), ("super-node leader show -o json | jq -r .url", "")]),
    (
        "leader transfer",
        &[
            ("super-node leader transfer", "to whom the leader likes"),
            ("super-node leader transfer --to n2", "such as before the machine of the leader is stopped"),
        ],
    ),
    (
        "ledger",
        &[
            ("super-node ledger balances --top 10", ""),
            ("super-node ledger rewards --member worker-1 --limit 10", ""),
            ("super-node ledger verify", ""),
        ],
    ),
    (
        "ledger balances",
        &[
            ("super-node ledger balances", ""),
            ("super-node ledger balances --top 10", "the ten richest, richest first"),
        ],
    ),
    (
        "ledger rewards",
        &[
            ("super-node ledger rewards --member worker-1 --limit 10", ""),
            ("super-node ledger rewards --kind penalty --from 2026-01-31T00:00:00Z", ""),
        ],
    ),
    (
        "ledger claim",
        &[
            ("super-node ledger claim worker-1 2.5", "pays out 2.5 points"),
            (
                "super-node ledger claim worker-1 2.5 --seq 4",
                "repeat a claim whose answer was lost: it pays once",
            ),
        ],
    ),
    ("ledger adjust", &[("super-node ledger adjust worker-1 -1 --reason \"paid twice\" --operator kim", "")]),
    (
        "ledger verify",
        &[
            ("super-node ledger verify", "the asked node's whole ledger; exit code 9 if it does not fit"),
            ("super-node ledger verify --newest-first --intervals 100", ""),
            ("super-node ledger verify --mongodb --timeout 60s", "MongoDB too, document by document"),
        ],
    ),
    (
        "ledger export",
        &[
            ("super-node ledger export > movements.csv", ""),
            ("super-node ledger export --format ndjson --member worker-1 > worker-1.ndjson", ""),
        ],
    ),
    (
        "interval",
        &[("super-node interval list --limit 5", ""), ("super-node interval explain worker-1 12", "")],
    ),
    (
        "interval list",
        &[("super-node interval list", ""), ("super-node interval list --after 100 --limit 10", "")],
    ),
    ("interval show", &[("super-node interval show 12", "")]),
    (
        "interval explain",
        &[("super-node interval explain worker-1 12", "the pings, who observed, the formula, the result")],
    ),
    (
        "policy",
        &[
            ("super-node policy show", ""),
            ("echo 'reward = 8000000' | super-node policy simulate -", ""),
            ("echo 'reward = 8000000' | super-node policy set -", ""),
        ],
    ),
    ("policy show", &[("super-node policy show", ""), ("super-node policy show --revision 1", "")]),
    (
        "policy set",
        &[
            ("echo 'reward = 8000000' | super-node policy set -", "8 points, as soon as it may"),
            ("super-node policy set policy.toml --activate-at 500", ""),
        ],
    ),
    (
        "policy simulate",
        &[
            ("echo 'reward = 8000000' | super-node policy simulate -", "the last day under another reward"),
            ("super-node policy simulate policy.toml --from 1 --to 100", ""),
        ],
    ),
    ("election", &[("super-node election list", ""), ("super-node election show 3", "")]),
    (
        "election list",
        &[("super-node election list", ""), ("super-node election list --after 3 --limit 10", "")],
    ),
    ("election show", &[("super-node election show 3", "why it happened, who voted, how long nobody led")]),
    (
        "events",
        &[
            ("super-node events", "what the asked node remembers"),
            ("super-node events --follow --type leader_elected", ""),
            ("super-node events --follow -o json", "one object per line"),
        ],
    ),
    (
        "profile",
        &[("super-node profile --seconds 10", "which threads are busy, and which wait for a processor")],
    ),
    (
        "bench",
        &[
            ("super-node bench --local 3 --seconds 5", "three nodes of its own, on this machine's disk"),
            (
                "super-node bench --clients 1,64 --mix 0.9 --protocol native",
                "a running cluster: nine reads to a write",
            ),
            ("super-node bench --local 3 --expect 'puts>=2000,p99<=50ms'", "PASS or FAIL, and exit code 1"),
            ("super-node bench --local 3 --kills 10", "how long writes wait when the leader is killed"),
        ],
    ),
    (
        "sim",
        &[
            ("super-node sim --seeds 1000", ""),
            ("super-node sim --seed 762 --verbose", "one history, line by line"),
            ("super-node sim --scenario scenarios/membership.toml --seeds 50", ""),
        ],
    ),
    (
        "snapshot",
        &[
            ("super-node snapshot save backup.snapshot", ""),
            ("super-node snapshot inspect backup.snapshot", ""),
            ("super-node snapshot restore backup.snapshot --data-dir data/n1 --id n1", ""),
        ],
    ),
    (
        "snapshot save",
        &[
            ("super-node snapshot save backup.snapshot", "of the running cluster"),
            ("super-node snapshot save n1.snapshot --data-dir data/n1", "of a node that does not run"),
        ],
    ),
    (
        "snapshot restore",
        &[
            (
                "super-node snapshot restore backup.snapshot --data-dir data/n1 --id n1",
                "a cluster of its own",
            ),
            (
                "super-node snapshot restore backup.snapshot --data-dir data/n1 --id n1 --peers n1=10.0.0.1:7401,n2=10.0.0.2:7401,n3=10.0.0.3:7401",
                "the same on each machine, with its --id",
            ),
        ],
    ),
    (
        "snapshot inspect",
        &[("super-node snapshot inspect backup.snapshot", "exit code 9 if anything in it changed")],
    ),
    ("log", &[("super-node log inspect --data-dir data/n1", "")]),
    (
        "log inspect",
        &[
            ("super-node log inspect", "what running nodes say of theirs"),
            ("super-node log inspect --data-dir data/n1", "every record of a node that does not run"),
            ("super-node log inspect --data-dir data/n1 --entries --limit 50", ""),
        ],
    ),
    (
        "recover",
        &[
            ("super-node recover --force-new-cluster --data-dir data/n2", "when a majority is gone for good"),
            ("super-node recover --list", "what was forced, for ever on record"),
        ],
    ),
    (
        "doctor",
        &[
            ("super-node doctor --config config/node-1.toml", "this machine, and the running nodes"),
            ("super-node doctor --offline --listen 127.0.0.1:7400", "before the first start"),
            (
                "super-node doctor --online --endpoints http://10.0.0.1:7400",
                "the other nodes are found through it",
            ),
        ],
    ),
    ("replica", &[("super-node replica 4730 0000 0001 0002", "is started by the course's simulator")]),
    ("scenario", &[("super-node scenario list", ""), ("super-node scenario run all", "")]),
    ("scenario list", &[("super-node scenario list", "")]),
    (
        "scenario run",
        &[
            ("super-node scenario run all", "in virtual time"),
            ("super-node scenario run crash --real", "over UDP, with processes"),
            ("super-node scenario run crash --replica ./mine", "your replica"),
        ],
    ),
    (
        "certs",
        &[
            ("super-node certs n1=10.0.0.1,node-1.example n2=10.0.0.2 n3=10.0.0.3", ""),
            ("super-node certs --renew --days 90 n1=10.0.0.1", "where certs/ca.key is"),
        ],
    ),
    (
        "completions",
        &[
            ("super-node completions bash > /etc/bash_completion.d/super-node", ""),
            ("super-node completions zsh > ~/.zfunc/_super-node", "in a directory of $fpath"),
            ("super-node completions fish > ~/.config/fish/completions/super-node.fish", ""),
        ],
    ),
    (
        "man",
        &[
            ("super-node man /usr/local/share/man/man1", "one page for each subcommand"),
            ("super-node man | man -l -", "the first page, without installing it"),
        ],
    ),
    (
        "config",
        &[("super-node config check --config config/node-1.toml", ""), ("super-node config show", "")],
    ),
    (
        "config check",
        &[(
            "super-node config check --config config/node-1.toml",
            "exit code 2, and each mistake with its remedy",
        )],
    ),
    (
        "config show",
        &[("super-node config show --config config/node-1.toml", "every value, and where it came from")],
    ),
];

/// The examples of the subcommand that these words lead to.
pub(super) fn of(path: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(known, _)| *known == path).map_or(&[], |(_, examples)| examples)
}

/// The block at the end of a help text.
fn block(examples: &[Example]) -> String {
    let line = |(line, about): &Example| match *about {
        "" => format!("  {line}\n"),
        about => format!("  # {about}\n  {line}\n"),
    };
    let lines: String = examples.iter().map(line).collect();
    format!("Examples:\n{}", lines.trim_end())
}

/// Puts the examples at the end of the help of a command and of all below it.
pub(super) fn add_to(command: Command, path: &str) -> Command {
    let block = block(of(path));
    let long = command.get_after_long_help().map(|before| format!("{before}\n\n{block}"));
    let mut command = command.after_help(block);
    if let Some(long) = long {
        command = command.after_long_help(long);
    }
    command.mut_subcommands(|below| {
        let path = format!("{path} {}", below.get_name());
        add_to(below, path.trim_start())
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::{Cli, command};

    /// The words of a line, as a shell splits them; `None` stands for what ends a command: a pipe, a redirection.
    fn words(line: &str) -> Vec<Option<String>> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for char in line.chars() {
            match (quote, char) {
                (Some(open), _) if char == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(char);
                    word.get_or_insert_default();
                }
                (None, ' ') => words.extend(word.take().map(Some)),
                (None, '|' | '>') => words.push(None),
                _ => word.get_or_insert_default().push(char),
            }
        }
        assert_eq!(quote, None, "an open quote in {line}");
        words.extend(word.map(Some));
        words
    }

    fn all_paths(command: &clap::Command, path: &str, into: &mut Vec<String>) {
        into.push(path.to_string());
        for below in command.get_subcommands() {
            all_paths(below, format!("{path} {}", below.get_name()).trim_start(), into);
        }
    }

    #[test]
    fn every_subcommand_has_examples_and_each_is_understood() {
        let mut paths = Vec::new();
        all_paths(&Cli::command(), "", &mut paths);
        let known: Vec<&str> = EXAMPLES.iter().map(|(path, _)| *path).collect();
        for path in &paths {
            assert!(known.contains(&path.as_str()), "`{path}` has no examples");
        }
        for (path, examples) in EXAMPLES {
            assert!(paths.iter().any(|known| known == path), "there is no `{path}`");
            assert!(!examples.is_empty(), "{path}");
            for (line, _) in *examples {
                let words = words(line);
                let own = words.split(Option::is_none).map(|part| part.iter().flatten().collect::<Vec<_>>());
                let own: Vec<_> =
                    own.filter(|part| part.first().is_some_and(|word| *word == "super-node")).collect();
                assert_eq!(own.len(), 1, "{line}");
                assert!(line.contains(&format!("super-node {path}")), "{line} is of {path}");
                let parsed = command().try_get_matches_from(own[0].iter());
                assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("is wrong"));
            }
        }
    }

    #[test]
    fn the_words_of_a_line_are_those_of_a_shell() {
        let word = |text: &str| Some(text.to_string());
        assert_eq!(
            words("a 'b c' \"\" | d >e"),
            [word("a"), word("b c"), word(""), None, word("d"), None, word("e")]
        );
    }

    #[test]
    fn each_help_ends_with_the_examples() {
        fn look(command: &mut clap::Command, path: &str) {
            for help in [command.render_help().to_string(), command.render_long_help().to_string()] {
                let (_, block) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{path}: {help}"));
                let last = of(path).last().expect("an example").0;
                // Long lines are broken.
                let joined = |text: &str| text.split_whitespace().collect::<String>();
                assert!(joined(block).ends_with(&joined(last)), "{path}: {help}");
            }
            let below: Vec<String> =
                command.get_subcommands().map(|below| below.get_name().to_string()).collect();
            for name in below {
                let path = format!("{path} {name}");
                look(command.find_subcommand_mut(&name).expect("it is there"), path.trim_start());
            }
        }
        look(&mut command(), "");
    }
}
