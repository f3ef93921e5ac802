//! Moving queues between Raft groups: one by one, to even them out, or all that are open in a group.
//!
//! What is asked for here is written down by the controllers; the Raft groups carry it out, whoever asked. Plans are
//! made from this process's copy of the metadata, brought up to date before, and by the load that the groups' leaders tell
//! of, and started in commands of a bounded size: what others changed meanwhile refuses one of them as a whole, and the rest is planned anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use flotilla_api::http::{MoveState, Moves, PlannedGroup, QueueMove};
use flotilla_controller::coordinator_slots;
use flotilla_controller::metadata::Metadata;
use flotilla_controller::planning::{self, PlannedMove};
use flotilla_controller::queue_move::{self, MoveRequest};
use flotilla_controller::state::limits::MOVES_PER_COMMAND_MAX;
use flotilla_controller::state::{Command, Refusal, Reply};
use serde_json::Value;
use tokio::time::timeout;

use super::LIST_ITEMS_MAX;
use super::answer::Answer;
use super::execute::{epoch, group_number};
use super::json::document;
use super::load;
use super::problem::Problem;
use crate::controllers::NoController;
use crate::handlers::propose::now_ms;
use crate::node::Broker;
use crate::topic_changes;

/// Longest time a request waits for its move to be done.
pub const MOVE_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a plan is made anew when others moved queues or changed groups meanwhile.
const PLAN_TRIES: usize = 5;

/// `GET /v1/moves`; over the limit the oldest are left out.
pub fn list(broker: &Broker) -> Value {
    let metadata = broker.metadata.snapshot();
    let first = metadata.moves.len().saturating_sub(LIST_ITEMS_MAX);
    let shown = metadata.moves.iter().skip(first);
    document(&Moves {
        moves: shown.map(|(id, known)| move_document(&metadata, *id, known)).collect(),
        truncated: first > 0,
        ..Moves::default()
    })
}

/// `GET /v1/moves/{id}`.
pub fn one(broker: &Broker, id: u64) -> Result<Value, Problem> {
    let found = shown(broker, id);
    found
        .map(|found| document(&found))
        .ok_or_else(|| Problem::not_found(format!("move {id} does not exist, or ended long ago")))
}

fn shown(broker: &Broker, id: u64) -> Option<QueueMove> {
    let look = |metadata: &Metadata| Some(move_document(metadata, id, metadata.moves.get(&id)?));
    broker.metadata.read(look)
}

fn move_document(metadata: &Metadata, id: u64, known: &queue_move::QueueMove) -> QueueMove {
    let lasted = known.ended_ms.map(|ended| ended.saturating_sub(known.started_ms));
    QueueMove {
        id: Some(id),
        topic: known.topic.clone(),
        queue: known.queue,
        from: group_name(metadata, known.from),
        to: group_name(metadata, known.to),
        state: Some(match known.state {
            queue_move::MoveState::Preparing => MoveState::Preparing,
            queue_move::MoveState::Done => MoveState::Done,
            queue_move::MoveState::Cancelled => MoveState::Cancelled,
        }),
        writer_pause_ms: known.writer_pause_ms,
        // The two times can be of different clocks.
        duration_ms: lasted.map(|lasted| u64::try_from(lasted).unwrap_or(0)),
        end_offset: known.end_offset,
        bytes_copied: known.bytes_copied,
        reason: known.reason.clone(),
    }
}

fn group_name(metadata: &Metadata, number: u16) -> String {
    let group = metadata.groups.get(&number);
    group.map_or_else(|| format!("g{number}"), |group| group.name.clone())
}

/// `POST /v1/topics/{topic}/queues/{n}/move`: 200 once it is done, if that is before `wait` is over, else 202.
pub async fn move_queue(
    broker: &Arc<Broker>,
    topic: String,
    queue: u32,
    group: &str,
    wait: Duration,
) -> Result<Answer, Problem> {
    topic_changes::catch_up(broker).await;
    let to = group_number(broker, group).map_err(Problem::refused)?;
    let requests = vec![MoveRequest { topic, queue, to }];
    let ids = start(broker, requests, "asked for").await?;
    let [id] = ids[..] else {
        return Err(Problem::unavailable(format!("one move was asked for, {} were started", ids.len())).unknown());
    };
    let mut epochs = broker.metadata.subscribe();
    let ended = async {
        while is_under_way(broker, id) {
            if epochs.changed().await.is_err() {
                break;
            }
        }
    };
    // Whether it ended in time is seen below.
    let _ = timeout(wait.min(MOVE_WAIT_MAX), ended).await;
    let found =
        shown(broker, id).ok_or_else(|| Problem::unavailable(format!("move {id} is not known any more")).unknown())?;
    let status = match found.state {
        Some(MoveState::Done) => StatusCode::OK,
        Some(MoveState::Cancelled) => {
            let detail = format!("move {id} was cancelled: {}", found.reason);
            return Err(Problem::new(StatusCode::CONFLICT, detail).refused());
        }
        _ => StatusCode::ACCEPTED,
    };
    Ok(Answer {
        status: status.as_u16(),
        body: document(&found),
        epoch: epoch(broker),
    })
}

