//! The state machine of the controllers' Raft group: the pure state in memory, one file on disk, and the feed that
//! tells everybody else.
//!
//! The file is written by [`StateMachine::flush`] only, whole. A crash loses what was applied after it, and the log
//! brings it back; a damaged file is an error, never a new state. The state is small enough for that: it grows with
//! topics and queues, not with messages.
//!
//! Holds: exactly one reply a frame; a frame that is not a command is refused and changes nothing. The feed's metadata
//! is the state's after every entry, after opening and after a restore.
//! Not here: the order and durability of entries (`flotilla_raft_store`), what commands mean ([`crate::state`]), the
//! file's form (`state_file.rs`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_raft_store::frames::Frames;
use flotilla_raft_store::log_id::LogId;
use flotilla_raft_store::state_machine::StateMachine;

use crate::feed::Feed;
use crate::state::{Command, Refusal, Reply};
use crate::state_file::{self, Contents};

/// See the module.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    contents: Contents,
    /// The file holds these contents.
    flushed: bool,
    feed: Arc<Feed>,
}

impl Machine {
    /// Opens the state in `folder`, or begins a new one if it has no file.
    pub fn open(folder: &Path, feed: Arc<Feed>) -> io::Result<Self> {
        state_file::prepare(folder)?;
        let found = state_file::read(folder)?;
        let machine = Self {
            folder: folder.to_owned(),
            flushed: found.is_some(),
            contents: found.unwrap_or_default(),
            feed,
        };
        machine.feed_all();
        Ok(machine)
    }

    fn feed_all(&self) {
        self.feed.replace(self.contents.state.metadata().clone());
    }
}

impl StateMachine for Machine {
    type Reply = Reply;

    fn applied(&self) -> Option<LogId> {
        self.contents.applied
    }

    fn membership(&self) -> Option<(LogId, Bytes)> {
        self.contents.membership.clone()
    }

    fn apply(&mut self, log_id: LogId, frames: &Frames) -> io::Result<Vec<Reply>> {
        let mut changes = Vec::new();
        let replies = frames
            .iter()
            .map(|frame| match Command::decode(&frame) {
                Ok(command) => {
                    let (reply, made) = self.contents.state.apply(command, log_id.index);
                    changes.extend(made);
                    reply
                }
                Err(_) => Reply::Refused(Refusal::Malformed),
            })
            .collect();
        self.contents.applied = Some(log_id);
        self.flushed = false;
        if !changes.is_empty() {
            self.feed.apply(log_id.index, changes);
        }
        Ok(replies)
    }

