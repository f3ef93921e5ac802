//! One process of a cluster and what stays when it dies: its configuration, its address and ports, its data, its log.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::fault;
use crate::host::Host;
use crate::http::Http;
use crate::ports::{AdminPort, ControllerPorts, Ports};
use crate::wait;

/// How long a process may take until it is ready: a node until it serves clients, a controller until it takes part.
pub const READY: Duration = Duration::from_secs(60);
/// How long a planned stop may take.
const STOP: Duration = Duration::from_secs(30);
/// The variable that names the folder of fail points to a process.
const FAIL_POINTS: &str = "FLOTILLA_FAIL_POINTS";
/// Lines of a log shown when a test fails.
const LOG_TAIL_LINES: usize = 40;

/// A node.
pub type Node = Process<Ports>;
/// A controller.
pub type Controller = Process<ControllerPorts>;

/// See the module. Where it listens, `P`, stays across restarts.
pub struct Process<P> {
    /// The name of the node or the controller.
    pub name: String,
    /// Where it runs.
    pub host: Host,
    /// Where it listens.
    pub ports: P,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

/// The `flotilla` program of this build, or the one that `FLOTILLA_BIN` names.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FLOTILLA_BIN") {
        return Ok(path.into());
    }
    // Test programs lie in `<target>/release/deps`, the product one folder up.
    let test = std::env::current_exe().context("path of this program")?;
    let folder = test.parent().and_then(Path::parent).context("folder of this program")?;
    let path = folder.join("flotilla");
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build --release` first",
        path.display()
    );
    Ok(path)
}

impl<P> Process<P> {
    /// A process that is not started yet; its log goes beside its data.
    pub fn new(name: &str, host: Host, ports: P, arguments: Vec<String>, data: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            host,
            ports,
            arguments,
            log: data.with_extension("log"),
            data,
            child: None,
        }
    }

    /// Whether it was started and not ended by us.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder where a test puts a file for the point at which some process of the cluster is to die.
    pub fn fail_points(&self) -> PathBuf {
        self.data.with_file_name("fail-points")
    }

    /// Starts it, on its data and its ports.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .context("open the log")?;
        let child = self
            .host
            .command(&program()?)
            .args(&self.arguments)
            .env(FAIL_POINTS, self.fail_points())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        fault::kill(&mut self.take()?)
    }

    /// A planned stop; fails when the process does not say that it stopped well.
    pub fn terminate(&mut self) -> Result<()> {
        let mut child = self.take()?;
        let stopped_well = fault::terminate(&mut child, STOP);
        if !matches!(stopped_well, Ok(true)) {
            // Ours either way, and must not outlive the test.
            let _ = fault::kill(&mut child);
        }
        ensure!(stopped_well?, "{} ended with an error", self.name);
        Ok(())
    }

    /// Stops it from running, until [`Process::resume`].
    pub fn pause(&self) -> Result<()> {
        fault::pause(self.child()?)
    }

    /// Lets it run on.
    pub fn resume(&self) -> Result<()> {
        fault::resume(self.child()?)
    }

    /// Throws away everything that it stored, as a new disk would; it must be down.
    pub fn wipe(&self) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs", self.name);
        fs::remove_dir_all(&self.data).with_context(|| format!("wipe {}", self.data.display()))
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Takes notice that it ended by itself, so that it can be launched again; its name if it did.
    pub fn bury(&mut self) -> Result<Option<String>> {
        let ended = self.ended()?.is_some();
        Ok(ended.then(|| {
            self.child = None;
            self.name.clone()
        }))
    }

    /// Gives up the running process, so that it can be ended together with others.
    pub(crate) fn give_up(&mut self) -> Option<Child> {
        self.child.take()
    }

    /// Its log, and the end of it.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        format!("end of {}:\n{tail}", self.log.display())
    }

    fn child(&self) -> Result<&Child> {
        self.child.as_ref().with_context(|| format!("{} is down", self.name))
    }

    fn take(&mut self) -> Result<Child> {
        let mut child = self.child.take().with_context(|| format!("{} is down", self.name))?;
        if let Some(status) = child.try_wait()? {
            bail!("{} had ended by itself: {status}", self.name);
        }
        Ok(child)
    }
}

impl<P: AdminPort> Process<P> {
    /// Its admin API.
    pub fn http(&self) -> Http {
        Http::new(SocketAddr::from((self.host.address, self.ports.http())))
    }

    /// Waits until it is ready, if it was started.
    pub fn await_ready(&mut self) -> Result<()> {
        let http = self.http();
        let name = self.name.clone();
        if !self.is_running() {
            return Ok(());
        }
        let mut ended = None;
        wait::until(&format!("{name} is ready"), READY, || {
            ended = self.ended()?;
            Ok((ended.is_some() || http.is_ready()?).then_some(()))
        })?;
        ensure!(ended.is_none(), "{name} ended by itself: {ended:?}");
        Ok(())
    }
}

impl<P> Drop for Process<P> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Also ends a paused one. Nothing can be done about an error here.
            let _ = fault::kill(&mut child);
        }
    }
}
