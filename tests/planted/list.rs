//! The planted bugs: read from their files, checked, and applied to a copy of the tree.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where the bugs stand, one file each.
pub const BUGS: &str = "tests/planted";
/// Most histories that a bug may need: beyond that it counts as one that the simulator does not find.
pub const SEEDS_MAX: u64 = 2_000;
/// Hazards are numbered from 1 to this.
pub const HAZARDS: u32 = 40;

/// The switch that the bugs ask. It exists in the copy only.
const SWITCH: &str = "\
//! A copy that holds planted bugs.
#![allow(warnings)]

mod planted {
/// Whether this bug is switched on, by its name in the environment.
pub(crate) fn is(name: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var(\"SUPER_NODE_PLANTED\").unwrap_or_default()) == name
}
}
";

/// The modules that the copy has: the simulator and what it stands on. Imports point down (`tests/architecture.rs`), so
/// it can do without the rest, which takes longer to build than all of these.
const MODULES: &[&str] = &[
    "calls", "codec", "database", "health", "ledger", "metrics", "network", "node", "raft", "sim", "storage",
    "types",
];

/// What else the copy needs of the tree.
const NEEDED: &[&str] = &["Cargo.lock", "rust-toolchain.toml", "database"];

/// The sections of `Cargo.toml` that the copy does without: what they name is not there.
const LEFT_OUT: &[&str] = &["[[bin]]", "[[bench]]", "[lints"];

/// A bug, as its file tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bug {
    /// Names it: words in snake case, as in the name of its file.
    pub name: String,
    /// The hazards that it stands for, by the numbers of `docs/planted.md`; empty for what has none.
    #[serde(default)]
    pub hazards: Vec<u32>,
    /// What it does wrong, in words.
    pub what: String,
    /// Within how many histories, from seed 0 on, it must be found.
    pub seeds: u64,
    /// The invariants that it may break, by name; a breach of another one does not count.
    pub invariants: Vec<String>,
    /// The scenario file in `scenarios/` that shows it, where the common histories do not.
    #[serde(default)]
    pub scenario: Option<String>,
    /// Where it is planted.
    pub edits: Vec<Edit>,
}

/// One place of the source, and what stands there in the copy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The file, from the root of the tree.
    pub file: String,
    /// A text that stands there exactly once.
    pub find: String,
    /// What takes its place: does as before unless `crate::planted::is` says otherwise.
    pub replace: String,
}

/// All bugs, in the order of their files, with the names of these.
pub fn load(root: &Path) -> Result<Vec<(String, Bug)>, String> {
    let mut bugs = Vec::new();
    for path in files_below(&root.join(BUGS)) {
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = read(&path)?;
        let bug = toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        bugs.push((stem.to_string(), bug));
    }
    Ok(bugs)
}

/// What is wrong with the list, bug by bug.
pub fn problems(root: &Path, bugs: &[(String, Bug)]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    for (stem, bug) in bugs {
        let mut wrong = |what: String| problems.push(format!("{stem}: {what}"));
        let number = stem.split_once('-').map(|(number, name)| (number.parse::<u32>().is_ok(), name));
        if number != Some((true, bug.name.as_str())) {
            wrong(format!("its file should be called NN-{}.toml", bug.name));
        }
        if !names.insert(&bug.name) {
            wrong("there are two of this name".to_string());
        }
        if bug.name.is_empty() || !bug.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            wrong("its name is not in snake case".to_string());
        }
        if bug.hazards.iter().any(|hazard| !(1..=HAZARDS).contains(hazard)) {
            wrong(format!("hazards are numbered 1 to {HAZARDS}"));
        }
        if bug.what.trim().is_empty() || bug.invariants.is_empty() || bug.edits.is_empty() {
            wrong("it needs words, invariants and edits".to_string());
        }
        let known = |name: &&String| super_node::sim::invariants::NAMES.contains(&name.as_str());
        if let Some(unknown) = bug.invariants.iter().find(|name| !known(name)) {
            wrong(format!("no invariant is called '{unknown}'"));
        }
        if !(1..=SEEDS_MAX).contains(&bug.seeds) {
            wrong(format!("seeds: give 1 to {SEEDS_MAX}"));
        }
        let scenario = bug.scenario.as_ref().map(|name| root.join("scenarios").join(format!("{name}.toml")));
        if let Some(missing) = scenario.filter(|path| !path.is_file()) {
            wrong(format!("{} does not exist", missing.display()));
        }
        let switch = format!("crate::planted::is(\"{}\")", bug.name);
        if !bug.edits.iter().any(|edit| edit.replace.contains(&switch)) {
            wrong(format!("no edit asks {switch}: the bug could not be switched off"));
        }
    }
    problems.extend(planted(root, bugs).err());
    problems
}

/// The files that the bugs change, as they are in the copy.
pub fn planted(root: &Path, bugs: &[(String, Bug)]) -> Result<BTreeMap<String, String>, String> {
    let mut edits: BTreeMap<&str, Vec<(&str, &Edit)>> = BTreeMap::new();
    for (stem, bug) in bugs {
        for edit in &bug.edits {
            edits.entry(&edit.file).or_default().push((stem, edit));
        }
    }
    let mut files = BTreeMap::new();
    for (file, edits) in edits {
        let text = read(&root.join(file))?;
        files.insert(file.to_string(), with_edits(&text, &edits).map_err(|why| format!("{file}: {why}"))?);
    }
    Ok(files)
}

