//! A disk of a given size, in memory, for tests of what happens when it is full or read-only. Making one needs root.
//!
//! It is unmounted when it is dropped: make it before the cluster that uses it, so that its processes go first.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::cluster::Cluster;

/// See the module.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// A disk of so many bytes. The error says why there can be none here.
    pub fn mount(bytes: u64) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "only root may mount a disk");
        let folder = tempfile::Builder::new().prefix("flotilla-e2e-disk-").tempdir()?;
        let options = format!("size={bytes},mode=755");
        let kind = ["-t", "tmpfs", "-o", &options, "flotilla-e2e"].map(OsStr::new);
        run("mount", kind.into_iter().chain([folder.path().as_os_str()]))?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Nothing can be written to it any more.
    pub fn make_read_only(&self) -> Result<()> {
        let options = ["-o", "remount,ro"].map(OsStr::new);
        run("mount", options.into_iter().chain([self.path().as_os_str()]))
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> Result<u64> {
        let space = rustix::fs::statvfs(self.path())?;
        Ok(space.f_bavail * space.f_frsize)
    }

    /// Moves everything that a node stored to this disk; the node must be down.
    pub fn take_over(&self, cluster: &Cluster, node: usize) -> Result<()> {
        let node = &cluster.nodes()[node];
        ensure!(!node.is_running(), "{} runs", node.name);
        let all = node.data().join(".");
        run("cp", [OsStr::new("-a"), all.as_os_str(), self.path().as_os_str()])?;
        fs::remove_dir_all(node.data())?;
        symlink(self.path(), node.data()).context("put the disk in place of the data")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.path().as_os_str();
        // One that is still used goes when it no longer is.
        if run("umount", [path]).is_err() {
            let _ = run("umount", [OsStr::new("-l"), path]);
        }
    }
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
