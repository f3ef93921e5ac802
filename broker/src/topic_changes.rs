//! Creating, changing and deleting topics: the controller decides, the owners open the queues, everybody hears of it.
//!
//! [`create`] and [`change`] return once every queue is open in its Raft group and the living nodes know the topic, so that whoever is
//! told about the success can use it anywhere. A node that could not be asked confirms with the controller before it
//! denies a topic ([`confirmed`]).
//!
//! The leader of each Raft group brings its log in line with the metadata ([`keep_assigned`]): whatever crashes in
//! between, the next leader goes on. A group never goes back: assignments carry the controller's epoch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_controller::metadata::Topic;
use flotilla_controller::state::{Command as ControllerCommand, Refusal, Reply as ControllerReply};
use flotilla_controller::topic::TopicConfig;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::controllers::NoController;
use crate::forward;
use crate::handlers::propose::now_ms;
use crate::node::{Broker, Owned, metadata_copy};
use crate::replica::Replica;
use crate::server::stopped;
use crate::state::{Assignment, Command, OpenQueue, Reply};

/// How long the owners of a topic's queues may take to open them.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// How long other nodes are waited for until they know.
const HEARD_MAX: Duration = Duration::from_secs(1);
/// How long this node's copy may take to catch up with an epoch it was told of.
const CATCH_UP_MAX: Duration = Duration::from_secs(2);
/// How often a change is made anew when others were faster.
const CHANGE_TRIES: usize = 5;
/// How long a change is waited for before it is fetched.
const COMES_BY_ITSELF: Duration = Duration::from_millis(150);
/// Before a leader is looked for again, or an assignment is tried again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a group is compared with the metadata as a whole, though nothing seems to have changed.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);
/// Assignments proposed in one entry.
const ASSIGNMENTS_PER_ENTRY: usize = 128;
/// Bytes of assignments proposed in one entry, but for a single one that is longer.
const ENTRY_BYTES_MAX: usize = 256 << 10;

/// Changes a topic, or creates it, by `change` of what it is now: of the newest, whoever else changes it meanwhile. Binds
/// it to `groups` if they are given, to none in particular if there are none in them.
/// Returns whether it is new, and the epoch.
pub async fn change<E: From<NoController>>(
    broker: &Arc<Broker>,
    name: &str,
    groups: Option<Vec<u16>>,
    change: impl Fn(Option<TopicConfig>) -> Result<TopicConfig, E>,
) -> Result<(bool, u64), E> {
    for _ in 0..CHANGE_TRIES {
        catch_up(broker).await;
        let present = broker.topic(name);
        let expected = present.as_ref().map_or(0, |topic| topic.epoch);
        let config = change(present.map(|topic| topic.config.clone()))?;
        match put(broker, config, false, Some(expected), groups.clone()).await {
            Err(NoController::Refused(Refusal::Changed)) => {}
            outcome => return Ok(outcome?),
        }
    }
    Err(NoController::Refused(Refusal::Changed).into())
}

/// Creates a topic if there is none of its name. Returns whether it is new, and the epoch.
pub async fn create(broker: &Arc<Broker>, config: TopicConfig) -> Result<(bool, u64), NoController> {
    put(broker, config, true, None, None).await
}

async fn put(
    broker: &Arc<Broker>,
    config: TopicConfig,
    if_absent: bool,
    expected: Option<u64>,
    groups: Option<Vec<u16>>,
) -> Result<(bool, u64), NoController> {
    let name = config.name.clone();
    let command = ControllerCommand::PutTopic {
        config,
        if_absent,
        expected,
        groups,
        now_ms: now_ms(),
    };
    let (created, epoch) = match broker.controllers.propose(command).await? {
        ControllerReply::Topic { created, epoch } => (created, epoch),
        other => return Err(NoController::Unknown(format!("unexpected reply {other:?}"))),
    };
    if !epoch_reached(broker, epoch).await {
        return Err(NoController::Unknown(format!(
            "epoch {epoch} did not arrive here in time"
        )));
    }
    let Some(topic) = broker.topic(&name) else {
        // Deleted again in the meantime.
        return Ok((created, epoch));
    };
    let deadline = Instant::now() + OPEN_MAX;
    let opened = topic
        .open_groups()
        .into_iter()
        .map(|group| carried_out(broker, group, &name, topic.epoch, deadline));
    let (opened, ()) = tokio::join!(join_all(opened), heard(broker, epoch));
    if let Some(group) = opened.into_iter().find_map(Result::err) {
        let group = broker.group_name(group);
        return Err(NoController::Unknown(format!(
            "{group} did not open its queues in time"
        )));
    }
    Ok((created, epoch))
}

