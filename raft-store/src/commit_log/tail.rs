//! The newest records in memory: everything not flushed yet, and as much before it as the budget allows.

use std::collections::VecDeque;

use super::record::{RECORD_HEADER_BYTES, Record};

/// Consecutive records ending with the log's last one.
pub(super) struct Tail {
    records: VecDeque<Record>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub fn push(&mut self, record: Record) {
        if self
            .records
            .back()
            .is_some_and(|last| last.log_id.index + 1 != record.log_id.index)
        {
            // The indexes between were purged before they were written.
            self.clear();
        }
        self.bytes += cost(&record);
        self.records.push_back(record);
    }

    /// Drops the oldest records beyond the budget, but none after `flushed`.
    pub fn evict(&mut self, flushed: Option<u64>) {
        while self.bytes > self.bytes_max {
            match self.records.front() {
                Some(record) if Some(record.log_id.index) <= flushed => {
                    self.bytes -= cost(record);
                    self.records.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Drops every record from `index` on.
    pub fn truncate(&mut self, index: u64) {
        while let Some(record) = self.records.back()
            && record.log_id.index >= index
        {
            self.bytes -= cost(record);
            self.records.pop_back();
        }
    }

    pub fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    pub fn first_index(&self) -> Option<u64> {
        self.records.front().map(|record| record.log_id.index)
    }

    pub fn get(&self, index: u64) -> Option<&Record> {
        let at = index.checked_sub(self.first_index()?)?;
        self.records.get(usize::try_from(at).ok()?)
    }

    /// The records `from..to`, at least one if there is one at `from`, at most `bytes_max` of payload after it.
    pub fn range(&self, from: u64, to: u64, bytes_max: usize) -> Vec<Record> {
        let Some(at) = self.first_index().and_then(|first| from.checked_sub(first)) else {
            return Vec::new();
        };
        let Ok(at) = usize::try_from(at) else { return Vec::new() };
        let mut bytes = 0;
        let mut out = Vec::new();
        for record in self.records.range(at.min(self.records.len())..) {
            bytes += record.payload.len();
            if record.log_id.index >= to || (bytes > bytes_max && !out.is_empty()) {
                break;
            }
            out.push(record.clone());
        }
        out
    }
}

fn cost(record: &Record) -> usize {
    record.payload.len() + RECORD_HEADER_BYTES + size_of::<Record>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::commit_log::record::RecordKind;
    use crate::log_id::LogId;

    fn tail(bytes_max: usize) -> Tail {
        let mut tail = Tail::new(bytes_max);
        for index in 10..20 {
            tail.push(Record::new(
                LogId::new(1, index),
                RecordKind::Normal,
                Bytes::from(vec![0; 1000]),
            ));
        }
        tail
    }

    #[test]
    fn unflushed_records_stay_whatever_the_budget() {
        let mut tail = tail(0);
        tail.evict(Some(14));
        assert_eq!(tail.first_index(), Some(15));
        assert!(tail.get(14).is_none() && tail.get(19).is_some() && tail.get(20).is_none());
    }

    #[test]
    fn ranges_hold_at_least_one_record() {
        let tail = tail(1 << 20);
        assert_eq!(tail.range(12, 19, 1).len(), 1);
        assert_eq!(tail.range(12, 19, 2500).len(), 2);
        assert_eq!(tail.range(12, 14, 1 << 20).len(), 2);
        assert_eq!(tail.range(9, 14, 1 << 20).len(), 0);
        assert_eq!(tail.range(30, 40, 1 << 20).len(), 0);
    }
}