fn is_under_way(broker: &Broker, id: u64) -> bool {
    let look = |metadata: &Metadata| metadata.moves.get(&id).is_some_and(queue_move::QueueMove::is_under_way);
    broker.metadata.read(look)
}

/// `POST /v1/rebalance`. A dry run says what would move and why.
pub async fn rebalance(broker: &Arc<Broker>, dry_run: bool) -> Result<Answer, Problem> {
    let loads = Arc::new(load::gather(broker).await);
    // Whoever asks for it wants it now: no queue rests.
    let plan = move |metadata: &Metadata| planning::rebalance(metadata, &loads, &BTreeSet::new());
    if !dry_run {
        let started = carry_out(broker, move |metadata: &Metadata| plan(metadata).moves).await?;
        return Ok(started_answer(broker, &started));
    }
    let confirmed = topic_changes::catch_up(broker).await;
    let (metadata, plan) = planned(broker, plan).await?;
    let moves = plan
        .moves
        .iter()
        .take(LIST_ITEMS_MAX)
        .map(|planned| planned_document(&metadata, planned));
    let groups = plan.groups.iter().map(|planned| planned_group(&metadata, planned));
    let answer = Answer::ok(
        document(&Moves {
            moves: moves.collect(),
            truncated: plan.moves.len() > LIST_ITEMS_MAX,
            remaining: plan.moves.len() as u64,
            groups: groups.collect(),
            ..Moves::default()
        }),
        epoch(broker),
    );
    Ok(if confirmed { answer } else { answer.stale() })
}

fn planned_group(metadata: &Metadata, planned: &planning::PlannedGroup) -> PlannedGroup {
    PlannedGroup {
        group: group_name(metadata, planned.group),
        queues_before: planned.before.queues as u64,
        queues_after: planned.after.queues as u64,
        rate_before: planned.before.rate.map(load::shown),
        rate_after: planned.after.rate.map(load::shown),
    }
}

fn planned_document(metadata: &Metadata, planned: &PlannedMove) -> QueueMove {
    QueueMove {
        id: None,
        topic: planned.topic.clone(),
        queue: planned.queue,
        from: group_name(metadata, planned.from),
        to: group_name(metadata, planned.to),
        state: None,
        writer_pause_ms: None,
        duration_ms: None,
        end_offset: None,
        bytes_copied: 0,
        reason: planned.reason.clone(),
    }
}

/// `POST /v1/groups/{group}/drain`: the group gets no more queues, and all that are open there leave, as far as the pins
/// of their topics allow, and so do its coordinator slots. Again, it starts what could not be started before.
pub async fn drain(broker: &Arc<Broker>, group: &str) -> Result<Answer, Problem> {
    topic_changes::catch_up(broker).await;
    let number = group_number(broker, group).map_err(Problem::refused)?;
    let held = move |metadata: &Metadata| planning::held_by_pins(metadata, number);
    let look = move |metadata: &Metadata| {
        // Whoever drains a group means its queues.
        let is_queue = |topic: &str| topic != coordinator_slots::TOPIC;
        let mut moves = metadata.moves.values();
        let some_leave = moves.any(|known| known.is_under_way() && known.from == number && is_queue(&known.topic));
        let planned = planning::drain(metadata, number);
        match some_leave || planned.iter().any(|planned| is_queue(&planned.topic)) {
            true => None,
            false => Some(held(metadata)),
        }
    };
    if let (_, Some(queues @ 1..)) = planned(broker, look).await? {
        let detail = format!("no queue can leave {group}: topics of {queues} queues are pinned to no other open group");
        return Err(Problem::new(StatusCode::CONFLICT, detail).refused());
    }
    set_draining(broker, number, true).await?;
    let started = carry_out(broker, move |metadata: &Metadata| planning::drain(metadata, number)).await?;
    let (_, held) = planned(broker, held).await?;
    let started = Moves {
        pinned: held as u64,
        ..started
    };
    Ok(started_answer(broker, &started))
}

/// `POST /v1/groups/{group}/reopen`: the group may get queues again. What is leaving leaves.
pub async fn reopen(broker: &Arc<Broker>, group: &str) -> Result<Answer, Problem> {
    topic_changes::catch_up(broker).await;
    let number = group_number(broker, group).map_err(Problem::refused)?;
    set_draining(broker, number, false).await?;
    Ok(Answer::ok(document(&Moves::default()), epoch(broker)))
}

