//! Traces of sampled writes, for a collector of OpenTelemetry: off unless `tracing.otlp` is set.
//!
//! A request that is followed gets a span of its own here ([`Tracer::begin`]); its story inside the node comes from the driver
//! as values ([`crate::node::trail`]). Both go through one bounded queue to [`export()`], which posts them as OTLP over HTTP in
//! its JSON encoding (OpenTelemetry Protocol 1.x, "OTLP/HTTP"). That is one request with fixed fields, so it is written here by
//! hand: the spans are made from timestamps after the fact, which the crates that follow tasks (tracing-opentelemetry) cannot do,
//! and the SDK with its exporter would bring protobuf and a second way to speak HTTP. What cannot be delivered is dropped and
//! counted: a trace is not worth a write's time.

pub mod otlp;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, ResultLabel};
use crate::node::trail::{Origin, SpanId, Story, Traced};

use otlp::Finished;

/// Finished spans, or stories of them, that wait for the collector; more are dropped.
pub const WAITING_MAX: usize = 1_024;
/// Most of them in one request.
const BATCH_MAX: usize = 256;
/// How long spans are gathered for one request.
const GATHER: Duration = Duration::from_millis(500);
/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Sampling is by the million.
const WHOLE_PPM: u32 = 1_000_000;

/// What to do with traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSettings {
    /// The collector's base URL, such as `http://127.0.0.1:4318`.
    pub otlp: String,
    /// How many of a million writes are followed, unless the request itself says.
    pub ratio_ppm: u32,
}

/// Something for the collector.
#[derive(Debug)]
enum Export {
    Request(Finished),
    Story(Story),
}

/// Begins and ends the spans of requests. Cheap to clone.
#[derive(Clone)]
pub struct Tracer {
    ratio_ppm: u32,
    exports: mpsc::Sender<Export>,
    metrics: Arc<Metrics>,
}

/// A request that is followed.
pub struct Request {
    origin: Origin,
    /// The caller's span, if it named one.
    caller: Option<SpanId>,
    from_ns: u64,
    path: String,
    tracer: Tracer,
}

impl Tracer {
    /// Whether a request is followed, and if so, its beginning. `traceparent`: what the request says of it (W3C Trace Context): a
    /// caller that follows its request has it followed here, and one that does not has not; of the rest a share is.
    pub fn begin(&self, traceparent: Option<&str>, path: &str) -> Option<Request> {
        let (trace, caller) = match traceparent.and_then(parse_traceparent) {
            Some((_, _, false)) => return None,
            Some((trace, caller, true)) => (trace, Some(caller)),
            None if rand::random_range(0..WHOLE_PPM) < self.ratio_ppm => {
                (rand::random::<u128>().max(1), None)
            }
            None => return None,
        };
        let origin = Origin { trace, parent: SpanId(rand::random::<u64>().max(1)) };
        Some(Request { origin, caller, from_ns: now_ns(), path: path.to_string(), tracer: self.clone() })
    }

    fn send(&self, export: Export) {
        if self.exports.try_send(export).is_err() {
            count(&self.metrics, "dropped", 1);
        }
    }
}

impl Request {
    /// For [`crate::node::handle::Handle::submit_traced`].
    pub fn traced(&self) -> Traced {
        Traced { origin: self.origin, queued_ns: now_ns() }
    }

    /// What the answer says of it: the value of a `traceparent` header that names this request's own span.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.origin.trace, self.origin.parent.0)
    }

    /// The request is answered.
    pub fn end(self, failure: Option<&str>) {
        let finished = Finished {
            trace: self.origin.trace,
            id: self.origin.parent,
            parent: self.caller,
            name: "write",
            server: true,
            from_ns: self.from_ns,
            to_ns: now_ns(),
            attributes: vec![("url.path", self.path.clone().into())],
            failure: failure.map(str::to_string),
        };
        self.tracer.send(Export::Request(finished));
    }
}

/// Trace, caller's span, whether the caller follows it. A later version may say more after that (W3C Trace Context, section 3.2.4);
/// anything else says nothing.
fn parse_traceparent(text: &str) -> Option<(u128, SpanId, bool)> {
    let mut parts = text.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [(version, 2), (trace, 32), (span, 16), (flags, 2)];
    let digits = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if lengths.iter().any(|(part, length)| part.len() != *length || !digits(part)) {
        return None;
    }
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (trace != 0 && span != 0).then_some((trace, SpanId(span), flags & 1 == 1))
}

/// Unix time in nanoseconds.
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn count(metrics: &Metrics, result: &str, spans: u64) {
    metrics.trace_spans.get_or_create(&ResultLabel { result: result.to_string() }).inc_by(spans);
}

/// The two ends of tracing: for requests, and for the driver's stories; and what carries both to the collector.
pub struct Ends {
    /// For the HTTP interface.
    pub tracer: Tracer,
    /// For the driver.
    pub stories: mpsc::Sender<Story>,
    /// Runs until `shutdown`.
    pub exporter: Exporter,
}

