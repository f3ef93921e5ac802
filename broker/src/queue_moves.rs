//! Carries out the moves of queues that leave the Raft groups led here.
//!
//! For each move: the new group *reserves* the generation; this group *seals* its segment, which is the point of no
//! return; the new group *opens* it with what was put aside; the controllers are told, and this group forgets what it
//! put aside. The steps are in `state/topics/handover.rs`; which comes next is read from this group's state and the
//! metadata, so whoever leads after a crash goes on where it stopped, and between the seal and the opening no
//! controller is needed. Before the seal a move is given up when the new group cannot take it: first in this group's
//! log, then in the other's, then with the controllers.
//!
//! Also here: segments whose last message retention removed are dropped, by the controllers first.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_controller::queue_move::MoveOutcome;
use flotilla_controller::state::{Command as ControllerCommand, Refusal};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::controllers::NoController;
use crate::fail_point;
use crate::handlers::propose::now_ms;
use crate::node::Broker;
use crate::replica::Replica;
use crate::server::stopped;
use crate::state::topics::handover::Sealed;
use crate::state::{Command, Opening, Reply, State, Step};
use crate::topic_changes;

pub use steps::{relay, serve};

use steps::{NotDone, at_group, here};

/// Moves of one urgency carried out at a time by one group.
const AT_A_TIME_MAX: usize = 16;
/// Most bytes that go along with a queue: they are one frame of an entry.
const STATE_BYTES_MAX: usize = 12 << 20;
/// How long the new group may take to reserve, before the move is given up.
const RESERVE_MAX: Duration = Duration::from_secs(5);
/// How long the new group is told that a move was given up; it does not matter if it does not hear of it.
const BAR_MAX: Duration = Duration::from_secs(2);
/// How long one try of what must be done takes, before it is tried again.
const TRY_MAX: Duration = Duration::from_secs(2);
/// Before it is tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked for moves that nothing announced.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked for segments without messages.
const DROP_INTERVAL: Duration = Duration::from_secs(10);

/// A move with what is needed to carry it out.
#[derive(Clone, Debug)]
struct Task {
    step: Step,
    to: u16,
    /// The controllers' number of it, as long as they wait to be told.
    id: Option<u64>,
    urgency: Urgency,
}

/// Which moves come first. Each kind has places of its own: none waits for what another one waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// The queue has no writer.
    Sealed,
    /// It has the old one.
    Wanted,
    /// It has the new one, and the controllers are to be told.
    Opened,
}

impl Urgency {
    fn of(sealed: &Sealed) -> Self {
        match sealed.aside {
            Some(_) => Self::Sealed,
            None => Self::Opened,
        }
    }
}

impl Task {
    /// One task of a queue at a time.
    fn key(&self) -> (u64, u32) {
        (self.step.uid, self.step.queue)
    }
}

/// While this replica leads: carries out the moves of its queues, until `stop`.
pub async fn keep(broker: Arc<Broker>, replica: Arc<Replica>, stop: watch::Receiver<bool>) {
    tokio::join!(
        keep_moving(&broker, &replica, stop.clone()),
        keep_dropping(&broker, &replica, stop)
    );
}

