//! The bytes of the frames between replicas. Big-endian; the first byte says which kind follows.
//!
//! ```text
//! vote:      term u64 | node u64 | committed u8
//! log id?:   present u8 | term u64 | index u64
//! append:    1 | vote | prev log id? | leader commit log id? | entries u32
//!              | per entry: term u64, index u64, kind u8, payload crc u32, payload length u32 | payloads
//! appended:  2 | result u8 (0 matched, 1 conflict, 2 higher vote) | log id? or vote
//! vote:      3 (pre-vote: 4) | vote | last log id? | leadership transfer u8
//! voted:     5 | vote | granted u8 | last log id?
//! transfer:  6 | vote | to u64 | last log id?
//! refused:   7 | length u16, reason                       transferring: 8
//! ```
//! Snapshot frames are in [`super::files`]. A payload is checked against its checksum when decoded.

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};
use openraft::{AsyncRuntime, EntryPayload};

use crate::bytes_reader::{BytesReader, Malformed};
use crate::commit_log::{Record, RecordKind};
use crate::convert::{self, EngineEntry};
use crate::type_config::{EngineLogId, EngineVote, Types};

/// Most entries in one append request; the engine is configured to send 64.
const ENTRIES_MAX: u32 = 4096;

const APPEND: u8 = 1;
const APPENDED: u8 = 2;
const VOTE: u8 = 3;
const PRE_VOTE: u8 = 4;
const VOTED: u8 = 5;
const TRANSFER: u8 = 6;
const REFUSED: u8 = 7;
const TRANSFERRING: u8 = 8;

/// A request as a replica receives it.
pub enum Request<Rt: AsyncRuntime, R: Send + Sync + 'static> {
    /// Append entries, or a heartbeat without any.
    Append(AppendEntriesRequest<Types<Rt, R>>),
    /// A vote, asked for in earnest.
    Vote(VoteRequest<Types<Rt, R>>),
    /// Whether a vote would be given.
    PreVote(VoteRequest<Types<Rt, R>>),
    /// Leadership is handed over.
    Transfer(TransferLeaderRequest<Types<Rt, R>>),
}

/// An answer as its asker receives it.
pub enum Response<Rt: AsyncRuntime, R: Send + Sync + 'static> {
    /// To an append request.
    Appended(Result<Option<EngineLogId>, StreamAppendError<Types<Rt, R>>>),
    /// To a vote request.
    Voted(VoteResponse<Types<Rt, R>>),
    /// To a transfer request.
    Transferring,
    /// The request could not be served.
    Refused(String),
}

/// An append request as frame parts: one small header, then the payloads as they are in memory.
pub fn encode_append<Rt: AsyncRuntime, R: Send + Sync + 'static>(
    request: AppendEntriesRequest<Types<Rt, R>>,
) -> Vec<Bytes> {
    let mut head = BytesMut::with_capacity(64 + 25 * request.entries.len());
    head.put_u8(APPEND);
    put_vote(&mut head, &request.vote);
    put_log_id(&mut head, request.prev_log_id.as_ref());
    put_log_id(&mut head, request.leader_commit.as_ref());
    head.put_u32(u32::try_from(request.entries.len()).expect("the engine sends at most 64"));
    let mut payloads = Vec::with_capacity(request.entries.len() + 1);
    payloads.push(Bytes::new());
    for entry in request.entries {
        let record = convert::record(entry);
        head.put_u64(record.log_id.term);
        head.put_u64(record.log_id.index);
        head.put_u8(record.kind.to_byte());
        head.put_u32(record.payload_crc);
        head.put_u32(u32::try_from(record.payload.len()).expect("an entry is far below 4 GiB"));
        if !record.payload.is_empty() {
            payloads.push(record.payload);
        }
    }
    payloads[0] = head.freeze();
    payloads
}

/// A vote or pre-vote request.
pub fn encode_vote<Rt: AsyncRuntime, R: Send + Sync + 'static>(
    request: &VoteRequest<Types<Rt, R>>,
    pre: bool,
) -> Bytes {
    let mut frame = BytesMut::with_capacity(40);
    frame.put_u8(if pre { PRE_VOTE } else { VOTE });
    put_vote(&mut frame, &request.vote);
    put_log_id(&mut frame, request.last_log_id.as_ref());
    frame.put_u8(u8::from(request.leadership_transfer));
    frame.freeze()
}

/// A leadership transfer request.
pub fn encode_transfer<Rt: AsyncRuntime, R: Send + Sync + 'static>(
    request: &TransferLeaderRequest<Types<Rt, R>>,
) -> Bytes {
    let mut frame = BytesMut::with_capacity(48);
    frame.put_u8(TRANSFER);
    put_vote(&mut frame, request.from_leader());
    frame.put_u64(*request.to_node_id());
    put_log_id(&mut frame, request.last_log_id());
    frame.freeze()
}

