//! A batch together with its documents, made where it was read, so that whoever sends them has nothing else to do.

use bson::raw::RawDocumentBuf;

use super::documents;
use super::feed::Batch;

/// A batch and the documents of its immutable records, in the same order.
#[derive(Debug, Default)]
pub struct Piece {
    /// The records.
    pub batch: Batch,
    /// Of the movements.
    pub rewards: Vec<RawDocumentBuf>,
    /// Of the observations.
    pub observations: Vec<RawDocumentBuf>,
    /// Of the elections.
    pub elections: Vec<RawDocumentBuf>,
    /// Of the intervals.
    pub intervals: Vec<RawDocumentBuf>,
}

impl From<Batch> for Piece {
    fn from(batch: Batch) -> Piece {
        Piece {
            rewards: batch.rewards.iter().map(documents::movement).collect(),
            observations: batch.observations.iter().map(documents::observation).collect(),
            elections: batch.elections.iter().map(documents::election).collect(),
            intervals: batch.intervals.iter().map(documents::interval).collect(),
            batch,
        }
    }
}
