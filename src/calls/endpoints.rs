//! The nodes that a client knows, and in which order it asks them.

use std::time::Duration;

use crate::types::Micros;

/// How long an endpoint that did not answer is asked last; doubles with each further silence up to [`SICK_MAX`].
pub const SICK_MIN: Duration = Duration::from_millis(500);
/// Longest time for which an endpoint is asked last.
pub const SICK_MAX: Duration = Duration::from_secs(8);

#[derive(Debug, Clone)]
struct Endpoint {
    name: String,
    /// Silences since its last word.
    silences: u32,
    /// Asked last until then.
    sick_until: Option<Micros>,
}

/// Shared by all calls of a client: what one call learns helps the next.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// As given.
    known: Vec<Endpoint>,
    /// Answered last, and so was or knew the leader.
    preferred: Option<String>,
}

impl Endpoints {
    /// In the order in which they are asked while nothing is known of them.
    pub fn new(names: impl IntoIterator<Item = String>) -> Endpoints {
        let mut endpoints = Endpoints { known: Vec::new(), preferred: None };
        names.into_iter().for_each(|name| endpoints.add(name));
        endpoints
    }

    /// Learns of one more, which is asked after those that are known.
    pub fn add(&mut self, name: String) {
        if self.known.iter().all(|endpoint| endpoint.name != name) {
            self.known.push(Endpoint { name, silences: 0, sick_until: None });
        }
    }

    /// How many were given.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whom to ask in which order: where the leader is said to be, who answered last, the others as given; whoever was
    /// silent lately comes last, but does come.
    pub fn order(&self, leader: Option<&str>, now: Micros) -> Vec<String> {
        let mut order: Vec<String> = leader.into_iter().map(str::to_string).collect();
        let names = |sick: bool| {
            let of_this_health =
                move |endpoint: &&Endpoint| endpoint.sick_until.is_some_and(|until| now < until) == sick;
            self.known.iter().filter(of_this_health).map(|endpoint| &endpoint.name)
        };
        let preferred = self.preferred.iter().filter(|preferred| !names(true).any(|sick| sick == *preferred));
        for name in preferred.chain(names(false)).chain(names(true)) {
            if !order.contains(name) {
                order.push(name.clone());
            }
        }
        order
    }

    /// It answered what was asked.
    pub(super) fn answered(&mut self, name: &str) {
        self.spoke(name);
        self.preferred = Some(name.to_string());
    }

    /// It said something.
    pub(super) fn spoke(&mut self, name: &str) {
        if let Some(endpoint) = self.known.iter_mut().find(|endpoint| endpoint.name == name) {
            (endpoint.silences, endpoint.sick_until) = (0, None);
        }
    }

    /// It said nothing.
    pub(super) fn silent(&mut self, name: &str, now: Micros) {
        if self.preferred.as_deref() == Some(name) {
            self.preferred = None;
        }
        if let Some(endpoint) = self.known.iter_mut().find(|endpoint| endpoint.name == name) {
            let span = SICK_MIN.saturating_mul(1 << endpoint.silences.min(16)).min(SICK_MAX);
            endpoint.silences = endpoint.silences.saturating_add(1);
            endpoint.sick_until = Some(now.after(span));
        }
    }
}
