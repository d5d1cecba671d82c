//! Laying the sources over each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS, Key};
use super::value::{self, Raw};
use super::{ConfigError, Errors, Settings, Source, check, webhooks};

/// Variables that are not keys of the configuration but belong to this program.
const VARIABLES_ELSEWHERE: [&str; 6] = [
    "SUPER_NODE_CA",
    "SUPER_NODE_ENDPOINTS",
    "SUPER_NODE_CONFIG",
    "SUPER_NODE_INSECURE",
    "SUPER_NODE_TOKEN_FILE",
    "SUPER_NODE_TIMEOUT",
];

/// What the sources say.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Key, flag, value: what the command line set.
    pub flags: Vec<(&'static str, &'static str, String)>,
    /// Whether `--insecure` was given.
    pub insecure: bool,
    /// The environment of the process.
    pub environment: BTreeMap<String, String>,
    /// What `.env` says; the environment wins over it.
    pub dotenv: BTreeMap<String, String>,
    /// The configuration file and its text.
    pub file: Option<(PathBuf, String)>,
}

impl Inputs {
    /// The environment, `.env` and the file; flags are the caller's.
    pub fn gather(file: Option<&Path>) -> Result<Inputs, Errors> {
        let file = file.map(Inputs::read_file).transpose()?;
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Inputs { environment, dotenv: read_dotenv()?, file, ..Inputs::default() })
    }

    /// The file and its text.
    pub fn read_file(path: &Path) -> Result<(PathBuf, String), Errors> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Errors::one(
                format!("cannot read the configuration file {}: {error}", path.display()),
                "check --config; `super-node config show` prints what applies without it",
            )
        })?;
        Ok((path.to_path_buf(), text))
    }

    fn variable(&self, name: &str) -> Option<(&str, Source)> {
        let own = self.environment.get(name).map(|v| (v.as_str(), Source::Environment(name.to_string())));
        own.or_else(|| self.dotenv.get(name).map(|v| (v.as_str(), Source::DotEnv(name.to_string()))))
    }
}

/// What `.env` in this directory or the nearest one above says; nothing if there is none.
pub fn read_dotenv() -> Result<BTreeMap<String, String>, Errors> {
    let hint = "every line of .env is NAME=VALUE; quote a value that contains spaces";
    let lines = match dotenvy::dotenv_iter() {
        Ok(lines) => lines,
        Err(error) if error.not_found() => return Ok(BTreeMap::new()),
        Err(error) => return Err(Errors::one(format!("cannot read .env: {error}"), hint)),
    };
    // The library's message would repeat the line, which may hold a password.
    lines
        .enumerate()
        .map(|(number, line)| {
            line.map_err(|_| {
                Errors::one(format!("cannot read .env: entry {} is malformed", number + 1), hint)
            })
        })
        .collect()
}

/// One row of `config show`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The key.
    pub key: &'static str,
    /// Its value, without secrets.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// Settings and where they came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// One row per key, and one per webhook.
    pub rows: Vec<Shown>,
}

/// Lays flag over environment over file over default, and checks the result.
pub fn resolve(inputs: &Inputs) -> Result<Loaded, Errors> {
    let mut layers = Layers {
        settings: Settings::default(),
        sources: BTreeMap::new(),
        hooks: webhooks::Hooks::new(),
        errors: Vec::new(),
    };
    layers.apply_file(inputs);
    layers.apply_environment(inputs);
    for (name, flag, text) in &inputs.flags {
        if let Some(key) = keys::find(name) {
            layers.set(key, &Raw::Text(text.clone()), Source::Flag(flag));
        }
    }
    layers.apply_insecure(inputs);
    layers.derive();
    let Layers { mut settings, sources, hooks, mut errors } = layers;
    settings.webhooks = hooks.iter().map(|(hook, _)| hook.clone()).collect();
    let source = |name: &str| sources.get(name).cloned().unwrap_or(Source::Default);
    if errors.is_empty() {
        errors = check::check(&settings, &source);
    }
    if !errors.is_empty() {
        return Err(Errors(errors));
    }
    let rows = KEYS
        .iter()
        .map(|key| Shown { key: key.name, value: (key.show)(&settings), source: source(key.name) })
        .chain(hooks.iter().map(|(hook, source)| Shown {
            key: "webhooks",
            value: webhooks::show(hook),
            source: source.clone(),
        }))
        .collect();
    Ok(Loaded { settings, rows })
}

struct Layers {
    settings: Settings,
    sources: BTreeMap<&'static str, Source>,
    hooks: webhooks::Hooks,
    errors: Vec<ConfigError>,
}

impl Layers {
    fn refuse(&mut self, message: String, hint: impl Into<String>) {
        self.errors.push(ConfigError { message, hint: hint.into() });
    }

    fn set(&mut self, key: &'static Key, raw: &Raw, source: Source) {
        match (key.set)(&mut self.settings, raw) {
            Ok(()) => {
                self.sources.insert(key.name, source);
            }
            Err(problem) => {
                let message = format!("{} = {} ({source}) {}", key.name, key.shown(raw), problem.what);
                self.refuse(message, problem.hint);
            }
        }
    }

