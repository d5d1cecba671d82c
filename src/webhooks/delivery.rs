//! One request: what is sent, and what the answer means.

use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use sha2::Sha256;

use crate::types::UnixMillis;

use super::{Hook, News, patience};

/// The header with the id of the news.
pub const ID_HEADER: &str = "super-node-event-id";
/// The header with the signature.
pub const SIGNATURE_HEADER: &str = "super-node-signature";
/// So much of an answer is read, and thrown away, so that the connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The receiver has it.
    Delivered,
    /// The receiver will not take this at any try (400, 413, 415, 422).
    Refused(String),
    /// It may be taken later.
    Failed {
        /// Why not now, without secrets.
        why: String,
        /// How long the receiver wants to be left alone.
        asked: Option<Duration>,
    },
}

/// `t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`. The time is in it, so that a receiver can refuse what is replayed.
pub fn signature(secret: &[u8], seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

/// Tries once. `now` is the wall clock.
pub async fn post(client: &Client, hook: &Hook, news: &News, now: UnixMillis) -> Verdict {
    let body = serde_json::to_vec(news).expect("news is plain data");
    let request = client
        .post(&hook.url)
        .timeout(hook.timeout)
        .header(CONTENT_TYPE, "application/json")
        .header(ID_HEADER, &news.id)
        .header(SIGNATURE_HEADER, signature(&hook.secret, now.0.div_euclid(1_000), &body))
        .body(body);
    match request.send().await {
        Ok(mut answer) => {
            let verdict = judge(answer.status(), retry_after(&answer), now);
            let mut read = 0;
            while let Ok(Some(chunk)) = answer.chunk().await {
                read += chunk.len();
                if read > ANSWER_BYTES_MAX {
                    // Dropping the answer closes the connection.
                    break;
                }
            }
            verdict
        }
        Err(error) => Verdict::Failed { why: told(error, hook.timeout), asked: None },
    }
}

fn retry_after(answer: &reqwest::Response) -> Option<&str> {
    answer.headers().get(RETRY_AFTER)?.to_str().ok()
}

/// What a status means. A redirect is not followed: the operator configured where news may go.
pub fn judge(status: StatusCode, retry_after: Option<&str>, now: UnixMillis) -> Verdict {
    if status.is_success() {
        return Verdict::Delivered;
    }
    match status.as_u16() {
        400 | 413 | 415 | 422 => Verdict::Refused(format!("it answered {status}")),
        300..=399 => {
            let why =
                format!("it answered {status}, and redirects are not followed: configure the final URL");
            Verdict::Failed { why, asked: None }
        }
        _ => Verdict::Failed {
            why: format!("it answered {status}"),
            asked: retry_after.and_then(|header| patience::asked(header, now)),
        },
    }
}

/// An error in words, without the URL, which may hold a secret.
fn told(error: reqwest::Error, timeout: Duration) -> String {
    if error.is_timeout() {
        return format!("no answer within {} ms", timeout.as_millis());
    }
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(inner) = cause {
        words = inner.to_string();
        cause = inner.source();
    }
    words
}
