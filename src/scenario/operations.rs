//! What clients asked of replicas, and what they were told.

use crate::types::Micros;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The value of the key.
    Get,
    /// To write this value, which no other put writes.
    Put(String),
}

/// What was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was done; a get found this.
    Ok(Option<String>),
    /// It was not done.
    Fail,
    /// It was not done; somebody else is to be asked.
    Redirect,
}

/// One message of a client, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Which key it is about.
    pub key: String,
    /// What was asked.
    pub asked: Asked,
    /// Which replica was asked.
    pub replica: usize,
    /// When.
    pub sent: Micros,
    /// When the first answer came, and what it was.
    pub answer: Option<(Micros, Answer)>,
}

impl Operation {
    /// When it was acknowledged, if it was.
    pub fn acknowledged(&self) -> Option<Micros> {
        match self.answer {
            Some((at, Answer::Ok(_))) => Some(at),
            _ => None,
        }
    }
}
