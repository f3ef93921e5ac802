//! Tasks that run until they are told to stop: one that panics must not leave the process half alive.
//!
//! Whoever owns the tasks waits for [`Tasks::broken`] and ends what they belong to, in order: a replica is closed and
//! opened again, a process stops and is started again by whoever supervises it. Requests of clients are not among
//! these tasks; a panic there costs the request's connection only.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

/// How long tasks are given to end once they were told to.
const STOP_WAIT_MAX: Duration = Duration::from_secs(15);

/// See the module. Dropping it ends the tasks at once.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<()>,
    broken: watch::Sender<bool>,
}

impl Tasks {
    /// Starts one more.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let broken = self.broken.clone();
        self.running.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                broken.send_replace(true);
            }
        });
    }

    /// True once a task panicked.
    pub fn is_broken(&self) -> bool {
        *self.broken.borrow()
    }

    /// Returns once a task panicked. The panic itself is on standard error.
    pub async fn broken(&self) {
        let mut broken = self.broken.subscribe();
        // The sender lives as long as this.
        let _ = broken.wait_for(|broken| *broken).await;
    }

    /// Waits for the tasks, which were told to stop; ends those that do not.
    pub async fn join(&mut self, what: &str) {
        let joined = async { while self.running.join_next().await.is_some() {} };
        if timeout(STOP_WAIT_MAX, joined).await.is_err() {
            warn!(what, "did not stop in time");
            self.running.abort_all();
        }
    }

    /// Ends the tasks at once, and waits until they are gone.
    pub async fn end(&mut self) {
        self.running.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_noticed_and_one_that_ends_is_not() {
        let mut tasks = Tasks::default();
        tasks.spawn(async {});
        tasks.join("the task that ends").await;
        assert!(!tasks.is_broken());
        tasks.spawn(std::future::pending());
        tasks.spawn(async { panic!("as the test wants") });
        timeout(Duration::from_secs(5), tasks.broken()).await.expect("noticed");
        assert!(tasks.is_broken());
        tasks.end().await;
    }
}
