//! The heartbeat bar: how a member did in each of the last intervals, in shape and colour, and how long it was out.

use std::collections::BTreeMap;

use askama::Template;

use crate::ledger::keyspace::{KeyspaceError, Reader};
use crate::ledger::query;
use crate::ledger::records::{Interval, Member, Observation, Verdict};
use crate::ledger::score::{HALF_PPM, MISS_FREE_PPM, WHOLE_PPM};
use crate::types::{IntervalId, MemberId};

use super::recorder::Level;
use super::text;

/// Cells of a bar: the open interval, and those before it.
pub const CELLS: usize = 60;
/// Width of a cell with its space, and height of a bar, in units of the drawing.
const CELL: f64 = 10.0;
const HEIGHT: f64 = 28.0;

/// How a member did in an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// It answered, or missed so little that nothing was taken for it.
    Answered,
    /// It missed enough to be fined.
    Partly,
    /// It missed at least half.
    Missed,
    /// It had announced maintenance.
    Excused,
    /// The interval was void: nobody was judged.
    Void,
    /// It was not judged.
    Absent,
}

impl Beat {
    /// From what is on record.
    pub fn of(verdict: Verdict, observation: Option<&Observation>) -> Beat {
        match observation {
            _ if verdict == Verdict::Void => Beat::Void,
            None => Beat::Absent,
            Some(seen) if seen.excused => Beat::Excused,
            // Too few pings for a score.
            Some(seen) if seen.sent == 0 => Beat::Absent,
            Some(seen) if seen.availability_ppm < HALF_PPM => Beat::Missed,
            Some(seen) if WHOLE_PPM.saturating_sub(seen.availability_ppm) > MISS_FREE_PPM => Beat::Partly,
            Some(_) => Beat::Answered,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Beat::Answered => "answered",
            Beat::Partly => "answered in part",
            Beat::Missed => "silent",
            Beat::Excused => "maintenance",
            Beat::Void => "void, nobody was judged",
            Beat::Absent => "not judged",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Beat::Answered => "answered",
            Beat::Partly => "partly",
            Beat::Missed => "missed",
            Beat::Excused => "excused",
            Beat::Void => "void",
            Beat::Absent => "absent",
        }
    }

    /// Upper edge and height: the shape says the same as the colour.
    fn shape(self) -> (f64, f64) {
        match self {
            Beat::Answered => (2.0, 24.0),
            Beat::Partly => (10.0, 16.0),
            Beat::Missed => (19.0, 7.0),
            Beat::Excused => (12.0, 4.0),
            Beat::Void => (3.0, 22.0),
            Beat::Absent => (24.0, 2.0),
        }
    }
}

/// A cell as drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    x: f64,
    y: f64,
    height: f64,
    class: &'static str,
    title: String,
}

/// A bar, ready to be written down.
#[derive(Debug, Template)]
#[template(path = "heartbeat.html")]
pub struct Bar {
    width: f64,
    summary: String,
    cells: Vec<Cell>,
}

/// The last settled intervals, oldest first, and what members did in them.
#[derive(Debug, Default)]
pub struct Window {
    /// The intervals.
    pub intervals: Vec<Interval>,
    /// The open one.
    pub open: IntervalId,
    seen: BTreeMap<MemberId, BTreeMap<IntervalId, Observation>>,
}