    fn apply_file(&mut self, inputs: &Inputs) {
        let Some((path, text)) = &inputs.file else { return };
        let path = path.display().to_string();
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let line = line_of(text, error.span().map_or(0, |span| span.start));
                let why = error.message().replace('\n', " ");
                self.refuse(
                    format!("{path} is not TOML at line {line}: {why}"),
                    "see config/super-node.toml for every key",
                );
                return;
            }
        };
        let mut rows: Vec<_> = table.get_ref().iter().collect();
        rows.sort_by_key(|(name, _)| name.span().start);
        for (section, value) in rows {
            if section.get_ref() == "webhooks" {
                match webhooks::read(&path, text, section.span().start, value) {
                    Ok(hooks) => self.hooks = hooks,
                    Err(errors) => self.errors.extend(errors),
                }
                continue;
            }
            let line = line_of(text, section.span().start);
            self.apply_section(&path, text, line, section.get_ref(), value);
        }
    }

    fn apply_section(
        &mut self,
        path: &str,
        text: &str,
        line: usize,
        section: &str,
        value: &Spanned<DeValue<'_>>,
    ) {
        let DeValue::Table(table) = value.get_ref() else {
            let source = Source::File { path: path.to_string(), line };
            return self.unknown(section, &source);
        };
        let mut rows: Vec<_> = table.iter().collect();
        rows.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in rows {
            let source = Source::File { path: path.to_string(), line: line_of(text, name.span().start) };
            let full = format!("{section}.{}", name.get_ref());
            match keys::find(&full) {
                Some(key) => self.set(key, &raw(value.get_ref()), source),
                None => self.unknown(&full, &source),
            }
        }
    }

    fn apply_environment(&mut self, inputs: &Inputs) {
        for key in KEYS {
            let own = key.variable();
            let found = inputs.variable(&own).or_else(|| match key.name {
                // The name that every MongoDB tool uses; ours is more specific and wins.
                "mongodb.uri" => inputs.variable("MONGODB_URI"),
                _ => None,
            });
            if let Some((text, source)) = found {
                self.set(key, &Raw::Text(text.to_string()), source);
            }
        }
        let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
        let flat: Vec<String> = known.iter().map(|name| name.replace("__", "_")).collect();
        for (variables, dotenv) in [(&inputs.environment, false), (&inputs.dotenv, true)] {
            for name in variables.keys().filter(|name| name.starts_with("SUPER_NODE_")) {
                if known.contains(name) || VARIABLES_ELSEWHERE.contains(&name.as_str()) {
                    continue;
                }
                // Kubernetes sets SUPER_NODE_PORT and the like for a service of our name: those are not ours. A
                // double underscore, or one too few in a name that is otherwise right, is meant for us.
                if name.contains("__") || flat.contains(name) {
                    let place = if dotenv { ".env" } else { "environment" };
                    let nearest = nearest(name, known.iter().map(String::as_str));
                    let shown = format!("unknown variable {name} ({place})");
                    self.refuse(shown, format!("did you mean {nearest}? See config/super-node.toml"));
                }
            }
        }
    }

    fn apply_insecure(&mut self, inputs: &Inputs) {
        self.settings.insecure = inputs.insecure;
        if let Some((text, source)) = inputs.variable("SUPER_NODE_INSECURE") {
            match value::truth(&Raw::Text(text.to_string())) {
                Ok(truth) => self.settings.insecure |= truth,
                Err(problem) => {
                    self.refuse(
                        format!("SUPER_NODE_INSECURE = \"{text}\" ({source}) {}", problem.what),
                        problem.hint,
                    );
                }
            }
        }
    }

    /// Values that follow from others unless somebody set them.
    fn derive(&mut self) {
        let id = self.settings.node.id.clone();
        if !self.sources.contains_key("node.data_dir") && self.sources.contains_key("node.id") {
            self.settings.node.data_dir = Path::new("data").join(id.as_str());
            self.sources.insert("node.data_dir", Source::Derived("node.id"));
        }
        if !self.sources.contains_key("listen.peer") {
            // The address that the others were told; a host name says nothing about where to listen.
            let own = self.settings.cluster.peers.get(&id).and_then(|address| address.parse().ok());
            if let Some(address) = own {
                self.settings.listen.peer = address;
                self.sources.insert("listen.peer", Source::Derived("cluster.peers"));
            }
        }
        if !self.sources.contains_key("listen.agents") && self.sources.contains_key("listen.peer") {
            // Super-nodes of one machine differ in their peer port; so the ports for agents differ as well. Port 0
            // stays 0, and past the last port the system chooses.
            let peer = self.settings.listen.peer;
            let port = if peer.port() == 0 { 0 } else { peer.port().checked_add(1).unwrap_or(0) };
            self.settings.listen.agents = SocketAddr::new(peer.ip(), port);
            self.sources.insert("listen.agents", Source::Derived("listen.peer"));
        }
    }

    fn unknown(&mut self, name: &str, source: &Source) {
        let nearest = nearest(name, KEYS.iter().map(|key| key.name));
        self.refuse(
            format!("unknown key {name} ({source})"),
            format!("did you mean {nearest}? See config/super-node.toml"),
        );
    }
}

/// The known word that is most like `word`.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let likeness = |candidate: &str| (strsim::jaro_winkler(word, candidate) * 1e6) as u64;
    known.max_by_key(|candidate| likeness(candidate)).unwrap_or_default()
}

/// The line of an offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// A value as the keys read it.
pub(super) fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Integer(number) => Raw::Integer(number.to_string()),
        DeValue::Float(number) => Raw::Float(number.to_string()),
        DeValue::Boolean(truth) => Raw::Bool(*truth),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Table(_) => Raw::Other("a table"),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            match texts.collect::<Option<Vec<String>>>() {
                Some(texts) => Raw::List(texts),
                None => Raw::Other("a list of other things than texts"),
            }
        }
    }
}
