//! A session of this client: its writes are executed at most once, several may be outstanding, and what was given up
//! cannot happen any more once a later write was answered.

use std::sync::{Mutex, PoisonError};

use reqwest::Method;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::calls::{Guard, Kind, Sequences};
use crate::ledger::sessions::SESSION_WINDOW;
use crate::types::SessionId;

use super::{Answer, Call, Client, ClientError, Outcome};

/// How often a write whose session had ended, and of which that is all that is known, goes into a new one.
const SESSIONS_PER_WRITE_MAX: usize = 2;

/// See the module's head. Dropping it leaves the session to expire; [`Session::close`] ends it at once.
pub struct Session<'a> {
    client: &'a Client,
    sequences: Mutex<Option<Sequences>>,
    /// Only one opens a session at a time.
    opening: tokio::sync::Mutex<()>,
    /// A sequence has ended.
    ended: Notify,
}

/// The answer to `POST /v1/sessions`.
#[derive(Deserialize)]
struct Opened {
    session: SessionId,
}

impl<'a> Session<'a> {
    pub(super) fn new(client: &'a Client) -> Session<'a> {
        Session {
            client,
            sequences: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Sends a write until it has an answer or its time is over, as [`Client::send`] does. It may be called again before
    /// it has returned. If the session has ended meanwhile, the write goes into a new one, unless one of its tries may
    /// have happened: then the error is `session_expired`, with the outcome `unknown`.
    pub async fn send(&self, call: Call) -> Result<Answer, ClientError> {
        let mut sessions_left = SESSIONS_PER_WRITE_MAX;
        loop {
            sessions_left -= 1;
            let (session, sequence) = self.begin().await?;
            let stamp = || {
                let lowest = lock(&self.sequences)
                    .as_ref()
                    .filter(|sequences| sequences.session() == session)
                    .map_or(sequence, Sequences::lowest_unanswered);
                vec![
                    ("super-node-session", session.to_string()),
                    ("super-node-sequence", sequence.to_string()),
                    ("super-node-lowest-unanswered", lowest.to_string()),
                ]
            };
            let running = Running { session: self, id: session, sequence };
            let result = self.client.run(&call, Kind::Write(Guard::Sequence), &stamp).await;
            drop(running);
            match result {
                Err(error) if error.code == "session_expired" => {
                    lock(&self.sequences).take_if(|sequences| sequences.session() == session);
                    if error.outcome != Some(Outcome::NotApplied) || sessions_left == 0 {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }

    /// Ends the session. Whatever of it is still on its way is refused when it arrives.
    pub async fn close(self) -> Result<(), ClientError> {
        let Some(sequences) = lock(&self.sequences).take() else { return Ok(()) };
        let path = format!("/v1/sessions/{}", sequences.session());
        match self.client.send(Call::new(Method::DELETE, path)).await {
            Err(error) if error.code != "session_expired" => Err(error),
            _ => Ok(()),
        }
    }

    /// The next sequence, in a session that is opened first if there is none.
    async fn begin(&self) -> Result<(SessionId, u64), ClientError> {
        loop {
            // Made before looking, so that an end in between is not missed.
            let ended = self.ended.notified();
            let found = lock(&self.sequences).as_mut().map(|known| (known.session(), known.begin()));
            match found {
                Some((session, Some(sequence))) => return Ok((session, sequence)),
                Some((_, None)) => ended.await,
                None => self.open().await?,
            }
        }
    }

    async fn open(&self) -> Result<(), ClientError> {
        let _one_at_a_time = self.opening.lock().await;
        if lock(&self.sequences).is_some() {
            return Ok(());
        }
        let answer = self.client.send(Call::new(Method::POST, "/v1/sessions")).await?;
        let Opened { session } = answer.read()?;
        *lock(&self.sequences) = Some(Sequences::new(session, SESSION_WINDOW));
        Ok(())
    }
}

/// A write under way. Its sequence ends with it, also if its caller drops it.
struct Running<'a> {
    session: &'a Session<'a>,
    id: SessionId,
    sequence: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(sequences) =
            lock(&self.session.sequences).as_mut().filter(|known| known.session() == self.id)
        {
            sequences.end(self.sequence);
        }
        self.session.ended.notify_waiters();
    }
}

fn lock(sequences: &Mutex<Option<Sequences>>) -> std::sync::MutexGuard<'_, Option<Sequences>> {
    sequences.lock().unwrap_or_else(PoisonError::into_inner)
}
