//! What applications on official clients notice of a fault: the program `ClientView` of `e2e/java` and what it tells.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::fault;
use crate::java::Java;

/// What one kind of client noticed since the mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindView {
    /// `sync`, `async`, `selector`, `oneway`, `push`, `orderly` or `litepull`.
    pub kind: String,
    /// Sends that failed.
    pub failed: u64,
    /// Longest time without a success; of consumers the longest of any queue.
    pub pause: Duration,
    /// The last error.
    pub error: String,
}

/// A running program with all kinds of clients.
pub struct ClientView {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The node under which the clients see all queues: `ip:port`.
    pub home: String,
    /// The nodes they may send to as well.
    pub doors: Vec<String>,
}

impl ClientView {
    /// Starts all kinds; returns once all had successes.
    pub fn start(java: &Java, folder: &Path, properties: &[(&str, String)]) -> Result<Self> {
        let errors = std::fs::File::create(folder.join(format!("client-view-{}.stderr", java.version)))?;
        let mut process = java
            .command("ClientView", folder, properties)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("run java")?;
        let input = process.stdin.take().context("input of java")?;
        let output = BufReader::new(process.stdout.take().context("output of java")?);
        let mut view = Self {
            process,
            input,
            output,
            home: String::new(),
            doors: Vec::new(),
        };
        let line = view.line()?;
        let home = line
            .strip_prefix("home ")
            .with_context(|| format!("home, not {line:?}"))?;
        let mut addresses = home.split(' ').map(str::to_owned);
        view.home = addresses.next().unwrap_or_default();
        view.doors = addresses.collect();
        Ok(view)
    }

    /// Starts counting anew.
    pub fn mark(&mut self) -> Result<()> {
        self.tell("mark")
    }

    /// What every kind noticed since the mark.
    pub fn report(&mut self) -> Result<Vec<KindView>> {
        self.tell("report")?;
        let mut kinds = Vec::new();
        loop {
            let line = self.line()?;
            if line == "end" {
                return Ok(kinds);
            }
            kinds.push(parse(&line).with_context(|| format!("a kind, not {line:?}"))?);
        }
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        writeln!(self.input, "{word}").context("tell the clients")?;
        self.input.flush().context("tell the clients")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).context("hear of the clients")?;
        anyhow::ensure!(read > 0, "the clients ended");
        Ok(line.trim_end().to_owned())
    }
}

fn parse(line: &str) -> Option<KindView> {
    let mut words = line.splitn(8, ' ');
    let mut after = |name: &str| (words.next()? == name).then(|| words.next())?;
    let kind = after("kind")?.to_owned();
    let failed = after("failed")?.parse().ok()?;
    let pause = Duration::from_millis(after("pause")?.parse().ok()?);
    let error = after("error").unwrap_or_default().to_owned();
    Some(KindView {
        kind,
        failed,
        pause,
        error,
    })
}

impl Drop for ClientView {
    fn drop(&mut self) {
        // Ours, and must not outlive the test.
        let _ = fault::kill(&mut self.process);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let view = parse("kind sync failed 2 pause 112 error java.lang.X: no way").unwrap();
        assert_eq!((view.kind.as_str(), view.failed), ("sync", 2));
        assert_eq!(
            (view.pause.as_millis(), view.error.as_str()),
            (112, "java.lang.X: no way")
        );
        assert_eq!(parse("kind push failed 0 pause 5").unwrap().error, "");
        assert!(parse("nonsense").is_none());
    }
}
