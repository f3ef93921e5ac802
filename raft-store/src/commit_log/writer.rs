//! The one who writes: takes everything queued, writes it with one call, syncs once, completes in order.
//!
//! Turns are strictly first in, first out. Consecutive appends share a write and a sync; every other turn first ends
//! the group before it. The first error closes the log: nothing is tried again, because after a failed sync nobody
//! knows what the kernel still holds, and everything later gets the error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Completion;
use super::file::{FILE_HEADER_BYTES, LogFile};
use super::marker::Marker;
use super::record::{RECORD_HEADER_BYTES, Record, RecordHeader};
use super::shared::{Action, Failure, Idle, Op, Queue, Shared, closed, complete_all};
use super::slots::Slots;
use crate::disk::{Disk, DiskFile};
use crate::log_id::LogId;
use crate::vote;

/// Bytes written and synced at once, at most (or one append).
const GROUP_BYTES_MAX: u64 = 16 << 20;

/// Without waiting for syncs: bytes written before one is made anyway, and the time after which one is.
const UNSYNCED_BYTES_MAX: u64 = 16 << 20;
const UNSYNCED_TIME_MAX: Duration = Duration::from_millis(200);

static PADDING: [u8; 8] = [0; 8];

/// What is called or moved when a group is on disk.
struct Turn {
    done: Option<Completion>,
    flushes: Option<LogId>,
    is_cut: bool,
}

/// Appends gathered for one write.
struct Group<D: Disk> {
    file: Arc<LogFile<D>>,
    log_offset: u64,
    records: Vec<Record>,
    bytes: u64,
}

pub(super) struct Writer<D: Disk> {
    shared: Arc<Shared<D>>,
    vote: Slots<D::File>,
    marker: Slots<D::File>,
    /// What the marker file says.
    marker_value: Marker,
    /// The file written last.
    current: Option<Arc<LogFile<D>>>,
    group: Option<Group<D>>,
    waiting: Vec<Turn>,
    /// The last entry written, and the last one known to be on disk.
    written: Option<LogId>,
    synced: Option<LogId>,
    unsynced_bytes: u64,
}

impl<D: Disk> Writer<D> {
    pub fn new(shared: Arc<Shared<D>>, idle: Idle<D>) -> Self {
        let (current, written) = {
            let state = shared.state.lock();
            (state.active.clone(), idle.last_record)
        };
        Self {
            shared,
            vote: idle.vote,
            marker: idle.marker,
            marker_value: idle.marker_value,
            current,
            group: None,
            waiting: Vec::new(),
            written,
            synced: written,
            unsynced_bytes: 0,
        }
    }

    /// Everything queued, as soon as there is something; `None` when nothing will come any more.
    async fn next(&mut self) -> Option<Queue<D>> {
        loop {
            {
                let mut state = self.shared.state.lock();
                if !state.queue.is_empty() {
                    return Some(std::mem::take(&mut state.queue));
                }
                if state.closing || state.failure.is_some() {
                    return None;
                }
            }
            self.shared.wake.notified().await;
        }
    }

    async fn step(&mut self, op: Op<D>) -> io::Result<()> {
        let Op {
            action,
            done,
            flushes,
            is_cut,
        } = op;
        let turn = Turn { done, flushes, is_cut };
        if let Action::Write {
            file,
            log_offset,
            records,
        } = action
        {
            let bytes: u64 = records.iter().map(Record::stored_bytes).sum();
            let joins = self
                .group
                .as_ref()
                .is_some_and(|group| Arc::ptr_eq(&group.file, &file) && group.bytes + bytes <= GROUP_BYTES_MAX);
            let ended = if joins { Ok(()) } else { self.commit().await };
            self.waiting.push(turn);
            ended?;
            match &mut self.group {
                Some(group) => {
                    group.records.extend(records);
                    group.bytes += bytes;
                }
                None => {
                    self.group = Some(Group {
                        file,
                        log_offset,
                        records,
                        bytes,
                    })
                }
            }
            return Ok(());
        }
        let ended = self.commit().await;
        self.waiting.push(turn);
        ended?;
        match action {
            Action::Write { .. } => unreachable!("handled above"),
            Action::Pass => {}
            Action::Sync => self.sync().await?,
            Action::Vote(vote) => {
                self.vote.write(&vote::encode(Some(vote))).await?;
                self.shared.state.lock().vote = Some(vote);
            }
            Action::Marker(marker) => self.save_marker(marker).await?,
            Action::Truncate { keep, removed, cut } => self.truncate(keep, removed, cut).await?,
            Action::Close(marker) => {
                self.sync().await?;
                self.save_marker(Marker {
                    synced: self.synced,
                    ..marker
                })
                .await?;
            }
        }
        self.finish()
    }