async fn keep_moving(broker: &Arc<Broker>, replica: &Arc<Replica>, mut stop: watch::Receiver<bool>) {
    let mut epochs = broker.metadata.subscribe();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut under_way = FuturesUnordered::new();
    // Queues with a task under way, and how urgent that was when it began.
    let mut busy: BTreeMap<(u64, u32), Urgency> = BTreeMap::new();
    // Tasks that could not go on, and when they are tried again: others get their places meanwhile.
    let mut resting: BTreeMap<(u64, u32), Instant> = BTreeMap::new();
    loop {
        let seen = replica.group.leadership();
        if seen.is_leader {
            let now = Instant::now();
            resting.retain(|_, until| *until > now);
            let mut tasks = tasks(broker, replica);
            tasks.sort_by_key(|task| (task.urgency, task.id));
            for task in tasks {
                let key = task.key();
                let places = busy.values().filter(|urgency| **urgency == task.urgency).count();
                if places >= AT_A_TIME_MAX || busy.contains_key(&key) || resting.contains_key(&key) {
                    continue;
                }
                busy.insert(key, task.urgency);
                under_way.push(async move { (task.key(), carry_out(broker, replica, &task).await) });
            }
        } else {
            // The next leader goes on.
            under_way = FuturesUnordered::new();
            busy.clear();
            resting.clear();
        }
        let woken = resting.values().min().copied();
        tokio::select! {
            Some((key, ended)) = under_way.next(), if !under_way.is_empty() => {
                busy.remove(&key);
                if !ended {
                    resting.insert(key, Instant::now() + PAUSE);
                }
            }
            changed = epochs.changed() => if changed.is_err() { return },
            _ = replica.group.leadership_changed(&seen) => {}
            () = sleep_until(woken.unwrap_or_else(Instant::now)), if woken.is_some() => {}
            _ = looks.tick() => broker.metadata.read(|metadata| broker.moved.prune(metadata)),
            () = stopped(&mut stop) => return,
        }
    }
}

async fn keep_dropping(broker: &Arc<Broker>, replica: &Arc<Replica>, mut stop: watch::Receiver<bool>) {
    let mut looks = tokio::time::interval(DROP_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => if replica.group.is_leader() {
                drop_segments(broker, replica).await;
            },
            () = stopped(&mut stop) => return,
        }
    }
}

/// What there is to do: moves the controllers ask for, and those this group sealed and nobody else may know of.
fn tasks(broker: &Broker, replica: &Replica) -> Vec<Task> {
    let mut tasks: Vec<Task> = broker.metadata.read(|metadata| {
        let moves = metadata.moves.iter();
        let wanted = moves.filter(|(_, wanted)| wanted.is_under_way() && wanted.from == replica.number);
        let wanted = wanted.map(|(id, wanted)| Task {
            step: Step {
                topic: wanted.topic.clone(),
                uid: wanted.topic_id,
                queue: wanted.queue,
                generation: wanted.generation,
            },
            to: wanted.to,
            id: Some(*id),
            urgency: Urgency::Wanted,
        });
        wanted.collect()
    });
    let known: BTreeSet<_> = tasks.iter().map(Task::key).collect();
    replica.state.with(|state| {
        for task in &mut tasks {
            if let Some(sealed) = sealed_for(state, &task.step) {
                task.urgency = Urgency::of(sealed);
            }
        }
        let undelivered = state.topics.undelivered();
        let unknown = undelivered.filter(|(topic, queue, _)| !known.contains(&(topic.uid, *queue)));
        tasks.extend(unknown.map(|(topic, queue, sealed)| Task {
            step: Step {
                topic: topic.config.name.clone(),
                uid: topic.uid,
                queue,
                generation: sealed.next,
            },
            to: sealed.to,
            id: None,
            urgency: Urgency::Sealed,
        }));
    });
    tasks
}

/// The segment that ended for a move, if it has.
fn sealed_for<'a>(state: &'a State, step: &Step) -> Option<&'a Sealed> {
    let topic = state.topics.get(&step.topic).filter(|topic| topic.uid == step.uid)?;
    let mut segments = topic.sealed_of(step.queue);
    segments.find(|sealed| sealed.next == step.generation)
}

fn sealed(replica: &Replica, step: &Step) -> Option<Sealed> {
    replica.state.with(|state| sealed_for(state, step).cloned())
}

