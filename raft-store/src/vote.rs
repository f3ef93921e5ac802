//! The persisted vote: which term this replica is in, and whom it voted for.
//!
//! It lives in a file of two slots beside the log and is on disk, twice, before anybody hears of it; the log's
//! writer saves it in its turn among appends and truncations, so a vote is never younger than an entry of its term.
//! If both slots are unreadable this replica may not vote any more: opening fails.
//!
//! Value layout, big-endian: `present: 1 | term: 8 | voted for a node: 1 | node: 8 | committed: 1`.

use bytes::{BufMut, BytesMut};

/// A vote as stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredVote {
    /// The term.
    pub term: u64,
    /// The replica voted for in it.
    pub node: Option<u64>,
    /// True once a majority granted it: `node` leads the term.
    pub committed: bool,
}

const VALUE_BYTES: usize = 19;

/// The value of the vote file; `None` before the first vote.
pub(crate) fn encode(vote: Option<StoredVote>) -> BytesMut {
    let mut out = BytesMut::with_capacity(VALUE_BYTES);
    let StoredVote { term, node, committed } = vote.unwrap_or(StoredVote {
        term: 0,
        node: None,
        committed: false,
    });
    out.put_u8(u8::from(vote.is_some()));
    out.put_u64(term);
    out.put_u8(u8::from(node.is_some()));
    out.put_u64(node.unwrap_or_default());
    out.put_u8(u8::from(committed));
    out
}

/// The inverse of [`encode`]; the outer `None` is a value that is no vote.
pub(crate) fn decode(value: &[u8]) -> Option<Option<StoredVote>> {
    let value: &[u8; VALUE_BYTES] = value.try_into().ok()?;
    if value[0] == 0 {
        return Some(None);
    }
    let number = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("eight bytes"));
    Some(Some(StoredVote {
        term: number(1),
        node: (value[9] == 1).then(|| number(10)),
        committed: value[18] == 1,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vote_survives_its_bytes() {
        let votes = [
            None,
            Some(StoredVote {
                term: 0,
                node: None,
                committed: false,
            }),
            Some(StoredVote {
                term: u64::MAX,
                node: Some(3),
                committed: true,
            }),
        ];
        for vote in votes {
            assert_eq!(decode(&encode(vote)), Some(vote));
        }
        assert_eq!(decode(b"short"), None);
    }
}
