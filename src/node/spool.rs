//! Where the rows of a snapshot wait that is arriving: beside the state, until the last part has come. A state may be far larger
//! than the memory of a node, so a real node keeps them in a file (`storage::spool`).

use crate::ledger::keyspace::KeyspaceError;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);
/// Rows in the order in which they came.
pub type SpooledRows<'s> = Box<dyn Iterator<Item = Result<Row, KeyspaceError>> + 's>;

/// Keeps rows, not durably: what a crash leaves of them is dropped.
pub trait Spool: Send {
    /// Drops all rows.
    fn clear(&mut self) -> Result<(), KeyspaceError>;

    /// Adds the rows of a part.
    ///
    /// # Errors
    /// They were not kept, usually for want of room. The spool is of no use then before it is cleared.
    fn push(&mut self, rows: Vec<Row>) -> Result<(), KeyspaceError>;

    /// All rows.
    fn rows(&self) -> Result<SpooledRows<'_>, KeyspaceError>;
}

/// In memory.
#[derive(Debug, Default)]
pub struct MemorySpool {
    rows: Vec<Row>,
}

impl Spool for MemorySpool {
    fn clear(&mut self) -> Result<(), KeyspaceError> {
        self.rows = Vec::new();
        Ok(())
    }

    fn push(&mut self, rows: Vec<Row>) -> Result<(), KeyspaceError> {
        self.rows.extend(rows);
        Ok(())
    }

    fn rows(&self) -> Result<SpooledRows<'_>, KeyspaceError> {
        Ok(Box::new(self.rows.iter().cloned().map(Ok)))
    }
}
