//! The part of the log that is not compacted, in memory, and what of it is on disk.

use std::collections::VecDeque;

use crate::types::{Index, Term};

use super::config::RecoveryError;
use super::message::{Base, Configuration, Entry, Payload, Seq};
use super::wire::{APPEND_ENTRIES_MAX, Position};

/// A batch that the disk has not confirmed yet.
#[derive(Debug)]
struct Writing {
    seq: Seq,
    /// When it is confirmed, the log is durable up to here. Clipped when the log is truncated meanwhile: what was
    /// rewritten since is in a later batch, and this one says nothing about it (the ABA hazard).
    last: Index,
}

/// The log after its base.
///
/// Invariants, asserted where they could break: entries are contiguous after `base`; terms never decrease; what is
/// committed is never truncated; `durable` never covers an entry that the disk has not confirmed in its present form;
/// the first configuration is the one as of `base`, later ones stand at the index of their entry, in order.
#[derive(Debug)]
pub(super) struct Log {
    base: Base,
    entries: VecDeque<Entry>,
    configurations: VecDeque<(Index, Configuration)>,
    durable: Index,
    /// The first entry that no batch has carried yet; after the last one when all are under way.
    unwritten: Index,
    /// Whether `base` moved since the last batch.
    base_moved: bool,
    writing: VecDeque<Writing>,
}

/// What an entry weighs in windows and bounds: its payload and a flat amount for the rest.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    const OVERHEAD: usize = 32;
    OVERHEAD
        + match &entry.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len(),
            Payload::Configuration(configuration) => {
                let names: usize = configuration.all_nodes().iter().map(|id| id.as_str().len()).sum();
                names + configuration.addresses.values().map(String::len).sum::<usize>()
            }
        }
}

impl Log {
    /// A log that is wholly durable.
    pub fn recover(
        base: Base,
        configuration: Configuration,
        entries: Vec<Entry>,
    ) -> Result<Log, RecoveryError> {
        let mut configurations = VecDeque::from([(base.index, configuration)]);
        let mut before = Position::from(base);
        for entry in &entries {
            let expected = before.index.next();
            if entry.index != expected {
                return Err(RecoveryError::NotContiguous { expected, found: entry.index });
            }
            if entry.term < before.term {
                let (index, term) = (entry.index, entry.term);
                return Err(RecoveryError::TermDecreases { index, term, before: before.term });
            }
            if let Payload::Configuration(configuration) = &entry.payload {
                configurations.push_back((entry.index, configuration.clone()));
            }
            before = Position { index: entry.index, term: entry.term };
        }
        Ok(Log {
            base,
            entries: entries.into(),
            configurations,
            durable: before.index,
            unwritten: before.index.next(),
            base_moved: false,
            writing: VecDeque::new(),
        })
    }

    pub fn base(&self) -> Base {
        self.base
    }

    /// Where the log ends.
    pub fn last(&self) -> Position {
        let base = Position::from(self.base);
        self.entries.back().map_or(base, |entry| Position { index: entry.index, term: entry.term })
    }

    /// Everything up to here is on disk in its present form.
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// The configuration in force: the newest in the log, committed or not (Raft paper, section 6).
    pub fn configuration(&self) -> &Configuration {
        &self.configurations.back().expect("the configuration as of the base is always there").1
    }

    /// Where the configuration in force stands.
    pub fn configuration_index(&self) -> Index {
        self.configurations.back().expect("the configuration as of the base is always there").0
    }

    /// The configuration as of `index`; `None` if that lies before the base.
    pub fn configuration_as_of(&self, index: Index) -> Option<&Configuration> {
        let mut newest_first = self.configurations.iter().rev();
        newest_first.find(|(place, _)| *place <= index).map(|(_, configuration)| configuration)
    }