/// Any response.
pub fn encode_response<Rt: AsyncRuntime, R: Send + Sync + 'static>(response: &Response<Rt, R>) -> Bytes {
    let mut frame = BytesMut::with_capacity(40);
    match response {
        Response::Appended(result) => {
            frame.put_u8(APPENDED);
            match result {
                Ok(matched) => {
                    frame.put_u8(0);
                    put_log_id(&mut frame, matched.as_ref());
                }
                Err(StreamAppendError::Conflict(at)) => {
                    frame.put_u8(1);
                    put_log_id(&mut frame, Some(at));
                }
                Err(StreamAppendError::HigherVote(vote)) => {
                    frame.put_u8(2);
                    put_vote(&mut frame, vote);
                }
            }
        }
        Response::Voted(voted) => {
            frame.put_u8(VOTED);
            put_vote(&mut frame, &voted.vote);
            frame.put_u8(u8::from(voted.vote_granted));
            put_log_id(&mut frame, voted.last_log_id.as_ref());
        }
        Response::Transferring => frame.put_u8(TRANSFERRING),
        Response::Refused(reason) => {
            let mut end = reason.len().min(1024);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            frame.put_u8(REFUSED);
            frame.put_u16(u16::try_from(end).expect("at most 1024"));
            frame.put_slice(&reason.as_bytes()[..end]);
        }
    }
    frame.freeze()
}

/// Any request; payloads are slices of the frame and match their checksums.
pub fn decode_request<Rt: AsyncRuntime, R: Send + Sync + 'static>(frame: Bytes) -> Result<Request<Rt, R>, Malformed> {
    let mut reader = BytesReader::new(frame);
    let kind = reader.u8()?;
    Ok(match kind {
        APPEND => Request::Append(AppendEntriesRequest {
            vote: self::vote(&mut reader)?,
            prev_log_id: log_id(&mut reader)?,
            leader_commit: log_id(&mut reader)?,
            entries: entries(&mut reader)?,
        }),
        VOTE | PRE_VOTE => {
            let mut request = VoteRequest::new(vote(&mut reader)?, log_id(&mut reader)?);
            request.leadership_transfer = reader.u8()? == 1;
            if kind == PRE_VOTE {
                Request::PreVote(request)
            } else {
                Request::Vote(request)
            }
        }
        TRANSFER => {
            let from = vote(&mut reader)?;
            let to = reader.u64()?;
            Request::Transfer(TransferLeaderRequest::new(from, to, log_id(&mut reader)?))
        }
        _ => return Err(Malformed),
    })
}

/// Any response.
pub fn decode_response<Rt: AsyncRuntime, R: Send + Sync + 'static>(frame: Bytes) -> Result<Response<Rt, R>, Malformed> {
    let mut reader = BytesReader::new(frame);
    Ok(match reader.u8()? {
        APPENDED => Response::Appended(match reader.u8()? {
            0 => Ok(log_id(&mut reader)?),
            1 => Err(StreamAppendError::Conflict(log_id(&mut reader)?.ok_or(Malformed)?)),
            2 => Err(StreamAppendError::HigherVote(vote(&mut reader)?)),
            _ => return Err(Malformed),
        }),
        VOTED => {
            let vote = vote(&mut reader)?;
            let granted = reader.u8()? == 1;
            Response::Voted(VoteResponse::new(vote, log_id(&mut reader)?, granted))
        }
        TRANSFERRING => Response::Transferring,
        REFUSED => Response::Refused(reader.string()?),
        _ => return Err(Malformed),
    })
}

fn entries(reader: &mut BytesReader) -> Result<Vec<EngineEntry>, Malformed> {
    let count = reader.u32()?;
    if count > ENTRIES_MAX {
        return Err(Malformed);
    }
    let mut heads = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let id = crate::log_id::LogId::new(reader.u64()?, reader.u64()?);
        let kind = RecordKind::from_byte(reader.u8()?).ok_or(Malformed)?;
        heads.push((id, kind, reader.u32()?, reader.u32()? as usize));
    }
    let mut entries = Vec::with_capacity(heads.len());
    for (log_id, kind, payload_crc, length) in heads {
        let payload = reader.bytes(length)?;
        if crc32c::crc32c(&payload) != payload_crc {
            return Err(Malformed);
        }
        entries.push(convert::entry(Record {
            log_id,
            kind,
            payload,
            payload_crc,
        })?);
    }
    Ok(entries)
}

