//! Official Java clients: the programs of `e2e/java`, compiled once per client version and run as processes.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use parking_lot::Mutex;

use crate::fault;
use crate::progress;
use crate::wait;

/// The client versions that must work.
pub const VERSIONS: [&str; 2] = ["4.9.8", "5.3.3"];

/// A client version, compiled.
#[derive(Clone, Debug)]
pub struct Java {
    /// Version of `rocketmq-client`.
    pub version: String,
    build: PathBuf,
}

/// How the client writes its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The default.
    Json,
    /// The binary form.
    Binary,
}

impl Encoding {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Json, Self::Binary];

    const fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Binary => "ROCKETMQ",
        }
    }
}

impl Java {
    /// Compiles the programs with one version of the client; quick when nothing changed.
    pub fn build(version: &str) -> Result<Self> {
        let test = std::env::current_exe().context("path of this program")?;
        let target = test.ancestors().nth(3).context("build folder of this program")?;
        let build = target.join("e2e-java").join(version);
        std::fs::create_dir_all(&build)?;
        // Two test programs may get here at once.
        let lock = File::create(build.join("lock"))?;
        lock.lock().context("lock the build folder")?;
        progress::line(format!("compiling the Java programs with client {version}"));
        let output = Command::new("mvn")
            .args(["-q", "-B", "-ntp", "compile", "dependency:build-classpath"])
            .arg(format!("-Dclient.version={version}"))
            .arg(format!("-Dbuild.dir={}", build.display()))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("java"))
            .stdin(Stdio::null())
            .output()
            .context("run mvn; `make test` installs it")?;
        ensure!(
            output.status.success(),
            "mvn: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self {
            version: version.to_owned(),
            build,
        })
    }

    pub(crate) fn command(&self, main: &str, home: &Path, properties: &[(&str, String)]) -> Result<Command> {
        let class_path = std::fs::read_to_string(self.build.join("classpath")).context("read the class path")?;
        let mut command = Command::new("java");
        // The clients write logs and offsets of broadcasting consumers below the home folder.
        command
            .args(["-Xmx512m", "-XX:+UseSerialGC"])
            .arg(format!("-Duser.home={}", home.display()));
        for (name, value) in properties {
            command.arg(format!("-D{name}={value}"));
        }
        command.arg("-cp").arg(format!(
            "{}:{}",
            self.build.join("classes").display(),
            class_path.trim()
        ));
        command.arg(format!("flotilla.e2e.{main}"));
        Ok(command)
    }

    /// Runs the whole matrix of cases; fails with the lines of the cases that failed.
    pub fn matrix(&self, encoding: Encoding, home: &Path, properties: &[(&str, String)]) -> Result<usize> {
        let mut all = vec![("rocketmq.serialize.type", encoding.name().to_owned())];
        all.extend(properties.iter().map(|(name, value)| (*name, value.clone())));
        let output = self
            .command("Matrix", home, &all)?
            .stdin(Stdio::null())
            .output()
            .context("run java")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let passed = text.lines().filter(|line| line.starts_with("PASS ")).count();
        let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL ")).collect();
        if !output.status.success() || !failed.is_empty() || passed == 0 {
            bail!(
                "{passed} cases passed, {} failed, {}\n{}\n{}",
                failed.len(),
                output.status,
                failed.join("\n"),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(passed)
    }

    /// Starts the load program, which writes `history`.
    pub fn load(&self, home: &Path, history: &Path, properties: &[(&str, String)]) -> Result<Load> {
        let mut all = vec![("history", history.display().to_string())];
        all.extend(properties.iter().map(|(name, value)| (*name, value.clone())));
        let errors = File::create(history.with_extension("stderr"))?;
        let mut process = self
            .command("Load", home, &all)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("run java")?;
        let input = process.stdin.take();
        let output = process.stdout.take().context("output of java")?;
        let state = Arc::new(Mutex::new(LoadState::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                shared.lock().read(&line);
            }
        });
        Ok(Load { process, input, state })
    }
}

/// What a running load has told.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadState {
    /// Sends acknowledged.
    pub acked: u64,
    /// Sends of unknown outcome.
    pub unknown: u64,
    /// Sends refused.
    pub failed: u64,
    /// Messages received.
    pub received: u64,
    stopped: bool,
    done: bool,
}

impl LoadState {
    fn read(&mut self, line: &str) {
        match line {
            "stopped" => self.stopped = true,
            "done" => self.done = true,
            _ => {
                let words: Vec<&str> = line.split(' ').collect();
                if let [
                    "acked",
                    acked,
                    "unknown",
                    unknown,
                    "failed",
                    failed,
                    "received",
                    received,
                ] = words[..]
                {
                    let number = |text: &str| text.parse().unwrap_or_default();
                    self.acked = number(acked);
                    self.unknown = number(unknown);
                    self.failed = number(failed);
                    self.received = number(received);
                }
            }
        }
    }
}

/// A producer and a consumer that run.
pub struct Load {
    process: Child,
    input: Option<ChildStdin>,
    state: Arc<Mutex<LoadState>>,
}

impl Load {
    /// What it told last.
    pub fn state(&self) -> LoadState {
        *self.state.lock()
    }

    /// Waits until so many more sends are acknowledged than now.
    pub fn await_more_acks(&self, more: u64, limit: Duration) -> Result<()> {
        let before = self.state().acked;
        wait::until(&format!("{more} more acks after {:?}", self.state()), limit, || {
            Ok((self.state().acked >= before + more).then_some(()))
        })
    }

    /// Ends the producers; their last sends have their outcome when this returns.
    pub fn stop_sending(&mut self, limit: Duration) -> Result<()> {
        self.tell("stop")?;
        wait::until("the producers stop", limit, || Ok(self.state().stopped.then_some(())))
    }

    /// Ends consumer and process; the history is whole when this returns.
    pub fn exit(mut self, limit: Duration) -> Result<()> {
        self.tell("exit")?;
        let status = wait::until("the load program ends", limit, || Ok(self.process.try_wait()?))?;
        ensure!(
            status.success() && self.state().done,
            "the load program ended with {status}"
        );
        Ok(())
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        let input = self.input.as_mut().context("input of java")?;
        writeln!(input, "{word}").context("tell the load program")?;
        input.flush().context("tell the load program")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            // Ours, and must not outlive the test.
            let _ = fault::kill(&mut self.process);
        }
    }
}
