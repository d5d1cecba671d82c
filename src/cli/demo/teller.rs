//! How the story is told: one heading a chapter, one line a fact, on a terminal with colours; or one JSON object a
//! chapter for machines.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::cli::{Format, Output};

/// Tells the story.
pub struct Teller {
    output: Output,
    colours: bool,
    begun: Instant,
    chapter: Option<Chapter>,
    /// Checks that held, and that did not.
    counts: (u64, u64),
    waiting: bool,
}

struct Chapter {
    name: &'static str,
    begun: Instant,
    facts: Vec<Value>,
    data: Map<String, Value>,
    ok: bool,
}

impl Teller {
    /// Tells to an output; in colours only on a terminal that wants them.
    pub fn new(output: Output, no_colour: bool) -> Teller {
        let wanted = !no_colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colours = wanted && io::stdout().is_terminal() && output.format() != Format::Json;
        Teller { output, colours, begun: Instant::now(), chapter: None, counts: (0, 0), waiting: false }
    }

    fn is_json(&self) -> bool {
        self.output.format() == Format::Json
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// A word before the story.
    pub fn preface(&mut self, lines: &[String]) -> io::Result<()> {
        if self.is_json() {
            return Ok(());
        }
        for line in lines {
            self.output.line(line)?;
        }
        Ok(())
    }

    /// A chapter begins; the one before ends.
    pub fn chapter(&mut self, name: &'static str, title: &str) -> io::Result<()> {
        self.end_chapter()?;
        let chapter = Chapter { name, begun: Instant::now(), facts: Vec::new(), data: Map::new(), ok: true };
        self.chapter = Some(chapter);
        if self.is_json() {
            return Ok(());
        }
        let at = format!("{:>6.1}s", self.begun.elapsed().as_secs_f64());
        let line = format!("\n{}  {}", self.paint("2", &at), self.paint("1;36", title));
        self.output.line(&line)
    }

    /// Something that was seen and checked.
    pub fn check(&mut self, holds: bool, fact: &str) -> io::Result<()> {
        self.erase_waiting()?;
        if holds {
            self.counts.0 += 1;
        } else {
            self.counts.1 += 1;
        }
        if let Some(chapter) = &mut self.chapter {
            chapter.ok &= holds;
            chapter.facts.push(json!({"fact": fact, "ok": holds}));
        }
        if self.is_json() {
            return Ok(());
        }
        let mark = if holds { self.paint("32", "✓") } else { self.paint("1;31", "✗") };
        self.output.line(&format!("         {mark} {fact}"))
    }

    /// A line that explains, without a claim.
    pub fn aside(&mut self, text: &str) -> io::Result<()> {
        self.erase_waiting()?;
        if self.is_json() {
            return Ok(());
        }
        let line = format!("           {}", self.paint("2", text));
        self.output.line(&line)
    }

    /// A number or document for machines.
    pub fn data(&mut self, name: &str, value: Value) {
        if let Some(chapter) = &mut self.chapter {
            chapter.data.insert(name.to_string(), value);
        }
    }

    /// On a terminal: what is being waited for, until the next fact.
    pub fn waiting(&mut self, what: &str, since: Duration) -> io::Result<()> {
        if !self.colours {
            return Ok(());
        }
        let wheel = ['|', '/', '-', '\\'][usize::try_from(since.as_millis() / 120 % 4).unwrap_or(0)];
        self.waiting = true;
        let mut out = io::stdout();
        write!(out, "\r\x1b[2K           \x1b[2m{wheel} {what} {:.1}s\x1b[0m", since.as_secs_f64())?;
        out.flush()
    }

    fn erase_waiting(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.waiting) {
            let mut out = io::stdout();
            write!(out, "\r\x1b[2K")?;
            out.flush()?;
        }
        Ok(())
    }

    fn end_chapter(&mut self) -> io::Result<()> {
        self.erase_waiting()?;
        let Some(chapter) = self.chapter.take() else { return Ok(()) };
        if !self.is_json() {
            return Ok(());
        }
        let millis = u64::try_from(chapter.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut object = Map::new();
        object.insert("step".to_string(), json!(chapter.name));
        object.insert("ok".to_string(), json!(chapter.ok));
        object.insert("ms".to_string(), json!(millis));
        object.insert("facts".to_string(), Value::Array(chapter.facts));
        object.extend(chapter.data);
        self.output.json(&Value::Object(object))
    }

    /// The story is over; true if every check held. `failure`: what cut it short.
    pub fn end(&mut self, failure: Option<&str>) -> io::Result<bool> {
        if let Some(failure) = failure {
            self.check(false, failure)?;
        }
        self.end_chapter()?;
        let (held, broken) = self.counts;
        let ok = broken == 0 && held > 0;
        let seconds = self.begun.elapsed().as_secs_f64();
        if self.is_json() {
            let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let mut summary =
                json!({"step": "summary", "ok": ok, "checks": held + broken, "failed": broken, "ms": millis});
            if let (Some(failure), Value::Object(fields)) = (failure, &mut summary) {
                fields.insert("error".to_string(), json!(failure));
            }
            self.output.json(&summary)?;
            return Ok(ok);
        }
        let line = if ok {
            self.paint("1;32", &format!("all {held} checks held, in {seconds:.1} s"))
        } else {
            self.paint("1;31", &format!("{broken} of {} checks failed, after {seconds:.1} s", held + broken))
        };
        self.output.line(&format!("\n         {line}"))?;
        Ok(ok)
    }
}
