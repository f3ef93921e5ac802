//! A node's data folder: locked against a second process, marked with who it belongs to.
//!
//! `lock` is held exclusively while the node runs. `version` names the layout. `volume.json` says which cluster, node
//! and replica the folder belongs to, carries an id drawn when the folder was first used, and, once known, the
//! *founding*: the volume ids with which the Raft group was founded.
//!
//! Holds: a replica takes part in Raft only with a volume that is named by the founding. A disk that was wiped gets a
//! new volume id, so it can never vote under an id that has already voted. A crash leaves the old or the new
//! `volume.json`, never a part of one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The layout this program writes and reads.
const VERSION: &str = "flotilla volume 1\n";

/// Who a folder is expected to belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Cluster name.
    pub cluster: String,
    /// Node name.
    pub node: String,
    /// Raft id of the node's replica.
    pub replica: u64,
}

/// The volume id of each replica the group was founded with, by node name.
pub type Founding = BTreeMap<String, FoundingMember>;

/// One replica of the founding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingMember {
    /// Raft id.
    pub replica: u64,
    /// Volume id.
    pub volume: String,
}

/// An open, locked data folder.
#[derive(Debug)]
pub struct Volume {
    folder: PathBuf,
    label: Label,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Label {
    cluster: String,
    cluster_id: String,
    node: String,
    replica: u64,
    volume: String,
    founding: Option<Founding>,
    /// Raft groups that were opened here at least once.
    opened: Vec<String>,
}

/// Why a folder was not opened.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Another process holds the lock.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// Written by a program of another layout, or not ours at all.
    #[error("{path} has layout {found:?}, this program reads {VERSION:?}")]
    Version {
        /// The version file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Belongs to another cluster, node or replica.
    #[error("{path} belongs to {what} {found}, this is {expected}: refusing a foreign volume")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// Which part of the owner differs.
        what: &'static str,
        /// The owner it names.
        found: String,
        /// The owner expected.
        expected: String,
    },
    /// The folder holds data but no label, or one that cannot be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

/// The cluster id that follows from a cluster's name.
pub fn cluster_id(name: &str) -> [u8; 16] {
    xxhash_rust::xxh3::xxh3_128(format!("flotilla cluster {name}").as_bytes()).to_be_bytes()
}

impl Volume {
    /// Locks the folder, creating and labelling it when it is new, and checks that it belongs to `owner`.
    pub fn open(folder: &Path, owner: &Owner) -> Result<Self, VolumeError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| VolumeError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(io_at(folder))?;
        let lock = lock(folder)?;
        let version_path = folder.join("version");
        let label_path = folder.join("volume.json");
        match fs::read_to_string(&version_path) {
            Ok(found) if found == VERSION => {}
            Ok(found) => {
                return Err(VolumeError::Version {
                    path: version_path,
                    found,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if folder.join("groups").exists() {
                    let reason = "missing, yet the folder holds Raft groups".to_owned();
                    return Err(VolumeError::Unreadable {
                        path: version_path,
                        reason,
                    });
                }
                write_durably(&version_path, VERSION.as_bytes()).map_err(io_at(&version_path))?;
            }
            Err(source) => {
                return Err(VolumeError::Io {
                    path: version_path,
                    source,
                });
            }
        }
        let label = match fs::read(&label_path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| VolumeError::Unreadable {
                path: label_path,
                reason: error.to_string(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if folder.join("groups").exists() {
                    let reason = "missing, yet the folder holds Raft groups".to_owned();
                    return Err(VolumeError::Unreadable {
                        path: label_path,
                        reason,
                    });
                }
                let label = Label {
                    cluster: owner.cluster.clone(),
                    cluster_id: hex(&cluster_id(&owner.cluster)),
                    node: owner.node.clone(),
                    replica: owner.replica,
                    volume: hex(&rand::random::<[u8; 16]>()),
                    founding: None,
                    opened: Vec::new(),
                };
                write_label(&label_path, &label).map_err(io_at(&label_path))?;
                label
            }
            Err(source) => {
                return Err(VolumeError::Io {
                    path: label_path,
                    source,
                });
            }
        };
        check_owner(folder, &label, owner)?;
        Ok(Self {
            folder: folder.to_owned(),
            label,
            _lock: lock,
        })
    }

    /// Drawn when the folder was first used.
    pub fn id(&self) -> &str {
        &self.label.volume
    }

    /// With whom the group was founded, once known here.
    pub fn founding(&self) -> Option<&Founding> {
        self.label.founding.as_ref()
    }

    /// Stores the founding; on return it is durable.
    pub fn set_founding(&mut self, founding: Founding) -> Result<(), VolumeError> {
        let label = Label {
            founding: Some(founding),
            ..self.label.clone()
        };
        let path = self.folder.join("volume.json");
        write_label(&path, &label).map_err(|source| VolumeError::Io { path, source })?;
        self.label = label;
        Ok(())
    }

    /// The folder in which a Raft group keeps its log and state. Made when the group is opened for the first time;
    /// missing later, the replica lost what it promised and must not start empty under its old id.
    pub fn open_group_folder(&mut self, raft_group: &str) -> Result<PathBuf, VolumeError> {
        let folder = self.folder.join("groups").join(raft_group);
        let known = self.label.opened.iter().any(|opened| opened == raft_group);
        if known {
            return match folder.is_dir() {
                true => Ok(folder),
                false => Err(VolumeError::Unreadable {
                    path: folder,
                    reason: "missing, yet this replica took part before: its log is lost".to_owned(),
                }),
            };
        }
        let create = || {
            fs::create_dir_all(&folder)?;
            File::open(self.folder.join("groups"))?.sync_all()
        };
        create().map_err(|source| VolumeError::Io {
            path: folder.clone(),
            source,
        })?;
        let mut label = self.label.clone();
        label.opened.push(raft_group.to_owned());
        let path = self.folder.join("volume.json");
        write_label(&path, &label).map_err(|source| VolumeError::Io { path, source })?;
        self.label = label;
        Ok(folder)
    }
}

/// Takes the folder's lock, or says that another process has it.
pub fn lock(folder: &Path) -> Result<File, VolumeError> {
    let path = folder.join("lock");
    let io_error = |source| VolumeError::Io {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(VolumeError::InUse(folder.to_owned())),
        Err(error) => Err(io_error(error.into())),
    }
}

fn check_owner(folder: &Path, label: &Label, owner: &Owner) -> Result<(), VolumeError> {
    let id = hex(&cluster_id(&owner.cluster));
    let replica = (label.replica.to_string(), owner.replica.to_string());
    let parts = [
        ("cluster", &label.cluster, &owner.cluster),
        ("cluster id", &label.cluster_id, &id),
        ("node", &label.node, &owner.node),
        ("replica", &replica.0, &replica.1),
    ];
    match parts.into_iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((what, found, expected)) => Err(VolumeError::Foreign {
            path: folder.to_owned(),
            what,
            found: found.clone(),
            expected: expected.clone(),
        }),
    }
}

fn write_label(path: &Path, label: &Label) -> io::Result<()> {
    write_durably(path, &serde_json::to_vec_pretty(label)?)
}

/// Replaces a file whole: written aside, synced, renamed, and the folder synced.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(cluster: &str, node: &str, replica: u64) -> Owner {
        Owner {
            cluster: cluster.into(),
            node: node.into(),
            replica,
        }
    }

