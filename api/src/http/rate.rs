//! How much comes in.

use serde::{Deserialize, Serialize};

/// What comes in a second, on average over the last minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rate {
    /// Messages.
    pub messages: u64,
    /// Their stored bytes.
    pub bytes: u64,
}
