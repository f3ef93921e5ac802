//! This node's copy of the metadata: registered with the controllers, kept up to date by them, kept on disk.
//!
//! A node that has a copy on disk starts with it, whether a controller can be reached or not. A copy that is behind is
//! brought up to date; one of another cluster is refused. A crash loses at most the last second of changes, which
//! come again from the controllers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_controller::feed::Feed;
use flotilla_controller::metadata::{Metadata, Node as NodeRecord, Update};
use flotilla_controller::protocol::{Request, Response};
use flotilla_controller::state::{Command, Refusal};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::Broker;
use crate::controllers::{Controllers, NoController};
use crate::server::stopped;
use crate::volume::write_durably;

/// The copy's name in the data folder.
const FILE: &str = "metadata.json";
/// How long a controller holds a question for changes.
const WATCH_WAIT: Duration = Duration::from_secs(5);
/// What the answer may take on top of that.
const WATCH_MARGIN: Duration = Duration::from_secs(2);
/// After a controller could not be asked.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Changes are written together that come within so many times what the last writing took,
const SAVE_PAUSE: u32 = 20;
/// but no longer than this.
const SAVE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The copy kept in `folder`; `None` without one, or with one that cannot be read: the controllers have it.
pub fn load(folder: &Path) -> io::Result<Option<Metadata>> {
    let path = folder.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) => {
                warn!(path = %path.display(), %error, "the copy of the metadata cannot be read");
                Ok(None)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps the copy in `folder`.
pub fn save(folder: &Path, metadata: &Metadata) -> io::Result<()> {
    write_durably(&folder.join(FILE), &serde_json::to_vec(metadata)?)
}

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Its volume.
    pub volume: String,
    /// Failure zone; may be empty.
    pub zone: String,
    /// `host:port` of its peer port.
    pub peer: String,
}

impl Registration {
    fn command(&self) -> Command {
        Command::RegisterNode {
            name: self.name.clone(),
            volume: self.volume.clone(),
            zone: self.zone.clone(),
            peer: self.peer.clone(),
        }
    }

    /// What the controllers recorded is so.
    fn is(&self, record: &NodeRecord) -> bool {
        (&record.volume, &record.zone, &record.peer) == (&self.volume, &self.zone, &self.peer)
    }
}

/// Registers a node that has no copy yet, and fetches one. Waits until a controller can be reached and the cluster is
/// founded; an error if the controllers will never take this node.
pub async fn fetch_first(controllers: &Controllers, registration: &Registration) -> Result<Arc<Metadata>, Refusal> {
    let mut told = String::new();
    loop {
        let reason = match controllers.propose(registration.command()).await {
            Ok(reply) => match fetch(controllers, 0, "").await {
                Ok(Some(update)) => {
                    let copy = Feed::new(Metadata::default());
                    copy.take(update);
                    let copy = copy.snapshot();
                    // A leader just elected may not have applied the registration yet.
                    let record = copy.nodes.get(&registration.name);
                    let registered = record.is_some_and(|record| registration.is(record));
                    if copy.epoch >= reply.epoch() && registered {
                        return Ok(copy);
                    }
                    "the registration is not to be seen yet".to_owned()
                }
                Ok(None) => "the controller sent no metadata".to_owned(),
                Err(reason) => reason,
            },
            Err(NoController::Refused(refusal)) if refusal != Refusal::NotFounded => return Err(refusal),
            Err(error) => error.to_string(),
        };
        if reason != told {
            info!(reason, "waiting for the controllers");
            told = reason;
        }
        sleep(ASK_AGAIN).await;
    }
}

