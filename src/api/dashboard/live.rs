//! `GET /live`: tells an open page when to look again. It carries no data of its own: the page asks for itself again.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::node::status::NodeStatus;
use crate::types::{NodeId, Term};

use super::super::ApiState;
use super::super::extract::Params;
use super::super::problem::{Code, Problem};

/// Pages that may follow one node at the same time.
pub const LIVE_MAX: usize = 32;
/// Time between two words when nothing special happens.
const WORD_EVERY: Duration = Duration::from_secs(1);
/// A change of the leadership is told sooner, but not more often than this.
const WORD_EVERY_MIN: Duration = Duration::from_millis(100);

/// What is told at once when it changes.
type Leadership = (Term, Option<NodeId>);

struct Following {
    status: watch::Receiver<NodeStatus>,
    told: Option<Leadership>,
    told_at: Instant,
    follow: bool,
    stopping: CancellationToken,
    /// Given back when the page goes away.
    _place: OwnedSemaphorePermit,
}

impl Following {
    /// The next word; `None` once the node stops.
    async fn next(&mut self) -> Option<Leadership> {
        if self.told.is_some() && !self.follow {
            return None;
        }
        loop {
            let seen = {
                let status = self.status.borrow_and_update();
                (status.term, status.leader.clone())
            };
            let news = self.told.as_ref() != Some(&seen);
            let due = self.told_at + if news { WORD_EVERY_MIN } else { WORD_EVERY };
            if self.told.is_none() || Instant::now() >= due {
                self.told = Some(seen.clone());
                self.told_at = Instant::now();
                return Some(seen);
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                () = sleep_until(due) => {}
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
            }
        }
    }
}

/// `GET /live?follow=`: with `follow=false` it ends after the first word.
pub async fn live(
    State(state): State<ApiState>,
    uri: Uri,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let follow = Params::parse(&uri, &["follow"])?.truth("follow", true)?;
    let place = state.live_places().try_acquire_owned().map_err(|_all_taken| {
        Problem::new(Code::Overloaded, format!("{LIVE_MAX} pages follow this node already"))
            .hint("close some, or look at another node; the page asks again by itself")
    })?;
    let following = Following {
        status: state.handle.status.clone(),
        told: None,
        told_at: Instant::now(),
        follow,
        stopping: state.stopping.clone(),
        _place: place,
    };
    let words = stream::unfold(following, async |mut following| {
        let (term, leader) = following.next().await?;
        let leader = leader.map_or(String::new(), String::from);
        Some((Ok(Event::default().event("look").data(format!("{term} {leader}"))), following))
    });
    Ok(Sse::new(words).keep_alive(KeepAlive::new().interval(state.http.keep_alive)))
}
