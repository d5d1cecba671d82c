//! A receiver of webhooks: a small real HTTP server that keeps what it was told, and answers as it is told to.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One request.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub path: String,
    pub id: String,
    pub signature: String,
    pub content_type: String,
    pub bytes: Vec<u8>,
    pub body: Value,
    /// What it was answered.
    pub status: u16,
}

#[derive(Default)]
struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    status: AtomicU16,
    delay_ms: AtomicU64,
}

/// See the module's head.
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
}

impl Receiver {
    /// One at a port, which does not listen yet.
    pub fn at(port: u16) -> Receiver {
        let shared = Arc::new(Shared::default());
        shared.status.store(204, Ordering::Relaxed);
        Receiver { port, shared, serving: None }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hooks/T0K3N", self.port)
    }

    /// What a node may show of the URL.
    pub fn place(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub async fn listen(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("the port is free");
        let router = Router::new().fallback(any(take)).with_state(Arc::clone(&self.shared));
        self.serving = Some(tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        }));
    }

    /// Answers this from now on.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// Takes so long for each answer from now on.
    pub fn delay(&self, span: Duration) {
        self.shared.delay_ms.store(u64::try_from(span.as_millis()).expect("short"), Ordering::Relaxed);
    }

    /// Everything that came.
    pub fn all(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was taken, by id; what stands in the ledger must be the same if it comes twice. (What nodes see, each tells in its
    /// own words.)
    pub fn taken(&self) -> BTreeMap<String, Delivery> {
        let mut taken: BTreeMap<String, Delivery> = BTreeMap::new();
        for delivery in self.all().into_iter().filter(|delivery| delivery.status == 204) {
            let seen = ["suspected", "down", "up"].iter().any(|kind| delivery.body["kind"] == *kind);
            if let Some(before) = taken.get(&delivery.id).filter(|_| !seen) {
                assert_eq!(before.bytes, delivery.bytes, "{}: other words the second time", delivery.id);
            }
            taken.insert(delivery.id.clone(), delivery);
        }
        taken
    }

    /// Those of a kind that were taken.
    pub fn taken_of(&self, kind: &str) -> Vec<Delivery> {
        self.taken().into_values().filter(|delivery| delivery.body["kind"] == kind).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    uri: axum::http::Uri,
    headers: HeaderMap,
    bytes: Bytes,
) -> impl IntoResponse {
    let header = |name: &str| {
        headers.get(name).map(|value| value.to_str().expect("text").to_string()).unwrap_or_default()
    };
    let delay = shared.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let status = shared.status.load(Ordering::Relaxed);
    let delivery = Delivery {
        path: uri.path().to_string(),
        id: header("super-node-event-id"),
        signature: header("super-node-signature"),
        content_type: header("content-type"),
        body: serde_json::from_slice(&bytes).expect("JSON"),
        bytes: bytes.to_vec(),
        status,
    };
    shared.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("location", "/elsewhere")], "x".repeat(1_000))
}

/// Whether a header is the signature of a body, computed here on its own.
pub fn is_signed(secret: &[u8], header: &str, body: &[u8]) -> bool {
    let Some((time, given)) = header.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")) else {
        return false;
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
    mac.update(format!("{time}.").as_bytes());
    mac.update(body);
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    time.parse::<u64>().is_ok_and(|seconds| seconds > 1_700_000_000) && given == expected
}
