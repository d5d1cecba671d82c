//! `requirements.md` is held to its word: ids are contiguous, and every test that it names exists.
//!
//! A row is `| R-S1-01 | promise | proof |`. The proof is the word `open`, or a list of names in back quotes:
//! `tests/process.rs::name` (a test function in that file), `src/raft/::name` (anywhere below that folder),
//! `scripts/test.sh::step_name` (a step of the checks), or the path of a transcript. The documents are held to naming only files that exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One promise.
#[derive(Debug, PartialEq)]
struct Requirement {
    line: usize,
    id: String,
    promise: String,
    proof: String,
}

/// The rows of the tables.
fn requirements(text: &str) -> Vec<Requirement> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
        if !line.starts_with("| R-") {
            continue;
        }
        let cell = |at: usize| cells.get(at).map_or(String::new(), |cell| (*cell).to_string());
        found.push(Requirement {
            line: number + 1,
            id: cell(0),
            promise: cell(1),
            proof: cells[2..].join(" | "),
        });
    }
    found
}

/// Ids are `R-SECTION-NN`, unique, and contiguous from 01 within their section.
fn id_problems(rows: &[Requirement]) -> Vec<String> {
    let mut last: BTreeMap<&str, u32> = BTreeMap::new();
    let mut problems = Vec::new();
    for row in rows {
        let Some((section, number)) = row.id.rsplit_once('-') else {
            problems.push(format!("line {}: `{}` is not an id", row.line, row.id));
            continue;
        };
        let expected = last.get(section).copied().unwrap_or(0) + 1;
        if number != format!("{expected:02}") {
            problems
                .push(format!("line {}: {} where {section}-{expected:02} was expected", row.line, row.id));
        }
        last.insert(section, expected);
        if row.promise.is_empty() {
            problems.push(format!("line {}: {} promises nothing", row.line, row.id));
        }
    }
    problems
}

/// The texts in back quotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Every proof is `open`, or names tests that exist. `read` gives the Rust text at a path, of all files below it
/// if it ends in a slash.
fn proof_problems(rows: &[Requirement], read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for row in rows.iter().filter(|row| row.proof != "open") {
        let place = format!("line {}: {}", row.line, row.id);
        let proofs = quoted(&row.proof);
        let between: String = row.proof.split('`').step_by(2).collect();
        if proofs.is_empty() || between.chars().any(|char| char != ',' && char != ' ') {
            problems.push(format!("{place}: the proof is neither `open` nor a list of tests: {}", row.proof));
        }
        for proof in proofs {
            let (path, test) = match proof.split_once("::") {
                Some((path, test)) => (path, Some(test)),
                None => (proof, None),
            };
            match (read(path), test) {
                (None, _) => problems.push(format!("{place}: {path} does not exist")),
                (Some(text), Some(test)) if !is_test(&text, test) && !is_step(path, &text, test) => {
                    problems.push(format!("{place}: there is no test `{test}` in {path}"));
                }
                (Some(_), _) => {}
            }
        }
    }
    problems
}

/// Whether `text` has a function of that name directly behind a test attribute.
fn is_test(text: &str, name: &str) -> bool {
    let mut attribute = false;
    for line in text.lines().map(str::trim) {
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        match function {
            Some(rest) if rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('(')) => {
                if attribute {
                    return true;
                }
            }
            _ if line.starts_with("#[test") || line.starts_with("#[tokio::test") => attribute = true,
            _ if line.starts_with("#[") || line.starts_with("//") => {}
            _ => attribute = false,
        }
    }
    false
}

/// Whether a shell script has a step of that name.
fn is_step(path: &str, text: &str, name: &str) -> bool {
    path.ends_with(".sh") && text.lines().any(|line| line.starts_with(&format!("{name}() {{")))
}

/// Paths in back quotes that point into the repository and are not there.
fn dead_paths(text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    const FOLDERS: &[&str] =
        &["src/", "tests/", "docs/", "config/", "database/", "scripts/", "deploy/", ".ci/"];
    let mut dead = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = quoted(line).into_iter();
        let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for name in code.chain(links) {
            let path = name.split("::").next().unwrap_or_default();
            let is_path = FOLDERS.iter().any(|folder| path.starts_with(folder)) && !path.contains(' ');
            let is_document = path.ends_with(".md") && !path.contains("//");
            if (is_path || is_document) && !exists(path) {
                dead.push(format!("line {}: {path} does not exist", number + 1));
            }
        }
    }
    dead
}

