//! The file that holds the controllers' state: one line with a checksum, then all of it as JSON.
//!
//!   | "flotilla controller state 1 crc32c " | crc32c of the JSON, 8 hexadecimal digits | "\n" | JSON |
//!
//! It is written aside, flushed, and renamed, never changed in place: a crash leaves the old file or the new one, and a
//! hard link is a copy. Whatever else stands there is damage, an error of kind `InvalidData`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use flotilla_raft_store::log_id::LogId;
use serde::{Deserialize, Serialize};

use crate::state::State;

const NAME: &str = "state.json";
const NAME_NEW: &str = "state.json.new";
const HEAD: &str = "flotilla controller state 1 crc32c ";
const HEAD_BYTES: usize = HEAD.len() + 9;

/// What the file says.
#[derive(Debug, Default, PartialEq)]
pub struct Contents {
    /// The last entry the state reflects.
    pub applied: Option<LogId>,
    /// The Raft membership in force there, as opaque bytes.
    pub membership: Option<(LogId, Bytes)>,
    /// The state.
    pub state: State,
}

/// The JSON; `S` is the state, owned when it is read and borrowed when it is written.
#[derive(Serialize, Deserialize)]
struct Form<S> {
    applied: Option<FormLogId>,
    membership: Option<FormMembership>,
    state: S,
}

#[derive(Serialize, Deserialize)]
struct FormLogId {
    term: u64,
    index: u64,
}

#[derive(Serialize, Deserialize)]
struct FormMembership {
    log_id: FormLogId,
    bytes: Vec<u8>,
}

/// Makes `contents` the durable contents of `folder`.
pub fn write(folder: &Path, contents: &Contents) -> io::Result<()> {
    put(folder, &encode(contents)?)
}

/// The contents of `folder`; `None` if there is no file.
pub fn read(folder: &Path) -> io::Result<Option<Contents>> {
    match fs::read(folder.join(NAME)) {
        Ok(bytes) => decode(&bytes).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the folder `into` with the file of `folder` in it.
pub fn link(folder: &Path, into: &Path) -> io::Result<()> {
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    fs::create_dir_all(into)?;
    fs::hard_link(folder.join(NAME), into.join(NAME))?;
    sync_folder(into)
}

/// Makes the folder, and removes what a crash left half written.
pub fn prepare(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_folder(parent)?;
    }
    match fs::remove_file(folder.join(NAME_NEW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn put(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = folder.join(NAME_NEW);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(NAME))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn encode(contents: &Contents) -> io::Result<Vec<u8>> {
    let form = Form {
        applied: contents.applied.map(FormLogId::from),
        membership: contents.membership.as_ref().map(|(log_id, bytes)| FormMembership {
            log_id: (*log_id).into(),
            bytes: bytes.to_vec(),
        }),
        state: &contents.state,
    };
    let mut out = vec![0; HEAD_BYTES];
    serde_json::to_writer(&mut out, &form)?;
    let head = format!("{HEAD}{:08x}\n", crc32c::crc32c(&out[HEAD_BYTES..]));
    out[..HEAD_BYTES].copy_from_slice(head.as_bytes());
    Ok(out)
}

fn decode(bytes: &[u8]) -> io::Result<Contents> {
    let (head, json) = bytes
        .split_at_checked(HEAD_BYTES)
        .ok_or_else(|| damaged("is cut short"))?;
    if !head.starts_with(HEAD.as_bytes()) {
        return Err(damaged("is of another form"));
    }
    if head[HEAD.len()..] != *format!("{:08x}\n", crc32c::crc32c(json)).as_bytes() {
        return Err(damaged("does not fit its checksum"));
    }
    let form: Form<State> = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
    Ok(Contents {
        applied: form.applied.map(LogId::from),
        membership: form
            .membership
            .map(|membership| (membership.log_id.into(), membership.bytes.into())),
        state: form.state,
    })
}

fn damaged(how: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the file of the controllers' state {how}"),
    )
}

impl From<LogId> for FormLogId {
    fn from(LogId { term, index }: LogId) -> Self {
        Self { term, index }
    }
}

impl From<FormLogId> for LogId {
    fn from(FormLogId { term, index }: FormLogId) -> Self {
        Self { term, index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        Contents {
            applied: Some(LogId::new(2, 7)),
            membership: Some((LogId::new(1, 1), Bytes::from_static(b"\x00members\xff"))),
            state: State::default(),
        }
    }

    #[test]
    fn contents_survive_the_file() {
        for contents in [contents(), Contents::default()] {
            assert_eq!(decode(&encode(&contents).unwrap()).unwrap(), contents);
        }
    }

    #[test]
    fn any_damage_is_found() {
        let bytes = encode(&contents()).unwrap();
        for at in 0..bytes.len() {
            let cut = decode(&bytes[..at]).unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::InvalidData, "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let outcome = decode(&flipped).unwrap_err();
            assert_eq!(outcome.kind(), io::ErrorKind::InvalidData, "flipped at {at}");
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        write(folder.path(), &Contents::default()).unwrap();
        // A crash while the next one is written.
        fs::write(folder.path().join(NAME_NEW), "half").unwrap();
        prepare(folder.path()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(Contents::default()));
        assert!(!folder.path().join(NAME_NEW).exists());
        write(folder.path(), &contents()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(contents()));
    }

    #[test]
    fn a_link_keeps_what_it_was_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("out/state");
        write(folder.path(), &contents()).unwrap();
        link(folder.path(), &into).unwrap();
        write(folder.path(), &Contents::default()).unwrap();
        assert_eq!(read(&into).unwrap(), Some(contents()));
    }
}
