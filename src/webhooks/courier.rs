//! Serves one hook: watches what this node sees, reads what the ledger decided, and delivers one after the other.
//!
//! While this node leads, it tells decisions after the hook's replicated cursor, and what it sees of members; at all times,
//! what it finds about itself. When the leadership goes, what was under way is dropped: the next leader begins at the cursor.
//! Nothing here is awaited by consensus, pinging or paying.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::select;
use serde_json::json;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::ledger::command::{Answer, Command, Request};
use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query;
use crate::ledger::records::Genesis;
use crate::ledger::webhooks::{HookCursor, SINCE, newest};
use crate::metrics::{HookLabel, HookResultLabels, Metrics};
use crate::node::handle::{Ask, Handle};
use crate::node::status::{WebhookError, WebhookStatus};
use crate::types::{Term, UnixMillis};

use super::decisions::{self, Page};
use super::delivery::{self, Verdict};
use super::sights::Sights;
use super::{Hook, News, patience};

/// How often a quiet courier looks around.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// How long the courier waits after the first sign of news in the ledger: under load the next entry is never far.
const COALESCE: Duration = Duration::from_millis(50);
/// Shortest time between two cursors in the log while news is told.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// The same while only records pass that the hook does not want: so much is read again at most by the next leader.
const CONFIRM_QUIET_EVERY: Duration = Duration::from_secs(60);
/// How long a cursor waits for its answer.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a hook until `shutdown` or the end of the node. Never fails: what keeps it from delivering is told as an event,
/// counted, and tried again.
pub async fn run(
    hook: Hook,
    client: reqwest::Client,
    handle: Handle,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let mut leading = handle.leading.clone();
    let node_gone = async { while leading.changed().await.is_ok() {} };
    let courier = Courier {
        sights: Mutex::new(Sights::new(hook.kinds.clone())),
        seen: Notify::new(),
        last_error: Mutex::new(None),
        hook,
        client,
        handle: handle.clone(),
        metrics,
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = node_gone => {}
        () = courier.watch() => {}
        never = courier.follow() => match never {},
    }
}

struct Courier {
    hook: Hook,
    client: reqwest::Client,
    handle: Handle,
    metrics: Arc<Metrics>,
    sights: Mutex<Sights>,
    seen: Notify,
    last_error: Mutex<Option<WebhookError>>,
}

/// One term's work, or the time between two.
#[derive(Default)]
struct Round {
    /// What has been told, as far as this round knows; `None` before the cursor was read.
    told: Option<HookCursor>,
    /// What the log says.
    confirmed: HookCursor,
    confirmed_at: Option<Instant>,
    /// Whether something was delivered since.
    delivered: bool,
    page: VecDeque<(News, HookCursor)>,
    /// Where the page ends.
    upto: HookCursor,
    /// Whether the receiver took nothing at the last try.
    failing: bool,
}

