//! The shell around a state machine: order, the gate on the local flush, replies, snapshots.
//!
//! The engine may hand over an entry that a majority has flushed and this disk has not. Applying it then could let
//! the state's store run ahead of the log on disk, and a crash would leave a state whose log is missing. So every
//! entry first waits until the local log flushed it. What is applied is answered at once.

use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, Snapshot, SnapshotMeta};

use crate::commit_log::CommitLog;
use crate::convert;
use crate::disk::Disk;
use crate::frames::Frames;
use crate::identity::GroupIdentity;
use crate::log_id::LogId;
use crate::snapshot::{self, Manifest, SnapshotFiles};
use crate::state_machine::StateMachine;
use crate::type_config::{Replies, Types};
use crate::{frames, install};

/// Owns the state machine of one replica; the engine calls it from one task, in log order.
pub struct Applier<Rt, D: Disk, S: StateMachine> {
    state: S,
    log: CommitLog<D>,
    disk: D,
    /// The replica's `snapshot` folder.
    folder: PathBuf,
    identity: GroupIdentity,
    /// Set once the engine runs: only then are files linked for a snapshot that is asked for.
    running: bool,
    /// Off only where the engine's own storage suite applies entries that it never appended.
    gated: bool,
    /// Snapshots linked for sending.
    outgoing: Vec<SnapshotFiles>,
    runtime: PhantomData<fn() -> Rt>,
}

