//! Proposing commands and reading their replies.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Failure;
use crate::replica::Replica;
use crate::state::{Command, Reply};

/// The clock that goes into commands: milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Logs one command and returns its reply; a refusal is a failure.
pub async fn one(replica: &Replica, command: &Command) -> Result<Reply, Failure> {
    several(replica, std::slice::from_ref(command)).await
}

/// Logs commands as one entry, in order, and returns the reply to the last. A refusal of any is a failure; those
/// before it are carried out.
pub async fn several(replica: &Replica, commands: &[Command]) -> Result<Reply, Failure> {
    let proposed = replica
        .group
        .propose(commands.iter().map(Command::encode).collect())
        .await?;
    let mut last = Reply::Done;
    for reply in proposed.replies {
        match reply {
            Reply::Refused(refusal) => return Err(refusal.into()),
            reply => last = reply,
        }
    }
    Ok(last)
}
