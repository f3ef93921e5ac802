//! A disk in memory that behaves as badly as real ones may.
//!
//! File contents and names are kept twice: as written and as on stable storage, by sectors of 512 bytes. A power
//! loss keeps any subset of what was not synced; calls fail, or the power fails, at a chosen call; after a power
//! loss or a kill every call through an old handle fails, so that tasks of the dead process cannot touch the image
//! its successor sees. With [`SimulatedDisk::with_hooks`] everything runs on a runtime of virtual time.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskSpace};

mod content;
mod random;
mod world;

use content::Content;
pub use random::Random;
use world::{World, gone};

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`Disk::open`]
    Open,
    /// [`Disk::create`]
    Create,
    /// [`Disk::list`]
    List,
    /// [`Disk::create_folder`]
    CreateFolder,
    /// [`Disk::remove_folder`]
    RemoveFolder,
    /// [`Disk::rename`]
    Rename,
    /// [`Disk::unlink`]
    Unlink,
    /// [`Disk::hard_link`]
    HardLink,
    /// [`Disk::sync_folder`]
    SyncFolder,
    /// [`DiskFile::write_at`]
    Write,
    /// [`DiskFile::read_at`]
    Read,
    /// [`DiskFile::sync`]
    Sync,
    /// [`DiskFile::set_len`]
    SetLen,
}

impl Call {
    /// True for calls that change what a later start finds.
    pub const fn mutates(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Read)
    }
}

/// What goes wrong at a chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, once.
    Error(io::ErrorKind),
    /// Nothing is done, from that call on.
    ErrorForEver(io::ErrorKind),
    /// A write stops half way, and fails.
    ShortWrite,
}

impl Fault {
    const fn lasts(self) -> bool {
        matches!(self, Self::ErrorForEver(_))
    }
}

/// Starts a task.
pub type Spawn = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;
/// Waits.
pub type Sleep = Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>;
/// How long a call with this many bytes takes.
pub type Latency = Arc<dyn Fn(Call, usize) -> Duration + Send + Sync>;

#[derive(Clone)]
struct Hooks {
    spawn: Spawn,
    sleep: Sleep,
    latency: Latency,
}

/// A simulated disk, or a handle of it.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: Arc<Mutex<World>>,
    hooks: Option<Hooks>,
    zero_ahead: u64,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// Zeros ahead of the writer: little, so that small log files see the filler work.
const ZERO_AHEAD_BYTES: u64 = 16 << 10;

impl SimulatedDisk {
    /// An empty disk whose calls take no time; writers run on threads.
    pub fn new() -> Self {
        Self {
            world: Arc::default(),
            hooks: None,
            zero_ahead: ZERO_AHEAD_BYTES,
        }
    }

    /// An empty disk whose writers are tasks and whose calls take time.
    pub fn with_hooks(spawn: Spawn, sleep: Sleep, latency: Latency) -> Self {
        Self {
            hooks: Some(Hooks { spawn, sleep, latency }),
            ..Self::new()
        }
    }

    /// The same disk with another distance between the filler and the writer; 0 for no filler.
    #[must_use]
    pub fn with_zero_ahead(self, bytes: u64) -> Self {
        Self {
            zero_ahead: bytes,
            ..self
        }
    }

    fn successor(&self, world: World) -> Self {
        Self {
            world: Arc::new(Mutex::new(world)),
            ..self.clone()
        }
    }