async fn set_draining(broker: &Arc<Broker>, group: u16, draining: bool) -> Result<(), Problem> {
    let command = Command::SetDraining { group, draining };
    let reply = broker.controllers.propose(command).await?;
    arrived(broker, reply.epoch()).await?;
    Ok(())
}

/// A plan for what is known now. Plans for many queues take a while.
async fn planned<T: Send + 'static>(
    broker: &Broker,
    plan: impl FnOnce(&Metadata) -> T + Send + 'static,
) -> Result<(Arc<Metadata>, T), Problem> {
    let metadata = broker.metadata.snapshot();
    let planned = tokio::task::spawn_blocking(move || {
        let moves = plan(&metadata);
        (metadata, moves)
    });
    planned
        .await
        .map_err(|error| Problem::unavailable(format!("plan the moves: {error}")).refused())
}

/// Starts what is planned: all of it, or as much as can be under way at once.
async fn carry_out(
    broker: &Arc<Broker>,
    plan: impl Fn(&Metadata) -> Vec<PlannedMove> + Clone + Send + 'static,
) -> Result<Moves, Problem> {
    let mut started: Vec<u64> = Vec::new();
    let mut remaining = 0;
    for attempt in 1..=PLAN_TRIES {
        topic_changes::catch_up(broker).await;
        let (_, plan) = planned(broker, plan.clone()).await?;
        let before = started.len();
        let outcome = start_all(broker, &plan, &mut started).await;
        remaining = plan.len() - (started.len() - before);
        match outcome {
            Ok(()) => break,
            Err(NoController::Refused(Refusal::LimitReached(_))) if !started.is_empty() => break,
            Err(NoController::Refused(refusal)) if may_be_planned_anew(&refusal) && attempt < PLAN_TRIES => {}
            // Some of it is under way.
            Err(error) if !started.is_empty() => return Err(Problem::from(error).unknown()),
            Err(error) => return Err(error.into()),
        }
    }
    let moves = started.iter().take(LIST_ITEMS_MAX).filter_map(|id| shown(broker, *id));
    Ok(Moves {
        moves: moves.collect(),
        truncated: started.len() > LIST_ITEMS_MAX,
        remaining: remaining as u64,
        ..Moves::default()
    })
}

/// 200 if there was nothing to move.
fn started_answer(broker: &Broker, started: &Moves) -> Answer {
    let status = match (started.moves.is_empty(), started.remaining) {
        (true, 0) => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    Answer {
        status: status.as_u16(),
        body: document(started),
        epoch: epoch(broker),
    }
}

/// Somebody else was faster.
fn may_be_planned_anew(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::MoveUnderWay
            | Refusal::SameGroup
            | Refusal::GroupDraining
            | Refusal::PinnedElsewhere
            | Refusal::TopicNotExist
            | Refusal::QueueNotExist
    )
}

/// Starts planned moves in commands of a bounded size; `started` gets their ids.
async fn start_all(broker: &Arc<Broker>, plan: &[PlannedMove], started: &mut Vec<u64>) -> Result<(), NoController> {
    // A command has one reason.
    let reasons: BTreeSet<&str> = plan.iter().map(short_reason).collect();
    for reason in reasons {
        let same: Vec<&PlannedMove> = plan.iter().filter(|planned| short_reason(planned) == reason).collect();
        for part in same.chunks(MOVES_PER_COMMAND_MAX) {
            let requests = part.iter().map(|planned| planned.request());
            started.extend(start(broker, requests.collect(), reason).await?);
        }
    }
    Ok(())
}

/// What a planned move is for, without the figures that explain it.
fn short_reason(planned: &PlannedMove) -> &str {
    planned.reason.split(':').next().unwrap_or_default()
}

/// Starts moves, all or none; returns their ids once this process's copy has them.
async fn start(broker: &Arc<Broker>, moves: Vec<MoveRequest>, reason: &str) -> Result<Vec<u64>, NoController> {
    let command = Command::StartMoves {
        moves,
        reason: reason.to_owned(),
        now_ms: now_ms(),
    };
    match broker.controllers.propose(command).await? {
        Reply::Moves { ids, epoch } => {
            arrived(broker, epoch).await?;
            Ok(ids)
        }
        other => Err(NoController::Unknown(format!("unexpected reply {other:?}"))),
    }
}

/// Waits until this process's copy has an epoch.
pub async fn arrived(broker: &Broker, epoch: u64) -> Result<(), NoController> {
    match topic_changes::epoch_reached(broker, epoch).await {
        true => Ok(()),
        false => Err(NoController::Unknown(format!(
            "epoch {epoch} did not arrive here in time"
        ))),
    }
}
