//! Rows that were written and are not in the file yet: an ordered map with versions.
//!
//! A view sees the newest value of each key that is not newer than itself. A value that is written over stays only
//! while a view may still look at it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

use crate::ledger::keyspace::Direction;

/// Number of a transaction, contiguous within one run of the process. A view of version 7 sees what the first seven
/// transactions left.
pub(super) type Version = u64;
/// What a key was set to; `None`: it was removed.
pub(super) type Value = Option<Bytes>;
/// A key and what became of it.
pub(super) type Change = (Vec<u8>, Value);

/// Memory that a row takes besides its bytes: the nodes of the map, the handles.
const ROW_OVERHEAD: usize = 120;
/// Rows that a scan copies while it holds the lock, at first and at most: writers wait meanwhile.
const SCAN_STEP: (usize, usize) = (16, 512);

/// The history of one key within a layer.
#[derive(Debug)]
struct History {
    version: Version,
    value: Value,
    /// Earlier values that views still see, oldest first. Nearly always empty.
    older: Vec<(Version, Value)>,
}

impl History {
    /// The value as a view of `version` sees it; outer `None`: this layer did not touch the key by then.
    fn at(&self, version: Version) -> Option<&Value> {
        if self.version <= version {
            return Some(&self.value);
        }
        self.older.iter().rev().find(|(written, _)| *written <= version).map(|(_, value)| value)
    }
}

/// One generation of rows: the transactions between two flushes.
#[derive(Debug, Default)]
pub(super) struct Layer {
    rows: RwLock<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    map: BTreeMap<Vec<u8>, History>,
    bytes: usize,
}

impl Layer {
    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory that the rows take, about, in bytes.
    pub fn bytes(&self) -> usize {
        self.read().bytes
    }

    pub fn is_empty(&self) -> bool {
        self.read().map.is_empty()
    }

    /// Adds a transaction. `seen(from)` tells whether a view of that version or later is open: then the value of that
    /// version must stay.
    pub fn commit(
        &self,
        version: Version,
        changes: BTreeMap<Vec<u8>, Value>,
        seen: impl Fn(Version) -> bool,
    ) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let Rows { map, bytes } = &mut *rows;
        let weight = |value: &Value| value.as_ref().map_or(0, Bytes::len);
        for (key, value) in changes {
            *bytes += weight(&value);
            match map.get_mut(&key) {
                None => {
                    *bytes += key.len() + ROW_OVERHEAD;
                    map.insert(key, History { version, value, older: Vec::new() });
                }
                Some(history) => {
                    let before = (history.version, std::mem::replace(&mut history.value, value));
                    history.version = version;
                    history.older.push(before);
                    // A value that no view of its version or later is open for goes; those before it may still be seen.
                    while let Some((_, gone)) = history.older.pop_if(|(written, _)| !seen(*written)) {
                        *bytes -= weight(&gone);
                    }
                }
            }
        }
    }

    /// What the layer says of a key to a view of `version`; outer `None`: nothing.
    pub fn get(&self, key: &[u8], version: Version) -> Option<Value> {
        self.read().map.get(key)?.at(version).cloned()
    }

    /// Visits the newest value of every key, in order.
    pub fn for_each<E>(&self, mut visit: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), E>) -> Result<(), E> {
        self.read().map.iter().try_for_each(|(key, history)| visit(key, history.value.as_deref()))
    }

    /// The changes between the bounds as a view of `version` sees them. Crossed bounds are the caller's to avoid.
    pub fn range<'l>(
        &'l self,
        version: Version,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Range<'l> {
        let owned = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
        let (from, to) = (owned(from), owned(to));
        Range {
            layer: self,
            version,
            from,
            to,
            direction,
            step: SCAN_STEP.0,
            found: VecDeque::new(),
            over: false,
        }
    }
}

/// A scan of one layer, copied in steps so that writers need not wait for its end.
pub(super) struct Range<'l> {
    layer: &'l Layer,
    version: Version,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    direction: Direction,
    step: usize,
    found: VecDeque<Change>,
    over: bool,
}

impl Range<'_> {
    fn refill(&mut self) {
        let rows = self.layer.read();
        // A step may have ended at the last key before the other bound.
        let bounds = (self.from.as_ref().map(Vec::as_slice), self.to.as_ref().map(Vec::as_slice));
        if super::range_is_empty(bounds.0, bounds.1) {
            self.over = true;
            return;
        }
        let mut range = rows.map.range::<[u8], _>(bounds);
        let mut last = None;
        for _ in 0..self.step {
            let row = match self.direction {
                Direction::Forward => range.next(),
                Direction::Backward => range.next_back(),
            };
            let Some((key, history)) = row else {
                self.over = true;
                return;
            };
            if let Some(value) = history.at(self.version) {
                self.found.push_back((key.clone(), value.clone()));
            }
            last = Some(key);
        }
        if let Some(last) = last.cloned() {
            match self.direction {
                Direction::Forward => self.from = Bound::Excluded(last),
                Direction::Backward => self.to = Bound::Excluded(last),
            }
        }
        self.step = (self.step * 2).min(SCAN_STEP.1);
    }
}

impl Iterator for Range<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        while self.found.is_empty() && !self.over {
            self.refill();
        }
        self.found.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn change(key: &str, value: Value) -> BTreeMap<Vec<u8>, Value> {
        BTreeMap::from([(key.as_bytes().to_vec(), value)])
    }

    #[test]
    fn a_view_sees_what_was_newest_when_it_was_opened() {
        let layer = Layer::default();
        layer.commit(1, change("k", value("one")), |_| false);
        layer.commit(2, change("k", value("two")), |from| from <= 1);
        layer.commit(3, change("k", None), |from| from <= 1);
        assert_eq!(layer.get(b"k", 0), None);
        assert_eq!(layer.get(b"k", 1), Some(value("one")));
        assert_eq!(layer.get(b"k", 3), Some(None));
        assert_eq!(layer.get(b"other", 3), None);
    }

    #[test]
    fn a_value_that_nobody_sees_any_more_goes() {
        let layer = Layer::default();
        layer.commit(1, change("k", value("one")), |_| true);
        layer.commit(2, change("k", value("two")), |_| true);
        layer.commit(3, change("k", value("three")), |_| false);
        assert_eq!(layer.get(b"k", 2), None, "no view of version 2 was open");
        assert_eq!(layer.get(b"k", 3), Some(value("three")));
    }

    #[test]
    fn a_long_scan_in_steps_sees_every_key_once_in_both_directions() {
        let layer = Layer::default();
        let keys: Vec<Vec<u8>> = (0..2_000_u32).map(|number| number.to_be_bytes().to_vec()).collect();
        layer.commit(1, keys.iter().map(|key| (key.clone(), value("x"))).collect(), |_| false);
        layer.commit(2, change("\0\0\0\x05", None), |_| true);
        for (from, to) in [(0, 2_000), (3, 40), (17, 18), (1_990, 2_000)] {
            let (low, high) = ((from as u32).to_be_bytes(), (to as u32).to_be_bytes());
            let bounds = (Bound::Included(&low[..]), Bound::Excluded(&high[..]));
            let found: Vec<Vec<u8>> =
                layer.range(1, bounds.0, bounds.1, Direction::Forward).map(|(key, _)| key).collect();
            assert_eq!(found, keys[from..to]);
            let mut backward: Vec<Vec<u8>> =
                layer.range(1, bounds.0, bounds.1, Direction::Backward).map(|(key, _)| key).collect();
            backward.reverse();
            assert_eq!(backward, keys[from..to]);
        }
    }
}
