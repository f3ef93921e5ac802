//! What retention by time may remove, and until when what is kept can be read.

use std::io;

use super::{StateReader, View};

/// What a trim may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimPoint {
    /// The last entry to forget.
    pub log_index: u64,
    /// Messages lie in or before it, not only commands.
    pub forgets: bool,
}

/// What is left to read of queues that went to other Raft groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Sealed segments with messages.
    pub segments: u64,
    /// When the last message of them expires, in milliseconds since 1970; `None` without any.
    pub until_ms: Option<i64>,
}

impl StateReader {
    /// What is left to read of sealed segments. Topics without a retention of their own have `default_retention_ms`.
    pub fn kept(&self, default_retention_ms: u64) -> Kept {
        let memory = self.shared.memory.read();
        let mut kept = Kept::default();
        for topic in memory.state.topics.iter() {
            let retention_ms = topic.config.retention_ms.unwrap_or(default_retention_ms);
            let sealed = topic.sealed.values().map(|sealed| &sealed.queue);
            for queue in sealed.filter(|queue| queue.min_offset < queue.max_offset) {
                let until = queue.last_store_time.saturating_add_unsigned(retention_ms);
                kept.segments += 1;
                kept.until_ms = kept.until_ms.max(Some(until));
            }
        }
        kept
    }

    /// The last entry that no message within its topic's retention lies in or before: what a trim may name. Topics
    /// without a retention of their own have `default_retention_ms`. `None` if there is nothing to trim.
    pub fn trim_point(&self, now_ms: i64, default_retention_ms: u64) -> io::Result<Option<TrimPoint>> {
        let (applied, trimmed, queues) = {
            let memory = self.shared.memory.read();
            let Some(applied) = memory.progress.applied else {
                return Ok(None);
            };
            let queues: Vec<_> = memory
                .state
                .topics
                .segments_up_to(u64::MAX)
                .into_iter()
                .filter_map(|id| {
                    let topic = memory.state.topics.by_id(id.queue.topic())?;
                    let retention_ms = topic.config.retention_ms.unwrap_or(default_retention_ms);
                    let since = now_ms.saturating_sub_unsigned(retention_ms);
                    let queue = memory.state.topics.segment(id)?;
                    Some((
                        View::of(&memory, id.queue, queue),
                        since,
                        queue.min_store_time,
                        queue.first_log_index,
                    ))
                })
                .collect();
            (applied.index, memory.state.trimmed, queues)
        };
        let mut point = applied;
        let mut oldest = u64::MAX;
        for (view, since, min_store_time, first_log_index) in queues {
            if point <= trimmed {
                return Ok(None);
            }
            oldest = oldest.min(first_log_index);
            let first_kept = if min_store_time >= since {
                Some(first_log_index)
            } else {
                let offset = self.first_since(&view, since)?;
                self.locate_in(&view, offset, 1)?
                    .first()
                    .map(|located| located.log_index)
            };
            if let Some(first_kept) = first_kept {
                point = point.min(first_kept.saturating_sub(1));
            }
        }
        Ok((point > trimmed).then_some(TrimPoint {
            log_index: point,
            forgets: oldest <= point,
        }))
    }
}
