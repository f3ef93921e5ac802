//! A process's data folder: locked against a second process, marked with who it belongs to.
//!
//! `lock` is held exclusively while the process runs. `version` names the layout. `volume.json` says which node or
//! controller the folder belongs to and carries an id drawn when the folder was first used; once known, also the
//! cluster, with which replica id each Raft group was opened here, and how a controller's cluster was founded.
//!
//! Holds: a disk that was wiped has a new volume id, so that its process is never taken for the one that promised
//! something under the old one; a replica whose folder is gone does not start empty under its old id; a folder of
//! another cluster is refused. A crash leaves the old or the new `volume.json`, never a part of one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flotilla_controller::protocol::Founding;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The layout this program writes and reads.
const VERSION: &str = "flotilla volume 2\n";

/// What kind of process a folder belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A node.
    Node,
    /// A controller.
    Controller,
}

/// Who a folder is expected to belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// What kind of process.
    pub role: Role,
    /// Its name.
    pub name: String,
}

/// The cluster a folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterLabel {
    /// Its name.
    pub name: String,
    /// Its id: 32 hexadecimal digits.
    pub id: String,
}

/// A Raft group that was opened in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Which creation of the group.
    pub creation: u64,
    /// The replica's Raft id.
    pub replica: u64,
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
    role: Role,
    node: String,
    volume: String,
    cluster: Option<ClusterLabel>,
    /// Raft groups that were opened here, by name.
    opened: BTreeMap<String, Opened>,
    /// Of a controller: how its cluster was founded.
    founding: Option<Founding>,
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
    /// Belongs to another cluster or process.
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
    #[error("{path}: {reason}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        reason: io::Error,
    },
}

