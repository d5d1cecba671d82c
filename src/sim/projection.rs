//! The projector of a simulated node: the real one, polled by hand, on ports that only write down what is wanted.
//!
//! The projector is a future. It runs until it waits for something (time, an answer of MongoDB, news of the node); what it
//! asked for meanwhile lies in its `Cell`, from which the world takes it. When something has come, the world puts it into
//! the cell and polls again. There is no waker, no thread and no clock, so one seed gives one history.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bson::Document;
use bson::raw::RawDocumentBuf;

use crate::database::errors::ProjectionError;
use crate::database::feed::Feed;
use crate::database::ports::{
    Clock, Limits, News, Pending, Replaced, Replacement, Server, Surroundings, Updated, Visibility, Written,
};
use crate::database::projector;
use crate::ledger::keyspace::KeyspaceError;
use crate::ledger::records::Checkpoint;
use crate::node::status::ProjectionStatus;
use crate::types::{Index, Micros, NodeId, Term, UnixMillis};

use super::mongodb::{Reply, Request};

/// Names a request of one projector.
pub type CallId = u64;

/// What a projector sees of its node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sight {
    /// Virtual time.
    pub now: Micros,
    /// The node's wall clock.
    pub wall: UnixMillis,
    /// The term that the node leads.
    pub leading: Option<Term>,
    /// How far the node has applied the log.
    pub applied: Index,
}

/// What a projector wants done.
#[derive(Debug)]
pub enum Wish {
    /// To be polled at this time.
    Wake(Micros),
    /// A request to MongoDB.
    Call(CallId, Request),
    /// A checkpoint proposed to the cluster.
    Propose(Checkpoint),
    /// A status for the node.
    Report(ProjectionStatus),
    /// News for people.
    Tell(News),
    /// Documents that were new.
    Written(u64),
}

/// Where a projector and the world meet.
#[derive(Debug, Default)]
struct Cell {
    sight: Sight,
    awake: BTreeSet<Micros>,
    wishes: Vec<Wish>,
    calls: CallId,
    replies: BTreeMap<CallId, Result<Reply, ProjectionError>>,
    wants_entries: bool,
}

type Shared = Arc<Mutex<Cell>>;

fn lock(cell: &Shared) -> MutexGuard<'_, Cell> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running projector.
pub struct Projecting {
    cell: Shared,
    future: Pin<Box<dyn Future<Output = Infallible> + Send>>,
}

impl Projecting {
    /// A projector of the node `id`, which reads `feed`.
    pub fn new(id: NodeId, feed: Arc<dyn Feed>, limits: Limits) -> Projecting {
        let cell = Shared::default();
        let around = Around { cell: cell.clone(), id, feed, limits };
        Projecting { cell, future: Box::pin(async move { projector::follow(&around, "simulated").await }) }
    }

    /// An answer of MongoDB has come.
    pub fn answered(&mut self, call: CallId, reply: Result<Reply, ProjectionError>) {
        lock(&self.cell).replies.insert(call, reply);
    }

    /// Whether it waits for the node to apply more.
    pub fn wants_entries(&self) -> bool {
        lock(&self.cell).wants_entries
    }

    /// Lets it run until it waits for something; returns what it wants.
    pub fn poll(&mut self, sight: Sight) -> Vec<Wish> {
        {
            let mut cell = lock(&self.cell);
            cell.sight = sight;
            cell.wants_entries = false;
            cell.awake.retain(|at| *at > sight.now);
        }
        match self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => std::mem::take(&mut lock(&self.cell).wishes),
            Poll::Ready(never) => match never {},
        }
    }
}

/// The ports, on the projector's side of the cell.
struct Around {
    cell: Shared,
    id: NodeId,
    feed: Arc<dyn Feed>,
    limits: Limits,
}

/// Waits until `ready`, which may write into the cell what it waits for.
fn until<'a, T>(cell: &Shared, mut ready: impl FnMut(&mut Cell) -> Option<T> + Send + 'a) -> Pending<'a, T> {
    let cell = cell.clone();
    Box::pin(poll_fn(move |_| match ready(&mut lock(&cell)) {
        Some(value) => Poll::Ready(value),
        None => Poll::Pending,
    }))
}

fn sleep<'a>(cell: &Shared, span: Duration) -> Pending<'a, ()> {
    let end = lock(cell).sight.now.after(span);
    until(cell, move |cell| {
        if cell.sight.now >= end {
            return Some(());
        }
        if cell.awake.insert(end) {
            cell.wishes.push(Wish::Wake(end));
        }
        None
    })
}

impl Clock for Around {
    fn now(&self) -> Micros {
        lock(&self.cell).sight.now
    }

