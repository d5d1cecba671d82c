//! Elections as a drawing: a lane per super-node, who led it in the colour of the term, votes as arrows, and the gaps in
//! which nobody led. Pure: what is known goes in, where it is drawn comes out.

use std::collections::BTreeSet;

use askama::Template;

use crate::ledger::records::Election;
use crate::node::events::NodeEvent;
use crate::types::{NodeId, Term, UnixMillis};

use super::chart::{Tick, tenth, time_label, time_ticks};
use super::recorder::Leadership;
use super::text;

/// The drawing, in units of its own.
const WIDTH: f64 = 1_000.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 985.0;
const TOP: f64 = 44.0;
const LANE: f64 = 42.0;
const BAR: f64 = 18.0;
/// Colours of terms; they come again after so many.
const COLOURS: u64 = 6;
/// Labels are at least so wide.
const LABEL_WIDTH: f64 = 96.0;
/// How wide a letter of a label and of its reason is, about: 13 and 11 pixels high.
const LETTER_WIDTH: (f64, f64) = (7.4, 5.7);
/// Marks of what this node saw that are drawn at most.
const MARKS_MAX: usize = 400;

/// What is known.
pub struct Scene<'a> {
    /// The left edge.
    pub from: UnixMillis,
    /// The right edge.
    pub to: UnixMillis,
    /// The present, where the last reign ends so far.
    pub now: UnixMillis,
    /// The super-nodes of now.
    pub nodes: &'a [NodeId],
    /// Recorded elections in order of their terms, the one before the left edge included.
    pub elections: &'a [Election],
    /// Who led, as this node saw it, oldest first.
    pub seen: &'a [Leadership],
    /// What this node saw happen.
    pub events: &'a [NodeEvent],
    /// This node.
    pub own: &'a NodeId,
    /// Whether votes leave their lane a little before the win: for a drawing whose axis is that fine.
    pub close: bool,
}

/// A row.
#[derive(Debug, PartialEq)]
pub struct Lane {
    y: f64,
    name: String,
}

/// A time in which somebody led.
#[derive(Debug, PartialEq)]
pub struct Reign {
    x: f64,
    y: f64,
    width: f64,
    class: String,
    label: String,
    title: String,
}

/// A time in which nobody led.
#[derive(Debug, PartialEq)]
pub struct Gap {
    x: f64,
    width: f64,
    middle: f64,
    /// Half of what its texts take.
    half: f64,
    label: String,
    reason: String,
    title: String,
}

/// A vote.
#[derive(Debug, PartialEq)]
pub struct Vote {
    x1: f64,
    y1: f64,
    x2: f64,
    y2: f64,
    class: String,
    title: String,
}

/// Something that this node saw, in its own lane.
#[derive(Debug, PartialEq)]
pub struct Mark {
    x: f64,
    y: f64,
    class: &'static str,
    title: String,
}

/// The drawing, ready to be written down.
#[derive(Template)]
#[template(path = "lanes.html")]
pub struct Lanes {
    /// Keeps the ids of two drawings on one page apart.
    key: &'static str,
    height: f64,
    bottom: f64,
    lanes: Vec<Lane>,
    reigns: Vec<Reign>,
    gaps: Vec<Gap>,
    votes: Vec<Vote>,
    marks: Vec<Mark>,
    ticks: Vec<Tick>,
    summary: String,
}

/// The class of a term's colour.
pub fn colour(term: Term) -> String {
    format!("t{}", term.0 % COLOURS)
}

/// A span in which `leader` led, or nobody did.
struct Span<'a> {
    from: UnixMillis,
    to: UnixMillis,
    leader: Option<&'a NodeId>,
    term: Term,
}