    /// Ends the group: write, sync, complete.
    async fn commit(&mut self) -> io::Result<()> {
        if let Some(group) = self.group.take() {
            self.write(group).await?;
            if self.shared.options.sync || self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
                self.sync().await?;
            }
        }
        self.finish()
    }

    async fn write(&mut self, group: Group<D>) -> io::Result<()> {
        let Group {
            file,
            log_offset,
            records,
            bytes,
        } = group;
        self.switch_to(&file).await?;
        let handle = file.handle().ok_or_else(closed)?;
        let buffers = self.buffers(log_offset, &records);
        let position = file.position(log_offset);
        file.space.claim(position + bytes).await;
        handle.write_at(position, &buffers).await?;
        self.written = records.last().map(|record| record.log_id);
        self.unsynced_bytes += bytes;
        if !self.shared.options.sync {
            self.shared.state.lock().unsynced = true;
        }
        if file.space.ahead() < self.shared.disk.zero_ahead() / 2 {
            self.shared.fill.notify_one();
        }
        Ok(())
    }

    /// Headers are laid out in one buffer and sliced; payloads are not copied.
    fn buffers(&self, mut log_offset: u64, records: &[Record]) -> Vec<Bytes> {
        let synced = self.synced.map(|id| id.index);
        let mut headers = BytesMut::with_capacity(records.len() * RECORD_HEADER_BYTES);
        for record in records {
            RecordHeader::of(record, log_offset, synced).encode(self.shared.seed, &mut headers);
            log_offset += record.stored_bytes();
        }
        let mut headers = headers.freeze();
        let mut buffers = Vec::with_capacity(3 * records.len());
        for record in records {
            buffers.push(headers.split_to(RECORD_HEADER_BYTES));
            if !record.payload.is_empty() {
                buffers.push(record.payload.clone());
            }
            let padding = record.stored_bytes() as usize - RECORD_HEADER_BYTES - record.payload.len();
            if padding > 0 {
                buffers.push(Bytes::from_static(&PADDING[..padding]));
            }
        }
        buffers
    }

    async fn sync(&mut self) -> io::Result<()> {
        if self.unsynced_bytes > 0 {
            if let Some(handle) = self.current.as_ref().and_then(|file| file.handle()) {
                handle.sync().await?;
            }
            self.unsynced_bytes = 0;
            self.synced = self.written;
            self.shared.state.lock().unsynced = false;
        }
        Ok(())
    }

    /// Makes `file` the one that is written: the file before it is synced and indexed first.
    async fn switch_to(&mut self, file: &Arc<LogFile<D>>) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, file)) {
            return Ok(());
        }
        self.sync().await?;
        if let Some(previous) = self.current.take() {
            let index = self.shared.state.lock().index_of(&previous);
            if let Some(index) = index {
                write_index(&self.shared, &previous, &index.encode(&previous.header)).await?;
            }
        }
        if file.handle().is_none() {
            self.create(file).await?;
        }
        self.current = Some(file.clone());
        self.shared.state.lock().active = Some(file.clone());
        self.shared.fill.notify_one();
        Ok(())
    }

    /// Creates a log file: header on disk under a temporary name, then its name, then the name on disk.
    async fn create(&mut self, file: &LogFile<D>) -> io::Result<()> {
        let disk = &self.shared.disk;
        let prepared = {
            let mut state = self.shared.state.lock();
            state.prepare_failed = false;
            state.prepared.take().filter(|prepared| prepared.folder == file.folder)
        };
        let (handle, path, zeroed) = match prepared {
            Some(prepared) => (prepared.file, prepared.path, prepared.zeroed),
            None => {
                let path = file.folder.join(format!("new-{}.tmp", self.shared.next_temporary()));
                (disk.create(&path).await?, path, 0)
            }
        };
        handle.write_at(0, &[file.header.encode()]).await?;
        handle.sync().await?;
        disk.rename(&path, &file.path()).await?;
        disk.sync_folder(&file.folder).await?;
        file.space.set(FILE_HEADER_BYTES, zeroed);
        file.set_handle(handle);
        Ok(())
    }

    async fn save_marker(&mut self, marker: Marker) -> io::Result<()> {
        self.marker.write(&marker.encode()).await?;
        self.marker_value = marker;
        Ok(())
    }

    /// From the end backwards, so that a crash at any point leaves a log without a hole.
    async fn truncate(
        &mut self,
        keep: Option<LogId>,
        removed: Vec<Arc<LogFile<D>>>,
        cut: Option<(Arc<LogFile<D>>, u32)>,
    ) -> io::Result<()> {
        let disk = self.shared.disk.clone();
        if self.marker_value.synced.map(|id| id.index) > keep.map(|id| id.index) {
            // Else the entries taken away would be missed as damaged at the next start.
            self.save_marker(Marker {
                synced: None,
                ..self.marker_value
            })
            .await?;
        }
        if self.unsynced_bytes > 0 {
            self.sync().await?;
        }
        for file in removed {
            if self.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &file)) {
                self.current = None;
                self.shared.state.lock().active = None;
            }
            file.space.hold().await;
            disk.unlink(&file.path()).await?;
            if file.indexed.swap(false, Ordering::Relaxed) {
                disk.unlink(&file.index_path()).await?;
            }
            disk.sync_folder(&file.folder).await?;
        }
        if let Some((file, end)) = cut {
            if file.indexed.swap(false, Ordering::Relaxed) {
                disk.unlink(&file.index_path()).await?;
                disk.sync_folder(&file.folder).await?;
            }
            let handle = file.open(&disk).await?;
            let length = FILE_HEADER_BYTES + u64::from(end);
            file.space.hold().await;
            handle.set_len(length).await?;
            handle.sync().await?;
            file.space.set(length, length);
        }
        self.written = lower(self.written, keep);
        self.synced = lower(self.synced, keep);
        Ok(())
    }

    /// Everything waiting is on disk (or written, where that is enough): says so, in order.
    fn finish(&mut self) -> io::Result<()> {
        for Turn { done, flushes, is_cut } in self.waiting.drain(..) {
            let woken = {
                let mut state = self.shared.state.lock();
                if let Some(failure) = &state.failure {
                    let error = failure.to_error();
                    drop(state);
                    if let Some(done) = done {
                        done(Err(error));
                    }
                    continue;
                }
                state.finish(flushes, is_cut)
            };
            if let Some(done) = done {
                done(Ok(()));
            }
            for waiter in woken {
                let _ = waiter.send(Ok(()));
            }
        }
        match &self.shared.state.lock().failure {
            Some(failure) => Err(failure.to_error()),
            None => Ok(()),
        }
    }

    /// Ends with an error: what waits here first, then the rest of the queue.
    fn fail(&mut self, error: &io::Error, rest: Queue<D>) {
        let failure = Failure::of(error);
        self.shared.state.lock().failure.get_or_insert_with(|| {
            tracing::error!(identity = %self.shared.identity, %error, "log failed");
            failure.clone()
        });
        let waiting = self.waiting.drain(..).filter_map(|turn| turn.done);
        complete_all(waiting.chain(rest.into_iter().filter_map(|op| op.done)), &failure);
        self.shared.fail(error);
    }
}