impl Volume {
    /// Locks the folder, creating and labelling it when it is new, and checks that it belongs to `owner`.
    pub fn open(folder: &Path, owner: &Owner) -> Result<Self, VolumeError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |reason| VolumeError::Io { path, reason }
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
            Err(reason) => {
                return Err(VolumeError::Io {
                    path: version_path,
                    reason,
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
                    role: owner.role,
                    node: owner.name.clone(),
                    volume: new_id(),
                    cluster: None,
                    opened: BTreeMap::new(),
                    founding: None,
                };
                write_label(&label_path, &label).map_err(io_at(&label_path))?;
                label
            }
            Err(reason) => {
                return Err(VolumeError::Io {
                    path: label_path,
                    reason,
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

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cluster it belongs to, once it joined one.
    pub fn cluster(&self) -> Option<&ClusterLabel> {
        self.label.cluster.as_ref()
    }

    /// Refuses a folder of a cluster that has another name.
    pub fn is_of_cluster(&self, name: &str) -> Result<(), VolumeError> {
        match &self.label.cluster {
            Some(known) if known.name != name => Err(VolumeError::Foreign {
                path: self.folder.clone(),
                what: "cluster",
                found: known.name.clone(),
                expected: name.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Of a controller: how its cluster was founded, once that is known here.
    pub fn founding(&self) -> Option<&Founding> {
        self.label.founding.as_ref()
    }

    /// Marks the folder as this cluster's; on return that is durable. Another cluster's is refused.
    pub fn join(&mut self, cluster: ClusterLabel) -> Result<(), VolumeError> {
        match &self.label.cluster {
            Some(known) if *known == cluster => Ok(()),
            Some(known) => Err(VolumeError::Foreign {
                path: self.folder.clone(),
                what: "cluster",
                found: format!("{} ({})", known.name, known.id),
                expected: format!("{} ({})", cluster.name, cluster.id),
            }),
            None => self.write(Label {
                cluster: Some(cluster),
                ..self.label.clone()
            }),
        }
    }

    /// Stores how the cluster was founded, which makes the folder this cluster's; on return it is durable.
    pub fn set_founding(&mut self, founding: Founding) -> Result<(), VolumeError> {
        self.write(Label {
            cluster: Some(ClusterLabel {
                name: founding.cluster.clone(),
                id: founding.id.clone(),
            }),
            founding: Some(founding),
            ..self.label.clone()
        })
    }

    /// With which replica id a Raft group was opened here, if it was.
    pub fn opened(&self, raft_group: &str) -> Option<Opened> {
        self.label.opened.get(raft_group).copied()
    }

    /// The folder in which a Raft group keeps its log and state. Made when the replica is opened for the first time;
    /// missing later, the replica lost what it promised and must not start empty under its old id. Ids only grow: one
    /// older than what was opened here is refused, and what an older replica left is set aside, not removed.
    pub fn open_group(&mut self, raft_group: &str, folder: &Path, replica: Opened) -> Result<PathBuf, VolumeError> {
        let folder = self.folder.join(folder);
        if self.opened(raft_group) == Some(replica) {
            return match folder.is_dir() {
                true => Ok(folder),
                false => Err(VolumeError::Unreadable {
                    path: folder,
                    reason: "missing, yet this replica took part before: its log is lost".to_owned(),
                }),
            };
        }
        let before = self.opened(raft_group);
        if let Some(before) = before
            && (before.creation, before.replica) > (replica.creation, replica.replica)
        {
            let reason = format!(
                "replica {} was opened here, {} is older",
                before.replica, replica.replica
            );
            return Err(VolumeError::Unreadable { path: folder, reason });
        }
        let create = || {
            match before {
                Some(before) if folder.exists() => {
                    fs::rename(&folder, folder.with_extension(format!("replica-{}", before.replica)))?;
                }
                // Made just before a crash, and never used.
                _ if folder.exists() => fs::remove_dir_all(&folder)?,
                _ => {}
            }
            fs::create_dir_all(&folder)?;
            match folder.parent() {
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            }
        };
        create().map_err(|reason| VolumeError::Io {
            path: folder.clone(),
            reason,
        })?;
        let mut label = self.label.clone();
        label.opened.insert(raft_group.to_owned(), replica);
        self.write(label)?;
        Ok(folder)
    }

    /// The Raft groups that were opened here and of which something is left in `folder`, by name.
    pub fn kept_groups(&self, folder: &Path) -> Vec<String> {
        let is_left = |name: &&String| {
            let folder = self.folder.join(folder).join(name);
            folder.is_dir() || removed_folder(&folder).is_dir()
        };
        self.label.opened.keys().filter(is_left).cloned().collect()
    }

    fn write(&mut self, label: Label) -> Result<(), VolumeError> {
        let path = self.folder.join("volume.json");
        write_label(&path, &label).map_err(|reason| VolumeError::Io { path, reason })?;
        self.label = label;
        Ok(())
    }
}

/// A new id: 32 hexadecimal digits.
pub fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Throws away what a Raft group kept in `folder`. Its replica id stays known to the volume, so it does not start empty. A
/// crash leaves the folder as it was, or one under another name that goes when this is done again.
pub fn remove_group(folder: &Path) -> Result<(), VolumeError> {
    let removed = removed_folder(folder);
    let remove = || {
        if removed.exists() {
            fs::remove_dir_all(&removed)?;
        }
        if folder.exists() {
            fs::rename(folder, &removed)?;
            fs::remove_dir_all(&removed)?;
        }
        Ok(())
    };
    remove().map_err(|reason| VolumeError::Io {
        path: folder.to_owned(),
        reason,
    })
}

fn removed_folder(group: &Path) -> PathBuf {
    group.with_extension("removed")
}

/// Takes the folder's lock, or says that another process has it.
pub fn lock(folder: &Path) -> Result<File, VolumeError> {
    let path = folder.join("lock");
    let io_error = |reason| VolumeError::Io {
        path: path.clone(),
        reason,
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
    let roles = (format!("{:?}", label.role), format!("{:?}", owner.role));
    let parts = [("a", &roles.0, &roles.1), ("node", &label.node, &owner.name)];
    match parts.into_iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((what, found, expected)) => Err(VolumeError::Foreign {
            path: folder.to_owned(),
            what,
            found: found.to_lowercase(),
            expected: expected.to_lowercase(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner {
            role: Role::Node,
            name: name.into(),
        }
    }

    fn cluster(id: &str) -> ClusterLabel {
        ClusterLabel {
            name: "c".into(),
            id: id.into(),
        }
    }

    fn replica(replica: u64) -> Opened {
        Opened { creation: 1, replica }
    }

    #[test]
    fn a_volume_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = Volume::open(folder.path(), &owner("n1")).unwrap();
        let second = Volume::open(folder.path(), &owner("n1"));
        assert!(matches!(second, Err(VolumeError::InUse(_))), "{second:?}");
        drop(first);
        Volume::open(folder.path(), &owner("n1")).unwrap();
    }

    #[test]
    fn a_foreign_volume_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut volume = Volume::open(folder.path(), &owner("n1")).unwrap();
        volume.join(cluster("1")).unwrap();
        volume.join(cluster("1")).unwrap();
        let outcome = volume.join(cluster("2"));
        assert!(
            matches!(outcome, Err(VolumeError::Foreign { what: "cluster", .. })),
            "{outcome:?}"
        );
        drop(volume);
        let role = Owner {
            role: Role::Controller,
            ..owner("n1")
        };
        for (other, part) in [(owner("n2"), "node"), (role, "a")] {
            match Volume::open(folder.path(), &other) {
                Err(VolumeError::Foreign { what, .. }) => assert_eq!(what, part),
                outcome => panic!("{part}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn another_layout_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("version"), "flotilla volume 1\n").unwrap();
        let outcome = Volume::open(folder.path(), &owner("n1"));
        assert!(matches!(outcome, Err(VolumeError::Version { .. })), "{outcome:?}");
    }

    #[test]
    fn data_without_a_label_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("groups/g1")).unwrap();
        let outcome = Volume::open(folder.path(), &owner("n1"));
        assert!(matches!(outcome, Err(VolumeError::Unreadable { .. })), "{outcome:?}");
    }

    #[test]
    fn a_lost_log_is_not_started_over_and_another_replica_starts_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = Path::new("groups/g1");
        let mut volume = Volume::open(folder.path(), &owner("n1")).unwrap();
        let group = volume.open_group("g1", path, replica(4)).unwrap();
        fs::write(group.join("kept"), "x").unwrap();
        drop(volume);
        let mut volume = Volume::open(folder.path(), &owner("n1")).unwrap();
        assert_eq!(volume.open_group("g1", path, replica(4)).unwrap(), group);
        assert!(group.join("kept").exists());
        assert_eq!(volume.open_group("g1", path, replica(9)).unwrap(), group);
        assert!(!group.join("kept").exists());
        assert!(folder.path().join("groups/g1.replica-4/kept").exists(), "set aside");
        assert!(volume.open_group("g1", path, replica(4)).is_err(), "ids only grow");
        fs::remove_dir_all(&group).unwrap();
        let outcome = volume.open_group("g1", path, replica(9));
        assert!(matches!(outcome, Err(VolumeError::Unreadable { .. })), "{outcome:?}");
    }

    #[test]
    fn a_wiped_volume_has_another_id_and_a_kept_one_its_founding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let mut volume = Volume::open(&path, &owner("n1")).unwrap();
        let id = volume.id().to_owned();
        let founding = Founding {
            cluster: "c".into(),
            id: new_id(),
            ..Founding::default()
        };
        volume.set_founding(founding.clone()).unwrap();
        drop(volume);
        let volume = Volume::open(&path, &owner("n1")).unwrap();
        assert_eq!(volume.founding(), Some(&founding));
        assert_eq!(volume.cluster().map(|cluster| cluster.name.as_str()), Some("c"));
        drop(volume);
        fs::remove_dir_all(&path).unwrap();
        let volume = Volume::open(&path, &owner("n1")).unwrap();
        assert_ne!(volume.id(), id);
        assert!(volume.founding().is_none() && volume.cluster().is_none());
    }
}