    fn wall(&self) -> UnixMillis {
        lock(&self.cell).sight.wall
    }

    fn sleep(&self, span: Duration) -> Pending<'_, ()> {
        sleep(&self.cell, span)
    }
}

impl Surroundings for Around {
    type Server = Connection;

    fn connect(&self) -> Pending<'_, Result<Connection, ProjectionError>> {
        let cell = self.cell.clone();
        Box::pin(async move { Ok(Connection { cell }) })
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn node(&self) -> NodeId {
        self.id.clone()
    }

    fn leading(&self) -> Option<Term> {
        lock(&self.cell).sight.leading
    }

    fn leading_changed(&self, from: Option<Term>) -> Pending<'_, ()> {
        until(&self.cell, move |cell| (cell.sight.leading != from).then_some(()))
    }

    fn applied(&self) -> Index {
        lock(&self.cell).sight.applied
    }

    fn applied_changed(&self, from: Index) -> Pending<'_, ()> {
        until(&self.cell, move |cell| {
            cell.wants_entries = cell.sight.applied == from;
            (!cell.wants_entries).then_some(())
        })
    }

    fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce(&dyn Feed) -> Result<T, KeyspaceError> + Send + 'static,
    ) -> Pending<'_, Result<T, ProjectionError>> {
        Box::pin(async move { Ok(reading(&*self.feed)?) })
    }

    fn propose(&self, checkpoint: Checkpoint) -> bool {
        lock(&self.cell).wishes.push(Wish::Propose(checkpoint));
        true
    }

    fn report(&self, status: &ProjectionStatus) -> bool {
        lock(&self.cell).wishes.push(Wish::Report(status.clone()));
        true
    }

    fn count(&self, written: &Written, _took: Duration) {
        lock(&self.cell).wishes.push(Wish::Written(written.values().sum()));
    }

    fn redact(&self, text: &str) -> String {
        text.to_string()
    }

    fn tell(&self, news: News) {
        lock(&self.cell).wishes.push(Wish::Tell(news));
    }
}

/// The simulated MongoDB as a projector reaches it.
struct Connection {
    cell: Shared,
}

impl Connection {
    /// Sends a request when first polled, and waits for its answer.
    fn call<'a, T>(
        &self,
        request: Request,
        read: impl Fn(Reply) -> T + Send + 'a,
    ) -> Pending<'a, Result<T, ProjectionError>> {
        let (mut request, mut sent) = (Some(request), 0);
        until(&self.cell, move |cell| {
            if let Some(request) = request.take() {
                cell.calls += 1;
                sent = cell.calls;
                cell.wishes.push(Wish::Call(sent, request));
            }
            cell.replies.remove(&sent).map(|reply| reply.map(&read))
        })
    }
}

impl Clock for Connection {
    fn now(&self) -> Micros {
        lock(&self.cell).sight.now
    }

    fn wall(&self) -> UnixMillis {
        lock(&self.cell).sight.wall
    }

    fn sleep(&self, span: Duration) -> Pending<'_, ()> {
        sleep(&self.cell, span)
    }
}

impl Server for Connection {
    fn prepare(&self) -> Pending<'_, Result<(), ProjectionError>> {
        self.call(Request::Prepare, |_| ())
    }

    fn find(
        &self,
        collection: &'static str,
        filter: Document,
        _visibility: Visibility,
    ) -> Pending<'_, Result<Vec<RawDocumentBuf>, ProjectionError>> {
        // Always what is shown first, as a server alone does: the weaker of the two.
        self.call(Request::Find { collection, filter }, |reply| reply.found)
    }

    fn insert<'a>(
        &'a self,
        collection: &'static str,
        documents: &'a [RawDocumentBuf],
    ) -> Pending<'a, Result<Vec<usize>, ProjectionError>> {
        let documents = documents.to_vec();
        self.call(Request::Insert { collection, documents }, |reply| reply.duplicates)
    }

    fn update(
        &self,
        collection: &'static str,
        filter: Document,
        change: Document,
        upsert: bool,
    ) -> Pending<'_, Result<Updated, ProjectionError>> {
        self.call(Request::Update { collection, filter, change, upsert }, |reply| reply.updated)
    }

    fn delete(&self, collection: &'static str, filter: Document) -> Pending<'_, Result<(), ProjectionError>> {
        self.call(Request::Delete { collection, filter }, |_| ())
    }

    fn replace<'a>(
        &'a self,
        collection: &'static str,
        replacements: &'a [Replacement],
        upsert: bool,
    ) -> Pending<'a, Result<Replaced, ProjectionError>> {
        let replacements = replacements.to_vec();
        self.call(Request::Replace { collection, replacements, upsert }, |reply| reply.replaced)
    }
}