/// Ends the log when the writer ends, however that happens.
struct WriterEnd<D: Disk>(Arc<Shared<D>>);

impl<D: Disk> Drop for WriterEnd<D> {
    fn drop(&mut self) {
        self.0.state.lock().writer_ended = true;
        self.0.fail_silently(&closed());
    }
}

impl<D: Disk> Shared<D> {
    /// [`Shared::fail`] for an orderly end: nothing to report unless somebody still waits.
    fn fail_silently(&self, error: &io::Error) {
        self.state.lock().failure.get_or_insert_with(|| Failure::of(error));
        self.fail(error);
    }
}

/// The writer's loop.
pub(super) async fn run<D: Disk>(mut writer: Writer<D>) {
    let _end = WriterEnd(writer.shared.clone());
    while let Some(mut queue) = writer.next().await {
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(op) = queue.pop_front()
        {
            outcome = writer.step(op).await;
        }
        if outcome.is_ok() {
            outcome = writer.commit().await;
        }
        if let Err(error) = outcome {
            writer.fail(&error, queue);
            return;
        }
    }
}

/// Where appends do not wait for a sync: asks for one now and then.
pub(super) async fn flush_now_and_then<D: Disk>(shared: Arc<Shared<D>>) {
    loop {
        shared.disk.pause(UNSYNCED_TIME_MAX).await;
        {
            let mut state = shared.state.lock();
            if state.writer_ended || state.failure.is_some() {
                return;
            }
            if !state.unsynced {
                continue;
            }
            state.queue.push_back(Op {
                action: Action::Sync,
                done: None,
                flushes: None,
                is_cut: false,
            });
        }
        shared.wake.notify_one();
    }
}

/// Puts an index beside its log file, whole or not at all.
pub(super) async fn write_index<D: Disk>(shared: &Shared<D>, file: &LogFile<D>, bytes: &Bytes) -> io::Result<()> {
    let temporary = file.folder.join(format!("index-{}.tmp", shared.next_temporary()));
    let handle = shared.disk.create(&temporary).await?;
    handle.write_at(0, std::slice::from_ref(bytes)).await?;
    handle.sync().await?;
    file.indexed.store(true, Ordering::Relaxed);
    shared.disk.rename(&temporary, &file.index_path()).await
}

fn lower(a: Option<LogId>, b: Option<LogId>) -> Option<LogId> {
    if a.map(|id| id.index) <= b.map(|id| id.index) {
        a
    } else {
        b
    }
}
