//! How many files and sockets this process may have open.
//!
//! Shells and service managers start programs with 1,024 and allow more to those who ask. A process that runs out can
//! open no log file any more, so client connections get their part and no more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Open files that client connections leave for everything else; half of all where there are fewer than twice as many.
const RESERVED: u64 = 2_048;

/// Asks for as many as the system allows.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, now = limit.current, allowed = limit.maximum, "raise the limit of open files");
    }
}

/// So many client connections, or fewer if this process may not have so many files open.
pub fn connections_max(wanted: usize) -> usize {
    let most = at_most(wanted, getrlimit(Resource::Nofile).current);
    if most < wanted {
        warn!(
            connections_max = most,
            wanted, "fewer client connections than configured: the limit of open files is too low"
        );
    }
    most
}

fn at_most(wanted: usize, open_files: Option<u64>) -> usize {
    let share = open_files.map_or(u64::MAX, |open_files| open_files - RESERVED.min(open_files / 2));
    wanted.min(usize::try_from(share).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_room_for_files() {
        assert_eq!(at_most(16_384, None), 16_384);
        assert_eq!(at_most(16_384, Some(1 << 20)), 16_384);
        assert_eq!(at_most(20_000, Some(20_000)), 17_952);
        assert_eq!(at_most(16_384, Some(1_024)), 512);
        assert_eq!(at_most(100, Some(1_024)), 100);
    }

    #[test]
    fn the_limit_is_raised() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
