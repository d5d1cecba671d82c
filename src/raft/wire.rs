//! What consensus nodes say to each other.

use serde::{Deserialize, Serialize};

use crate::types::Term;

/// One message. The sender is known from the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender's term.
    pub term: Term,
}
