//! `[[webhooks]]`: a list of receivers, which only the file can hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::ledger::webhooks::{HOOKS_MAX, NAME_BYTES_MAX, is_name};
use crate::webhooks::{Hook, Kind, kinds};

use super::load::{line_of, nearest, raw};
use super::value::{self, Problem, Raw, show_duration};
use super::{ConfigError, Source};

/// Shortest secret, in bytes.
const SECRET_BYTES_MIN: usize = 16;
/// Longest secret, in bytes.
const SECRET_BYTES_MAX: usize = 1_024;
/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// How long one try may take, unless the hook says.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How old news may become, unless the hook says.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The keys of a hook.
const KEYS: [&str; 8] = ["name", "url", "secret", "secret_file", "kinds", "timeout", "max_age", "ca"];

/// The hooks of a file, and where each begins.
pub(super) type Hooks = Vec<(Hook, Source)>;

/// What one section says so far.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    url: Option<String>,
    secret: Option<Vec<u8>>,
    secret_file: Option<PathBuf>,
    kinds: Option<BTreeSet<Kind>>,
    timeout: Option<Duration>,
    age_max: Option<Duration>,
    ca: Option<PathBuf>,
}

/// Reads all `[[webhooks]]` of a file.
pub(super) fn read(
    path: &str,
    text: &str,
    at: usize,
    value: &Spanned<DeValue<'_>>,
) -> Result<Hooks, Vec<ConfigError>> {
    let place = |offset: usize| Source::File { path: path.to_string(), line: line_of(text, offset) };
    let DeValue::Array(items) = value.get_ref() else {
        return Err(vec![refusal(
            format!("webhooks ({}) is not a list", place(at)),
            "begin each receiver with [[webhooks]], in double brackets",
        )]);
    };
    let (mut hooks, mut errors) = (Hooks::new(), Vec::new());
    for (number, item) in (1..).zip(items.iter()) {
        let source = place(item.span().start);
        let DeValue::Table(table) = item.get_ref() else {
            errors.push(refusal(
                format!("webhooks entry {number} ({source}) is no section"),
                "begin each receiver with [[webhooks]], in double brackets",
            ));
            continue;
        };
        match section(path, text, number, table, &source) {
            Ok(hook) => hooks.push((hook, source)),
            Err(found) => errors.extend(found),
        }
    }
    for (position, (hook, source)) in hooks.iter().enumerate() {
        if let Some((_, first)) = hooks[..position].iter().find(|(other, _)| other.name == hook.name) {
            errors.push(refusal(
                format!("webhook {} ({source}) has the name of the one at {first}", hook.name),
                "give each a name of its own: the ledger keeps under it how far the receiver has been told",
            ));
        }
    }
    if hooks.len() > HOOKS_MAX {
        errors.push(refusal(
            format!("there are {} webhooks ({})", hooks.len(), place(at)),
            format!("at most {HOOKS_MAX} are allowed: let one receiver pass on to others"),
        ));
    }
    if errors.is_empty() { Ok(hooks) } else { Err(errors) }
}

fn refusal(message: String, hint: impl Into<String>) -> ConfigError {
    ConfigError { message, hint: hint.into() }
}

