//! The house rules that the compiler does not check: imports point down, the core is pure, files have one subject.
//!
//! Every rule is a function from source files to a list of problems. One test applies all of them to this
//! repository; the other tests plant an offence for each rule and see that it is found.

use std::fs;
use std::path::Path;

/// Every top-level module and its rank. An import may only name a module of a lower rank; modules of one rank
/// do not know each other. A new top-level module must be given a place here and in the table of `src/lib.rs`.
const RANKS: &[(&str, u8)] = &[
    ("types", 0),
    ("codec", 0),
    ("metrics", 0),
    ("raft", 1),
    ("ledger", 1),
    ("health", 1),
    ("calls", 1),
    ("node", 2),
    ("storage", 3),
    ("network", 3),
    ("database", 3),
    ("webhooks", 3),
    ("traces", 3),
    ("sim", 4),
    ("config", 5),
    ("api", 6),
    ("client", 6),
    ("agent", 6),
    ("replica", 6),
    ("server", 7),
    ("local", 7),
    ("scenario", 7),
    ("bench", 8),
    ("cli", 9),
];

/// Modules up to this rank may not read clocks, draw random numbers, start threads or use hash maps; modules
/// above it may opt out of the lints that say so.
const STRICT_RANK_MAX: u8 = 2;

/// The crate's roots, which may name everything.
const FREE_FILES: &[&str] = &["src/lib.rs", "src/main.rs"];

/// The pure state machines.
const PURE_MODULES: &[&str] = &["raft", "ledger", "health", "calls"];

/// Path segments that mean that a pure module reads the world, or that its order depends on a random seed.
const IMPURE_SEGMENTS: &[&str] =
    &["Instant", "SystemTime", "HashMap", "HashSet", "RandomState", "tokio", "rand", "mongodb", "reqwest"];

/// Path prefixes with the same meaning.
const IMPURE_PREFIXES: &[[&str; 2]] =
    &[["std", "fs"], ["std", "net"], ["std", "thread"], ["std", "env"], ["std", "process"]];

/// The part of `node` that is the real shell: the only file there that may read clocks and start threads.
const NODE_SHELL: &str = "src/node/driver.rs";

/// What the rest of `node`, which the simulator runs too, may not name. (Channels of tokio are no clocks.)
const SIMULATED_SEGMENTS: &[&str] = &["Instant", "SystemTime", "HashMap", "HashSet", "RandomState", "rand"];

/// Longest file, tests included. The aim is 600 without tests.
const FILE_LINES_MAX: usize = 900;

/// A file of the repository.
struct SourceFile {
    /// Relative to the repository, with forward slashes.
    path: String,
    text: String,
}

impl SourceFile {
    fn new(path: &str, text: &str) -> Self {
        SourceFile { path: path.to_string(), text: text.to_string() }
    }

    /// The modules on the way to this file: `src/raft/log.rs` is `raft`, `log`.
    fn modules(&self) -> Vec<&str> {
        let inside = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inside.split('/').filter(|part| *part != "mod").collect()
    }

    /// Whether the file is part of the library and not one of its roots.
    fn is_module(&self) -> bool {
        self.path.starts_with("src/") && !FREE_FILES.contains(&self.path.as_str())
    }

    /// Whether the whole file is compiled for tests only.
    fn is_test(&self) -> bool {
        !self.path.starts_with("src/") || self.modules().contains(&"tests")
    }