fn base() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file, or of all Rust files below a folder.
fn read(path: &str) -> Option<String> {
    fn below(folder: &Path, text: &mut String) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            if entry.is_dir() {
                below(&entry, text);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(&entry).expect("the file can be read"));
            }
        }
    }
    let full = base().join(path);
    if !path.ends_with('/') {
        return fs::read_to_string(full).ok();
    }
    let mut text = String::new();
    below(&full, &mut text);
    full.is_dir().then_some(text)
}

fn repository() -> Vec<Requirement> {
    requirements(&read("requirements.md").expect("requirements.md can be read"))
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problem(s):\n  {}", problems.len(), problems.join("\n  "));
}

#[test]
fn ids_are_unique_and_contiguous() {
    let rows = repository();
    assert!(rows.len() > 100, "only {} requirements were read", rows.len());
    assert_none(&id_problems(&rows));
}

#[test]
fn every_named_test_exists() {
    assert_none(&proof_problems(&repository(), &read));
}

const SCRIPTS: &str = "tests/transcripts/raft";

/// The rows of `docs/hazards.md`: number, and what shows that the hazard does not bite.
fn hazards(text: &str) -> Vec<(u32, Vec<String>)> {
    let rows = text.lines().filter_map(|line| {
        let (number, rest) = line.strip_prefix("| ")?.split_once(" | ")?;
        let proofs = quoted(rest.rsplit_once(" | ")?.1);
        Some((number.parse().ok()?, proofs.into_iter().map(str::to_string).collect()))
    });
    rows.collect()
}

/// The hazards that a script claims to show, in its opening lines: `(hazard 5)`, `(hazards 17 and 25)`.
fn claimed(script: &str) -> Vec<u32> {
    let opening: Vec<&str> = script.lines().take_while(|line| line.starts_with('#')).collect();
    let text = opening.join(" ");
    let lists = text.split("hazard").skip(1).flat_map(|rest| {
        let words = rest.trim_start_matches('s').split([' ', '#', ',', ')', '.', ':']);
        words.filter(|word| !word.is_empty() && *word != "and").map_while(|word| word.parse().ok())
    });
    lists.collect()
}

/// A name without a slash is a script; every other is a file, or a test in it.
fn hazard_problems(rows: &[(u32, Vec<String>)], read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, proofs) in rows {
        let scripts = proofs.iter().filter(|proof| !proof.contains('/'));
        if proofs.is_empty() || *number <= 36 && scripts.clone().count() == 0 {
            problems.push(format!("hazard {number}: no script shows it"));
        }
        for proof in proofs {
            let found = match proof.split_once("::") {
                _ if !proof.contains('/') => read(&format!("{SCRIPTS}/{proof}.txt")).is_some(),
                Some((path, test)) => read(path).is_some_and(|text| is_test(&text, test)),
                None => read(proof).is_some(),
            };
            if !found {
                problems.push(format!("hazard {number}: there is no {proof}"));
            }
        }
    }
    let numbers: Vec<u32> = rows.iter().map(|(number, _)| *number).collect();
    if numbers != (1..=40).collect::<Vec<u32>>() {
        problems.push(format!("the hazards are not 1 to 40: {numbers:?}"));
    }
    problems
}