fn section(
    path: &str,
    text: &str,
    number: usize,
    table: &DeTable<'_>,
    source: &Source,
) -> Result<Hook, Vec<ConfigError>> {
    let (mut draft, mut errors) = (Draft::default(), Vec::new());
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in rows {
        let key = name.get_ref().as_ref();
        let at = Source::File { path: path.to_string(), line: line_of(text, name.span().start) };
        if !KEYS.contains(&key) {
            let nearest = nearest(key, KEYS.iter().copied());
            let hint = format!("did you mean {nearest}? Keys of a webhook: {}", KEYS.join(", "));
            errors.push(refusal(format!("unknown key webhooks.{key} ({at})"), hint));
            continue;
        }
        let raw = raw(value.get_ref());
        if let Err(problem) = draft.set(key, &raw) {
            // A URL may hold a token in its path, and a secret is one.
            let shown = if matches!(key, "secret" | "url") { "\"…\"".to_string() } else { raw.shown() };
            errors.push(refusal(format!("webhooks.{key} = {shown} ({at}) {}", problem.what), problem.hint));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    draft
        .finish()
        .map_err(|(what, hint)| vec![refusal(format!("webhooks entry {number} ({source}) {what}"), hint)])
}

impl Draft {
    fn set(&mut self, key: &str, raw: &Raw) -> Result<(), Problem> {
        match key {
            "name" => self.name = Some(name(raw)?),
            "url" => self.url = Some(url(raw)?),
            "secret" => self.secret = Some(secret(value::plain_text(raw, SECRET_BYTES_MAX)?.as_bytes())?),
            "secret_file" => self.secret_file = value::optional_text(raw, 4_096)?.map(PathBuf::from),
            "kinds" => self.kinds = Some(kinds_of(raw)?),
            "timeout" => {
                let (min, max) = (Duration::from_millis(100), Duration::from_secs(60));
                self.timeout = Some(value::duration(raw, min, max)?);
            }
            "max_age" => {
                let (min, max) = (Duration::from_secs(1), Duration::from_secs(30 * 86_400));
                self.age_max = Some(value::duration(raw, min, max)?);
            }
            _ca => self.ca = value::optional_text(raw, 4_096)?.map(PathBuf::from),
        }
        Ok(())
    }

    /// What is missing, or does not fit together, and the remedy.
    fn finish(self) -> Result<Hook, (String, String)> {
        let lacks = |what: &str, hint: &str| (format!("has no {what}"), hint.to_string());
        let name = self.name.ok_or_else(|| lacks("name", "write name = \"pager\", a name of its own"))?;
        let url =
            self.url.ok_or_else(|| lacks("url", "write url = \"http://HOST/PATH\", where news is posted"))?;
        let secret = match (self.secret, self.secret_file) {
            (Some(secret), None) => secret,
            (None, Some(path)) => secret_in(&path)?,
            (Some(_), Some(_)) => {
                return Err((
                    "has both secret and secret_file".to_string(),
                    "keep one of them; a file keeps the secret out of the configuration".to_string(),
                ));
            }
            (None, None) => {
                let hint = "write secret_file = \"PATH\" (or secret = \"…\"): receivers check by it that news is ours";
                return Err(lacks("secret", hint));
            }
        };
        Ok(Hook {
            name,
            url,
            secret,
            kinds: self.kinds.unwrap_or_else(|| kinds::USUAL.into_iter().collect()),
            timeout: self.timeout.unwrap_or(TIMEOUT),
            age_max: self.age_max.unwrap_or(AGE_MAX),
            ca: self.ca,
        })
    }
}

fn name(raw: &Raw) -> Result<String, Problem> {
    let text = value::plain_text(raw, 4 * NAME_BYTES_MAX)?;
    if is_name(&text) {
        return Ok(text);
    }
    let hint = format!("write 1 to {NAME_BYTES_MAX} of a-z A-Z 0-9 . _ -, such as pager");
    Err(Problem::new("is not a usable name", hint))
}

fn url(raw: &Raw) -> Result<String, Problem> {
    let hint = "write http://HOST/PATH or https://HOST/PATH";
    let text = value::plain_text(raw, URL_BYTES_MAX)?;
    let parsed =
        reqwest::Url::parse(&text).map_err(|error| Problem::new(format!("is not a URL ({error})"), hint))?;
    if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
        return Err(Problem::new("is not an HTTP URL", hint));
    }
    if parsed.fragment().is_some() {
        return Err(Problem::new("has a fragment, which is never sent", "leave out # and what follows"));
    }
    Ok(text)
}

fn secret(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    if (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
        return Ok(bytes.to_vec());
    }
    let what = format!("has {} bytes", bytes.len());
    let hint = format!(
        "use {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes that nobody can guess, such as `openssl rand -hex 32` gives"
    );
    Err(Problem::new(what, hint))
}

/// The secret in a file, without the white space around it.
fn secret_in(path: &Path) -> Result<Vec<u8>, (String, String)> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        (
            format!("has secret_file = \"{shown}\", which cannot be read: {error}"),
            "put the secret there, readable by this program only".to_string(),
        )
    })?;
    secret(text.trim().as_bytes())
        .map_err(|problem| (format!("has secret_file = \"{shown}\", which {}", problem.what), problem.hint))
}

fn kinds_of(raw: &Raw) -> Result<BTreeSet<Kind>, Problem> {
    let known: Vec<&str> = kinds::ALL.iter().map(|kind| kind.as_str()).collect();
    let hint = format!("write a list such as [\"down\", \"election\"]; known are {}", known.join(", "));
    let Raw::List(names) = raw else { return Err(Problem::new("is not a list of kinds", hint)) };
    if names.is_empty() {
        return Err(Problem::new("names no kind", hint));
    }
    let parse = |name: &String| {
        Kind::parse(name).ok_or_else(|| {
            let nearest = nearest(name, known.iter().copied());
            Problem::new(format!("names the unknown kind {name}"), format!("did you mean {nearest}? {hint}"))
        })
    };
    names.iter().map(parse).collect()
}

/// A hook as `config show` prints it: without its secret, and without the path of its URL, which may hold another.
pub(super) fn show(hook: &Hook) -> String {
    let kinds: Vec<&str> = hook.kinds.iter().map(|kind| kind.as_str()).collect();
    format!(
        "{} {} timeout={} max_age={} kinds={}",
        hook.name,
        hook.place(),
        show_duration(hook.timeout),
        show_duration(hook.age_max),
        kinds.join(",")
    )
}