/// A text with all edits made. Each is looked for in the text as it was, so they must not touch.
fn with_edits(text: &str, edits: &[(&str, &Edit)]) -> Result<String, String> {
    let mut places = Vec::new();
    for (stem, edit) in edits {
        let found: Vec<usize> = text.match_indices(&edit.find).map(|(at, _)| at).collect();
        match (edit.find.is_empty(), found.as_slice()) {
            (false, [at]) => places.push((*at, *stem, *edit)),
            _ => return Err(format!("{stem}: found {} times, must be once: {}", found.len(), edit.find)),
        }
    }
    places.sort_by_key(|(at, ..)| *at);
    let (mut result, mut done, mut before) = (String::new(), 0, "");
    for (at, stem, edit) in places {
        let between =
            text.get(done..at).ok_or_else(|| format!("{before} and {stem} change the same text"))?;
        result.push_str(between);
        result.push_str(&edit.replace);
        (done, before) = (at + edit.find.len(), stem);
    }
    result.push_str(&text[done..]);
    Ok(result)
}

/// Makes the copy: the tree with all bugs, the switch, and a program that hunts. What is right already is not touched, so
/// that a build has little to do.
pub fn make_copy(root: &Path, copy: &Path, bugs: &[(String, Bug)]) -> Result<(), String> {
    let mut files = planted(root, bugs)?;
    let modules = MODULES.iter().flat_map(|module| [format!("src/{module}"), format!("src/{module}.rs")]);
    for needed in modules.chain(NEEDED.iter().map(|needed| needed.to_string())) {
        let path = root.join(needed);
        let all = if path.is_dir() { files_below(&path) } else { vec![path] };
        for path in all.into_iter().filter(|path| path.is_file()) {
            let name = path.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
            if let Entry::Vacant(place) = files.entry(name) {
                place.insert(read(&path)?);
            }
        }
    }
    let modules: String = MODULES.iter().map(|module| format!("pub mod {module};\n")).collect();
    files.insert("src/lib.rs".to_string(), format!("{SWITCH}\n{modules}"));
    files.insert("src/main.rs".to_string(), read(&root.join(BUGS).join("hunt.rs"))?);
    files.insert("Cargo.toml".to_string(), manifest(&read(&root.join("Cargo.toml"))?));
    for path in files_below(&copy.join("src")) {
        let name = path.strip_prefix(copy).expect("it is below the copy").to_string_lossy().into_owned();
        if !files.contains_key(&name) {
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    for (name, text) in files {
        let path = copy.join(&name);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        let parent = path.parent().expect("a file lies in a directory");
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, text));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// The manifest of the copy. It lies in the tree that it is a copy of, and is no part of it.
fn manifest(text: &str) -> String {
    let mut result = String::from("[workspace]\n\n");
    let mut kept = true;
    for line in text.lines().filter(|line| !line.starts_with("default-run")) {
        if line.starts_with('[') {
            kept = !LEFT_OUT.iter().any(|section| line.starts_with(section));
        }
        if kept {
            result += line;
            result.push('\n');
        }
    }
    result
}

/// The list as `scripts/planted.sh` reads it, one line a bug, separated by tabs: name, seeds, scenario or `-`,
/// hazards, what it does, the invariants separated by `|`.
pub fn index(bugs: &[(String, Bug)]) -> String {
    let line = |bug: &Bug| {
        let hazards: Vec<String> = bug.hazards.iter().map(u32::to_string).collect();
        let hazards = if hazards.is_empty() { "-".to_string() } else { hazards.join(", ") };
        let what = bug.what.split_whitespace().collect::<Vec<_>>().join(" ");
        let (name, seeds, scenario) = (&bug.name, bug.seeds, bug.scenario.as_deref().unwrap_or("-"));
        format!("{name}\t{seeds}\t{scenario}\t{hazards}\t{what}\t{}\n", bug.invariants.join("|"))
    };
    bugs.iter().map(|(_, bug)| line(bug)).collect()
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// All files below a directory, in order.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(find: &str, replace: &str) -> Edit {
        Edit { file: "x".to_string(), find: find.to_string(), replace: replace.to_string() }
    }

    #[test]
    fn edits_are_made_where_they_belong_or_not_at_all() {
        let (first, second) = (edit("b", "B"), edit("cd", "-"));
        assert_eq!(with_edits("abcda", &[("2", &second), ("1", &first)]), Ok("aB-a".to_string()));
        for (edits, told) in [
            (vec![("1", &first), ("1", &first)], "change the same text"),
            (vec![("1", &edit("a", ""))], "found 2 times"),
            (vec![("1", &edit("x", ""))], "found 0 times"),
            (vec![("1", &edit("", ""))], "must be once"),
        ] {
            let error = with_edits("abcda", &edits).expect_err("is wrong");
            assert!(error.contains(told), "{error}");
        }
    }
}