/// Carries a move out as far as it goes now; true once it ended.
async fn carry_out(broker: &Arc<Broker>, replica: &Arc<Replica>, task: &Task) -> bool {
    let begun = Instant::now();
    let outcome = advance(broker, replica, task).await;
    let Step {
        topic,
        queue,
        generation,
        ..
    } = &task.step;
    let to = broker.group_name(task.to);
    match outcome {
        Ok(Ended::Moved { end, pause }) => {
            broker.metrics.queue_moves.with_label_values(&["done"]).inc();
            broker.metrics.queue_move_seconds.observe(begun.elapsed().as_secs_f64());
            if let Some(pause) = pause {
                let pause = Duration::from_millis(pause);
                broker.metrics.writer_pause_seconds.observe(pause.as_secs_f64());
            }
            info!(
                group = replica.name,
                to,
                topic,
                queue,
                generation,
                end,
                ?pause,
                "moved a queue"
            );
        }
        Ok(Ended::GivenUp(reason)) => {
            broker.metrics.queue_moves.with_label_values(&["cancelled"]).inc();
            warn!(
                group = replica.name,
                to, topic, queue, generation, reason, "gave a move up"
            );
        }
        Err(reason) => {
            debug!(
                group = replica.name,
                to, topic, queue, generation, reason, "a move waits"
            );
            return false;
        }
    }
    true
}

enum Ended {
    /// With the milliseconds from the seal to the opening, if that was now.
    Moved {
        end: i64,
        pause: Option<u64>,
    },
    GivenUp(String),
}

/// Does what comes next until the move ended; an error is a reason to look again.
async fn advance(broker: &Arc<Broker>, replica: &Arc<Replica>, task: &Task) -> Result<Ended, String> {
    // What this replica led before it applied everything may be behind.
    replica.group.read_index().await.map_err(|error| error.to_string())?;
    let copied = broker.metrics.segment_bytes();
    let copied_before = copied.get();
    let ended = match sealed(replica, &task.step) {
        Some(ended) => ended,
        None => {
            let Step { topic, queue, .. } = &task.step;
            if replica.state.generation(topic, *queue).is_none() {
                // Its assignment comes first; the moves of a deleted topic the controllers end.
                return Err("the queue is not open here yet".to_owned());
            }
            fail_point::reached(fail_point::MOVE_TAKEN_UP);
            if let Err(reason) = prepare(broker, replica, task).await {
                return give_up(broker, replica, task, reason).await;
            }
            fail_point::reached(fail_point::SEAL_NEXT);
            let seal = Command::Seal {
                step: task.step.clone(),
                to: task.to,
                now_ms: now_ms(),
            };
            match here(replica, &seal).await {
                Ok(()) => {}
                Err(NotDone::Refused(reason)) => return give_up(broker, replica, task, reason).await,
                Err(other) => return Err(other.to_string()),
            }
            fail_point::reached(fail_point::SEALED);
            sealed(replica, &task.step).ok_or_else(|| "the seal is not applied".to_owned())?
        }
    };
    let end = ended.queue.max_offset;
    let mut pause = None;
    if let Some(state) = ended.aside {
        let opening = Command::Open(Opening {
            step: task.step.clone(),
            start: end,
            state,
        });
        // There is no way back: until it is done, whoever leads here says it again.
        let opened = at_group(broker, task.to, &opening, TRY_MAX).await;
        opened.map_err(|error| error.to_string())?;
        pause = u64::try_from(now_ms() - ended.at_ms).ok();
        fail_point::reached(fail_point::OPEN_HEARD);
        let delivered = Command::Delivered(task.step.clone());
        here(replica, &delivered).await.map_err(|error| error.to_string())?;
    }
    let outcome = MoveOutcome::Opened {
        end_offset: end,
        writer_pause_ms: pause,
        bytes_copied: copied.get() - copied_before,
    };
    end_move(broker, task, outcome).await?;
    Ok(Ended::Moved { end, pause })
}

/// Sees to it that the move can go through: the reason if it cannot.
async fn prepare(broker: &Arc<Broker>, replica: &Replica, task: &Task) -> Result<(), String> {
    let Step { topic, queue, .. } = &task.step;
    let bytes = replica.state.with(|state| state.bytes_of_queue(topic, *queue));
    if bytes > STATE_BYTES_MAX {
        return Err(format!(
            "what goes along with it has {bytes} bytes, at most {STATE_BYTES_MAX} can"
        ));
    }
    reserve(broker, task).await
}

