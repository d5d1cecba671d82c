//! What commands print: tables for people, JSON for programs, plain tab-separated lines for scripts.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns with headers.
    Table,
    /// JSON: a list is one array, a stream is one object per line.
    Json,
    /// One line per row, columns separated by tabs, no headers.
    Plain,
}

/// Where data goes, and how.
pub struct Output {
    format: Format,
    terminal: bool,
    sink: Box<dyn Write + Send>,
}

impl Output {
    /// Standard output; without a wish, a table on a terminal and plain lines elsewhere.
    pub fn stdout(wish: Option<Format>) -> Output {
        let terminal = io::stdout().is_terminal();
        let format = wish.unwrap_or(if terminal { Format::Table } else { Format::Plain });
        Output { format, terminal, sink: Box::new(io::stdout()) }
    }

    /// Any writer.
    pub fn to(format: Format, sink: Box<dyn Write + Send>) -> Output {
        Output { format, terminal: false, sink }
    }

    /// How to print.
    pub fn format(&self) -> Format {
        self.format
    }

    /// One line of data.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.sink, "{text}")?;
        self.sink.flush()
    }

    /// Any number of lines of data, as they are.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.sink.write_all(text.as_bytes())?;
        self.sink.flush()
    }

    /// A whole JSON value, on one line.
    pub fn json(&mut self, value: &Value) -> io::Result<()> {
        self.line(&value.to_string())
    }

    /// A list: rows for people and scripts, `items` for programs.
    pub fn list(&mut self, headers: &[&str], rows: &[Vec<String>], items: &[Value]) -> io::Result<()> {
        match self.format {
            Format::Json => self.line(&serde_json::to_string(items).expect("values are plain data")),
            Format::Table => self.line(&table(headers, rows)),
            Format::Plain => {
                // One flush for all: a list may be long.
                let text: String = rows.iter().map(|row| format!("{}\n", row.join("\t"))).collect();
                self.sink.write_all(text.as_bytes())?;
                self.sink.flush()
            }
        }
    }

    /// One thing: its fields as rows for people and scripts, the whole for programs.
    pub fn record(&mut self, value: &Value) -> io::Result<()> {
        if self.format == Format::Json {
            return self.json(value);
        }
        let rows: Vec<Vec<String>> = match value {
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| vec![name.clone(), cell(value)]).collect()
            }
            other => vec![vec![cell(other)]],
        };
        self.list(&["FIELD", "VALUE"], &rows, &[])
    }

    /// Whether people see it as it is printed.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }
}

/// Aligned columns under headers.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers);
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A JSON value as a cell: texts without quotes, nothing for null.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_string(),
        Value::String(text) => harmless(&text.replace(['\t', '\n', '\r'], " ")),
        other => json_text(other),
    }
}

/// A value as JSON that a terminal shows as it is: what JSON may leave unescaped, and terminals obey, is escaped, too.
pub fn json_text(value: &Value) -> String {
    let mut text = String::new();
    for char in value.to_string().chars() {
        match u32::from(char) {
            code @ 0x7f..=0x9f => text.push_str(&format!("\\u{code:04x}")),
            _ => text.push(char),
        }
    }
    text
}

/// A text that somebody else has written, for a terminal: it may not move the cursor, colour what follows, or name the window. Its
/// control characters are shown by their pictures; lines and tabs stay.
pub fn harmless(text: &str) -> String {
    let one = |char: char| match u32::from(char) {
        0x09 | 0x0a => char,
        code @ ..0x20 => char::from_u32(0x2400 + code).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        0x80..=0x9f => char::REPLACEMENT_CHARACTER,
        _ => char,
    };
    text.chars().map(one).collect()
}

/// A field of an object as a cell.
pub fn field(item: &Value, name: &str) -> String {
    cell(item.get(name).unwrap_or(&Value::Null))
}

/// A field that holds micro-points, in points.
pub fn points(item: &Value, name: &str) -> String {
    match item.get(name).and_then(Value::as_i64) {
        Some(micro) => crate::types::Amount(micro).to_string(),
        None => "-".to_string(),
    }
}

/// A field that holds parts per million, in per cent.
pub fn percent(item: &Value, name: &str) -> String {
    match item.get(name).and_then(Value::as_u64) {
        Some(ppm) => format!("{}.{:04}%", ppm / 10_000, ppm % 10_000),
        None => "-".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_not_command_the_terminal() {
        let written = "a\u{1b}[31mred\u{1b}]0;name\u{7}\u{9b}2J\u{7f}\u{0}";
        assert_eq!(harmless(written), "a␛[31mred␛]0;name␇\u{fffd}2J␡␀");
        assert_eq!(harmless("two\nlines\tä 漢"), "two\nlines\tä 漢");
        let value = serde_json::json!({ "k": "a\u{1b}\u{9b}\u{7f}ä" });
        assert_eq!(json_text(&value), r#"{"k":"a\u001b\u009b\u007fä"}"#);
        assert_eq!(serde_json::from_str::<Value>(&json_text(&value)).expect("the same value"), value);
        assert_eq!(cell(&Value::from("a\tb\nc\rd\u{1b}")), "a b c d␛");
    }
}
