//! The door to the file system: every byte this crate writes or reads goes through [`Disk`].
//!
//! Two forms exist: files, with blocking calls on threads of their own, and the simulated disk of the tests, which
//! keeps written and synced images apart, loses what was not synced, and fails at a chosen call. The code between
//! them is one and the same.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

pub mod files;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;

/// A file system. Handles are cheap clones.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Runs the log writer: its own thread where calls block, a task where they do not.
    fn spawn_writer(&self, name: &str, writer: impl Future<Output = ()> + Send + 'static);

    /// Waits, in a future run by [`Disk::spawn_writer`].
    fn pause(&self, duration: Duration) -> impl Future<Output = ()> + Send;

    /// How far ahead of the writer a log file is filled with zeros, so that a sync writes no metadata.
    fn zero_ahead(&self) -> u64 {
        16 << 20
    }

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>> + Send;

    /// Creates a new, empty file; an existing one is an error.
    fn create(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>> + Send;

    /// Names of the entries of a folder, sorted.
    fn list(&self, folder: &Path) -> impl Future<Output = io::Result<Vec<String>>> + Send;

    /// Creates a folder and its parents; an existing one is fine.
    fn create_folder(&self, folder: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Removes an empty folder.
    fn remove_folder(&self, folder: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Renames a file or folder within the disk, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Removes one file's name.
    fn unlink(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Gives a file a second name.
    fn hard_link(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes creations, renames and removals in `folder` durable.
    fn sync_folder(&self, folder: &Path) -> impl Future<Output = io::Result<()>> + Send;

    /// Bytes free and in all, for disk levels.
    fn space(&self, folder: &Path) -> impl Future<Output = io::Result<DiskSpace>> + Send;

    /// Where `folder` lies in the real file system, for what does its own IO beside us (the state's store).
    fn local_path(&self, folder: &Path) -> PathBuf {
        folder.to_owned()
    }
}

/// An open file of a [`Disk`]. Dropping it closes it.
#[expect(clippy::len_without_is_empty, reason = "a file is not a collection")]
pub trait DiskFile: Send + Sync + 'static {
    /// Writes all buffers one after another at `offset`, extending the file if needed. In the page cache on return.
    fn write_at(&self, offset: u64, buffers: &[Bytes]) -> impl Future<Output = io::Result<()>> + Send;

    /// Reads exactly `length` bytes at `offset`; past the end is `UnexpectedEof`.
    fn read_at(&self, offset: u64, length: usize) -> impl Future<Output = io::Result<Bytes>> + Send;

    /// On return all data written before the call is on stable storage. A failure is final: never call it again.
    fn sync(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Sets the length; longer is zeros.
    fn set_len(&self, length: u64) -> impl Future<Output = io::Result<()>> + Send;

    /// The length now, in bytes.
    fn len(&self) -> impl Future<Output = io::Result<u64>> + Send;
}

/// Free and total bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}