/// Has the new group reserve the generation; the reason if it cannot.
async fn reserve(broker: &Arc<Broker>, task: &Task) -> Result<(), String> {
    let topic = broker.any_topic(&task.step.topic);
    let topic = topic.filter(|topic| topic.id == task.step.uid);
    let topic = topic.ok_or_else(|| "the topic was deleted".to_owned())?;
    let reserve = Command::Reserve {
        topic: topic_changes::settings_of(&topic),
        queue: task.step.queue,
        generation: task.step.generation,
    };
    let reserved = at_group(broker, task.to, &reserve, RESERVE_MAX).await;
    reserved.map_err(|reason| {
        let to = broker.group_name(task.to);
        format!("{to} did not reserve the queue: {reason}")
    })
}

/// Undoes a move that is not sealed: here, there, and with the controllers.
async fn give_up(broker: &Arc<Broker>, replica: &Arc<Replica>, task: &Task, reason: String) -> Result<Ended, String> {
    let bar = Command::Bar(task.step.clone());
    match here(replica, &bar).await {
        Ok(_) => {}
        // It was sealed meanwhile, and goes on; or its topic was deleted, and the controllers end it.
        Err(other) => return Err(other.to_string()),
    }
    if let Err(error) = at_group(broker, task.to, &bar, BAR_MAX).await {
        debug!(%error, topic = task.step.topic, queue = task.step.queue, "tell the new group that a move was given up");
    }
    let outcome = MoveOutcome::Cancelled { reason: reason.clone() };
    end_move(broker, task, outcome).await?;
    Ok(Ended::GivenUp(reason))
}

/// Tells the controllers how a move ended.
async fn end_move(broker: &Arc<Broker>, task: &Task, outcome: MoveOutcome) -> Result<(), String> {
    let Some(id) = task.id else { return Ok(()) };
    let command = ControllerCommand::EndMove {
        id,
        outcome,
        now_ms: now_ms(),
    };
    match broker.controllers.propose(command).await {
        Ok(reply) => {
            // Until this process has heard of it the move would be found again.
            topic_changes::epoch_reached(broker, reply.epoch()).await;
            Ok(())
        }
        // It was ended already, and is perhaps forgotten.
        Err(NoController::Refused(Refusal::MoveEnded | Refusal::MoveNotExist)) => {
            topic_changes::catch_up(broker).await;
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Has sealed segments without messages dropped, and forgets those that the controllers do not list any more.
async fn drop_segments(broker: &Arc<Broker>, replica: &Arc<Replica>) {
    let sealed: Vec<(Step, bool)> = replica.state.with(|state| {
        let topics = state.topics.iter();
        let segments = topics.flat_map(|topic| {
            topic.sealed.iter().filter_map(move |((queue, generation), sealed)| {
                let step = Step {
                    topic: topic.config.name.clone(),
                    uid: topic.uid,
                    queue: *queue,
                    generation: *generation,
                };
                let is_empty = sealed.queue.min_offset == sealed.queue.max_offset;
                sealed.aside.is_none().then_some((step, is_empty))
            })
        });
        segments.collect()
    });
    for (step, is_empty) in sealed {
        let topic = broker.any_topic(&step.topic).filter(|topic| topic.id == step.uid);
        let segments = topic.as_ref().and_then(|topic| topic.queues.get(step.queue as usize));
        let Some(first) = segments.and_then(|segments| segments.first()) else {
            continue;
        };
        if step.generation < first.generation {
            let forget = Command::ForgetSegments(Step {
                generation: first.generation,
                ..step
            });
            if let Err(error) = here(replica, &forget).await {
                debug!(%error, group = replica.name, "forget a segment");
            }
        } else if is_empty && step.generation == first.generation && first.end.is_some() {
            let command = ControllerCommand::DropSegment {
                topic: step.topic,
                topic_id: step.uid,
                queue: step.queue,
                generation: step.generation,
            };
            if let Err(error) = broker.controllers.propose(command).await {
                debug!(%error, group = replica.name, "drop a segment");
                return;
            }
        }
    }
}