    /// The code that ships: no comments, no text, no test modules.
    fn shipped_code(&self) -> String {
        if self.is_test() { String::new() } else { without_tests(&split_comments(&self.text).code) }
    }
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

// Reading Rust, as far as the rules need it.

/// A source text in which comments and the insides of literals are blank; lines keep their numbers.
struct Split {
    code: String,
    comments: String,
}

/// Separates code from comments. Knows nested comments, raw and escaped texts, and tells a lifetime from a
/// character.
fn split_comments(text: &str) -> Split {
    let chars: Vec<char> = text.chars().collect();
    let mut split = Split { code: String::new(), comments: String::new() };
    let mut at = 0;
    while at < chars.len() {
        let end = comment_end(&chars, at);
        if let Some(end) = end {
            split.blank(&chars[at..end], true);
            at = end;
            continue;
        }
        match literal_end(&chars, at) {
            Some(end) => {
                split.blank(&chars[at..end], false);
                at = end;
            }
            None => {
                split.code.push(chars[at]);
                split.comments.push(if chars[at] == '\n' { '\n' } else { ' ' });
                at += 1;
            }
        }
    }
    split
}

impl Split {
    /// Keeps the line breaks of a comment or literal, and the words of a comment beside the code.
    fn blank(&mut self, chars: &[char], comment: bool) {
        for &char in chars {
            self.code.push(if char == '\n' { '\n' } else { ' ' });
            self.comments.push(if comment || char == '\n' { char } else { ' ' });
        }
    }
}

/// The end of the comment that begins at `at`, if one does.
fn comment_end(chars: &[char], at: usize) -> Option<usize> {
    if chars[at..].starts_with(&['/', '/']) {
        return Some(chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length));
    }
    if !chars[at..].starts_with(&['/', '*']) {
        return None;
    }
    let (mut depth, mut end) = (1, at + 2);
    while depth > 0 && end < chars.len() {
        if chars[end..].starts_with(&['/', '*']) {
            (depth, end) = (depth + 1, end + 2);
        } else if chars[end..].starts_with(&['*', '/']) {
            (depth, end) = (depth - 1, end + 2);
        } else {
            end += 1;
        }
    }
    Some(end)
}

/// The end of the text or character literal that begins at `at`, if one does.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    match chars[at] {
        '"' => Some(quoted_end(chars, at, '"')),
        'r' if !follows_word(chars, at) || matches!(chars[at - 1], 'b' | 'c') => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            let open = at + 1 + hashes;
            (chars.get(open) == Some(&'"')).then(|| raw_end(chars, open + 1, hashes))
        }
        '\'' if chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'') => {
            Some(quoted_end(chars, at, '\''))
        }
        _ => None,
    }
}

fn follows_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn quoted_end(chars: &[char], open: usize, quote: char) -> usize {
    let mut at = open + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw_end(chars: &[char], mut at: usize, hashes: usize) -> usize {
    while at < chars.len() {
        let closes =
            chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        if closes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    chars.len()
}

/// Blanks every item that stands behind `#[cfg(test)]`, up to its semicolon or closing brace.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = code;
    let mut kept = String::new();
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start..];
        let mut depth = 0_usize;
        let end = item.char_indices().find_map(|(at, char)| {
            match char {
                '{' => depth += 1,
                '}' if depth <= 1 => return Some(at + 1),
                '}' => depth -= 1,
                ';' if depth == 0 => return Some(at + 1),
                _ => {}
            }
            None
        });
        let end = end.unwrap_or(item.len());
        kept.extend(item[..end].chars().filter(|char| *char == '\n'));
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

/// A path such as `crate::raft::Entry` and the line on which it stands.
#[derive(Debug, PartialEq)]
struct PathUse {
    line: usize,
    segments: Vec<String>,
}

impl PathUse {
    fn starts_with(&self, prefix: &[&str]) -> bool {
        self.segments.len() >= prefix.len() && self.segments.iter().zip(prefix).all(|(a, b)| a == b)
    }
}

/// Words and marks of stripped code: identifiers, `::`, and single characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut word_open = false;
    let mut line = 1;
    let mut chars = code.chars().peekable();
    while let Some(char) = chars.next() {
        let in_word = char.is_alphanumeric() || char == '_';
        if in_word && word_open {
            found.last_mut().expect("an open word was pushed").1.push(char);
        } else if in_word {
            found.push((line, char.to_string()));
        } else if char == ':' && chars.peek() == Some(&':') {
            chars.next();
            found.push((line, "::".to_string()));
        } else if !char.is_whitespace() {
            found.push((line, char.to_string()));
        }
        word_open = in_word;
        line += usize::from(char == '\n');
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Every path of two or more segments in stripped code, with `use` groups multiplied out.
fn paths(code: &str) -> Vec<PathUse> {
    let tokens = tokens(code);
    let text = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if text(at) == "use" {
            at = use_tree(&tokens, at + 1, &[], &mut found);
            continue;
        }
        if !is_word(text(at)) {
            at += 1;
            continue;
        }
        let mut path = PathUse { line: tokens[at].0, segments: vec![text(at).to_string()] };
        while text(at + 1) == "::" && is_word(text(at + 2)) {
            path.segments.push(text(at + 2).to_string());
            at += 2;
        }
        if path.segments.len() > 1 {
            found.push(path);
        }
        at += 1;
    }
    found
}

/// Reads one tree of a `use` from `at` and returns where it ends.
fn use_tree(tokens: &[(usize, String)], mut at: usize, prefix: &[String], found: &mut Vec<PathUse>) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |(_, token)| token.as_str());
    let line = tokens.get(at).map_or(0, |(line, _)| *line);
    let mut segments = prefix.to_vec();
    loop {
        match text(at) {
            "{" => {
                at += 1;
                while !matches!(text(at), "}" | "") {
                    at = use_tree(tokens, at, &segments, found);
                    at += usize::from(text(at) == ",");
                }
                return at + 1;
            }
            "::" => at += 1,
            "*" => {
                segments.push("*".to_string());
                at += 1;
            }
            token if is_word(token) && token != "as" => {
                segments.push(token.to_string());
                at += 1;
                if text(at) != "::" {
                    break;
                }
            }
            _ => break,
        }
    }
    if segments.len() > prefix.len() {
        found.push(PathUse { line, segments });
    }
    while !matches!(text(at), "," | "}" | ";" | "" | "<" | ">") {
        at += 1;
    }
    at + usize::from(matches!(text(at), ";" | "<" | ">"))
}

