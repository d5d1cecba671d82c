//! What an agent shows of itself: `/livez` and `/metrics`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::metrics::{BuildLabel, ResultLabel};
use crate::network::answer::Heard;

/// Counters of an agent (prefix `super_node_agent_`).
#[derive(Debug)]
pub(super) struct Status {
    registry: Registry,
    datagrams: Family<ResultLabel, Counter>,
    enrolments: Counter,
    last_ping: Gauge<f64, AtomicU64>,
    pings: AtomicU64,
}

impl Status {
    pub(super) fn new() -> Status {
        let mut status = Status {
            registry: Registry::with_prefix("super_node_agent"),
            datagrams: Family::default(),
            enrolments: Counter::default(),
            last_ping: Gauge::default(),
            pings: AtomicU64::new(0),
        };
        let registry = &mut status.registry;
        let datagrams = status.datagrams.clone();
        registry.register("datagrams", "Received: answered, replayed, limited, junk", datagrams);
        registry.register(
            "enrolments",
            "How often a super-node took its enrolment",
            status.enrolments.clone(),
        );
        let last = status.last_ping.clone();
        registry.register(
            "last_ping_timestamp_seconds",
            "When it was last pinged, Unix time; 0: never",
            last,
        );
        let build = Family::<BuildLabel, Gauge>::default();
        build.get_or_create(&BuildLabel { version: env!("CARGO_PKG_VERSION").to_string() }).set(1);
        registry.register("build_info", "This build", build);
        status
    }

    pub(super) fn heard(&self, heard: &Heard) {
        let result = match heard {
            Heard::Ping { .. } => "answered",
            Heard::Replayed => "replayed",
            Heard::Limited => "limited",
            Heard::Junk => "junk",
        };
        self.datagrams.get_or_create(&ResultLabel { result: result.to_string() }).inc();
        if matches!(heard, Heard::Ping { .. }) {
            self.pings.fetch_add(1, Ordering::Relaxed);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.last_ping.set(now.as_secs_f64());
        }
    }

    pub(super) fn registered(&self) {
        self.enrolments.inc();
    }

    fn render(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string does not fail");
        text
    }
}

/// Serves both paths until `shutdown`.
pub(super) fn serve(
    listener: std::net::TcpListener,
    status: Arc<Status>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let livez = |State(status): State<Arc<Status>>| async move {
        format!("ok, {} pings answered\n", status.pings.load(Ordering::Relaxed))
    };
    let metrics = |State(status): State<Arc<Status>>| async move {
        let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(header::CONTENT_TYPE, media)], status.render()).into_response()
    };
    let router = Router::new().route("/livez", get(livez)).route("/metrics", get(metrics)).with_state(status);
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::warn!("/livez and /metrics are not served any more: {error}");
        }
    });
    Ok(())
}