/// See [`export()`].
pub struct Exporter {
    url: String,
    client: reqwest::Client,
    node: String,
    exports: mpsc::Receiver<Export>,
    stories: mpsc::Receiver<Story>,
    metrics: Arc<Metrics>,
}

/// Makes them. `node` is this node's name; `client` follows no redirect.
pub fn ends(settings: &TraceSettings, client: reqwest::Client, node: String, metrics: Arc<Metrics>) -> Ends {
    let (exports, exported) = mpsc::channel(WAITING_MAX);
    let (stories, told) = mpsc::channel(WAITING_MAX);
    let exporter = Exporter {
        url: format!("{}/v1/traces", settings.otlp.trim_end_matches('/')),
        client,
        node,
        exports: exported,
        stories: told,
        metrics: Arc::clone(&metrics),
    };
    Ends { tracer: Tracer { ratio_ppm: settings.ratio_ppm, exports, metrics }, stories, exporter }
}

/// Carries spans to the collector until `shutdown`. A collector that is away is told once, until it is back.
pub async fn export(mut exporter: Exporter, shutdown: CancellationToken) {
    let mut failing = false;
    loop {
        let mut gathered = Vec::new();
        let first = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(export) = exporter.exports.recv() => export,
            Some(story) = exporter.stories.recv() => Export::Story(story),
            else => return,
        };
        gathered.push(first);
        tokio::time::sleep(GATHER).await;
        while gathered.len() < BATCH_MAX {
            match exporter.exports.try_recv() {
                Ok(export) => gathered.push(export),
                Err(_) => match exporter.stories.try_recv() {
                    Ok(story) => gathered.push(Export::Story(story)),
                    Err(_) => break,
                },
            }
        }
        let spans: Vec<Finished> = gathered.into_iter().flat_map(Export::spans).collect();
        let number = spans.len() as u64;
        let body = otlp::request(&exporter.node, &spans);
        let sent = exporter.client.post(&exporter.url).timeout(TIMEOUT).json(&body).send().await;
        let problem = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(error.without_url().to_string()),
        };
        count(&exporter.metrics, if problem.is_none() { "exported" } else { "failed" }, number);
        match (&problem, failing) {
            (Some(why), false) => {
                tracing::warn!(
                    "the collector of traces takes nothing: {why}; spans are dropped until it does"
                );
            }
            (None, true) => tracing::info!("the collector of traces takes spans again"),
            _ => {}
        }
        failing = problem.is_some();
    }
}

impl Export {
    fn spans(self) -> Vec<Finished> {
        match self {
            Export::Request(finished) => vec![finished],
            Export::Story(story) => otlp::finished(story),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_says_whether_its_request_is_followed() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parse = |text: String| parse_traceparent(&text);
        let found = parse(format!("00-{trace}-00f067aa0ba902b7-01")).expect("the example of the standard");
        assert_eq!(found.0, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((found.1, found.2), (SpanId(0x00f0_67aa_0ba9_02b7), true));
        assert!(!parse(format!("00-{trace}-00f067aa0ba902b7-00")).expect("valid").2);
        for wrong in ["", "00", "zz", "00-1-2-3"] {
            assert_eq!(parse(wrong.to_string()), None, "{wrong}");
        }
        assert_eq!(parse(format!("01-{trace}-00f067aa0ba902b7-01-and-more")), Some(found));
        for wrong in [
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-+{}-00f067aa0ba902b7-01", &trace[1..]),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{trace}-00f067aa0ba902b7-01-x"),
        ] {
            assert_eq!(parse(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn none_of_the_writes_are_followed_or_all_or_those_that_say_so() {
        let begin = |ratio_ppm: u32, traceparent: Option<&str>| {
            let tracer = Tracer { ratio_ppm, exports: mpsc::channel(1).0, metrics: Arc::new(Metrics::new()) };
            (0..200).filter(|_| tracer.begin(traceparent, "/").is_some()).count()
        };
        let said = |flag: &str| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flag}");
        assert_eq!((begin(0, None), begin(WHOLE_PPM, None)), (0, 200));
        let tracer = Tracer { ratio_ppm: 0, exports: mpsc::channel(1).0, metrics: Arc::new(Metrics::new()) };
        let (caller, followed) = (said("01"), tracer.begin(Some(&said("01")), "/").expect("it is followed"));
        let answered = followed.traceparent();
        assert_eq!(
            (&answered[..36], &answered[52..]),
            (&caller[..36], "-01"),
            "its trace, and a span of ours"
        );
        assert_ne!(answered, caller);
        assert_eq!((begin(0, Some(&said("01"))), begin(WHOLE_PPM, Some(&said("00")))), (200, 0));
        let some = begin(500_000, None);
        assert!((40..160).contains(&some), "{some}");
    }
}