// The rules.

/// Imports point only to a lower layer.
fn imports_point_up(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.is_module()) {
        let modules = file.modules();
        let Some(own) = rank(modules[0]) else {
            problems.push(format!(
                "{}: the top-level module `{}` has no rank: give it one in tests/architecture.rs and a row in src/lib.rs",
                file.path, modules[0]
            ));
            continue;
        };
        for path in paths(&file.shipped_code()) {
            let place = format!("{}:{}", file.path, path.line);
            let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
            if supers >= modules.len() {
                problems
                    .push(format!("{place}: `super` leaves the module `{}`: write `crate::…`", modules[0]));
            }
            if path.segments[0] != "crate" || path.segments[1] == modules[0] {
                continue;
            }
            let target = path.segments[1].as_str();
            match rank(target) {
                None => problems.push(format!("{place}: `crate::{target}` is not a module with a rank")),
                Some(other) if other >= own => problems.push(format!(
                    "{place}: `{}` (layer rank {own}) imports `{target}` (rank {other}): imports point only to a lower rank",
                    modules[0]
                )),
                Some(_) => {}
            }
        }
    }
    problems
}

/// The three state machines read no clock, no random source, no disk and no network, and iterate in order.
fn core_reads_the_world(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.is_module() && PURE_MODULES.contains(&file.modules()[0])) {
        let code = file.shipped_code();
        for path in paths(&code) {
            let impure = path.segments.iter().any(|segment| IMPURE_SEGMENTS.contains(&segment.as_str()))
                || IMPURE_PREFIXES.iter().any(|prefix| path.starts_with(prefix));
            if impure {
                let text = path.segments.join("::");
                problems.push(format!("{}:{}: `{text}` in the pure core", file.path, path.line));
            }
        }
        for (line, token) in tokens(&code) {
            let float = file.modules()[0] == "ledger" && matches!(token.as_str(), "f32" | "f64");
            if float || matches!(token.as_str(), "async" | "await") {
                problems.push(format!("{}:{line}: `{token}` in the pure core", file.path));
            }
        }
    }
    problems
}