    /// Power loss: any subset of what was not synced survives, as the seed decides. Old handles are dead.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut world = self.world.lock();
        world.dead = true;
        self.successor(world.after_power_loss(Some(Random::new(seed))))
    }

    /// Power loss: nothing survives that was not synced. Old handles are dead.
    #[must_use]
    pub fn crash_losing_all(&self) -> Self {
        let mut world = self.world.lock();
        world.dead = true;
        self.successor(world.after_power_loss(None))
    }

    /// The process is killed, the machine lives: all that was written is there, synced or not. Old handles are dead.
    #[must_use]
    pub fn kill(&self) -> Self {
        let mut world = self.world.lock();
        world.dead = true;
        self.successor(world.after_kill())
    }

    /// Another disk with the same content, all of it on stable storage. This one lives on.
    #[must_use]
    pub fn copy(&self) -> Self {
        self.successor(self.world.lock().copy())
    }

    /// Lets the power fail during the n-th mutating call from now (1 is the next one): it and all later calls fail.
    /// The image is then taken by [`SimulatedDisk::crash`].
    pub fn crash_at_call(&self, n: u64) {
        let mut world = self.world.lock();
        world.crash_at = Some(world.mutations + n);
    }

    /// Plans a fault for the n-th call of a kind from now (1 is the next one).
    pub fn fail_call(&self, call: Call, n: u64, fault: Fault) {
        let mut world = self.world.lock();
        let now = world.counts.get(&call).copied().unwrap_or_default();
        world.faults.push((call, now + n, fault));
    }

    /// Calls of a kind so far.
    pub fn calls(&self, call: Call) -> u64 {
        self.world.lock().counts.get(&call).copied().unwrap_or_default()
    }

    /// Mutating calls so far.
    pub fn mutations(&self) -> u64 {
        self.world.lock().mutations
    }

    /// True once the power failed or the process was killed.
    pub fn is_dead(&self) -> bool {
        self.world.lock().dead
    }

    /// Bounds the bytes of all files: growing beyond that fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// What readers see in a file, for tests.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.world.lock().file(path).ok()?;
        let bytes = file.lock().written().to_vec();
        Some(bytes)
    }

    /// Puts a file on stable storage, for tests that damage one.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        self.world.lock().put(path, Content::of(bytes));
    }

    /// Names in a folder, for tests; empty if there is no such folder.
    pub fn names(&self, folder: &Path) -> Vec<String> {
        self.world.lock().list(folder).unwrap_or_default()
    }

    async fn delay(&self, call: Call, bytes: usize) {
        if let Some(hooks) = &self.hooks {
            let duration = (hooks.latency)(call, bytes);
            if !duration.is_zero() {
                (hooks.sleep)(duration).await;
            }
        }
    }

    /// Checks, counts and does one call. `done` tells whether a call during which the power fails still reaches the
    /// volatile image.
    async fn call<T>(&self, call: Call, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        self.delay(call, 0).await;
        let mut world = self.world.lock();
        if world.dead {
            return Err(gone());
        }
        match world.count(call) {
            Some(Fault::Error(kind) | Fault::ErrorForEver(kind)) => return Err(kind.into()),
            Some(Fault::ShortWrite) | None => {}
        }
        let crashes = world.crashes_now();
        if crashes && call == Call::SyncFolder {
            world.dead = true;
            return Err(gone());
        }
        let outcome = act(&mut world);
        if crashes {
            world.dead = true;
            return Err(gone());
        }
        outcome
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn spawn_writer(&self, name: &str, writer: impl Future<Output = ()> + Send + 'static) {
        match &self.hooks {
            Some(hooks) => (hooks.spawn)(Box::pin(writer)),
            None => {
                let started = std::thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || futures_executor::block_on(writer));
                if let Err(error) = started {
                    tracing::error!(name, %error, "start a writer thread");
                }
            }
        }
    }

    async fn pause(&self, duration: Duration) {
        match &self.hooks {
            Some(hooks) => (hooks.sleep)(duration).await,
            None => std::thread::sleep(duration),
        }
    }

    fn zero_ahead(&self) -> u64 {
        self.zero_ahead
    }

    async fn open(&self, path: &Path) -> io::Result<SimulatedFile> {
        let content = self.call(Call::Open, |world| world.file(path)).await?;
        Ok(SimulatedFile {
            disk: self.clone(),
            content,
        })
    }

    async fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        let content = self.call(Call::Create, |world| world.create(path)).await?;
        Ok(SimulatedFile {
            disk: self.clone(),
            content,
        })
    }

    async fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.call(Call::List, |world| world.list(folder)).await
    }

    async fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.call(Call::CreateFolder, |world| {
            world.create_folder(folder);
            Ok(())
        })
        .await
    }

    async fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.call(Call::RemoveFolder, |world| world.remove_folder(folder)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Rename, |world| world.rename(from, to)).await
    }

    async fn unlink(&self, path: &Path) -> io::Result<()> {
        self.call(Call::Unlink, |world| world.unlink(path)).await
    }

    async fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::HardLink, |world| world.hard_link(from, to)).await
    }

    async fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.call(Call::SyncFolder, |world| world.sync_folder(folder)).await
    }

    async fn space(&self, _folder: &Path) -> io::Result<DiskSpace> {
        let world = self.world.lock();
        let total = world.capacity.unwrap_or(1 << 40);
        Ok(DiskSpace {
            free: total.saturating_sub(world.used()),
            total,
        })
    }
}

/// A file of a simulated disk.
pub struct SimulatedFile {
    disk: SimulatedDisk,
    content: Arc<Mutex<Content>>,
}