/// Bytes of entry payloads in a request, for the sender's window.
pub fn payload_bytes(entries: &[EngineEntry]) -> usize {
    entries
        .iter()
        .map(|entry| {
            if let EntryPayload::Normal(payload) = &entry.payload {
                payload.bytes.len()
            } else {
                0
            }
        })
        .sum()
}

pub(crate) fn put_vote(frame: &mut BytesMut, vote: &EngineVote) {
    frame.put_u64(vote.leader_id.term);
    frame.put_u64(vote.leader_id.voted_for);
    frame.put_u8(u8::from(vote.committed));
}

pub(crate) fn vote(reader: &mut BytesReader) -> Result<EngineVote, Malformed> {
    let (term, node) = (reader.u64()?, reader.u64()?);
    Ok(if reader.u8()? == 1 {
        EngineVote::new_committed(term, node)
    } else {
        EngineVote::new(term, node)
    })
}

fn put_log_id(frame: &mut BytesMut, id: Option<&EngineLogId>) {
    let (present, id) = id.map_or((0, Default::default()), |id| (1, convert::log_id(id)));
    frame.put_u8(present);
    frame.put_u64(id.term);
    frame.put_u64(id.index);
}

fn log_id(reader: &mut BytesReader) -> Result<Option<EngineLogId>, Malformed> {
    let present = reader.u8()? == 1;
    let id = crate::log_id::LogId::new(reader.u64()?, reader.u64()?);
    Ok(present.then(|| convert::engine_log_id(id)))
}

#[cfg(test)]
mod tests {
    use openraft_rt_tokio::TokioRuntime;

    use super::*;
    use crate::type_config::Payload;

    type Wire = Request<TokioRuntime, u8>;

    fn append() -> AppendEntriesRequest<Types<TokioRuntime, u8>> {
        let id = |index| convert::engine_log_id(crate::log_id::LogId::new(3, index));
        AppendEntriesRequest {
            vote: EngineVote::new_committed(3, 2),
            prev_log_id: Some(id(7)),
            leader_commit: None,
            entries: vec![
                EngineEntry {
                    log_id: id(8),
                    payload: EntryPayload::Blank,
                },
                EngineEntry {
                    log_id: id(9),
                    payload: EntryPayload::Normal(Payload::new(Bytes::from_static(b"payload"))),
                },
            ],
        }
    }

    fn frame() -> Vec<u8> {
        encode_append(append()).concat()
    }

    #[test]
    fn append_request_survives_the_wire() {
        let Ok(Wire::Append(read)) = decode_request(frame().into()) else {
            panic!("not an append request")
        };
        assert_eq!(read.vote, append().vote);
        assert_eq!(read.prev_log_id, append().prev_log_id);
        assert_eq!(read.leader_commit, None);
        let EntryPayload::Normal(payload) = &read.entries[1].payload else {
            panic!("not a normal entry")
        };
        assert_eq!(&payload.bytes[..], b"payload");
    }

    #[test]
    fn any_cut_frame_is_refused() {
        let frame = frame();
        for end in 0..frame.len() {
            assert!(
                decode_request::<TokioRuntime, u8>(frame[..end].to_vec().into()).is_err(),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn no_byte_in_any_place_makes_a_reader_panic() {
        type Reply = Response<TokioRuntime, u8>;
        let id = || Some(convert::engine_log_id(crate::log_id::LogId::new(3, 8)));
        let transfer = TransferLeaderRequest::<Types<TokioRuntime, u8>>::new(EngineVote::new_committed(3, 2), 5, id());
        let vote = VoteRequest::<Types<TokioRuntime, u8>>::new(EngineVote::new(3, 2), id());
        let frames = [
            Bytes::from(frame()),
            encode_vote(&vote, false),
            encode_vote(&vote, true),
            encode_transfer(&transfer),
            encode_response(&Reply::Appended(Ok(id()))),
            encode_response(&Reply::Appended(Err(StreamAppendError::HigherVote(EngineVote::new(
                3, 2,
            ))))),
            encode_response(&Reply::Voted(VoteResponse::new(EngineVote::new(3, 2), id(), true))),
            encode_response(&Reply::Refused("not now".to_owned())),
        ];
        for frame in frames {
            for place in 0..frame.len() {
                for byte in 0..=u8::MAX {
                    let mut damaged = frame.to_vec();
                    damaged[place] = byte;
                    let damaged = Bytes::from(damaged);
                    // Whichever side reads it.
                    let _ = decode_request::<TokioRuntime, u8>(damaged.clone());
                    let _ = decode_response::<TokioRuntime, u8>(damaged);
                }
            }
        }
    }

    #[test]
    fn a_flipped_payload_bit_is_refused() {
        let mut frame = frame();
        *frame.last_mut().unwrap() ^= 1;
        assert!(decode_request::<TokioRuntime, u8>(frame.into()).is_err());
    }
}