/// The node, apart from its real shell, takes time and randomness as arguments: the simulator runs this code.
fn node_reads_the_world(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    let simulated = |file: &&SourceFile| file.path.starts_with("src/node/") && file.path != NODE_SHELL;
    for file in files.iter().filter(simulated) {
        for path in paths(&file.shipped_code()) {
            let reads = path.segments.iter().any(|segment| SIMULATED_SEGMENTS.contains(&segment.as_str()))
                || IMPURE_PREFIXES.iter().any(|prefix| path.starts_with(prefix));
            if reads {
                let text = path.segments.join("::");
                problems.push(format!(
                    "{}:{}: `{text}` belongs in {NODE_SHELL}: the simulator runs this file",
                    file.path, path.line
                ));
            }
        }
    }
    problems
}

/// No file outgrows its subject.
fn files_too_long(files: &[SourceFile]) -> Vec<String> {
    let lines = |file: &SourceFile| file.text.lines().count();
    files
        .iter()
        .filter(|file| lines(file) > FILE_LINES_MAX)
        .map(|file| {
            format!(
                "{}: {} lines, more than {FILE_LINES_MAX}: two subjects in one file?",
                file.path,
                lines(file)
            )
        })
        .collect()
}

/// Nothing is left for later, and no test is switched off.
fn unfinished(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let split = split_comments(&file.text);
        for (number, line) in split.code.lines().enumerate() {
            let dense: String = line.chars().filter(|char| !char.is_whitespace()).collect();
            for mark in ["todo!(", "unimplemented!(", "#[ignore", "dbg!("] {
                if dense.contains(mark) {
                    problems.push(format!("{}:{}: `{mark}`", file.path, number + 1));
                }
            }
        }
        for (number, line) in split.comments.lines().enumerate() {
            let words = line.split(|char: char| !char.is_alphanumeric());
            if let Some(word) = words.into_iter().find(|word| matches!(*word, "TODO" | "FIXME" | "XXX")) {
                problems.push(format!("{}:{}: {word} in a comment", file.path, number + 1));
            }
        }
    }
    problems
}

/// Spaces, not tabs; nothing after the last word of a line; a line break at the end of the file.
fn untidy_whitespace(files: &[SourceFile]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        for (number, line) in file.text.split('\n').enumerate() {
            let place = format!("{}:{}", file.path, number + 1);
            if line.contains('\t') {
                problems.push(format!("{place}: a tab"));
            }
            if line.ends_with([' ', '\r']) {
                problems.push(format!("{place}: white space at the end of the line"));
            }
        }
        if !file.text.ends_with('\n') {
            problems.push(format!("{}: no line break at the end", file.path));
        }
    }
    problems
}

/// Every file says first what it is for.
fn no_opening_words(files: &[SourceFile]) -> Vec<String> {
    files
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{}: does not begin with a `//!` line that says what it is for", file.path))
        .collect()
}

