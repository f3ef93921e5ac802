//! The real file system: blocking calls, on the writer's own thread or on threads meant for blocking.
//!
//! A call made by a future that [`Disk::spawn_writer`] runs happens right there: nobody else waits for that thread.
//! A call made from an async runtime is moved to its blocking pool, so that a slow disk never holds a worker.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Disk, DiskFile, DiskSpace};

/// Most buffers the kernel takes in one vectored write (`IOV_MAX`).
const BUFFERS_PER_CALL_MAX: usize = 1024;

thread_local! {
    /// True on threads started by [`FileDisk::spawn_writer`].
    static BLOCKING_ALLOWED: Cell<bool> = const { Cell::new(false) };
}

/// Told how long each sync of a file took.
type SyncObserver = Arc<dyn Fn(Duration) + Send + Sync>;

/// The local file system. Paths are used as they are.
#[derive(Clone, Default)]
pub struct FileDisk {
    synced: Option<SyncObserver>,
}

impl std::fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDisk").finish_non_exhaustive()
    }
}

impl FileDisk {
    /// Tells `synced` how long each sync of a file took.
    pub fn observed(synced: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self {
            synced: Some(Arc::new(synced)),
        }
    }

    fn opened(&self, file: File) -> OpenFile {
        OpenFile {
            file: Arc::new(file),
            synced: self.synced.clone(),
        }
    }
}

/// Runs `call` here if this thread may block, else on the runtime's blocking pool.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    if BLOCKING_ALLOWED.get() {
        return call();
    }
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(call).await.map_err(io::Error::other)?,
        Err(_) => call(),
    }
}

impl Disk for FileDisk {
    type File = OpenFile;

    fn spawn_writer(&self, name: &str, writer: impl Future<Output = ()> + Send + 'static) {
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            BLOCKING_ALLOWED.set(true);
            futures_executor::block_on(writer);
        });
        if let Err(error) = started {
            // The future was dropped with the closure: whoever waits for it is told by its drop.
            tracing::error!(name, %error, "start a writer thread");
        }
    }

    async fn pause(&self, duration: Duration) {
        if BLOCKING_ALLOWED.get() {
            std::thread::sleep(duration);
        } else {
            tokio::time::sleep(duration).await;
        }
    }

    async fn open(&self, path: &Path) -> io::Result<OpenFile> {
        let path = path.to_owned();
        let opened = blocking(move || OpenOptions::new().read(true).write(true).open(path)).await;
        opened.map(|file| self.opened(file))
    }

    async fn create(&self, path: &Path) -> io::Result<OpenFile> {
        let path = path.to_owned();
        let created = blocking(move || OpenOptions::new().read(true).write(true).create_new(true).open(path)).await;
        created.map(|file| self.opened(file))
    }

    async fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let folder = folder.to_owned();
        blocking(move || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(folder)? {
                // A name that is no text is none of ours.
                if let Ok(name) = entry?.file_name().into_string() {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = folder.to_owned();
        blocking(move || {
            let missing: Vec<&Path> = folder.ancestors().take_while(|part| !part.exists()).collect();
            std::fs::create_dir_all(&folder)?;
            // Their names are on disk, too.
            for part in missing {
                let parent = part.parent().filter(|parent| !parent.as_os_str().is_empty());
                std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            }
            Ok(())
        })
        .await
    }

    async fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = folder.to_owned();
        blocking(move || std::fs::remove_dir(folder)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || std::fs::rename(from, to)).await
    }

    async fn unlink(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || std::fs::remove_file(path)).await
    }

    async fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || std::fs::hard_link(from, to)).await
    }

    async fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = if folder.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            folder.to_owned()
        };
        blocking(move || File::open(folder)?.sync_all()).await
    }

    async fn space(&self, folder: &Path) -> io::Result<DiskSpace> {
        let folder = folder.to_owned();
        blocking(move || {
            let levels = rustix::fs::statvfs(&folder)?;
            Ok(DiskSpace {
                free: levels.f_bavail.saturating_mul(levels.f_frsize),
                total: levels.f_blocks.saturating_mul(levels.f_frsize),
            })
        })
        .await
    }
}

/// A file of the local file system.
pub struct OpenFile {
    file: Arc<File>,
    synced: Option<SyncObserver>,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OpenFile").field(&self.file).finish()
    }
}

impl DiskFile for OpenFile {
    async fn write_at(&self, offset: u64, buffers: &[Bytes]) -> io::Result<()> {
        if BLOCKING_ALLOWED.get() {
            return write_all_at(&self.file, offset, buffers);
        }
        let (file, buffers) = (self.file.clone(), buffers.to_vec());
        blocking(move || write_all_at(&file, offset, &buffers)).await
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let file = self.file.clone();
        blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    async fn sync(&self) -> io::Result<()> {
        let (file, started) = (self.file.clone(), Instant::now());
        let outcome = blocking(move || file.sync_data()).await;
        if let Some(synced) = &self.synced {
            synced(started.elapsed());
        }
        outcome
    }

    async fn set_len(&self, length: u64) -> io::Result<()> {
        let file = self.file.clone();
        blocking(move || file.set_len(length)).await
    }

    async fn len(&self) -> io::Result<u64> {
        let file = self.file.clone();
        blocking(move || Ok(file.metadata()?.len())).await
    }
}

/// Writes all buffers with as few calls as the kernel allows, going on after short writes.
fn write_all_at(file: &File, mut offset: u64, buffers: &[Bytes]) -> io::Result<()> {
    let mut next = 0; // first buffer not fully written
    let mut skip = 0; // bytes of it that are
    let mut slices = Vec::with_capacity(buffers.len().min(BUFFERS_PER_CALL_MAX));
    while next < buffers.len() {
        slices.clear();
        slices.push(IoSlice::new(&buffers[next][skip..]));
        let more = buffers[next + 1..].iter().take(BUFFERS_PER_CALL_MAX - 1);
        slices.extend(more.map(|buffer| IoSlice::new(buffer)));
        let written = match rustix::io::pwritev(file, &slices, offset) {
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        if written == 0 && wanted > 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        let mut left = skip + written;
        while next < buffers.len() && left >= buffers[next].len() {
            left -= buffers[next].len();
            next += 1;
        }
        skip = left;
    }
    Ok(())
}