impl SimulatedFile {
    /// Refuses to grow the file to `length` on a full disk.
    fn check_room(&self, world: &World, length: usize) -> io::Result<()> {
        let grows = length.saturating_sub(self.content.lock().len()) as u64;
        match world.capacity {
            Some(capacity) if grows > 0 && world.used() + grows > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for SimulatedFile {
    async fn write_at(&self, offset: u64, buffers: &[Bytes]) -> io::Result<()> {
        let bytes: usize = buffers.iter().map(Bytes::len).sum();
        let offset = place(offset)?;
        self.disk.delay(Call::Write, bytes).await;
        let mut world = self.disk.world.lock();
        if world.dead {
            return Err(gone());
        }
        let fault = world.count(Call::Write);
        if let Some(Fault::Error(kind) | Fault::ErrorForEver(kind)) = fault {
            return Err(kind.into());
        }
        self.check_room(&world, offset + bytes)?;
        let mut content = self.content.lock();
        if fault == Some(Fault::ShortWrite) {
            content.write(offset, &first_half(buffers, bytes));
            return Err(io::ErrorKind::WriteZero.into());
        }
        content.write(offset, buffers);
        if world.crashes_now() {
            world.dead = true;
            return Err(gone());
        }
        Ok(())
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        self.disk.delay(Call::Read, length).await;
        let mut world = self.disk.world.lock();
        if world.dead {
            return Err(gone());
        }
        if let Some(Fault::Error(kind) | Fault::ErrorForEver(kind)) = world.count(Call::Read) {
            return Err(kind.into());
        }
        let content = self.content.lock();
        content
            .read(place(offset)?, length)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    async fn sync(&self) -> io::Result<()> {
        let started = {
            let world = self.disk.world.lock();
            if world.dead {
                return Err(gone());
            }
            self.content.lock().start_sync()
        };
        self.disk.delay(Call::Sync, 0).await;
        let mut world = self.disk.world.lock();
        if world.dead {
            return Err(gone());
        }
        if let Some(Fault::Error(kind) | Fault::ErrorForEver(kind)) = world.count(Call::Sync) {
            self.content.lock().fail_sync();
            return Err(kind.into());
        }
        if world.crashes_now() {
            world.dead = true;
            return Err(gone());
        }
        self.content.lock().end_sync(started);
        Ok(())
    }

    async fn set_len(&self, length: u64) -> io::Result<()> {
        let length = place(length)?;
        self.disk
            .call(Call::SetLen, |world| {
                self.check_room(world, length)?;
                self.content.lock().set_len(length);
                Ok(())
            })
            .await
    }

    async fn len(&self) -> io::Result<u64> {
        if self.disk.world.lock().dead {
            return Err(gone());
        }
        Ok(self.content.lock().len() as u64)
    }
}

fn first_half(buffers: &[Bytes], bytes: usize) -> Vec<Bytes> {
    let mut left = bytes / 2;
    let mut half = Vec::new();
    for buffer in buffers {
        let length = left.min(buffer.len());
        half.push(buffer.slice(..length));
        left -= length;
    }
    half
}

#[cfg(test)]
mod tests {
    use futures_executor::block_on;

    use super::*;

    const FOLDER: &str = "/data";

    fn disk() -> SimulatedDisk {
        let disk = SimulatedDisk::new();
        disk.world.lock().create_folder(Path::new(FOLDER));
        disk
    }

    fn path(name: &str) -> std::path::PathBuf {
        Path::new(FOLDER).join(name)
    }

    fn bytes(byte: u8, length: usize) -> [Bytes; 1] {
        [Bytes::from(vec![byte; length])]
    }

    #[test]
    fn what_was_not_synced_may_be_lost_by_sectors() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let disk = disk();
            let left = block_on(async {
                let file = disk.create(&path("a")).await.unwrap();
                file.write_at(0, &bytes(1, 1024)).await.unwrap();
                file.sync().await.unwrap();
                disk.sync_folder(Path::new(FOLDER)).await.unwrap();
                file.write_at(0, &bytes(2, 1024)).await.unwrap();
                disk.crash(seed).content(&path("a")).unwrap()
            });
            assert_eq!(left.len(), 1024);
            assert!(left[..512].iter().all(|byte| *byte == left[0]), "a sector is whole");
            seen.insert((left[0], left[512]));
        }
        assert_eq!(seen.len(), 4, "each sector is kept or lost by itself: {seen:?}");
    }

    #[test]
    fn names_need_a_sync_of_their_folder() {
        block_on(async {
            let disk = disk();
            disk.create(&path("a")).await.unwrap();
            assert_eq!(disk.crash_losing_all().content(&path("a")), None);
            assert!(disk.open(&path("a")).await.is_err(), "the old handle is dead");
        });
    }

    #[test]
    fn a_failed_sync_saves_nothing_later_either() {
        block_on(async {
            let disk = disk();
            let file = disk.create(&path("a")).await.unwrap();
            disk.sync_folder(Path::new(FOLDER)).await.unwrap();
            file.write_at(0, &bytes(1, 10)).await.unwrap();
            disk.fail_call(Call::Sync, 1, Fault::Error(io::ErrorKind::Other));
            assert!(file.sync().await.is_err());
            assert!(file.sync().await.is_ok());
            assert_eq!(file.read_at(0, 10).await.unwrap(), bytes(1, 10)[0]);
            let left = disk.crash(1).content(&path("a")).unwrap();
            assert!(left.iter().all(|byte| *byte == 0), "{left:?}");
        });
    }

    #[test]
    fn a_kill_loses_nothing_that_was_written() {
        block_on(async {
            let disk = disk();
            let file = disk.create(&path("a")).await.unwrap();
            file.write_at(3, &bytes(1, 2)).await.unwrap();
            let disk = disk.kill();
            assert_eq!(disk.content(&path("a")).unwrap(), [0, 0, 0, 1, 1]);
            assert!(file.read_at(0, 1).await.is_err());
            assert_eq!(disk.crash_losing_all().content(&path("a")), None);
        });
    }
}