/// Deletes a topic; returns the epoch once the living nodes know and the owners of its queues have thrown them away. An
/// owner without a leader is not waited for long: it cannot show anything either, and throws them away when it leads.
pub async fn delete(broker: &Arc<Broker>, name: &str) -> Result<u64, NoController> {
    let groups = broker.topic(name).map(|topic| topic.groups()).unwrap_or_default();
    let command = ControllerCommand::DeleteTopic { name: name.to_owned() };
    let epoch = match broker.controllers.propose(command).await? {
        ControllerReply::Done { epoch } => epoch,
        other => return Err(NoController::Unknown(format!("unexpected reply {other:?}"))),
    };
    epoch_reached(broker, epoch).await;
    let deadline = Instant::now() + OPEN_MAX;
    let deleted = groups
        .into_iter()
        .map(|group| carried_out(broker, group, name, epoch, deadline));
    let (deleted, ()) = tokio::join!(join_all(deleted), heard(broker, epoch));
    if let Some(group) = deleted.into_iter().find_map(Result::err) {
        debug!(
            group = broker.group_name(group),
            topic = name,
            "has not thrown its queues away yet"
        );
    }
    Ok(epoch)
}

/// A topic, confirmed with the controllers if this node has not heard of it and one of them can be reached.
pub async fn confirmed(broker: &Arc<Broker>, name: &str) -> Option<Arc<Topic>> {
    if let Some(topic) = broker.topic(name) {
        return Some(topic);
    }
    catch_up(broker).await;
    broker.topic(name)
}

/// The Raft group that owns something, confirmed as [`confirmed`] does when this node does not know one.
pub async fn confirmed_owner(broker: &Broker, owned: Owned<'_>) -> Option<u16> {
    if let Some(group) = broker.owner(owned) {
        return Some(group);
    }
    catch_up(broker).await;
    broker.owner(owned)
}

/// The last time this process brought its copy up to date, and whether that succeeded. Those who want the same at the
/// same time share one question.
#[derive(Debug, Default)]
pub struct CaughtUp(tokio::sync::Mutex<Option<(Instant, bool)>>);

/// Brings this node's copy up to the newest epoch; false if no controller could be asked.
pub async fn catch_up(broker: &Broker) -> bool {
    let asked = Instant::now();
    let mut last = broker.caught_up.0.lock().await;
    if let Some((begun, succeeded)) = *last
        && begun >= asked
    {
        return succeeded;
    }
    let begun = Instant::now();
    let succeeded = match broker.controllers.epoch().await {
        Ok(epoch) => epoch_reached(broker, epoch).await,
        Err(error) => {
            debug!(%error, "ask for the newest epoch");
            false
        }
    };
    *last = Some((begun, succeeded));
    succeeded
}