impl Scene<'_> {
    fn x(&self, at: UnixMillis) -> f64 {
        let length = self.to.0.saturating_sub(self.from.0).max(1) as f64;
        let part = at.0.saturating_sub(self.from.0) as f64 / length;
        tenth(LEFT + (RIGHT - LEFT) * part.clamp(0.0, 1.0))
    }

    /// What this node saw since the last election that is on record: the end of that reign, and who led after it. The clocks
    /// of nodes differ, so what it saw is put in order by what it says, not by its time.
    fn unrecorded(&self) -> Vec<Span<'_>> {
        let last = self.elections.last();
        let on_record = |seen: &Leadership| {
            last.is_some_and(|last| seen.term == last.term && seen.leader.as_ref() == Some(&last.leader))
        };
        let since = self.seen.iter().rposition(on_record).map_or(0, |at| at + 1);
        let term = last.map_or(Term(0), |last| last.term);
        let mut spans: Vec<Span<'_>> = Vec::new();
        for seen in self.seen[since..].iter().filter(|seen| seen.term >= term) {
            if let Some(before) = spans.last_mut() {
                before.to = seen.at;
            }
            let leader = seen.leader.as_ref();
            // A term that only goes up while nobody leads is the same gap.
            match spans.last_mut() {
                Some(before) if before.leader == leader && leader.is_none() => before.to = self.now,
                _ => spans.push(Span { from: seen.at, to: self.now, leader, term: seen.term }),
            }
        }
        spans
    }

    /// All spans in order of time.
    fn spans(&self) -> Vec<Span<'_>> {
        let rest = self.unrecorded();
        let mut spans = Vec::new();
        for (at, election) in self.elections.iter().enumerate() {
            let end = match self.elections.get(at + 1) {
                Some(next) => began(next),
                None => rest.first().map_or(self.now, |first| first.from),
            };
            let (from, term) = (election.at, election.term);
            spans.push(Span { from, to: end.max(from), leader: Some(&election.leader), term });
        }
        spans.extend(rest);
        spans
    }

    fn names(&self) -> Vec<&NodeId> {
        let mut names: BTreeSet<&NodeId> = self.nodes.iter().collect();
        for election in self.elections {
            names.insert(&election.leader);
            names.extend(&election.votes);
        }
        names.into_iter().collect()
    }

    /// Whether a time lies within the drawing.
    fn shows(&self, at: UnixMillis) -> bool {
        at >= self.from && at <= self.to
    }

    /// Where everything is drawn.
    pub fn draw(&self) -> Lanes {
        let names = self.names();
        let row = |id: &NodeId| names.iter().position(|name| *name == id).unwrap_or(0);
        let middle = |id: &NodeId| TOP + LANE * row(id) as f64 + LANE / 2.0;
        let bottom = TOP + LANE * names.len() as f64;
        let mut reigns = Vec::new();
        let mut gaps = Vec::new();
        for span in self.spans().iter().filter(|span| span.to >= self.from && span.from <= self.to) {
            match span.leader {
                Some(leader) => reigns.push(self.reign(span, leader, middle(leader))),
                None => gaps.push(self.open_gap(span)),
            }
        }
        let votes: Vec<Vote> = self
            .elections
            .iter()
            .filter(|election| self.shows(election.at))
            .flat_map(|election| election.votes.iter().map(|voter| self.vote(election, voter, &middle)))
            .collect();
        gaps.extend(self.elections.iter().filter_map(|election| self.gap(election)));
        gaps.sort_by(|a, b| a.x.total_cmp(&b.x));
        hide_crowded(&mut gaps);
        let marks = self.events.iter().rev().filter_map(|event| self.mark(event, middle(self.own)));
        let (times, step) = time_ticks(self.from, self.to, 8);
        Lanes {
            key: if self.close { "close" } else { "all" },
            height: bottom + 30.0,
            bottom,
            lanes: names.iter().map(|name| Lane { y: tenth(middle(name)), name: name.to_string() }).collect(),
            summary: self.summary(gaps.len()),
            marks: marks.take(MARKS_MAX).collect(),
            ticks: times.into_iter().map(|at| Tick { at: self.x(at), label: time_label(at, step) }).collect(),
            reigns,
            gaps,
            votes,
        }
    }

    fn reign(&self, span: &Span<'_>, leader: &NodeId, middle: f64) -> Reign {
        let (from, to) = (self.x(span.from), self.x(span.to));
        let width = tenth((to - from).max(2.0));
        let length = text::span(text::between(span.from, span.to));
        Reign {
            x: from,
            y: tenth(middle - BAR / 2.0),
            width,
            class: colour(span.term),
            label: if width > 60.0 { format!("term {}", span.term) } else { String::new() },
            title: format!(
                "{leader} leads term {} from {} UTC, for {length}{}",
                span.term,
                text::stamp(span.from),
                if span.to == self.now { " so far" } else { "" }
            ),
        }
    }

    /// The gap before a recorded election.
    fn gap(&self, election: &Election) -> Option<Gap> {
        let from = began(election);
        if election.leaderless_ms == 0 || election.at < self.from || from > self.to {
            return None;
        }
        let reason = match &election.previous {
            Some(previous) => format!("{previous} \u{2192} {}: {}", election.leader, election.reason),
            None => format!("{}: {}", election.leader, election.reason),
        };
        Some(self.place(
            (from, election.at),
            text::span(election.leaderless_ms),
            reason.replace('_', " "),
            format!(
                "Nobody led for {} ms before term {}, from {} UTC: {}",
                election.leaderless_ms,
                election.term,
                text::clock_ms(from),
                election.reason
            ),
        ))
    }

    /// A gap that is still open, or that no election has closed on record.
    fn open_gap(&self, span: &Span<'_>) -> Gap {
        let length = text::span(text::between(span.from, span.to));
        let title =
            format!("{} knows no leader from {} UTC, for {length}", self.own, text::clock_ms(span.from));
        self.place((span.from, span.to), length, "no leader".to_string(), title)
    }

    fn place(
        &self,
        (from, to): (UnixMillis, UnixMillis),
        label: String,
        reason: String,
        title: String,
    ) -> Gap {
        let (x, end) = (self.x(from), self.x(to));
        let width = tenth((end - x).max(3.0));
        // Labels stay within the drawing, as long as they can.
        let letters = |text: &str| text.chars().count() as f64;
        let text = (letters(&label) * LETTER_WIDTH.0).max(letters(&reason) * LETTER_WIDTH.1);
        let half = (text.max(LABEL_WIDTH) / 2.0).min((RIGHT - LEFT) / 2.0 - 1.0);
        let middle = tenth((x + width / 2.0).clamp(LEFT + half, RIGHT - half));
        Gap { x: tenth(end - width).min(x), width, middle, half, label, reason, title }
    }

    fn vote(&self, election: &Election, voter: &NodeId, middle: &dyn Fn(&NodeId) -> f64) -> Vote {
        let won = self.x(election.at);
        let lead = if self.close { 46.0 } else { 14.0 };
        let (from, to) = (middle(voter), middle(&election.leader));
        // An arrow ends at the bar, not within it.
        let edge = if from < to { -BAR / 2.0 } else { BAR / 2.0 };
        let own = *voter == election.leader;
        Vote {
            x1: tenth(if own { won - lead } else { (won - lead).max(LEFT) }),
            y1: tenth(from),
            x2: won,
            y2: tenth(if own { to } else { to + edge }),
            class: colour(election.term),
            title: if own {
                format!("{voter} voted for itself in term {}", election.term)
            } else {
                format!("{voter} voted for {} in term {}", election.leader, election.term)
            },
        }
    }

    /// Tolerant: events of other kinds, and those that lack a field, are not drawn.
    fn mark(&self, event: &NodeEvent, middle: f64) -> Option<Mark> {
        let truth = |name: &str| event.data.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false);
        let class = match event.kind.as_str() {
            "election_started" if truth("pre_vote") => "asks",
            "election_started" => "stands",
            "vote" if truth("granted") => "grants",
            "vote" => "refuses",
            "stepped_down" => "steps-down",
            _ => return None,
        };
        let shown = self.shows(event.at);
        let title = || format!("{} UTC, {}: {}", text::clock_ms(event.at), self.own, event.message);
        shown.then(|| Mark { x: self.x(event.at), y: tenth(middle + BAR / 2.0 - 3.0), class, title: title() })
    }

    fn summary(&self, gaps: usize) -> String {
        let shown = self.elections.iter().filter(|election| self.shows(election.at)).count();
        format!(
            "Who led from {} to {} UTC: {shown} elections, {gaps} times without a leader; the table below has the same in words",
            text::stamp(self.from),
            text::stamp(self.to)
        )
    }
}