    fn apply_membership(&mut self, log_id: LogId, membership: Option<Bytes>) -> io::Result<()> {
        self.contents.applied = Some(log_id);
        if let Some(membership) = membership {
            self.contents.membership = Some((log_id, membership));
        }
        self.flushed = false;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<Option<LogId>> {
        if !self.flushed {
            state_file::write(&self.folder, &self.contents)?;
            self.flushed = true;
        }
        Ok(self.contents.applied)
    }

    fn checkpoint(&mut self, into: &Path) -> io::Result<Option<LogId>> {
        let applied = self.flush()?;
        state_file::link(&self.folder, into)?;
        Ok(applied)
    }

    fn verify(&mut self, from: &Path) -> io::Result<()> {
        read_checkpoint(from).map(drop)
    }

    fn restore(&mut self, from: &Path) -> io::Result<()> {
        let contents = read_checkpoint(from)?;
        state_file::write(&self.folder, &contents)?;
        self.contents = contents;
        self.flushed = true;
        self.feed_all();
        Ok(())
    }
}

fn read_checkpoint(from: &Path) -> io::Result<Contents> {
    state_file::read(from)?.ok_or_else(|| {
        let text = format!("{} holds no state of the controllers", from.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use flotilla_raft_store::frames::pack;
    use tempfile::TempDir;

    use super::*;
    use crate::metadata::{Metadata, Policy, Update};
    use crate::topic::TopicConfig;

    fn found() -> Command {
        Command::Found {
            name: "c".to_owned(),
            id: "1".to_owned(),
            policy: Policy {
                replicas: 1,
                ..Policy::default()
            },
            controllers: BTreeMap::new(),
            feature_level: 1,
        }
    }

    fn register(name: &str) -> Command {
        Command::RegisterNode {
            name: name.to_owned(),
            volume: "v".to_owned(),
            zone: String::new(),
            peer: format!("{name}:10912"),
        }
    }

    fn topic(name: &str) -> Command {
        Command::PutTopic {
            config: TopicConfig::new(name, 4),
            if_absent: false,
            expected: None,
            groups: None,
            now_ms: 1,
        }
    }

    fn feed() -> Arc<Feed> {
        Arc::new(Feed::new(Metadata::default()))
    }

    fn open(folder: &TempDir) -> Machine {
        Machine::open(&folder.path().join("state"), feed()).unwrap()
    }

    /// Applies one entry and checks that the feed follows.
    fn check(machine: &mut Machine, index: u64, commands: &[Command]) -> Vec<Reply> {
        let frames: Vec<Bytes> = commands.iter().map(Command::encode).collect();
        let replies = machine
            .apply(LogId::new(1, index), &Frames::parse(pack(&frames)).unwrap())
            .unwrap();
        assert_eq!(replies.len(), commands.len());
        check_feed(machine);
        replies
    }

    fn check_feed(machine: &Machine) {
        assert_eq!(*machine.feed.snapshot(), *machine.contents.state.metadata());
    }

    fn with_a_topic(folder: &TempDir) -> Machine {
        let mut machine = open(folder);
        machine
            .apply_membership(LogId::new(1, 0), Some(Bytes::from_static(b"\xffmembers")))
            .unwrap();
        check(&mut machine, 1, &[found(), register("n1")]);
        check(&mut machine, 2, &[topic("t")]);
        machine
    }

    #[test]
    fn a_flushed_state_is_opened_again() {
        let folder = TempDir::new().unwrap();
        let mut machine = with_a_topic(&folder);
        assert_eq!(machine.flush().unwrap(), Some(LogId::new(1, 2)));
        let before = machine.contents;
        let mut machine = open(&folder);
        assert_eq!(machine.contents, before);
        assert_eq!(machine.applied(), Some(LogId::new(1, 2)));
        let members = Bytes::from_static(b"\xffmembers");
        assert_eq!(machine.membership(), Some((LogId::new(1, 0), members)));
        check_feed(&machine);
        assert_eq!(machine.feed.epoch(), 2);
        // Ids go on where they were.
        check(&mut machine, 3, &[topic("u")]);
        assert_eq!(machine.contents.state.metadata().topics["u"].id, 2);
    }

    #[test]
    fn a_crash_goes_back_to_the_last_flush() {
        let folder = TempDir::new().unwrap();
        let mut machine = with_a_topic(&folder);
        machine.flush().unwrap();
        check(&mut machine, 3, &[topic("u")]);
        machine.apply_membership(LogId::new(2, 4), None).unwrap();
        let before = machine.contents;
        let mut machine = open(&folder);
        assert_eq!(machine.applied(), Some(LogId::new(1, 2)));
        check_feed(&machine);
        // The log brings back what is missing.
        check(&mut machine, 3, &[topic("u")]);
        machine.apply_membership(LogId::new(2, 4), None).unwrap();
        assert_eq!(machine.contents, before);
    }

    #[test]
    fn a_checkpoint_takes_another_states_place() {
        let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut machine = with_a_topic(&folder);
        let copy = folder.path().join("out/state");
        assert_eq!(machine.checkpoint(&copy).unwrap(), Some(LogId::new(1, 2)));
        let at_checkpoint = machine.contents.state.clone();
        check(&mut machine, 3, &[topic("u")]);

        let mut target = open(&other);
        check(&mut target, 1, &[found()]);
        target.verify(&copy).unwrap();
        assert_eq!(target.applied(), Some(LogId::new(1, 1)), "verifying changes nothing");
        target.restore(&copy).unwrap();
        assert_eq!(target.contents.state, at_checkpoint);
        check_feed(&target);
        assert!(matches!(target.feed.since(1), Some(Update::Full(_))));
        // Durable at once.
        let target = open(&other);
        assert_eq!(target.contents.state, at_checkpoint);
        assert_eq!(target.applied(), Some(LogId::new(1, 2)));
        assert!(target.membership().is_some());
    }

    #[test]
    fn damage_is_found() {
        let folder = TempDir::new().unwrap();
        let mut machine = with_a_topic(&folder);
        let copy = folder.path().join("out");
        machine.checkpoint(&copy).unwrap();
        let file = copy.join("state.json");
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        // Removed first: the other name of the same file stays whole.
        fs::remove_file(&file).unwrap();
        fs::write(&file, &bytes).unwrap();
        let before = machine.contents.state.clone();
        for outcome in [machine.verify(&copy), machine.restore(&copy)] {
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(machine.contents.state, before);
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert_eq!(machine.verify(&empty).unwrap_err().kind(), io::ErrorKind::InvalidData);

        fs::write(folder.path().join("state/state.json"), &bytes).unwrap();
        let outcome = Machine::open(&folder.path().join("state"), feed());
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn other_frames_are_refused_one_by_one() {
        let folder = TempDir::new().unwrap();
        let mut machine = open(&folder);
        let frames = [Bytes::from_static(b"\x07?"), found().encode(), Bytes::new()];
        let replies = machine
            .apply(LogId::new(1, 1), &Frames::parse(pack(&frames)).unwrap())
            .unwrap();
        let malformed = Reply::Refused(Refusal::Malformed);
        assert_eq!(replies, [malformed.clone(), Reply::Done { epoch: 1 }, malformed]);
        check_feed(&machine);
    }

    #[test]
    fn watchers_hear_once_an_entry() {
        let folder = TempDir::new().unwrap();
        let mut machine = with_a_topic(&folder);
        let feed = machine.feed.clone();
        let mut watcher = feed.subscribe();
        watcher.mark_unchanged();
        check(&mut machine, 3, &[topic("u"), topic("v")]);
        assert_eq!(*watcher.borrow_and_update(), 3);
        assert_eq!(feed.changed_topics_since(2).unwrap(), ["u", "v"]);
        // An entry that changes nothing is not announced.
        let replies = check(&mut machine, 4, &[topic("u"), register("n1")]);
        assert_eq!(
            replies,
            [
                Reply::Topic {
                    created: false,
                    epoch: 3
                },
                Reply::Done { epoch: 3 }
            ]
        );
        assert!(!watcher.has_changed().unwrap());
        assert_eq!(machine.applied(), Some(LogId::new(1, 4)));
    }
}