/// An entry that does not follow the last one applied would leave a hole in the state for ever.
fn check_follows(applied: Option<LogId>, log_id: LogId) -> io::Result<()> {
    if log_id.index == applied.map_or(0, |applied| applied.index + 1) {
        return Ok(());
    }
    let text = format!("entry {log_id} does not follow {applied:?}, the last one applied: entries are missing");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

impl<Rt: AsyncRuntime, D: Disk, S: StateMachine> Applier<Rt, D, S> {
    /// Around `state`, whose log is `log`.
    pub fn new(state: S, log: CommitLog<D>, disk: D, folder: PathBuf, identity: GroupIdentity) -> Self {
        Self {
            state,
            log,
            disk,
            folder,
            identity,
            running: false,
            gated: true,
            outgoing: Vec::new(),
            runtime: PhantomData,
        }
    }

    #[cfg(test)]
    pub(crate) fn without_gate(self) -> Self {
        Self { gated: false, ..self }
    }

    /// The state machine.
    pub fn state(&mut self) -> &mut S {
        &mut self.state
    }

    /// Says that the engine has read its initial state.
    pub fn set_running(&mut self) {
        self.running = true;
    }

    fn stored_membership(&self) -> io::Result<StoredMembershipOf<Types<Rt, S::Reply>>> {
        convert::stored_membership(self.state.membership())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the state's membership is malformed"))
    }

    fn meta(&self, last: Option<LogId>) -> io::Result<SnapshotMetaOf<Types<Rt, S::Reply>>> {
        Ok(SnapshotMeta {
            last_log_id: last.map(convert::engine_log_id),
            last_membership: self.stored_membership()?,
        })
    }

    /// A snapshot that is never sent.
    fn without_files(&self, last: Option<LogId>) -> SnapshotFiles {
        let manifest = Manifest {
            identity: self.identity,
            last: last.unwrap_or_default(),
            membership: self.state.membership(),
            log: Vec::new(),
            state: Vec::new(),
        };
        SnapshotFiles {
            folder: Arc::new(self.folder.clone()),
            manifest,
        }
    }

    /// Removes the links that nobody sends any more, but those for `wanted`: they hold log files on the disk.
    async fn prune_outgoing(&mut self, wanted: Option<LogId>) -> io::Result<()> {
        let mut kept = Vec::new();
        for files in std::mem::take(&mut self.outgoing) {
            if Some(files.manifest.last) == wanted || Arc::strong_count(&files.folder) > 1 {
                kept.push(files);
            } else {
                snapshot::remove(&self.disk, &files.folder).await?;
            }
        }
        self.outgoing = kept;
        Ok(())
    }

    /// Links what is applied now, or hands out the links that exist for it already.
    async fn link(&mut self) -> io::Result<Option<SnapshotFiles>> {
        let Some(applied) = self.state.applied() else {
            return Ok(None);
        };
        self.prune_outgoing(Some(applied)).await?;
        if let Some(files) = self.outgoing.iter().find(|files| files.manifest.last == applied) {
            return Ok(Some(files.clone()));
        }
        let folder = self.folder.join(format!("out-{}", applied.index));
        self.disk.create_folder(&folder).await?;
        self.log.sync().await?;
        let last = self.state.checkpoint(&self.disk.local_path(&folder.join("state")))?;
        let Some(last) = last else { return Ok(None) };
        let files = snapshot::build(
            &self.disk,
            &self.log,
            &folder,
            self.identity,
            last,
            self.state.membership(),
        )
        .await?;
        self.outgoing.push(files.clone());
        Ok(Some(files))
    }
}

impl<Rt: AsyncRuntime, D: Disk, S: StateMachine> RaftStateMachine<Types<Rt, S::Reply>> for Applier<Rt, D, S> {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Flushed<Rt, S::Reply>;

    async fn applied_state(
        &mut self,
    ) -> Result<
        (
            Option<LogIdOf<Types<Rt, S::Reply>>>,
            StoredMembershipOf<Types<Rt, S::Reply>>,
        ),
        io::Error,
    > {
        Ok((
            self.state.applied().map(convert::engine_log_id),
            self.stored_membership()?,
        ))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types<Rt, S::Reply>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let log_id = convert::log_id(&entry.log_id);
            if self.gated {
                check_follows(self.state.applied(), log_id)?;
                self.log.wait_flushed(log_id.index).await?;
            }
            let replies = match entry.payload {
                EntryPayload::Blank => {
                    self.state.apply_membership(log_id, None)?;
                    Vec::new()
                }
                EntryPayload::Membership(membership) => {
                    self.state
                        .apply_membership(log_id, Some(convert::encode_membership(&membership)))?;
                    Vec::new()
                }
                EntryPayload::Normal(payload) => {
                    // Only a foreign proposer can have made a payload that is no list of frames; every replica
                    // sees the same bytes and treats it alike, as an entry without frames.
                    let frames = Frames::parse(payload.bytes)
                        .or_else(|_| Frames::parse(frames::pack(&[])))
                        .expect("an empty list of frames is well-formed");
                    self.state.apply(log_id, &frames)?
                }
            };
            if let Some(responder) = responder {
                responder.send(Replies(replies));
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Self::SnapshotBuilder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        // What is flushed is what the snapshot may promise. Files are linked only when a follower needs them.
        let pruned = self.prune_outgoing(None).await;
        // The state on disk must never reflect more than the log on disk holds.
        let synced = self.log.sync().await;
        let snapshot = pruned.and(synced).and_then(|()| self.state.flush()).and_then(|last| {
            let snapshot = self.without_files(last);
            Ok(Snapshot {
                meta: self.meta(last)?,
                snapshot,
            })
        });
        Flushed {
            snapshot: Some(snapshot),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types<Rt, S::Reply>>,
        snapshot: Self::SnapshotData,
    ) -> Result<(), io::Error> {
        let last = meta.last_log_id.as_ref().map(convert::log_id);
        if last != Some(snapshot.manifest.last) || snapshot.manifest.identity != self.identity {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "snapshot files are not those of the snapshot",
            ));
        }
        install::install(&self.disk, &self.folder, &self.log, &mut self.state, &snapshot).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Types<Rt, S::Reply>, Self::SnapshotData>>, io::Error> {
        if self.running {
            let Some(files) = self.link().await? else {
                return Ok(None);
            };
            return Ok(Some(Snapshot {
                meta: self.meta(Some(files.manifest.last))?,
                snapshot: files,
            }));
        }
        // At start the engine only asks how far a purged log is covered.
        if self.log.purged().is_none() {
            return Ok(None);
        }
        let last = self.state.applied();
        let snapshot = self.without_files(last);
        Ok(Some(Snapshot {
            meta: self.meta(last)?,
            snapshot,
        }))
    }
}

/// A snapshot that says how far the state is on disk, without files.
pub struct Flushed<Rt: AsyncRuntime, R: Send + Sync + 'static> {
    snapshot: Option<io::Result<SnapshotOf<Types<Rt, R>, SnapshotFiles>>>,
}

impl<Rt: AsyncRuntime, R: Send + Sync + 'static> RaftSnapshotBuilder<Types<Rt, R>> for Flushed<Rt, R> {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types<Rt, R>, SnapshotFiles>, io::Error> {
        self.snapshot
            .take()
            .unwrap_or_else(|| Err(io::Error::other("a snapshot is built once")))
    }
}
