//! Spans as OTLP says them in JSON: identifiers in hexadecimal, times in nanoseconds as text.

use serde_json::{Value, json};

use crate::node::trail::{SpanId, Story};
use crate::types::Micros;

/// `SPAN_KIND_INTERNAL`
const INTERNAL: u8 = 1;
/// `SPAN_KIND_SERVER`
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`
const ERROR: u8 = 2;

/// A span with its times by the wall clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Its trace.
    pub trace: u128,
    /// Its name to the collector.
    pub id: SpanId,
    /// The span that it is part of.
    pub parent: Option<SpanId>,
    /// What it is.
    pub name: &'static str,
    /// Whether it is a request that was served.
    pub server: bool,
    /// Unix time, nanoseconds.
    pub from_ns: u64,
    /// Unix time, nanoseconds.
    pub to_ns: u64,
    /// Texts and whole numbers.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// The spans of a story.
pub fn finished(story: Story) -> Vec<Finished> {
    let origin_ns = story.origin_ns;
    let at = |micros: Micros| origin_ns.saturating_add(micros.0.saturating_mul(1_000));
    let one = |span: crate::node::trail::Span| {
        let index = span.index.map(|index| ("super_node.log.index", Value::from(index.0)));
        let mut attributes: Vec<(&'static str, Value)> = index.into_iter().collect();
        attributes.extend(span.peer.map(|peer| ("super_node.peer", Value::from(peer.as_str()))));
        Finished {
            trace: span.trace,
            id: span.id,
            parent: Some(span.parent),
            name: span.name,
            server: false,
            from_ns: at(span.from),
            to_ns: at(span.to),
            attributes,
            failure: None,
        }
    };
    story.spans.into_iter().map(one).collect()
}

/// The body of `POST /v1/traces`.
pub fn request(node: &str, spans: &[Finished]) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource = [
        text("service.name", "super-node"),
        text("service.instance.id", node),
        text("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let spans: Vec<Value> = spans.iter().map(span).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "super-node" }, "spans": spans }],
    }] })
}

fn span(span: &Finished) -> Value {
    let attribute = |(key, value): &(&'static str, Value)| {
        // Whole numbers are texts in the JSON of protobuf, since they may have 64 bits.
        let value = match value {
            Value::Number(number) => json!({ "intValue": number.to_string() }),
            other => json!({ "stringValue": other.as_str().unwrap_or_default() }),
        };
        json!({ "key": key, "value": value })
    };
    let mut found = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id.0),
        "name": span.name,
        "kind": if span.server { SERVER } else { INTERNAL },
        "startTimeUnixNano": span.from_ns.to_string(),
        "endTimeUnixNano": span.to_ns.to_string(),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
    });
    if let Some(parent) = span.parent {
        found["parentSpanId"] = format!("{:016x}", parent.0).into();
    }
    if let Some(why) = &span.failure {
        found["status"] = json!({ "code": ERROR, "message": why });
    }
    found
}
