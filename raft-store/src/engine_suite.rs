//! The Raft engine's own storage suite, run on the real log store with files, and on the simulated disk.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{ErrorSubject, ErrorVerb, StorageError};
use openraft_rt_tokio::TokioRuntime;

use crate::apply::Applier;
use crate::commit_log::{CommitLog, LogOptions};
use crate::disk::Disk;
use crate::disk::files::FileDisk;
use crate::frames::Frames;
use crate::identity::GroupIdentity;
use crate::log_id::LogId;
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::type_config::Types;

type SuiteTypes = Types<TokioRuntime, ()>;
type Store<D> = (LogStore<TokioRuntime, D, ()>, Applier<TokioRuntime, D, Memory>);

/// Counts nothing, answers nothing, remembers where it is. Its checkpoint is one file.
#[derive(Default)]
struct Memory {
    applied: Option<LogId>,
    membership: Option<(LogId, Bytes)>,
}

impl StateMachine for Memory {
    type Reply = ();

    fn applied(&self) -> Option<LogId> {
        self.applied
    }

    fn membership(&self) -> Option<(LogId, Bytes)> {
        self.membership.clone()
    }

    fn apply(&mut self, log_id: LogId, frames: &Frames) -> io::Result<Vec<()>> {
        self.applied = Some(log_id);
        Ok(vec![(); frames.len()])
    }

    fn apply_membership(&mut self, log_id: LogId, membership: Option<Bytes>) -> io::Result<()> {
        self.applied = Some(log_id);
        if let Some(bytes) = membership {
            self.membership = Some((log_id, bytes));
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.applied)
    }

    fn checkpoint(&mut self, into: &Path) -> io::Result<Option<LogId>> {
        std::fs::create_dir_all(into)?;
        let mut bytes = Vec::new();
        let (applied, (id, membership)) = (
            self.applied.unwrap_or_default(),
            self.membership.clone().unwrap_or_default(),
        );
        for number in [
            applied.term,
            applied.index,
            id.term,
            id.index,
            u64::from(self.membership.is_some()),
        ] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(&membership);
        std::fs::write(into.join("memory"), bytes)?;
        Ok(self.applied)
    }

    fn verify(&mut self, from: &Path) -> io::Result<()> {
        std::fs::read(from.join("memory")).map(drop)
    }

    fn restore(&mut self, from: &Path) -> io::Result<()> {
        let bytes = std::fs::read(from.join("memory"))?;
        let number = |at: usize| u64::from_be_bytes(bytes[8 * at..8 * at + 8].try_into().expect("eight bytes"));
        self.applied = Some(LogId::new(number(0), number(1)));
        let membership = (LogId::new(number(2), number(3)), Bytes::copy_from_slice(&bytes[40..]));
        self.membership = (number(4) == 1).then_some(membership);
        Ok(())
    }
}

struct Files;

impl
    StoreBuilder<
        SuiteTypes,
        LogStore<TokioRuntime, FileDisk, ()>,
        Applier<TokioRuntime, FileDisk, Memory>,
        tempfile::TempDir,
    > for Files
{
    async fn build(
        &self,
    ) -> Result<
        (
            tempfile::TempDir,
            LogStore<TokioRuntime, FileDisk, ()>,
            Applier<TokioRuntime, FileDisk, Memory>,
        ),
        StorageError<SuiteTypes>,
    > {
        let failed = |error: io::Error| StorageError::from_io_error(ErrorSubject::Store, ErrorVerb::Write, error);
        let folder = tempfile::tempdir().map_err(failed)?;
        let (log, state) = store(FileDisk::default(), folder.path().to_owned())
            .await
            .map_err(failed)?;
        Ok((folder, log, state))
    }
}

async fn store<D: Disk>(disk: D, folder: PathBuf) -> io::Result<Store<D>> {
    let identity = GroupIdentity {
        cluster: [0; 16],
        group: 1,
        creation: 1,
    };
    for part in ["commitlog", "snapshot"] {
        disk.create_folder(&folder.join(part)).await?;
    }
    let options = LogOptions {
        file_bytes: 64 * 1024,
        ..LogOptions::default()
    };
    let log = CommitLog::open(disk.clone(), &folder.join("commitlog"), identity, options, None).await;
    let log = log.map_err(|error| io::Error::other(error.to_string()))?;
    let mut state =
        Applier::new(Memory::default(), log.clone(), disk, folder.join("snapshot"), identity).without_gate();
    state.set_running();
    Ok((LogStore::new(log), state))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engines_suite_passes_on_files() {
    Suite::test_all(Files)
        .await
        .expect("the suite reports its failures by panicking");
}
