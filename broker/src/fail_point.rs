//! Points at which a test of crashes has a process die, as if it were killed there, or stand still for a moment, so that
//! the test can do something to it there.
//!
//! With `FLOTILLA_FAIL_POINTS=FOLDER` in its environment a process that comes to the point `P` while `FOLDER/P` exists
//! removes that file and aborts, or waits for [`PAUSE`] if `pause` stands in it: of several processes one does so, once.
//! Without the variable nothing is looked at.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// Names the folder.
const VARIABLE: &str = "FLOTILLA_FAIL_POINTS";

/// How long a process stands still.
const PAUSE: Duration = Duration::from_millis(100);

static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// The old group is about to have a segment reserved.
pub const MOVE_TAKEN_UP: &str = "move-taken-up";
/// The new group is asked to reserve a segment.
pub const RESERVE_ASKED: &str = "reserve-asked";
/// The new group logged it.
pub const RESERVED: &str = "reserved";
/// The old group is about to seal.
pub const SEAL_NEXT: &str = "seal-next";
/// The old group sealed.
pub const SEALED: &str = "sealed";
/// The new group is asked to open.
pub const OPEN_ASKED: &str = "open-asked";
/// The new group opened.
pub const OPENED: &str = "opened";
/// The old group knows.
pub const OPEN_HEARD: &str = "open-heard";
/// The leading controller is asked to write down how a move ended.
pub const END_ASKED: &str = "end-asked";
/// It did.
pub const END_LOGGED: &str = "end-logged";
/// The leading controller wrote down that a move is wanted.
pub const START_LOGGED: &str = "start-logged";

/// The leading controller wrote down that members of a Raft group change.
pub const MEMBERS_WANTED: &str = "members-wanted";
/// A Raft group's leader is about to change the members.
pub const MEMBERS_NEXT: &str = "members-next";
/// It did.
pub const MEMBERS_SET: &str = "members-set";
/// A leader whose replica goes handed over.
pub const HANDED_OVER: &str = "handed-over";
/// The leading controller wrote down that a replica is gone.
pub const REPLICA_ENDED: &str = "replica-ended";
/// What a replica kept is about to be thrown away.
pub const THROWN_AWAY_NEXT: &str = "thrown-away-next";

/// The process comes to `point`.
pub fn reached(point: &str) {
    let folder = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let Some(file) = folder.as_ref().map(|folder| folder.join(point)) else {
        return;
    };
    let is_pause = std::fs::read(&file).is_ok_and(|text| text == b"pause");
    if std::fs::remove_file(&file).is_err() {
        return;
    }
    if is_pause {
        tracing::error!(point, "stands still at a fail point");
        std::thread::sleep(PAUSE);
    } else {
        tracing::error!(point, "dies at a fail point");
        std::process::abort();
    }
}
