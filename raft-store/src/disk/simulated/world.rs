//! The simulated file system: names and contents, each as written and as on stable storage.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::content::Content;
use super::random::Random;
use super::{Call, Fault};

/// A name's file or folder.
#[derive(Clone)]
pub(super) enum Node {
    Folder,
    File(Arc<Mutex<Content>>),
}

/// One atomic change of names, not on stable storage yet: what each path stands for after it.
type Change = Vec<(PathBuf, Option<Node>)>;

#[derive(Default)]
pub(super) struct World {
    written: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Change>,
    /// Calls made so far, of each kind.
    pub counts: BTreeMap<Call, u64>,
    /// Mutating calls so far.
    pub mutations: u64,
    /// The power fails during this mutating call.
    pub crash_at: Option<u64>,
    /// What to do at the n-th call of a kind.
    pub faults: Vec<(Call, u64, Fault)>,
    /// Bytes the disk holds.
    pub capacity: Option<u64>,
    /// No call succeeds any more: the process that made this handle is gone.
    pub dead: bool,
}

pub(super) fn gone() -> io::Error {
    io::Error::other("the simulated disk is gone")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

fn exists(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display()))
}

impl World {
    /// Counts a call; the fault planned for it, if any.
    pub fn count(&mut self, call: Call) -> Option<Fault> {
        let count = self.counts.entry(call).or_default();
        *count += 1;
        let count = *count;
        if call.mutates() {
            self.mutations += 1;
        }
        let planned = self
            .faults
            .iter()
            .find(|(kind, from, fault)| *kind == call && (*from == count || (fault.lasts() && *from < count)));
        planned.map(|(_, _, fault)| *fault)
    }

    /// True if the power fails during the call just counted.
    pub fn crashes_now(&self) -> bool {
        self.crash_at.is_some_and(|at| self.mutations >= at)
    }

