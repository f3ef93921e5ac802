//! What is done to a node's process. Only to processes that this one started, by their id.

use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("process id")?;
    kill_process(pid, signal).with_context(|| format!("send {signal:?} to {pid:?}"))
}

/// `kill -9`: the process is gone when this returns; what it had not written is lost with it.
pub fn kill(child: &mut Child) -> Result<()> {
    child.kill().context("kill")?;
    child.wait().context("wait for the killed process")?;
    Ok(())
}

/// Stops the process from running; its sockets stay open and the kernel goes on accepting for it.
pub fn pause(child: &Child) -> Result<()> {
    signal(child, Signal::STOP)
}

/// Lets a paused process run on.
pub fn resume(child: &Child) -> Result<()> {
    signal(child, Signal::CONT)
}

/// Asks the process to stop and waits until it has; returns whether it said it stopped well.
pub fn terminate(child: &mut Child, limit: Duration) -> Result<bool> {
    signal(child, Signal::TERM)?;
    let status = wait::until("the process stops", limit, || Ok(child.try_wait()?))?;
    Ok(status.success())
}