impl Courier {
    fn sights(&self) -> MutexGuard<'_, Sights> {
        self.sights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what this node sees.
    async fn watch(&self) {
        let mut last = 0;
        let (mut past, mut live) = self.handle.events.subscribe(last);
        loop {
            for event in std::mem::take(&mut past) {
                last = last.max(event.id);
                self.see(&event);
            }
            match live.recv().await {
                Ok(event) if event.id > last => past = vec![event],
                Ok(_known) => {}
                Err(RecvError::Lagged(_)) => (past, live) = self.handle.events.subscribe(last),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn see(&self, event: &crate::node::events::NodeEvent) {
        let (node, interval) = {
            let status = self.handle.status.borrow();
            (status.id.to_string(), status.interval.open)
        };
        self.sights().see(event, &node, interval);
        self.seen.notify_one();
    }

    async fn follow(&self) -> Infallible {
        loop {
            let term = *self.handle.leading.borrow();
            let mut leading = self.handle.leading.clone();
            let moved = async move {
                if leading.wait_for(|now| *now != term).await.is_err() {
                    // The driver has ended; `run` sees it too and ends everything here.
                    std::future::pending::<()>().await;
                }
            };
            select(pin!(moved), pin!(self.serve(term))).await;
        }
    }

    async fn serve(&self, term: Option<Term>) -> Infallible {
        // What was failing was dropped with the term in which it was tried.
        self.report(false);
        self.sights().lead(term.is_some());
        let mut round = Round::default();
        loop {
            let seen = *self.handle.applied.borrow();
            self.tell_dropped();
            self.gauge(&round);
            let Ok(Some(genesis)) = self.read(|reader| query::genesis(reader)).await else {
                self.wait(seen).await;
                continue;
            };
            if let Some((number, news)) = self.first_sight(&genesis) {
                self.deliver(&news, &mut round).await;
                self.sights().done(number);
                continue;
            }
            if term.is_none() || !self.advance(&mut round).await {
                self.wait(seen).await;
            }
        }
    }

    fn first_sight(&self, genesis: &Genesis) -> Option<(u64, News)> {
        self.sights().first(genesis)
    }

    /// Tells the next decision, if there is one; `false`: there is nothing to do.
    async fn advance(&self, round: &mut Round) -> bool {
        let Some(told) = round.told else { return self.begin(round).await };
        if let Some((news, after)) = round.page.pop_front() {
            self.deliver(&news, round).await;
            round.delivered = true;
            round.told = Some(after);
            self.confirm(round).await;
            return true;
        }
        let told = HookCursor {
            elections: told.elections.max(round.upto.elections),
            intervals: told.intervals.max(round.upto.intervals),
            rewards: told.rewards.max(round.upto.rewards),
        };
        round.told = Some(told);
        self.confirm(round).await;
        let kinds = self.hook.kinds.clone();
        let page = self.read(move |reader| decisions::page(reader, &told, &kinds)).await;
        let Ok(Page { news, upto, forgotten }) = page else { return false };
        if forgotten > 0 {
            self.forgotten(forgotten);
            self.report(round.failing);
        }
        let moved = upto != told;
        (round.page, round.upto) = (news.into(), upto);
        moved
    }

    /// Finds out where the hook is. One that the ledger does not know begins at the end of it, once that is on record.
    async fn begin(&self, round: &mut Round) -> bool {
        let voters = self.handle.status.borrow().voters.clone();
        let name = self.hook.name.clone();
        let looked = self.read(move |reader| {
            let versions = query::versions(reader)?;
            let known =
                voters.iter().all(|voter| versions.get(voter).is_some_and(|version| *version >= SINCE));
            let state = query::webhooks(reader)?.get(&name).map(|state| state.cursor);
            Ok((known && !voters.is_empty(), state, newest(reader)?))
        });
        match looked.await {
            Ok((_, Some(cursor), _)) => {
                (round.told, round.confirmed, round.upto) = (Some(cursor), cursor, cursor);
                true
            }
            Ok((true, None, newest)) => self.propose(newest).await,
            // Somebody who votes would not understand the command yet.
            _ => false,
        }
    }

    /// Puts the cursor on record, if that is due. A cursor that does not come through is put there again later.
    async fn confirm(&self, round: &mut Round) {
        let Some(told) = round.told.filter(|told| *told != round.confirmed) else { return };
        let every = if round.delivered { CONFIRM_EVERY } else { CONFIRM_QUIET_EVERY };
        if round.confirmed_at.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        round.confirmed_at = Some(Instant::now());
        if self.propose(told).await {
            round.confirmed = told;
            round.delivered = false;
        }
    }

    async fn propose(&self, cursor: HookCursor) -> bool {
        let request = Request::new(Command::Notified { hook: self.hook.name.clone(), cursor });
        match self.handle.submit(request, false, CONFIRM_TIMEOUT).await {
            Ok(applied) if applied.answer == Answer::Done => true,
            Ok(applied) => {
                tracing::warn!(hook = %self.hook.name, answer = ?applied.answer, "cursor refused");
                false
            }
            Err(failure) => {
                tracing::debug!(hook = %self.hook.name, %failure, "cursor not recorded");
                false
            }
        }
    }

    /// Tries until it is delivered, refused, or too old.
    async fn deliver(&self, news: &News, round: &mut Round) {
        let mut failures = 0;
        loop {
            let (why, asked) = match delivery::post(&self.client, &self.hook, news, wall()).await {
                Verdict::Delivered => {
                    self.count("delivered");
                    self.recovered(round);
                    return;
                }
                Verdict::Refused(why) => {
                    self.count("refused");
                    self.note(format!("{} was refused: {why}", news.id), true);
                    self.report(round.failing);
                    return self.give_up(news, &why);
                }
                Verdict::Failed { why, asked } => (why, asked),
            };
            self.count("failed");
            failures += 1;
            self.failed(round, &why);
            let age = Duration::from_millis(u64::try_from(wall().0.saturating_sub(news.at.0)).unwrap_or(0));
            if age >= self.hook.age_max {
                self.count("given_up");
                self.note(format!("{} was given up: {why}", news.id), true);
                self.report(true);
                return self.give_up(news, &why);
            }
            let pause = patience::pause(failures, rand::random());
            let until = Instant::now() + pause.max(asked.unwrap_or_default());
            while Instant::now() < until {
                self.gauge(round);
                self.tell_dropped();
                tokio::time::sleep((until - Instant::now()).min(IDLE_TICK)).await;
            }
        }
    }

    /// Tells the status how this hook fares. A status that finds no room is renewed with the next error.
    fn report(&self, failing: bool) {
        let last_error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (hook, place) = (self.hook.name.clone(), self.hook.place());
        let _room =
            self.handle.asks.try_send(Ask::Webhook(WebhookStatus { hook, place, failing, last_error }));
    }

    fn note(&self, what: impl Into<String>, lost: bool) {
        let error = WebhookError { at: wall(), what: what.into(), lost };
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn failed(&self, round: &mut Round, why: &str) {
        self.note(why, false);
        self.report(true);
        if std::mem::replace(&mut round.failing, true) {
            return;
        }
        let (name, place) = (&self.hook.name, self.hook.place());
        let message = format!("webhook {name} ({place}) takes nothing: {why}; it is tried again");
        tracing::warn!(event = "webhook_failing", "{message}");
        self.publish("webhook_failing", message, json!({ "hook": name, "place": place, "error": why }));
    }

    fn recovered(&self, round: &mut Round) {
        if std::mem::replace(&mut round.failing, false) {
            self.report(false);
            let name = &self.hook.name;
            let message = format!("webhook {name} ({}) takes what it is told again", self.hook.place());
            tracing::info!(event = "webhook_recovered", "{message}");
            self.publish("webhook_recovered", message, json!({ "hook": name }));
        }
    }

    fn give_up(&self, news: &News, why: &str) {
        let name = &self.hook.name;
        let message = format!("webhook {name} was not told of {}, which is given up: {why}", news.id);
        tracing::error!(event = "webhook_given_up", "{message}");
        let data = json!({ "hook": name, "id": news.id, "kind": news.kind, "error": why });
        self.publish("webhook_given_up", message, data);
    }

    fn forgotten(&self, records: u64) {
        let name = &self.hook.name;
        let message = format!(
            "webhook {name} was not told of {records} records, which are forgotten already: storage.history is too short \
             for how long its receiver was away"
        );
        tracing::error!(event = "webhook_gap", "{message}");
        self.note(&message, true);
        self.publish("webhook_gap", message, json!({ "hook": name, "records": records }));
    }

    fn tell_dropped(&self) {
        let dropped = self.sights().take_dropped();
        if dropped == 0 {
            return;
        }
        let name = &self.hook.name;
        let labels = HookResultLabels { hook: name.clone(), result: "dropped".to_string() };
        self.metrics.webhook_deliveries.get_or_create(&labels).inc_by(dropped);
        let message = format!("webhook {name}: its queue is full, the {dropped} oldest were dropped");
        tracing::error!(event = "webhook_dropped", "{message}");
        self.note(&message, true);
        self.publish("webhook_dropped", message, json!({ "hook": name, "count": dropped }));
    }

    fn publish(&self, kind: &str, message: String, data: serde_json::Value) {
        self.handle.events.publish(wall(), kind, message, data);
    }

    fn count(&self, result: &str) {
        let labels = HookResultLabels { hook: self.hook.name.clone(), result: result.to_string() };
        self.metrics.webhook_deliveries.get_or_create(&labels).inc();
    }

    fn gauge(&self, round: &Round) {
        let waiting = self.sights().waiting() + round.page.len();
        let label = HookLabel { hook: self.hook.name.clone() };
        self.metrics.webhook_queue.get_or_create(&label).set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Returns when the state has moved away from `applied`, or something was seen, or after [`IDLE_TICK`].
    async fn wait(&self, applied: crate::types::Index) {
        let mut index = self.handle.applied.clone();
        let moved = async {
            // When the driver is gone, `run` ends.
            let _moved = index.wait_for(|now| *now != applied).await.is_ok();
            tokio::time::sleep(COALESCE).await;
        };
        tokio::select! {
            () = moved => {}
            () = self.seen.notified() => {}
            () = tokio::time::sleep(IDLE_TICK) => {}
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce(&dyn Reader) -> Result<T, KeyspaceError> + Send + 'static,
    ) -> Result<T, KeyspaceError> {
        let state = Arc::clone(&self.handle.state);
        let read = tokio::task::spawn_blocking(move || reading(&*state.view()?));
        read.await.map_err(|error| KeyspaceError::Store(format!("reader failed: {error}")))?
    }
}

fn wall() -> UnixMillis {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX))
}