/// The table in `src/lib.rs` names every top-level module, the lints are on, and only the shell opts out.
fn crate_root_out_of_date(files: &[SourceFile]) -> Vec<String> {
    let Some(root) = files.iter().find(|file| file.path == "src/lib.rs") else {
        return vec!["src/lib.rs is missing".to_string()];
    };
    let mut problems = Vec::new();
    let essay: String =
        root.text.lines().filter(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    let mut modules: Vec<&str> =
        files.iter().filter(|file| file.is_module()).map(|file| file.modules()[0]).collect();
    modules.dedup();
    for module in modules {
        if !essay.contains(&format!("`{module}`")) {
            problems.push(format!("src/lib.rs: the layer table does not name `{module}`"));
        }
    }
    if !root.text.contains("#![warn(clippy::disallowed_methods, clippy::disallowed_types)]") {
        problems.push("src/lib.rs: the lints of clippy.toml are not switched on".to_string());
    }
    let mut opted_out = false;
    for line in split_comments(&root.text).code.lines() {
        let module = line.trim().strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'));
        match module {
            None if line.starts_with("#[") && line.contains("clippy::disallowed") => opted_out = true,
            None => {}
            Some(module) => {
                if opted_out && rank(module).is_none_or(|rank| rank <= STRICT_RANK_MAX) {
                    problems
                        .push(format!("src/lib.rs: `{module}` may not opt out of the lints of clippy.toml"));
                }
                opted_out = false;
            }
        }
    }
    problems
}

// The repository.

fn collect(folder: &Path, base: &Path, files: &mut Vec<SourceFile>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        if path.is_dir() {
            collect(&path, base, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(base).expect("the file is below the base");
            let name = relative.to_string_lossy().replace('\\', "/");
            files.push(SourceFile::new(&name, &fs::read_to_string(&path).expect("the file can be read")));
        }
    }
}

fn repository(folders: &[&str]) -> Vec<SourceFile> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in folders {
        collect(&base.join(folder), base, &mut files);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problem(s):\n  {}", problems.len(), problems.join("\n  "));
}

#[test]
fn imports_point_only_to_a_lower_layer() {
    let files = repository(&["src"]);
    let imports: usize = files.iter().map(|file| paths(&file.shipped_code()).len()).sum();
    assert!(files.len() > 10 && imports > 100, "the sources were not found: {} files", files.len());
    assert_none(&imports_point_up(&files));
}

#[test]
fn raft_ledger_and_health_are_pure() {
    assert_none(&core_reads_the_world(&repository(&["src"])));
}

#[test]
fn the_node_is_simulated_but_for_its_shell() {
    assert_none(&node_reads_the_world(&repository(&["src"])));
}

#[test]
fn files_keep_to_their_length() {
    assert_none(&files_too_long(&repository(&["src", "tests", "benches"])));
}

#[test]
fn nothing_is_unfinished() {
    assert_none(&unfinished(&repository(&["src", "tests", "benches"])));
}

#[test]
fn white_space_is_tidy() {
    assert_none(&untidy_whitespace(&repository(&["src", "tests", "benches"])));
}

#[test]
fn every_file_says_what_it_is_for() {
    assert_none(&no_opening_words(&repository(&["src", "tests", "benches"])));
}

#[test]
fn the_layer_table_and_the_lints_are_complete() {
    assert_none(&crate_root_out_of_date(&repository(&["src"])));
}

// The rules can fail.

/// Applies a rule to one planted file.
fn found(rule: fn(&[SourceFile]) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&[SourceFile::new(path, text)]).len()
}

#[test]
fn an_import_that_points_up_is_found() {
    for (path, text, problems) in [
        ("src/raft/log.rs", "use crate::types::Term; use super::Message;", 0),
        ("src/raft/log.rs", "use crate::raft::wire::Message;", 0),
        ("src/raft/log.rs", "use crate::node::Core;", 1),
        ("src/raft/log.rs", "use crate::ledger::Ledger;", 1),
        ("src/raft/log.rs", "use crate::{types::Term, health::{Detector, self}};", 2),
        ("src/raft/log.rs", "fn f() { crate::storage::open() }", 1),
        ("src/raft/log.rs", "use super::super::ledger;", 1),
        ("src/raft/log.rs", "pub(crate) fn f() {} // crate::node\nconst T: &str = \"crate::node\";", 0),
        ("src/raft/log.rs", "fn f<'a>(x: &'a str) -> char { crate::node::f(); 'a' }", 1),
        ("src/raft/log.rs", "const R: &str = r#\"a \" crate::node::x \"#; use crate::api::X;", 1),
        ("src/raft/log.rs", "#[cfg(test)]\nmod tests { use crate::sim::World; fn f() { {} } }", 0),
        ("src/raft/log.rs", "#[cfg(test)]\nmod tests { {} }\nuse crate::sim::World;", 1),
        ("src/raft/tests.rs", "use crate::sim::World;", 0),
        ("src/raft/mod.rs", "use super::node;", 1),
        ("src/storage/log.rs", "use crate::network::Peers;", 1),
        ("src/storage/log.rs", "use crate::node::ports::LogStore;", 0),
        ("src/config.rs", "use crate::api::Server;", 1),
        ("src/cli/start.rs", "use crate::server; use crate::{config::Config as C, api};", 0),
        ("src/cli/start.rs", "use crate::nowhere::X;", 1),
        ("src/extra.rs", "fn f() {}", 1),
        ("src/main.rs", "use crate::anything::X;", 0),
    ] {
        assert_eq!(found(imports_point_up, path, text), problems, "{path}: {text}");
    }
}