    #[test]
    fn a_volume_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = Volume::open(folder.path(), &owner("c", "n1", 1)).unwrap();
        let second = Volume::open(folder.path(), &owner("c", "n1", 1));
        assert!(matches!(second, Err(VolumeError::InUse(_))), "{second:?}");
        drop(first);
        Volume::open(folder.path(), &owner("c", "n1", 1)).unwrap();
    }

    #[test]
    fn a_foreign_volume_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Volume::open(folder.path(), &owner("c", "n1", 1)).unwrap());
        for (other, part) in [
            (owner("d", "n1", 1), "cluster"),
            (owner("c", "n2", 1), "node"),
            (owner("c", "n1", 2), "replica"),
        ] {
            match Volume::open(folder.path(), &other) {
                Err(VolumeError::Foreign { what, .. }) => assert_eq!(what, part),
                outcome => panic!("{part}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn another_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("version"), "flotilla volume 2\n").unwrap();
        let outcome = Volume::open(folder.path(), &owner("c", "n1", 1));
        assert!(matches!(outcome, Err(VolumeError::Version { .. })), "{outcome:?}");
    }

    #[test]
    fn data_without_a_label_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("groups/g1")).unwrap();
        let outcome = Volume::open(folder.path(), &owner("c", "n1", 1));
        assert!(matches!(outcome, Err(VolumeError::Unreadable { .. })), "{outcome:?}");
    }

    #[test]
    fn a_lost_log_is_not_started_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut volume = Volume::open(folder.path(), &owner("c", "n1", 1)).unwrap();
        let group = volume.open_group_folder("g1").unwrap();
        assert_eq!(volume.open_group_folder("g1").unwrap(), group);
        drop(volume);
        fs::remove_dir_all(&group).unwrap();
        let mut volume = Volume::open(folder.path(), &owner("c", "n1", 1)).unwrap();
        let outcome = volume.open_group_folder("g1");
        assert!(matches!(outcome, Err(VolumeError::Unreadable { .. })), "{outcome:?}");
    }

    #[test]
    fn a_wiped_volume_has_another_id_and_a_kept_one_its_founding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let mut volume = Volume::open(&path, &owner("c", "n1", 1)).unwrap();
        let id = volume.id().to_owned();
        let member = FoundingMember {
            replica: 1,
            volume: id.clone(),
        };
        volume
            .set_founding(Founding::from([("n1".to_owned(), member.clone())]))
            .unwrap();
        drop(volume);
        let volume = Volume::open(&path, &owner("c", "n1", 1)).unwrap();
        assert_eq!(volume.founding().and_then(|founding| founding.get("n1")), Some(&member));
        drop(volume);
        fs::remove_dir_all(&path).unwrap();
        let volume = Volume::open(&path, &owner("c", "n1", 1)).unwrap();
        assert_ne!(volume.id(), id);
        assert!(volume.founding().is_none());
    }
}