/// Waits until this process's copy has reached `epoch`; false if it did not in time. Fetches what is missing if it
/// does not come by itself.
pub async fn epoch_reached(broker: &Broker, epoch: u64) -> bool {
    let mut known = broker.metadata.subscribe();
    let deadline = Instant::now() + CATCH_UP_MAX;
    loop {
        if timeout(COMES_BY_ITSELF, known.wait_for(|known| *known >= epoch))
            .await
            .is_ok()
        {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        let cluster = broker.metadata.read(|metadata| metadata.cluster.id.clone());
        match metadata_copy::fetch(&broker.controllers, broker.metadata.epoch(), &cluster).await {
            Ok(Some(update)) => drop(broker.metadata.take(update)),
            Ok(None) => {}
            Err(reason) => debug!(reason, epoch, "fetch what is missing"),
        }
    }
}

/// Waits until the other living nodes have reached `epoch`, but not for long: one that does not answer asks before it
/// denies anything.
async fn heard(broker: &Broker, epoch: u64) {
    let nodes = broker.peers.nodes().into_iter();
    let others = nodes.filter(|node| node.living && !node.here).map(|node| async move {
        let deadline = Instant::now() + HEARD_MAX;
        let asked = broker
            .peers
            .call(&node.name, forward::has_epoch_call(epoch), deadline)
            .await;
        if let Err(error) = asked {
            debug!(node = node.name, %error, epoch, "a node has not heard of a change yet");
        }
    });
    join_all(others).await;
}

/// Waits until the leader of `group` has its queues of a topic as they were in `version` or later: open, or gone.
async fn carried_out(broker: &Arc<Broker>, group: u16, name: &str, version: u64, deadline: Instant) -> Result<(), u16> {
    while Instant::now() < deadline {
        let seen = broker.leadership(group);
        let has = match seen.leader.as_deref() {
            Some(leader) if leader == broker.node => leader_has(broker, group, name, version).await,
            Some(leader) => {
                let call = forward::has_topic_call(group, version, name);
                let until = deadline.min(Instant::now() + HEARD_MAX);
                let answer = broker.peers.call(leader, call, until).await;
                answer.is_ok_and(|answer| answer.first() == Some(&1))
            }
            None => false,
        };
        if has {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    Err(group)
}

/// Waits until the leader here has applied a topic's assignment of `version` or later, or that it is deleted; false if
/// it does not lead.
pub async fn leader_has(broker: &Broker, group: u16, topic: &str, version: u64) -> bool {
    let deadline = Instant::now() + HEARD_MAX;
    while Instant::now() < deadline {
        let Some(replica) = broker.led(group) else { return false };
        let has = match replica.state.topic_version(topic) {
            Some(known) => known >= version,
            // Deleted: nothing will be opened any more.
            None => broker.metadata.epoch() >= version && broker.any_topic(topic).is_none(),
        };
        if has {
            return true;
        }
        // Short: whoever creates a topic waits for this.
        sleep(Duration::from_millis(2)).await;
    }
    false
}

/// While this replica leads: logs what the metadata assigns to its group, until `stop`.
pub async fn keep_assigned(broker: Arc<Broker>, replica: Arc<Replica>, mut stop: watch::Receiver<bool>) {
    let mut epochs = broker.metadata.subscribe();
    let mut seen = replica.group.leadership();
    // The epoch up to which the group was compared while it was led here, without a break.
    let mut compared = None;
    let mut whole = tokio::time::interval(COMPARE_INTERVAL);
    whole.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if seen.is_leader {
            if compared.is_none() {
                // A copy that is behind would bring back what was deleted; without a controller it is the best there is.
                catch_up(&broker).await;
            }
            let epoch = *epochs.borrow_and_update();
            if compared != Some(epoch) {
                let changed = compared.and_then(|since| broker.metadata.changed_topics_since(since));
                let commands = differences(&broker, &replica, changed);
                match carry_out(&replica, commands).await {
                    Ok(()) => compared = Some(epoch),
                    Err(reason) => {
                        debug!(group = replica.name, reason, "assign queues");
                        sleep(PAUSE).await;
                    }
                }
            }
        } else {
            compared = None;
        }
        if seen.is_leader && compared.is_none() {
            seen = replica.group.leadership();
            if *stop.borrow() {
                return;
            }
            continue;
        }
        tokio::select! {
            changed = epochs.changed() => if changed.is_err() { return },
            now = replica.group.leadership_changed(&seen) => seen = now,
            _ = whole.tick() => compared = None,
            () = stopped(&mut stop) => return,
        }
    }
}

/// What the group's log lacks; of all topics, or of those that changed.
fn differences(broker: &Broker, replica: &Replica, changed: Option<Vec<String>>) -> Vec<Command> {
    let metadata = broker.metadata.snapshot();
    let names: BTreeSet<String> = match changed {
        Some(names) => names.into_iter().collect(),
        None => {
            let here = replica.state.topic_names();
            metadata.topics.keys().cloned().chain(here).collect()
        }
    };
    let mut commands = Vec::new();
    for name in names {
        let topic = metadata.topics.get(&name);
        let here = replica.state.topic_identity(&name);
        if topic.is_some_and(|topic| here == Some((topic.id, topic.epoch))) {
            continue;
        }
        let wanted = topic.and_then(|topic| assignment(topic, replica.number));
        let is_same = |uid| topic.is_some_and(|topic| topic.id == uid);
        let delete = |uid| Command::DeleteTopic {
            topic: name.clone(),
            uid,
        };
        match (wanted, here) {
            (None, None) => {}
            // A copy that is behind must not delete what is newer than it.
            (None, Some((uid, version))) if !is_same(uid) && metadata.epoch > version => commands.push(delete(uid)),
            // Its settings are of use for what lies here still, and for what comes back.
            (None, Some((_, version))) => {
                if let Some(topic) = topic.filter(|topic| topic.epoch > version) {
                    commands.push(Command::AssignTopic(settings_of(topic)));
                }
            }
            (Some(wanted), None) => commands.push(Command::AssignTopic(wanted)),
            (Some(wanted), Some((uid, version))) => {
                if wanted.version <= version {
                    continue;
                }
                if wanted.uid != uid {
                    commands.push(delete(uid));
                }
                commands.push(Command::AssignTopic(wanted));
            }
        }
    }
    commands
}

/// A topic's queues that are open in `group`; `None` if it has none there.
fn assignment(topic: &Topic, group: u16) -> Option<Assignment> {
    let open: Vec<OpenQueue> = topic
        .queues
        .iter()
        .zip(0..)
        .filter_map(|(segments, queue)| {
            let segment = segments.last().filter(|segment| segment.group == group)?;
            Some(OpenQueue {
                queue,
                generation: segment.generation,
                start: segment.start,
            })
        })
        .collect();
    (!open.is_empty()).then(|| Assignment {
        open,
        ..settings_of(topic)
    })
}

/// A topic's settings, for a group where none of its queues is open.
pub fn settings_of(topic: &Topic) -> Assignment {
    Assignment {
        config: topic.config.clone(),
        uid: topic.id,
        version: topic.epoch,
        created_ms: topic.created_ms,
        open: Vec::new(),
    }
}

async fn carry_out(replica: &Replica, commands: Vec<Command>) -> Result<(), String> {
    // What this replica has not applied yet of its predecessor's may be what seems to be missing: saying it again is
    // harmless, so there is no need to wait.
    let mut frames: Vec<Bytes> = Vec::new();
    let mut bytes = 0;
    for command in &commands {
        let frame = command.encode();
        if bytes + frame.len() > ENTRY_BYTES_MAX || frames.len() == ASSIGNMENTS_PER_ENTRY {
            log(replica, std::mem::take(&mut frames)).await?;
            bytes = 0;
        }
        bytes += frame.len();
        frames.push(frame);
    }
    log(replica, frames).await
}

async fn log(replica: &Replica, frames: Vec<Bytes>) -> Result<(), String> {
    if frames.is_empty() {
        return Ok(());
    }
    let proposed = replica.group.propose(frames).await.map_err(|error| error.to_string())?;
    for reply in proposed.replies {
        if let Reply::Refused(refusal) = reply {
            warn!(group = replica.name, %refusal, "an assignment was refused");
        }
    }
    Ok(())
}