#[test]
fn every_hazard_has_a_script_or_test_that_exists() {
    let rows = hazards(&read("docs/hazards.md").expect("docs/hazards.md can be read"));
    assert_none(&hazard_problems(&rows, &read));
    // What a script claims stands in the table.
    let mut problems = Vec::new();
    for entry in fs::read_dir(base().join(SCRIPTS)).expect("the scripts can be listed").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a readable script");
        let name = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
        for number in claimed(&text) {
            if !rows.iter().any(|(row, proofs)| *row == number && proofs.contains(&name)) {
                problems
                    .push(format!("{name} claims to show hazard {number}, docs/hazards.md does not say so"));
            }
        }
    }
    // And what the table says of a script, the script claims.
    for (number, proofs) in &rows {
        for script in proofs.iter().filter(|proof| !proof.contains('/')) {
            let text = read(&format!("{SCRIPTS}/{script}.txt")).unwrap_or_default();
            if !claimed(&text).contains(number) {
                problems.push(format!("docs/hazards.md: {script} does not claim to show hazard {number}"));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn a_missing_script_and_a_missing_hazard_are_noticed() {
    let text = "| | Hazard | Shown in |\n|---|---|---|\n| 1 | One | `here`, `tests/a.rs::proven` |\n| 3 | Three | `gone` |\n";
    let rows = hazards(text);
    assert_eq!(rows[0], (1, vec!["here".to_string(), "tests/a.rs::proven".to_string()]));
    let read = |path: &str| match path {
        "tests/transcripts/raft/here.txt" => Some(String::new()),
        "tests/a.rs" => Some("#[test]\nfn proven() {}".to_string()),
        _ => None,
    };
    assert_eq!(hazard_problems(&rows, &read).len(), 2, "a script and most hazards are missing");
    assert_eq!(
        claimed("# It is so (hazards 17 and 25): and more\n# (hazard 3).\n\n# hazard 9\n"),
        [17, 25, 3]
    );
}

#[test]
fn documents_name_only_files_that_exist() {
    let mut documents = vec!["README.md".to_string(), "CHANGELOG.md".to_string()];
    for entry in fs::read_dir(base().join("docs")).expect("docs can be listed").flatten() {
        documents.push(format!("docs/{}", entry.file_name().to_string_lossy()));
    }
    let mut problems = Vec::new();
    for document in documents.iter().filter(|name| name.ends_with(".md")) {
        let text = read(document).expect("the document can be read");
        let folder = Path::new(document).parent().expect("a relative path has a parent");
        let exists = |path: &str| base().join(path).exists() || base().join(folder).join(path).exists();
        problems.extend(dead_paths(&text, &exists).into_iter().map(|dead| format!("{document}: {dead}")));
    }
    assert_none(&problems);
}

#[test]
fn a_broken_requirement_is_found() {
    let row = |id: &str, proof: &str| requirements(&format!("| {id} | a promise | {proof} |"));
    let read = |path: &str| {
        let text = "#[test]\n#[should_panic]\nfn proven() {}\n\nfn helper() {}\n#[tokio::test]\nasync fn waits() {}\n";
        match path {
            "tests/a.rs" | "src/raft/" => Some(text.to_string()),
            "scripts/a.sh" => Some("step_demo() { true; }\n".to_string()),
            _ => None,
        }
    };
    for (proof, problems) in [
        ("open", 0),
        ("`tests/a.rs::proven`", 0),
        ("`tests/a.rs::proven`, `src/raft/::waits`", 0),
        ("`tests/a.rs`", 0),
        ("`scripts/a.sh::step_demo`", 0),
        ("`scripts/a.sh::step_dem`", 1),
        ("`tests/a.rs::prove`", 1),
        ("`tests/a.rs::helper`", 1),
        ("`tests/b.rs::proven`", 1),
        ("by inspection", 1),
        ("`tests/a.rs::proven` mostly", 1),
        ("", 1),
    ] {
        assert_eq!(proof_problems(&row("R-S1-01", proof), &read).len(), problems, "{proof}");
    }
    let ids = |ids: &[&str]| {
        let text: String = ids.iter().map(|id| format!("| {id} | a promise | open |\n")).collect();
        id_problems(&requirements(&text)).len()
    };
    assert_eq!(ids(&["R-S1-01", "R-S1-02", "R-S2-01"]), 0);
    assert_eq!(ids(&["R-S1-01", "R-S1-01"]), 1);
    assert_eq!(ids(&["R-S1-01", "R-S1-03"]), 1);
    assert_eq!(ids(&["R-S1-1"]), 1);
}

#[test]
fn a_dead_path_is_found() {
    let exists = |path: &str| path == "src/a.rs" || path == "docs/a.md";
    assert_eq!(dead_paths("see `src/a.rs`, [a](docs/a.md) and `cargo test`", &exists).len(), 0);
    assert_eq!(dead_paths("see `src/b.rs`", &exists).len(), 1);
    assert_eq!(dead_paths("see [b](b.md)", &exists).len(), 1);
}