/// When the time without a leader before an election began.
fn began(election: &Election) -> UnixMillis {
    UnixMillis(election.at.0.saturating_sub(i64::try_from(election.leaderless_ms).unwrap_or(i64::MAX)))
}

/// Of labels that would lie on each other, the later one stays: the newest gap is the one that is looked for.
fn hide_crowded(gaps: &mut [Gap]) {
    let mut next: Option<f64> = None;
    for gap in gaps.iter_mut().rev() {
        if next.is_some_and(|next| next < gap.middle + gap.half) {
            gap.label.clear();
            gap.reason.clear();
        } else {
            next = Some(gap.middle - gap.half);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Index;
    use serde_json::json;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a name")
    }

    fn election(term: u64, leader: &str, previous: Option<&str>, leaderless_ms: u64, at: i64) -> Election {
        Election {
            term: Term(term),
            leader: node(leader),
            previous: previous.map(node),
            reason: "connection_lost".to_string(),
            votes: BTreeSet::from([node(leader), node("n3")]),
            leaderless_ms,
            at: UnixMillis(at),
            index: Index(term),
        }
    }

    fn seen(at: i64, term: u64, leader: Option<&str>) -> Leadership {
        Leadership { at: UnixMillis(at), term: Term(term), leader: leader.map(node) }
    }

    fn draw(elections: &[Election], seen: &[Leadership], events: &[NodeEvent]) -> Lanes {
        let nodes = ["n1", "n2", "n3"].map(node);
        Scene {
            from: UnixMillis(0),
            to: UnixMillis(100_000),
            now: UnixMillis(100_000),
            nodes: &nodes,
            elections,
            seen,
            events,
            own: &nodes[2],
            close: false,
        }
        .draw()
    }

    #[test]
    fn a_change_of_leader_is_two_reigns_a_gap_with_its_reason_and_arrows_of_votes() {
        let elections = [election(1, "n1", None, 0, 10_000), election(2, "n2", Some("n1"), 312, 60_312)];
        let lanes = draw(&elections, &[], &[]);
        let reigns: Vec<(&str, f64, f64)> =
            lanes.reigns.iter().map(|reign| (reign.class.as_str(), reign.x, reign.width)).collect();
        assert_eq!(reigns, [("t1", 179.5, 447.5), ("t2", 629.8, 355.2)]);
        assert!(lanes.reigns[0].y < lanes.reigns[1].y, "each in the lane of its leader");
        let [gap] = &lanes.gaps[..] else { panic!("{:?}", lanes.gaps) };
        assert_eq!((gap.label.as_str(), gap.reason.as_str()), ("312 ms", "n1 \u{2192} n2: connection lost"));
        assert!(gap.x >= 626.0 && gap.x + gap.width <= 630.5, "{gap:?}");
        let drawn = lanes.render().expect("a drawing");
        assert!(
            drawn.contains("n3 voted for n2 in term 2") && drawn.contains("n2 voted for itself in term 2")
        );
        assert!(drawn.contains("312 ms") && drawn.contains("UTC"));
    }

    #[test]
    fn a_label_at_the_edge_stays_within_the_drawing() {
        let long = "a-name-that-somebody-thought-of-for-a-machine";
        for (leader, at) in [("n2", 99_900), ("n2", 700), (long, 99_900)] {
            let elections = [election(1, "n1", None, 0, 10), election(2, leader, Some("n1"), 312, at)];
            let lanes = draw(&elections, &[], &[]);
            let gap = lanes.gaps.last().expect("a gap");
            // Places are rounded to tenths.
            let letters = gap.reason.chars().count() as f64 * LETTER_WIDTH.1 - 0.2;
            assert!(gap.middle - letters / 2.0 >= LEFT && gap.middle + letters / 2.0 <= RIGHT, "{gap:?}");
        }
    }

    #[test]
    fn a_gap_that_nobody_has_closed_grows_up_to_now() {
        let elections = [election(1, "n1", None, 0, 10_000)];
        let lost = [seen(9_000, 1, Some("n1")), seen(70_000, 1, None), seen(80_000, 2, None)];
        let lanes = draw(&elections, &lost, &[]);
        assert_eq!((lanes.reigns.len(), lanes.gaps.len()), (1, 1));
        assert_eq!(lanes.gaps[0].label, "30.0 s", "one gap, however the term goes up");
        assert!(lanes.gaps[0].title.starts_with("n3 knows no leader from 00:01:10.000 UTC"));
        assert!(lanes.reigns[0].title.ends_with("for 1 min 00 s"), "{}", lanes.reigns[0].title);
        // The clock of the leader that recorded its election may be behind this node's.
        let found = [seen(70_000, 1, None), seen(71_000, 1, Some("n1"))];
        assert!(draw(&elections, &found, &[]).gaps.is_empty());
        // A leader that is not on record yet is drawn all the same.
        let won = [seen(70_000, 1, None), seen(71_000, 2, Some("n2"))];
        let lanes = draw(&elections, &won, &[]);
        assert_eq!((lanes.reigns.len(), lanes.reigns[1].class.as_str()), (2, "t2"));
    }

    #[test]
    fn marks_are_what_this_node_saw_and_unknown_events_are_passed_over() {
        let event = |kind: &str, data| NodeEvent {
            id: 1,
            at: UnixMillis(50_000),
            kind: kind.to_string(),
            message: "<b>".to_string(),
            data,
        };
        let events = [
            event("election_started", json!({"pre_vote": true})),
            event("vote", json!({"granted": true})),
            event("vote", json!(null)),
            event("stepped_down", json!({})),
            event("something_new", json!({})),
        ];
        let lanes = draw(&[], &[], &events);
        let classes: Vec<&str> = lanes.marks.iter().map(|mark| mark.class).collect();
        assert_eq!(classes, ["steps-down", "refuses", "grants", "asks"]);
        let drawn = lanes.render().expect("a drawing");
        assert!(!drawn.contains("<b>") && drawn.contains("&#60;b&#62;"), "{drawn}");
    }

    #[test]
    fn labels_do_not_lie_on_each_other() {
        let elections: Vec<Election> =
            (1..=20).map(|term| election(term, "n1", Some("n2"), 300, 40_000 + 500 * term as i64)).collect();
        let lanes = draw(&elections, &[], &[]);
        let labelled: Vec<&Gap> = lanes.gaps.iter().filter(|gap| !gap.label.is_empty()).collect();
        assert!(labelled.windows(2).all(|pair| pair[1].middle - pair[0].middle >= LABEL_WIDTH));
        assert_eq!(labelled.last().map(|gap| gap.x), lanes.gaps.last().map(|gap| gap.x));
    }
}
