//! LOCK_BATCH_MQ and UNLOCK_BATCH_MQ: which client of an orderly consumer group may consume a queue. At the leader.
//!
//! The broker names in the request mean nothing here, but the answer repeats the asked queues exactly as they came:
//! clients compare them with equals. A group that one of the asked queues left says so, before it does anything; then the
//! owners are asked queue by queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_api::remoting::bodies::{LockBatchRequest, LockBatchResponse, MessageQueue};
use flotilla_api::remoting::codes::{request as codes, response};
use flotilla_api::remoting::frame::RemotingCommand;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::propose;
use crate::error::{Failure, check_group};
use crate::forward::{self, Repeat};
use crate::node::{Broker, Owned};
use crate::replica::Replica;
use crate::router::Origin;
use crate::state::{Command, Reply};

/// Clients wait one second: what some owners granted must not wait longer for others that nobody leads.
const PATIENCE: Duration = Duration::from_millis(600);
/// Queues asked for at a time, where each is asked for alone.
const ONE_BY_ONE_MAX: usize = 64;

fn decode(request: &RemotingCommand) -> Result<LockBatchRequest, Failure> {
    let asked = LockBatchRequest::from_bytes(&request.body)?;
    check_group(&asked.consumer_group)?;
    if asked.client_id.is_empty() {
        return Err(Failure::malformed("clientId is missing"));
    }
    Ok(asked)
}

/// Topic and number of the queues that can exist.
fn names(queues: &[MessageQueue]) -> Vec<(String, u32)> {
    let numbered = queues
        .iter()
        .filter_map(|queue| Some((queue, u32::try_from(queue.queue).ok()?)));
    numbered.map(|(queue, number)| (queue.topic.clone(), number)).collect()
}

/// The asked queues among `held`, as they were asked for.
fn answered(asked: Vec<MessageQueue>, held: &[(String, u32)]) -> Vec<MessageQueue> {
    let is_held = |queue: &MessageQueue| {
        held.iter()
            .any(|(topic, number)| *topic == queue.topic && i64::from(*number) == i64::from(queue.queue))
    };
    asked.into_iter().filter(is_held).collect()
}

/// Has the owners of the queues asked, each for its own, and puts their answers together.
pub async fn route(
    broker: &Arc<Broker>,
    request: &RemotingCommand,
    origin: &Origin,
    repeat: Repeat,
) -> Result<RemotingCommand, Failure> {
    let LockBatchRequest {
        queues,
        client_id,
        consumer_group,
        ..
    } = decode(request)?;
    let mut parts: BTreeMap<u16, Vec<MessageQueue>> = BTreeMap::new();
    for queue in queues {
        // Nobody can hold what does not exist.
        if let Some(group) = broker.owner(owned(&queue)) {
            parts.entry(group).or_default().push(queue);
        }
    }
    let question = Question {
        broker,
        request,
        origin,
        repeat,
        client_id,
        consumer_group,
        deadline: Instant::now() + PATIENCE,
    };
    let parts = parts.into_iter().map(|(group, queues)| question.part(group, queues));
    let parts: Vec<_> = parts.collect();
    let answers = join_all(parts).await;
    let mut held = Vec::new();
    let mut failure = None;
    for answer in answers.into_iter().flatten() {
        match answer {
            Ok(answer) if request.code == codes::LOCK_BATCH_MQ && answer.code == response::SUCCESS => {
                held.extend(LockBatchResponse::from_bytes(&answer.body)?.queues);
            }
            Ok(_) => {}
            Err(other) => failure = Some(other),
        }
    }
    match failure {
        // What some owners granted is worth more to the client than what others could not.
        Some(failure) if held.is_empty() => Err(failure),
        _ if request.code == codes::LOCK_BATCH_MQ => {
            let body = LockBatchResponse { queues: held };
            Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body.to_bytes()))
        }
        _ => Ok(RemotingCommand::response(request, response::SUCCESS)),
    }
}

fn owned(queue: &MessageQueue) -> Owned<'_> {
    Owned::Queue(&queue.topic, u32::try_from(queue.queue).unwrap_or(u32::MAX))
}

/// What all owners are asked alike.
struct Question<'a> {
    broker: &'a Arc<Broker>,
    request: &'a RemotingCommand,
    origin: &'a Origin,
    repeat: Repeat,
    client_id: String,
    consumer_group: String,
    deadline: Instant,
}