#[test]
fn an_impure_core_is_found() {
    for (path, text, problems) in [
        ("src/raft/mod.rs", "use std::collections::BTreeMap;", 0),
        ("src/raft/mod.rs", "use std::collections::{BTreeMap, HashMap};", 1),
        ("src/raft/mod.rs", "fn f() { let t = std::time::Instant::now(); }", 1),
        ("src/health/mod.rs", "use std::{fs, fmt};", 1),
        ("src/health/mod.rs", "use rand::Rng;", 1),
        ("src/health/mod.rs", "async fn f() {}", 1),
        ("src/ledger/mod.rs", "fn f(x: f64) {}", 1),
        ("src/ledger/mod.rs", "/// `std::fs` is not used.\nfn f() {}", 0),
        ("src/ledger/mod.rs", "#[cfg(test)]\nmod tests { use std::fs; }", 0),
        ("src/storage/mod.rs", "use std::fs;", 0),
    ] {
        assert_eq!(found(core_reads_the_world, path, text), problems, "{path}: {text}");
    }
    for (path, problems) in [("src/node/core.rs", 1), ("src/node/driver.rs", 0), ("src/storage/log.rs", 0)] {
        let text = "use std::time::{Duration, Instant}; use tokio::sync::mpsc;";
        assert_eq!(found(node_reads_the_world, path, text), problems, "{path}");
    }
}

#[test]
fn unfinished_and_untidy_files_are_found() {
    assert_eq!(found(files_too_long, "src/a.rs", &"\n".repeat(FILE_LINES_MAX)), 0);
    assert_eq!(found(files_too_long, "src/a.rs", &"\n".repeat(FILE_LINES_MAX + 1)), 1);
    for (text, problems) in [
        ("fn f() { todo!() }", 1),
        ("fn f() { unimplemented! (\"x\") }", 1),
        ("#[ignore = \"slow\"] fn f() {}", 1),
        ("// TODO: later", 1),
        ("/* FIXME */ fn f() {}", 1),
        ("const TODO: &str = \"todo!() FIXME\";", 0),
    ] {
        assert_eq!(found(unfinished, "src/a.rs", text), problems, "{text}");
    }
    for (text, problems) in [("a\n", 0), ("a \n", 1), ("\ta\n", 1), ("a", 1), ("a\r\n", 1)] {
        assert_eq!(found(untidy_whitespace, "src/a.rs", text), problems, "{text:?}");
    }
    assert_eq!(found(no_opening_words, "src/a.rs", "use std::fmt;\n"), 1);
    assert_eq!(found(no_opening_words, "src/a.rs", "//! Says what it is for.\n"), 0);
}

#[test]
fn an_incomplete_crate_root_is_found() {
    const LINTS: &str = "#![warn(clippy::disallowed_methods, clippy::disallowed_types)]\n";
    const OUT: &str = "#[allow(clippy::disallowed_methods, clippy::disallowed_types)]\n";
    let raft = || SourceFile::new("src/raft/mod.rs", "//! Consensus.\n");
    let problems = |root: &str| crate_root_out_of_date(&[SourceFile::new("src/lib.rs", root), raft()]).len();
    assert_eq!(problems(&format!("//! | `raft` |\n{LINTS}pub mod raft;\n{OUT}pub mod storage;\n")), 0);
    assert_eq!(problems(&format!("//! nothing\n{LINTS}pub mod raft;\n")), 1);
    assert_eq!(problems("//! | `raft` |\npub mod raft;\n"), 1);
    assert_eq!(problems(&format!("//! | `raft` |\n{LINTS}{OUT}pub mod raft;\n")), 1);
    assert_eq!(crate_root_out_of_date(&[raft()]).len(), 1);
}