impl Window {
    /// The last intervals and what `members` did in them. The members stand in order of their names; `after` is the name
    /// that comes before them in the roster. `others` stand anywhere.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn read(
        reader: &dyn Reader,
        after: Option<&MemberId>,
        members: &[Member],
        others: &[MemberId],
    ) -> Result<Window, KeyspaceError> {
        let mut window = Window::before(reader, None)?;
        for interval in &window.intervals {
            let page = query::observations_page(reader, interval.id, after, members.len())?;
            let known = |seen: &Observation| members.iter().any(|member| member.id == seen.member);
            for seen in page.into_iter().filter(known) {
                window.seen.entry(seen.member.clone()).or_default().insert(interval.id, seen);
            }
        }
        for other in others {
            window.add(reader, other)?;
        }
        Ok(window)
    }

    /// The last intervals, those from `end` on left out, and what one member did in them.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn of_member(
        reader: &dyn Reader,
        end: Option<IntervalId>,
        member: &MemberId,
    ) -> Result<Window, KeyspaceError> {
        let mut window = Window::before(reader, end)?;
        window.add(reader, member)?;
        Ok(window)
    }

    fn before(reader: &dyn Reader, end: Option<IntervalId>) -> Result<Window, KeyspaceError> {
        let Some(counters) = query::interval_state(reader)? else { return Ok(Window::default()) };
        let end = end.map_or(counters.next_settle, |end| end.min(counters.next_settle));
        let after = IntervalId(end.0.saturating_sub(CELLS as u64).max(1) - 1);
        let wanted = usize::try_from(end.0.saturating_sub(after.0 + 1)).unwrap_or(CELLS);
        let intervals = query::intervals(reader, after, wanted, &query::IntervalFilter::default())?;
        Ok(Window { intervals, open: counters.open, seen: BTreeMap::new() })
    }

    fn add(&mut self, reader: &dyn Reader, member: &MemberId) -> Result<(), KeyspaceError> {
        for interval in &self.intervals {
            if let Some(seen) = query::observation(reader, interval.id, member)? {
                self.seen.entry(member.clone()).or_default().insert(interval.id, seen);
            }
        }
        Ok(())
    }

    /// What a member did in an interval.
    pub fn observation(&self, member: &MemberId, interval: IntervalId) -> Option<&Observation> {
        self.seen.get(member)?.get(&interval)
    }

    /// How a member did, interval by interval.
    pub fn beats(&self, member: &MemberId) -> Vec<Beat> {
        self.intervals
            .iter()
            .map(|interval| Beat::of(interval.verdict, self.observation(member, interval.id)))
            .collect()
    }

    /// The share of pings that a member answered in all of them, parts per million; `None` without pings.
    pub fn availability_ppm(&self, member: &MemberId) -> Option<u32> {
        let seen = self.seen.get(member)?;
        let (sent, answered) = seen.values().fold((0_u64, 0_u64), |(sent, answered), observation| {
            (sent + observation.sent, answered + observation.answered)
        });
        let ppm = (answered * u64::from(WHOLE_PPM)).checked_div(sent)?;
        Some(u32::try_from(ppm).unwrap_or(WHOLE_PPM))
    }

    /// Something in microseconds of each interval in which a member answered.
    pub fn micros(&self, member: &MemberId, of: impl Fn(&Observation) -> u32) -> Vec<Option<f64>> {
        let value = |interval: &Interval| {
            let seen = self.observation(member, interval.id).filter(|seen| seen.answered > 0)?;
            Some(f64::from(of(seen)))
        };
        self.intervals.iter().map(value).collect()
    }

    /// The bar of a member; `level`: what the detector says now, for the open interval.
    pub fn bar(&self, member: &MemberId, level: Option<Level>) -> Bar {
        let beats = self.beats(member);
        let outages = outages(&beats);
        let shown = self.intervals.len().min(CELLS - 1);
        let skipped = self.intervals.len() - shown;
        let first = CELLS - 1 - shown;
        let mut cells = Vec::with_capacity(CELLS);
        for (place, (at, beat)) in beats.iter().enumerate().skip(skipped).enumerate() {
            let outage = outages.iter().find(|(begin, end)| (*begin..=*end).contains(&at));
            let title = self.title(member, at, *beat, outage);
            let (y, height) = beat.shape();
            cells.push(Cell {
                x: CELL * (first + place) as f64 + 1.0,
                y,
                height,
                class: beat.class(),
                title,
            });
        }
        if let Some(level) = level {
            let since = match level {
                Level::Down(Some(since)) => format!(" since {} UTC", text::clock(since)),
                _ => String::new(),
            };
            let (y, height) = match level {
                Level::Up => (3.0, 22.0),
                Level::Suspect => (11.0, 14.0),
                Level::Down(_) => (19.0, 7.0),
                Level::Unknown => (24.0, 2.0),
            };
            let class = match level {
                Level::Up => "open-up",
                Level::Suspect => "open-suspect",
                Level::Down(_) => "open-down",
                Level::Unknown => "absent",
            };
            let title =
                format!("interval {}, still open: {}{since}, as this node sees it", self.open, level.word());
            cells.push(Cell { x: CELL * (CELLS - 1) as f64 + 1.0, y, height, class, title });
        }
        Bar { width: CELL * CELLS as f64, summary: summary(&beats), cells }
    }

    fn title(&self, member: &MemberId, at: usize, beat: Beat, outage: Option<&(usize, usize)>) -> String {
        let interval = &self.intervals[at];
        let mut title = format!(
            "interval {}, {} to {} UTC: {}",
            interval.id,
            text::stamp(interval.opened_at),
            text::clock(interval.cut_at),
            beat.word()
        );
        if let Some(seen) = self.observation(member, interval.id) {
            title.push_str(&format!(", {} of {} pings answered", seen.answered, seen.sent));
        }
        if let Some((begin, end)) = outage {
            let (first, last) = (&self.intervals[*begin], &self.intervals[*end]);
            let length = text::span(text::between(first.opened_at, last.cut_at));
            let count = end - begin + 1;
            let plural = if count == 1 { "" } else { "s" };
            title.push_str(&format!(". Outage of {count} interval{plural}, {length}"));
        }
        title
    }
}

/// Runs of intervals without an answer, as first and last place.
fn outages(beats: &[Beat]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, _) in beats.iter().enumerate().filter(|(_, beat)| **beat == Beat::Missed) {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == at => *end = at,
            _ => runs.push((at, at)),
        }
    }
    runs
}

