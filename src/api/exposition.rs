//! Metrics in the Prometheus text format 0.0.4.
//!
//! The metrics library writes OpenMetrics, in which a counter family is named without the `_total` of its samples. The
//! older parser wants family and sample to agree; here that also keeps the gauge `ledger_records` and the counter
//! `ledger_records_total` apart. `# UNIT` and `# EOF` do not exist in 0.0.4.

use std::fmt::Write as _;

/// The `Content-Type` of [`to_text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Turns OpenMetrics text into the 0.0.4 format.
pub fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1_024);
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            let kind = if kind == "unknown" { "untyped" } else { kind };
            if let Some((_, about)) = help.take().and_then(|help| help.split_once(' ')) {
                push(&mut text, format_args!("# HELP {name}{suffix} {about}"));
            }
            push(&mut text, format_args!("# TYPE {name}{suffix} {kind}"));
        } else if !line.starts_with('#') {
            push(&mut text, format_args!("{line}"));
        }
    }
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{KindLabel, Metrics};

    #[test]
    fn families_have_one_type_each_and_counters_their_suffix() {
        let metrics = Metrics::new();
        metrics.ledger_records_by_kind.get_or_create(&KindLabel { kind: "reward".to_string() }).inc();
        let text = to_text(&metrics.render());
        let mut families = std::collections::BTreeSet::new();
        for line in text.lines() {
            assert!(!line.starts_with("# UNIT") && !line.starts_with("# EOF"), "{line}");
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("name and kind");
                assert!(families.insert(name), "{name} appears twice");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            }
        }
        for line in
            ["# TYPE super_node_ledger_records gauge", "# TYPE super_node_ledger_records_total counter"]
        {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(text.contains("super_node_ledger_records_total{kind=\"reward\"} 1\n"));
    }
}
