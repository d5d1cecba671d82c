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
        Value::String(text) => text.replace(['\t', '\n', '\r'], " "),
        other => other.to_string(),
    }
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