fn summary(beats: &[Beat]) -> String {
    if beats.is_empty() {
        return "no interval is settled yet".to_string();
    }
    let kinds = [Beat::Answered, Beat::Partly, Beat::Missed, Beat::Excused, Beat::Void, Beat::Absent];
    let counted = kinds.into_iter().filter_map(|kind| {
        let count = beats.iter().filter(|beat| **beat == kind).count();
        (count > 0).then(|| format!("{count} {}", kind.word()))
    });
    format!("last {} intervals: {}", beats.len(), counted.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Hash;
    use crate::ledger::records::MemberStatus;
    use crate::types::{Amount, Index, Term, UnixMillis};

    fn interval(id: u64, verdict: Verdict) -> Interval {
        let at = |seconds: u64| UnixMillis(1_764_532_800_000 + 1_000 * seconds as i64);
        Interval {
            id: IntervalId(id),
            opened_at: at(id * 60),
            cut_at: at(id * 60 + 60),
            settled_at: at(id * 60 + 62),
            leader: "n1".parse().expect("a name"),
            term: Term(1),
            index: Index(id),
            policy: 1,
            verdict,
            reason: String::new(),
            observers: Vec::new(),
            members: 1,
            rewarded: Amount::ZERO,
            penalised: Amount::ZERO,
            last_seq: 0,
            evidence_hash: Hash::ZERO,
            prev_hash: Hash::ZERO,
            hash: Hash::ZERO,
        }
    }

    fn observation(id: u64, answered: u64, excused: bool) -> Observation {
        Observation {
            interval: IntervalId(id),
            member: member(),
            sent: 20,
            answered,
            missed: 20 - answered,
            availability_ppm: u32::try_from(answered * 50_000).expect("at most all"),
            p50_us: 100,
            p90_us: 200,
            max_us: 300,
            score_ppm: 0,
            reward: Amount::ZERO,
            penalty: Amount::ZERO,
            strikes: 0,
            status: MemberStatus::Active,
            by: BTreeMap::new(),
            excused,
        }
    }

    fn member() -> MemberId {
        "worker-1".parse().expect("a name")
    }

    fn window() -> Window {
        let verdicts =
            [(1, Verdict::Settled), (2, Verdict::Settled), (3, Verdict::Settled), (4, Verdict::Void)];
        let mut intervals: Vec<Interval> =
            verdicts.into_iter().map(|(id, verdict)| interval(id, verdict)).collect();
        intervals.extend((5..=7).map(|id| interval(id, Verdict::Settled)));
        let seen = [(1, 20, false), (2, 3, false), (3, 0, false), (5, 12, false), (6, 0, true)];
        let seen = seen.map(|(id, answered, excused)| (IntervalId(id), observation(id, answered, excused)));
        Window { intervals, open: IntervalId(8), seen: BTreeMap::from([(member(), seen.into())]) }
    }

    #[test]
    fn every_kind_of_interval_has_its_own_shape_and_word() {
        let beats = window().beats(&member());
        let wanted = [
            Beat::Answered,
            Beat::Missed,
            Beat::Missed,
            Beat::Void,
            Beat::Partly,
            Beat::Excused,
            Beat::Absent,
        ];
        assert_eq!(beats, wanted);
        let shapes: std::collections::BTreeSet<String> =
            wanted.iter().map(|beat| format!("{:?}", beat.shape())).collect();
        assert_eq!(shapes.len(), 6, "the colour is not all that tells them apart");
        assert_eq!(window().availability_ppm(&member()), Some(350_000));
    }

    #[test]
    fn an_outage_tells_how_long_it_was_in_each_of_its_cells() {
        let bar = window().bar(&member(), Some(Level::Down(Some(UnixMillis(0)))));
        let drawn = bar.render().expect("a bar");
        assert_eq!(drawn.matches("Outage of 2 intervals, 2 min 00 s").count(), 2, "{drawn}");
        assert!(drawn.contains("interval 8, still open: down since 00:00:00 UTC"), "{drawn}");
        assert!(drawn.contains("last 7 intervals: 1 answered, 1 answered in part, 2 silent"), "{drawn}");
        assert!(bar.cells.iter().all(|cell| cell.x < bar.width && cell.y + cell.height <= HEIGHT));
    }

    #[test]
    fn a_bar_has_sixty_cells_at_most() {
        let intervals = (1..=80).map(|id| interval(id, Verdict::Void)).collect();
        let window = Window { intervals, open: IntervalId(81), seen: BTreeMap::new() };
        let bar = window.bar(&member(), Some(Level::Up));
        assert_eq!((bar.cells.len(), bar.cells[0].x), (CELLS, 1.0));
        assert!(bar.cells[0].title.starts_with("interval 22,"), "{}", bar.cells[0].title);
    }
}