    pub fn file(&self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        match self.written.get(path) {
            Some(Node::File(file)) => Ok(file.clone()),
            Some(Node::Folder) => Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder")),
            None => Err(not_found(path)),
        }
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() || parent == Path::new("/") => Ok(()),
            Some(parent) if matches!(self.written.get(parent), Some(Node::Folder)) => Ok(()),
            _ => Err(not_found(path)),
        }
    }

    fn change(&mut self, change: Change) {
        for (path, node) in &change {
            match node {
                Some(node) => self.written.insert(path.clone(), node.clone()),
                None => self.written.remove(path),
            };
        }
        self.pending.push(change);
    }

    pub fn create(&mut self, path: &Path) -> io::Result<Arc<Mutex<Content>>> {
        self.check_parent(path)?;
        if self.written.contains_key(path) {
            return Err(exists(path));
        }
        let file = Arc::new(Mutex::new(Content::default()));
        self.change(vec![(path.to_owned(), Some(Node::File(file.clone())))]);
        Ok(file)
    }

    /// Puts a file there, names and content on stable storage.
    pub fn put(&mut self, path: &Path, content: Content) {
        if let Some(parent) = path.parent() {
            self.create_folder(parent);
        }
        let node = Node::File(Arc::new(Mutex::new(content)));
        self.written.insert(path.to_owned(), node.clone());
        self.durable.insert(path.to_owned(), node);
    }

    /// Folders are made with their parents and are on stable storage at once: the log does not rely on more.
    pub fn create_folder(&mut self, folder: &Path) {
        for part in folder.ancestors() {
            if !part.as_os_str().is_empty() && part != Path::new("/") {
                self.written.entry(part.to_owned()).or_insert(Node::Folder);
                self.durable.entry(part.to_owned()).or_insert(Node::Folder);
            }
        }
    }

    pub fn remove_folder(&mut self, folder: &Path) -> io::Result<()> {
        if !matches!(self.written.get(folder), Some(Node::Folder)) {
            return Err(not_found(folder));
        }
        if self.written.keys().any(|path| path.parent() == Some(folder)) {
            return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "not empty"));
        }
        self.change(vec![(folder.to_owned(), None)]);
        Ok(())
    }

    pub fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        if !matches!(self.written.get(folder), Some(Node::Folder)) {
            return Err(not_found(folder));
        }
        let within = self.written.keys().filter(|path| path.parent() == Some(folder));
        let mut names: Vec<String> = within
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_parent(to)?;
        if !self.written.contains_key(from) {
            return Err(not_found(from));
        }
        let mut change = Change::new();
        for (path, node) in &self.written {
            if let Ok(below) = path.strip_prefix(from) {
                let target = if below.as_os_str().is_empty() {
                    to.to_owned()
                } else {
                    to.join(below)
                };
                change.push((path.clone(), None));
                change.push((target, Some(node.clone())));
            }
        }
        self.change(change);
        Ok(())
    }

    pub fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(vec![(path.to_owned(), None)]);
        Ok(())
    }

    pub fn hard_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_parent(to)?;
        let file = self.file(from)?;
        if self.written.contains_key(to) {
            return Err(exists(to));
        }
        self.change(vec![(to.to_owned(), Some(Node::File(file)))]);
        Ok(())
    }

    pub fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        let is_root = folder.as_os_str().is_empty() || folder == Path::new("/");
        if !is_root && !matches!(self.written.get(folder), Some(Node::Folder)) {
            return Err(not_found(folder));
        }
        let pending = std::mem::take(&mut self.pending);
        for change in pending {
            if change.iter().any(|(path, _)| path.parent() == Some(folder)) {
                apply(&mut self.durable, change);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        let mut counted: Vec<*const Mutex<Content>> = Vec::new();
        let mut bytes = 0;
        for node in self.written.values() {
            if let Node::File(file) = node
                && !counted.contains(&Arc::as_ptr(file))
            {
                counted.push(Arc::as_ptr(file));
                bytes += file.lock().len() as u64;
            }
        }
        bytes
    }

    /// What the next start finds after a power loss: with `random` any part of what was not synced, else none.
    pub fn after_power_loss(&self, mut random: Option<Random>) -> Self {
        let mut names = self.durable.clone();
        if let Some(random) = &mut random {
            let mode = random.below(3);
            for change in &self.pending {
                if mode == 0 || (mode == 1 && random.below(2) == 0) {
                    apply(&mut names, change.clone());
                }
            }
        }
        self.image(names, |content| content.after_power_loss(random.as_mut()))
    }

    /// The same file system with everything written on stable storage, in its own copies.
    pub fn copy(&self) -> Self {
        self.image(self.written.clone(), |content| Content::of(content.written().to_vec()))
    }

    /// What the next start finds after the process was killed: nothing is lost, nothing more is synced.
    pub fn after_kill(&mut self) -> Self {
        Self {
            written: std::mem::take(&mut self.written),
            durable: std::mem::take(&mut self.durable),
            pending: std::mem::take(&mut self.pending),
            capacity: self.capacity,
            ..Self::default()
        }
    }

    fn image(&self, names: BTreeMap<PathBuf, Node>, mut content: impl FnMut(&Content) -> Content) -> Self {
        let mut copies: Vec<(*const Mutex<Content>, Node)> = Vec::new();
        let mut image = BTreeMap::new();
        for (path, node) in names {
            let node = match node {
                Node::Folder => Node::Folder,
                Node::File(file) => {
                    let key = Arc::as_ptr(&file);
                    match copies.iter().find(|(known, _)| *known == key) {
                        Some((_, copy)) => copy.clone(),
                        None => {
                            let copy = Node::File(Arc::new(Mutex::new(content(&file.lock()))));
                            copies.push((key, copy.clone()));
                            copy
                        }
                    }
                }
            };
            image.insert(path, node);
        }
        Self {
            durable: image.clone(),
            written: image,
            capacity: self.capacity,
            ..Self::default()
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: Change) {
    for (path, node) in change {
        match node {
            Some(node) => names.insert(path, node),
            None => names.remove(&path),
        };
    }
}