/// What is newer than `epoch` at the controller that leads.
pub async fn fetch(controllers: &Controllers, epoch: u64, cluster: &str) -> Result<Option<Update>, String> {
    let request = Request::Watch {
        epoch,
        cluster: cluster.to_owned(),
        wait_ms: 0,
        at_leader: true,
    };
    match controllers.at_leader(&request, Instant::now() + WATCH_MARGIN).await {
        Ok(Response::Update(update)) => Ok(update),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Follows the controllers until `stop`: asks one after another, so that one that was cut off does not keep this node
/// behind.
pub async fn follow(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let cluster = broker.metadata.read(|metadata| metadata.cluster.id.clone());
    let mut next = 0_usize;
    let mut reachable = true;
    loop {
        let addresses = broker.controllers.addresses();
        let Some(address) = addresses.get(next % addresses.len().max(1)) else {
            return;
        };
        next += 1;
        let request = Request::Watch {
            epoch: broker.metadata.epoch(),
            cluster: cluster.clone(),
            wait_ms: WATCH_WAIT.as_millis() as u64,
            at_leader: false,
        };
        let asked = broker
            .controllers
            .ask(address, &request, Instant::now() + WATCH_WAIT + WATCH_MARGIN);
        let answer = tokio::select! {
            answer = asked => answer,
            () = stopped(&mut stop) => return,
        };
        let now_reachable = matches!(answer, Ok(Response::Update(_)));
        match answer {
            Ok(Response::Update(update)) => {
                if let Some(update) = update
                    && broker.metadata.take(update)
                {
                    // More of the same comes from the same place.
                    next -= 1;
                }
            }
            other => {
                debug!(address, ?other, "ask a controller for changes");
                tokio::select! {
                    () = sleep(ASK_AGAIN) => {}
                    () = stopped(&mut stop) => return,
                }
            }
        }
        if now_reachable != reachable && (now_reachable || next.is_multiple_of(addresses.len())) {
            reachable = now_reachable;
            info!(reachable, "controllers");
        }
    }
}

/// Registers this node whenever the metadata shows it otherwise than it is, until `stop`. Never takes its name back
/// from another volume: tells `displaced` instead, because two processes of one name must not both serve.
pub async fn keep_registered(
    broker: Arc<Broker>,
    registration: Registration,
    displaced: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut epochs = broker.metadata.subscribe();
    loop {
        let record = broker
            .metadata
            .read(|metadata| metadata.nodes.get(&registration.name).cloned());
        if record
            .as_ref()
            .is_some_and(|record| record.volume != registration.volume)
        {
            displaced.send_replace(true);
            return;
        }
        let known = record.is_some_and(|record| registration.is(&record));
        if !known && let Err(error) = broker.controllers.propose(registration.command()).await {
            debug!(%error, "register this node");
            tokio::select! {
                () = sleep(ASK_AGAIN) => continue,
                () = stopped(&mut stop) => return,
            }
        }
        tokio::select! {
            changed = epochs.changed() => if changed.is_err() { return },
            () = stopped(&mut stop) => return,
        }
    }
}

/// Tells the table of peers who the nodes are, until `stop`.
pub async fn keep_peers(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut epochs = broker.metadata.subscribe();
    loop {
        epochs.borrow_and_update();
        set_peers(&broker);
        tokio::select! {
            changed = epochs.changed() => if changed.is_err() { return },
            () = stopped(&mut stop) => return,
        }
    }
}

/// Tells the table of peers who the nodes are.
pub fn set_peers(broker: &Broker) {
    let nodes = broker.metadata.read(|metadata| {
        let nodes = metadata.nodes.iter();
        nodes
            .map(|(name, node)| (name.clone(), node.peer.clone()))
            .collect::<Vec<_>>()
    });
    broker.peers.set_members(nodes);
}

/// Writes the copy to `folder` when it changed, until `stop`.
pub async fn keep_on_disk(metadata: Arc<Feed>, folder: PathBuf, mut stop: watch::Receiver<bool>) {
    let mut epochs = metadata.subscribe();
    let mut saved = *epochs.borrow_and_update();
    loop {
        let last = tokio::select! {
            changed = epochs.changed() => changed.is_err(),
            () = stopped(&mut stop) => true,
        };
        let begin = Instant::now();
        if metadata.epoch() != saved {
            let (copy, folder) = (metadata.snapshot(), folder.clone());
            let epoch = copy.epoch;
            match tokio::task::spawn_blocking(move || save(&folder, &copy)).await {
                Ok(Ok(())) => saved = epoch,
                Ok(Err(error)) => warn!(%error, "keep the copy of the metadata"),
                Err(error) => warn!(%error, "keep the copy of the metadata"),
            }
        }
        if last {
            return;
        }
        tokio::select! {
            () = sleep((begin.elapsed() * SAVE_PAUSE).min(SAVE_PAUSE_MAX)) => {}
            () = stopped(&mut stop) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_survives_and_a_broken_one_is_left_to_the_controllers() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), None);
        let metadata = Metadata {
            epoch: 7,
            ..Metadata::default()
        };
        save(folder.path(), &metadata).unwrap();
        assert_eq!(load(folder.path()).unwrap(), Some(metadata));
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(load(folder.path()).unwrap(), None);
    }
}
