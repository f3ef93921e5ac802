//! The Raft engine's log traits as a view on the CommitLog: nothing is stored twice.
//!
//! Rules kept here (openraft's `RaftLogStorage`): an entry is readable when `append` returns; a completion says that
//! this append and everything before it is on disk; vote, truncation and append keep their order in one writer; a
//! purge moves a marker and touches no file; at and below the marker nothing is shown to the engine, although the
//! bytes still serve readers of messages.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use futures_util::{Stream, StreamExt, stream};
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{AsyncRuntime, LogState, OptionalSend, RaftLogReader};

use crate::commit_log::CommitLog;
use crate::convert;
use crate::disk::Disk;
use crate::log_id::LogId;
use crate::type_config::Types;

/// Most bytes of entries in one AppendEntries request, and read at once for apply. One entry is always allowed.
pub const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The log of one replica as the engine sees it.
pub struct LogStore<Rt, D: Disk, R> {
    log: CommitLog<D>,
    types: PhantomData<fn() -> (Rt, R)>,
}

impl<Rt, D: Disk, R> LogStore<Rt, D, R> {
    /// A view on `log`.
    pub fn new(log: CommitLog<D>) -> Self {
        Self {
            log,
            types: PhantomData,
        }
    }

    /// First index the engine may see.
    fn start(&self) -> u64 {
        let raft_start = self.log.purged().map_or(0, |id| id.index + 1);
        raft_start.max(self.log.first_index().unwrap_or(0))
    }

    /// One past the last index the engine may see.
    fn end(&self) -> u64 {
        self.log.last().map_or(0, |id| id.index + 1)
    }

    fn clamp(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        (from.max(self.start()), to.min(self.end()))
    }
}

impl<Rt, D: Disk, R> Clone for LogStore<Rt, D, R> {
    fn clone(&self) -> Self {
        Self::new(self.log.clone())
    }
}

impl<Rt: AsyncRuntime, D: Disk, R: Send + Sync + 'static> LogStore<Rt, D, R> {
    async fn read(&self, from: u64, to: u64) -> io::Result<Vec<EntryOf<Types<Rt, R>>>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let records = self.log.read(from, to, READ_BYTES_MAX).await?;
        records.into_iter().map(convert::own_entry).collect()
    }
}

impl<Rt: AsyncRuntime, D: Disk, R: Send + Sync + 'static> RaftLogReader<Types<Rt, R>> for LogStore<Rt, D, R> {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<EntryOf<Types<Rt, R>>, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = self.clamp(&range);
        let store = self.clone();
        let chunks = stream::try_unfold(from, move |next| {
            let store = store.clone();
            async move {
                let entries = store.read(next, to).await?;
                let Some(last) = entries.last() else { return Ok(None) };
                let next = last.log_id.index + 1;
                Ok(Some((entries, next)))
            }
        });
        chunks
            .flat_map(|chunk: io::Result<Vec<_>>| {
                let items: Vec<io::Result<_>> = match chunk {
                    Ok(entries) => entries.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                stream::iter(items)
            })
            .boxed()
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<Types<Rt, R>>>, io::Error> {
        let (mut from, to) = self.clamp(&range);
        let mut entries = Vec::new();
        while from < to {
            let chunk = self.read(from, to).await?;
            let Some(last) = chunk.last() else { break };
            from = last.log_id.index + 1;
            entries.extend(chunk);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Types<Rt, R>>>, io::Error> {
        Ok(self.log.vote().and_then(convert::engine_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<EntryOf<Types<Rt, R>>>, io::Error> {
        let (from, to) = self.clamp(&(start..end));
        if from != start && start < end {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("log starts at {from}, {start} was asked for"),
            ));
        }
        self.read(from, to).await
    }

    /// The last entry of every term in the range. The trait's own example shows the first ones, but the engine's
    /// `LogIdList` reads these as last ones, and so does the trait's default implementation.
    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<LogIdOf<Types<Rt, R>>>,
    ) -> Result<Vec<LogIdOf<Types<Rt, R>>>, io::Error> {
        let (first, last) = range.into_inner();
        let starts = self.log.term_starts();
        let ends = starts
            .iter()
            .zip(starts.iter().skip(1))
            .map(|(term, next)| LogId::new(term.term, next.index - 1));
        let mut keys: Vec<_> = ends
            .filter(|end| (first.index..last.index).contains(&end.index))
            .map(convert::engine_log_id)
            .collect();
        keys.push(last);
        Ok(keys)
    }
}

impl<Rt: AsyncRuntime, D: Disk, R: Send + Sync + 'static> RaftLogStorage<Types<Rt, R>> for LogStore<Rt, D, R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<Rt, R>>, io::Error> {
        let purged = self.log.purged().map(convert::engine_log_id);
        let last = self.log.last().map(convert::engine_log_id);
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types<Rt, R>>) -> Result<(), io::Error> {
        self.log.save_vote(convert::stored_vote(vote)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<Rt, R>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Types<Rt, R>>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(convert::record).collect();
        self.log
            .append(records, Box::new(move |result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogIdOf<Types<Rt, R>>>) -> Result<(), io::Error> {
        self.log.truncate_after(last_log_id.as_ref().map(convert::log_id)).await
    }

    async fn purge(&mut self, log_id: LogIdOf<Types<Rt, R>>) -> Result<(), io::Error> {
        self.log.purge(convert::log_id(&log_id)).await
    }
}