    /// The configurations after `after`, up to `upto`, each with its place.
    pub fn configurations(&self, after: Index, upto: Index) -> impl Iterator<Item = &(Index, Configuration)> {
        self.configurations.iter().filter(move |(index, _)| after < *index && *index <= upto)
    }

    fn offset(&self, index: Index) -> Option<usize> {
        let offset = index.0.checked_sub(self.base.index.0 + 1)?;
        usize::try_from(offset).ok().filter(|offset| *offset < self.entries.len())
    }

    /// The term at `index`; `None` before the base and after the end.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.offset(index).map(|offset| self.entries[offset].term)
    }

    /// The last place that is neither after `index` nor of a term above `term`; `None` if that lies before the base.
    /// A binary search, since terms never decrease.
    pub fn last_not_after(&self, index: Index, term: Term) -> Option<Position> {
        let not_above = self.entries.partition_point(|entry| entry.term <= term) as u64;
        let index = index.min(Index(self.base.index.0 + not_above));
        let term_there = self.term_at(index)?;
        (term_there <= term).then_some(Position { index, term: term_there })
    }

    /// The entries from `from` on: at least one if there is one, then as many as fit in `bytes_max`. With their bytes.
    pub fn entries_from(&self, from: Index, bytes_max: usize) -> (Vec<Entry>, usize) {
        let Some(offset) = self.offset(from) else { return (Vec::new(), 0) };
        let (mut count, mut bytes) = (0, 0);
        for entry in self.entries.range(offset..).take(APPEND_ENTRIES_MAX) {
            let more = entry_bytes(entry);
            if count > 0 && bytes + more > bytes_max {
                break;
            }
            (count, bytes) = (count + 1, bytes + more);
        }
        (self.entries.range(offset..offset + count).cloned().collect(), bytes)
    }

    /// The entries from `from` to `to`, both included.
    pub fn range(&self, from: Index, to: Index) -> impl DoubleEndedIterator<Item = &Entry> {
        let offsets = match (self.offset(from), self.offset(to)) {
            (Some(first), Some(last)) if first <= last => first..last + 1,
            _ => 0..0,
        };
        self.entries.range(offsets)
    }

    /// Appends one entry.
    pub fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(entry.index == last.index.next(), "entry {} after {}", entry.index, last.index);
        assert!(entry.term >= last.term, "term {} after {}", entry.term, last.term);
        if let Payload::Configuration(configuration) = &entry.payload {
            self.configurations.push_back((entry.index, configuration.clone()));
        }
        self.entries.push_back(entry);
    }

    /// Removes `from` and everything after it, configurations included (hazard 28). Never what is committed.
    pub fn truncate(&mut self, from: Index, commit: Index) {
        assert!(from > commit, "truncation from {from}, but {commit} is committed");
        let Some(offset) = self.offset(from) else { return };
        self.entries.truncate(offset);
        while self.configurations.len() > 1 && self.configuration_index() >= from {
            self.configurations.pop_back();
        }
        let kept = Index(from.0 - 1);
        self.durable = self.durable.min(kept);
        self.unwritten = self.unwritten.min(from);
        for batch in &mut self.writing {
            batch.last = batch.last.min(kept);
        }
    }

    /// Up to where the log may be forgotten if, of what comes after `from` and up to `applied`, the newest entries are
    /// to stay: `entries_max` of them, or fewer if they weigh more than `bytes_max` bytes. `None` until as much again would go, so
    /// that the head of the log is not rewritten for every few entries.
    pub fn superfluous(
        &self,
        from: Index,
        applied: Index,
        entries_max: u64,
        bytes_max: u64,
    ) -> Option<Index> {
        let (mut kept, mut gone) = ((0, 0), (0, 0));
        let mut upto = None;
        for entry in self.range(from.max(self.base.index).next(), applied).rev() {
            let bytes = entry_bytes(entry) as u64;
            if upto.is_none() && kept.0 < entries_max && kept.1 + bytes <= bytes_max {
                kept = (kept.0 + 1, kept.1 + bytes);
                continue;
            }
            upto.get_or_insert(entry.index);
            gone = (gone.0 + 1, gone.1 + bytes);
        }
        upto.filter(|_| gone.0 >= entries_max.max(1) || gone.1 >= bytes_max)
    }

    /// Forgets everything up to `index`, which must be in the log and durable.
    pub fn compact(&mut self, index: Index) {
        let term = self.term_at(index).expect("compaction within the log");
        assert!(index <= self.durable, "compaction to {index}, but only {} is durable", self.durable);
        self.forget_up_to(Base { index, term });
    }

    fn forget_up_to(&mut self, base: Base) {
        let forgotten = self.offset(base.index).map_or(0, |offset| offset + 1);
        self.entries.drain(..forgotten);
        self.base = base;
        self.base_moved = true;
        while self.configurations.get(1).is_some_and(|(index, _)| *index <= base.index) {
            self.configurations.pop_front();
        }
        self.configurations[0].0 = base.index;
    }

    /// Puts a snapshot in the place of everything up to `base`. Entries after it stay if the log agrees with the snapshot
    /// about its last entry; otherwise all go.
    pub fn install(&mut self, base: Base, configuration: Configuration) {
        if self.term_at(base.index) == Some(base.term) && base.index >= self.base.index {
            self.forget_up_to(base);
            self.configurations[0].1 = configuration;
            self.unwritten = self.unwritten.max(base.index.next());
            return;
        }
        self.entries.clear();
        self.base = base;
        self.base_moved = true;
        self.configurations = VecDeque::from([(base.index, configuration)]);
        self.unwritten = base.index.next();
        // Batches under way tell about entries that are gone. The batch that carries the base makes it durable.
        self.durable = Index(0);
        for batch in &mut self.writing {
            batch.last = Index(0);
        }
    }

    /// Whether a batch has something to carry.
    pub fn needs_writing(&self) -> bool {
        self.base_moved || self.unwritten <= self.last().index
    }

    /// What the batch `seq` must carry, which is then taken to be under way.
    pub fn take_unwritten(&mut self, seq: Seq) -> (Option<Base>, Vec<Entry>) {
        let last = self.last().index;
        let base = self.base_moved.then_some(self.base);
        let entries: Vec<Entry> = self.range(self.unwritten, last).cloned().collect();
        let reaches = if entries.is_empty() { base.map(|base| base.index) } else { Some(last) };
        if let Some(last) = reaches {
            self.writing.push_back(Writing { seq, last });
        }
        self.base_moved = false;
        self.unwritten = last.next();
        (base, entries)
    }

    /// The batch `seq` and all before it are on disk.
    pub fn written(&mut self, seq: Seq) {
        while let Some(batch) = self.writing.pop_front_if(|batch| batch.seq <= seq) {
            self.durable = self.durable.max(batch.last);
        }
        assert!(self.durable <= self.last().index, "durable beyond the end");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What may happen to a log, with numbers that are folded into what is possible at that moment.
    #[derive(Debug, Clone)]
    enum Step {
        Append { raise_term: bool, configuration: bool },
        Truncate(u64),
        Compact(u64),
        Install { ahead: u64, agrees: bool },
        Take,
        Written,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (any::<bool>(), proptest::bool::weighted(0.2))
                .prop_map(|(raise_term, configuration)| Step::Append { raise_term, configuration }),
            2 => any::<u64>().prop_map(Step::Truncate),
            1 => any::<u64>().prop_map(Step::Compact),
            1 => (0_u64..4, any::<bool>()).prop_map(|(ahead, agrees)| Step::Install { ahead, agrees }),
            3 => Just(Step::Take),
            2 => Just(Step::Written),
        ]
    }

    /// The oracle: every entry since the log was last replaced, each with the batch that carries it, and every base
    /// likewise; nothing is ever clipped or folded.
    struct Oracle {
        base: Base,
        all: BTreeMap<Index, (Entry, Option<Seq>)>,
        bases: Vec<(Index, Option<Seq>)>,
        /// The configuration as of the base.
        configuration: Configuration,
    }

    impl Oracle {
        fn visible(&self) -> impl DoubleEndedIterator<Item = &Entry> {
            self.all.range(self.base.index.next()..).map(|(_, (entry, _))| entry)
        }

        /// The configuration as of `index`, which is not before the base.
        fn configuration_as_of(&self, index: Index) -> &Configuration {
            let changes = self.visible().filter(|entry| entry.index <= index);
            let newest = changes.rev().find_map(|entry| match &entry.payload {
                Payload::Configuration(configuration) => Some(configuration),
                Payload::Noop | Payload::Command(_) => None,
            });
            newest.unwrap_or(&self.configuration)
        }

        fn last(&self) -> Index {
            self.visible().next_back().map_or(self.base.index, |entry| entry.index)
        }

        fn durable(&self, written: Seq) -> Index {
            let on_disk = |seq: &Option<Seq>| seq.is_some_and(|seq| seq <= written);
            let bases = self.bases.iter().filter(|(_, seq)| on_disk(seq)).map(|(index, _)| *index);
            let mut durable = bases.max().unwrap_or(Index(0));
            while self.all.get(&durable.next()).is_some_and(|(_, seq)| on_disk(seq)) {
                durable = durable.next();
            }
            durable
        }
    }

    fn configuration(number: u64) -> Configuration {
        let name = format!("n{number}").parse().expect("a valid name");
        Configuration { voters: [name].into(), ..Configuration::default() }
    }

    proptest! {
        #[test]
        fn the_log_agrees_with_a_plain_map(steps in proptest::collection::vec(step(), 0..60)) {
            let mut log = Log::recover(Base::default(), configuration(0), Vec::new()).expect("an empty log");
            let mut oracle = Oracle {
                base: Base::default(),
                all: BTreeMap::new(),
                bases: vec![(Index(0), Some(0))],
                configuration: configuration(0),
            };
            let (mut seq, mut written, mut commit) = (0, 0, Index(0));
            for step in steps {
                let last = log.last();
                match step {
                    Step::Append { raise_term, configuration: changes } => {
                        let term = Term(last.term.0.max(1) + u64::from(raise_term));
                        let index = last.index.next();
                        let payload =
                            if changes { Payload::Configuration(configuration(index.0)) } else { Payload::Noop };
                        let entry = Entry { term, index, payload };
                        log.append(entry.clone());
                        oracle.all.insert(index, (entry, None));
                    }
                    Step::Truncate(number) if last.index > commit => {
                        let from = Index(commit.0 + 1 + number % (last.index.0 - commit.0));
                        log.truncate(from, commit);
                        oracle.all.retain(|index, _| *index < from);
                    }
                    Step::Compact(number) if log.durable() > log.base().index => {
                        let base = log.base().index.0;
                        let to = Index(base + 1 + number % (log.durable().0 - base));
                        commit = commit.max(to);
                        let term = oracle.all[&to].0.term;
                        log.compact(to);
                        oracle.configuration = oracle.configuration_as_of(to).clone();
                        oracle.base = Base { index: to, term };
                        oracle.bases.push((to, None));
                    }
                    Step::Install { ahead, agrees } => {
                        let index = Index(commit.0 + ahead);
                        let there = log.term_at(index);
                        let term = if agrees { there.unwrap_or(last.term) } else { last.term.next() };
                        let base = Base { index, term };
                        prop_assume!(index.0 > 0);
                        log.install(base, configuration(index.0));
                        commit = index;
                        if there != Some(term) {
                            oracle.all.clear();
                            oracle.bases.clear();
                        }
                        oracle.base = base;
                        oracle.configuration = configuration(index.0);
                        oracle.bases.push((index, None));
                    }
                    Step::Take if log.needs_writing() => {
                        seq += 1;
                        let (base, entries) = log.take_unwritten(seq);
                        prop_assert!(base.is_none_or(|base| base == oracle.base));
                        let expected: Vec<Entry> = oracle
                            .visible()
                            .filter(|entry| oracle.all[&entry.index].1.is_none())
                            .cloned()
                            .collect();
                        prop_assert_eq!(&entries, &expected);
                        for entry in entries {
                            oracle.all.insert(entry.index, (entry, Some(seq)));
                        }
                        for (_, by) in oracle.bases.iter_mut().filter(|(_, by)| by.is_none()) {
                            *by = Some(seq);
                        }
                    }
                    Step::Written if written < seq => {
                        written += 1;
                        log.written(written);
                    }
                    _ => {}
                }
                check(&log, &oracle, written)?;
            }
        }
    }

    fn check(log: &Log, oracle: &Oracle, written: Seq) -> Result<(), TestCaseError> {
        prop_assert_eq!(log.last().index, oracle.last());
        prop_assert_eq!(log.durable(), oracle.durable(written));
        let term = |index: Index| oracle.visible().find(|entry| entry.index == index).map(|entry| entry.term);
        for index in (0..oracle.last().0 + 3).map(Index) {
            let expected = if index == oracle.base.index { Some(oracle.base.term) } else { term(index) };
            prop_assert_eq!(log.term_at(index), expected);
            for limit in (0..log.last().term.0 + 2).map(Term) {
                let found = (oracle.base.index.0..=index.0.min(oracle.last().0))
                    .rev()
                    .map(Index)
                    .filter_map(|index| Some(Position { index, term: log.term_at(index)? }))
                    .find(|place| place.term <= limit);
                prop_assert_eq!(log.last_not_after(index, limit), found);
            }
        }
        // Entered, left and rolled back: in force is always the newest that is there.
        prop_assert_eq!(log.configuration(), oracle.configuration_as_of(oracle.last()));
        for index in (oracle.base.index.0..oracle.last().0 + 2).map(Index) {
            prop_assert_eq!(log.configuration_as_of(index), Some(oracle.configuration_as_of(index)));
        }
        let changes = oracle.visible().filter(|entry| matches!(entry.payload, Payload::Configuration(_)));
        let places = log.configurations(oracle.base.index, oracle.last()).map(|(index, _)| *index);
        prop_assert!(places.eq(changes.map(|entry| entry.index)));
        Ok(())
    }

    #[test]
    fn a_batch_of_entries_is_bounded_in_bytes_but_never_empty() {
        let entries = (1..=3).map(|index| Entry {
            term: Term(1),
            index: Index(index),
            payload: Payload::Command(vec![0; 100].into()),
        });
        let log = Log::recover(Base::default(), configuration(0), entries.collect()).expect("a good log");
        for (bytes_max, count) in [(0, 1), (131, 1), (263, 1), (264, 2), (10_000, 3)] {
            assert_eq!(log.entries_from(Index(1), bytes_max).0.len(), count, "{bytes_max}");
        }
        assert_eq!(log.entries_from(Index(4), 10_000), (Vec::new(), 0));
    }

    #[test]
    fn a_log_that_nobody_wrote_is_refused() {
        let entry = |index, term| Entry { term: Term(term), index: Index(index), payload: Payload::Noop };
        let recover = |entries| Log::recover(Base::default(), configuration(0), entries).map(|_| ());
        assert_eq!(recover(vec![entry(1, 1), entry(2, 3)]), Ok(()));
        assert_eq!(
            recover(vec![entry(1, 1), entry(3, 1)]),
            Err(RecoveryError::NotContiguous { expected: Index(2), found: Index(3) })
        );
        assert_eq!(
            recover(vec![entry(1, 2), entry(2, 1)]),
            Err(RecoveryError::TermDecreases { index: Index(2), term: Term(1), before: Term(2) })
        );
    }
}
