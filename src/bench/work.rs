//! The operations of a load: keys, values, the mix.

use rand::RngExt;
use rand::rngs::SmallRng;

/// What the clients ask for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Length of a value: a JSON string of so many characters.
    pub value_bytes: usize,
    /// How many of the operations read, from 0 to 1.
    pub read_share: f64,
    /// Entries in one write; 1: single puts.
    pub batch: usize,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Sets one key.
    Put {
        /// The key.
        key: &'a str,
        /// JSON text.
        value: &'a str,
    },
    /// Sets several keys, to the same value.
    Batch {
        /// The keys.
        keys: &'a [String],
        /// JSON text.
        value: &'a str,
    },
    /// Reads one key, linearizably.
    Get {
        /// The key.
        key: &'a str,
    },
}

/// Makes up the operations of one client. Every write has a new key, so that what was acknowledged can be looked up.
#[derive(Debug)]
pub struct Author {
    work: Workload,
    prefix: String,
    written: u64,
    key: String,
    keys: Vec<String>,
    value: String,
    dice: SmallRng,
}

/// Digits at the beginning of a value that change with every write.
const SERIAL_DIGITS: usize = 10;

impl Author {
    /// The authors of so many clients, whose keys differ from those of every other run.
    pub fn several(clients: usize, work: Workload) -> Vec<Author> {
        let run: u32 = rand::random();
        (0..clients).map(|client| Author::new(&format!("bench/{run:08x}/{client:04}/"), work)).collect()
    }

    /// An author whose keys begin with `prefix`.
    pub fn new(prefix: &str, work: Workload) -> Author {
        let mut dice: SmallRng = rand::make_rng();
        let letters = (0..work.value_bytes).map(|_| char::from(dice.random_range(b'a'..=b'z')));
        let value = format!("\"{}\"", letters.collect::<String>());
        let (key, keys) = (String::new(), Vec::new());
        Author { work, prefix: prefix.to_string(), written: 0, key, keys, value, dice }
    }

    /// The beginning of all of its keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The next operation.
    pub fn draw(&mut self) -> Operation<'_> {
        if self.written > 0 && self.work.read_share > 0.0 && self.dice.random_bool(self.work.read_share) {
            let number = self.dice.random_range(0..self.written);
            self.name(number);
            return Operation::Get { key: &self.key };
        }
        self.stamp();
        if self.work.batch == 1 {
            self.name(self.written);
            self.written += 1;
            return Operation::Put { key: &self.key, value: &self.value };
        }
        self.keys.clear();
        for _ in 0..self.work.batch {
            self.name(self.written);
            self.written += 1;
            self.keys.push(self.key.clone());
        }
        Operation::Batch { keys: &self.keys, value: &self.value }
    }

    fn name(&mut self, number: u64) {
        use std::fmt::Write as _;
        self.key.clear();
        write!(self.key, "{}{number:010}", self.prefix).expect("writing to a string does not fail");
    }

    /// Makes the value differ from the one before.
    fn stamp(&mut self) {
        let serial = format!("{:0width$}", self.written, width = SERIAL_DIGITS);
        let room = self.work.value_bytes.min(SERIAL_DIGITS);
        self.value.replace_range(1..=room, &serial[serial.len() - room..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_new_and_values_have_the_length_that_was_asked_for() {
        for value_bytes in [0, 3, 10, 256] {
            let work = Workload { value_bytes, read_share: 0.0, batch: 1 };
            let mut author = Author::new("p/", work);
            let Operation::Put { key, value } = author.draw() else { panic!("a put") };
            assert_eq!((key, value.len()), ("p/0000000000", value_bytes + 2));
            let first = value.to_string();
            let Operation::Put { key, value } = author.draw() else { panic!("a put") };
            assert_eq!(key, "p/0000000001");
            assert!(value_bytes == 0 || value != first, "values differ");
            assert!(serde_json::from_str::<String>(value).is_ok());
        }
    }

    #[test]
    fn reads_look_for_what_was_written_and_batches_have_their_size() {
        let mut reader = Author::new("p/", Workload { value_bytes: 4, read_share: 1.0, batch: 1 });
        assert!(matches!(reader.draw(), Operation::Put { .. }), "there must be something to read");
        assert_eq!(reader.draw(), Operation::Get { key: "p/0000000000" });
        let mut writer = Author::new("p/", Workload { value_bytes: 4, read_share: 0.0, batch: 3 });
        let Operation::Batch { keys, .. } = writer.draw() else { panic!("a batch") };
        assert_eq!(keys, ["p/0000000000", "p/0000000001", "p/0000000002"]);
    }
}