impl Question<'_> {
    /// Asks a Raft group for its part, or the owners of each of the queues if one has left it.
    async fn part(&self, group: u16, queues: Vec<MessageQueue>) -> Vec<Result<RemotingCommand, Failure>> {
        match self.ask(Owned::Group(group), queues.clone()).await {
            Err(Failure::Moved(_)) => {
                let mut answers = Vec::with_capacity(queues.len());
                for some in queues.chunks(ONE_BY_ONE_MAX) {
                    let asked = some.iter().map(|queue| self.ask(owned(queue), vec![queue.clone()]));
                    let asked: Vec<_> = asked.collect();
                    answers.extend(join_all(asked).await);
                }
                answers
            }
            answer => vec![answer],
        }
    }

    async fn ask(&self, owned: Owned<'_>, queues: Vec<MessageQueue>) -> Result<RemotingCommand, Failure> {
        let body = LockBatchRequest {
            queues,
            client_id: self.client_id.clone(),
            consumer_group: self.consumer_group.clone(),
            only_this_broker: false,
        };
        let part = self.request.clone().with_body(body.to_bytes());
        let patience = self.deadline.saturating_duration_since(Instant::now());
        forward::at_owner_within(self.broker, owned, &part, self.origin, self.repeat, patience).await
    }
}

/// An error if one of the queues has left this Raft group. Where it is now it is asked for again, and with it the others:
/// nothing is different for having been locked or given back twice.
fn all_here(replica: &Replica, queues: &[(String, u32)]) -> Result<(), Failure> {
    for (topic, queue) in queues {
        if replica.state.generation(topic, *queue).is_none()
            && let Some(successor) = replica.state.moved_to(topic, *queue)
        {
            return Err(Failure::Moved(successor));
        }
    }
    Ok(())
}

/// Locks what is free and renews what the client holds; answers with both.
pub async fn lock(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let asked = decode(request)?;
    let queues = names(&asked.queues);
    all_here(replica, &queues)?;
    let command = Command::LockQueues {
        queues: queues.clone(),
        group: asked.consumer_group,
        client_id: asked.client_id,
        now_ms: propose::now_ms(),
    };
    let held = match propose::one(replica, &command).await? {
        Reply::Locked(held) => held,
        _ => Vec::new(),
    };
    // The seal may have come first.
    all_here(replica, &queues)?;
    let body = LockBatchResponse {
        queues: answered(asked.queues, &held),
    };
    Ok(RemotingCommand::response(request, response::SUCCESS).with_body(body.to_bytes()))
}

/// Gives back what the client holds.
pub async fn unlock(replica: &Replica, request: &RemotingCommand) -> Result<RemotingCommand, Failure> {
    let asked = decode(request)?;
    let queues = names(&asked.queues);
    all_here(replica, &queues)?;
    let command = Command::UnlockQueues {
        group: asked.consumer_group,
        client_id: asked.client_id,
        queues: queues.clone(),
    };
    propose::one(replica, &command).await?;
    all_here(replica, &queues)?;
    Ok(RemotingCommand::response(request, response::SUCCESS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_answered_as_they_were_asked_for() {
        let body = br#"{"clientId":"c","consumerGroup":"G","mqSet":[
            {"brokerName":"old-name","queueId":0,"topic":"T"},{"brokerName":"n","queueId":1,"topic":"T"},
            {"brokerName":"n","queueId":-1,"topic":"T"}],"onlyThisBroker":false}"#;
        let asked = decode(&RemotingCommand::request(41).with_body(&body[..])).unwrap();
        assert_eq!(names(&asked.queues), [("T".to_owned(), 0), ("T".to_owned(), 1)]);
        let queues = answered(asked.queues.clone(), &[("T".to_owned(), 0)]);
        let body = LockBatchResponse { queues }.to_bytes();
        assert_eq!(
            body,
            &br#"{"lockOKMQSet":[{"brokerName":"old-name","queueId":0,"topic":"T"}]}"#[..]
        );
        assert!(answered(asked.queues, &[]).is_empty());
    }

    #[test]
    fn a_request_without_client_is_malformed() {
        let request = RemotingCommand::request(41).with_body(&br#"{"consumerGroup":"G"}"#[..]);
        assert!(decode(&request).is_err());
    }
}
