//! What a pull asks for, the checks it has to pass, and the filter it is served with.

use std::time::Duration;

use flotilla_api::limits::{PULL_BYTES_MAX, PULL_MESSAGES_MAX, SUSPEND_MILLIS_MAX};
use flotilla_api::remoting::codes::response;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::pull::{PullMessageHeader, SYS_COMMIT_OFFSET, SYS_SUBSCRIPTION, SYS_SUSPEND};
use flotilla_api::tag::TagFilter;
use flotilla_controller::topic::PERM_READ;

use super::client_config::no_sql92;
use crate::coordinators;
use crate::error::{Failure, check_group};
use crate::node::{Broker, Owned};
use crate::state::Subscription;

/// A pull, independent of its request: parked ones keep nothing else.
#[derive(Clone, Debug)]
pub(super) struct Pull {
    pub(super) consumer_group: String,
    pub(super) topic: String,
    pub(super) queue: i32,
    pub(super) queue_offset: i64,
    pub(super) messages_max: usize,
    pub(super) bytes_max: usize,
    pub(super) suspend: Option<Duration>,
    pub(super) commit_offset: Option<i64>,
    wanted: Wanted,
}

/// Which messages are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// Those the filter in the request lets through.
    Filter(TagFilter),
    /// Those the consumer group subscribed to, in this version of the subscription or a later one.
    Subscription(i64),
}

impl Pull {
    pub(super) fn decode(request: &RemotingCommand) -> Result<Self, Failure> {
        let header = PullMessageHeader::decode(&request.fields)?;
        check_group(header.consumer_group)?;
        let wanted = if header.has(SYS_SUBSCRIPTION) {
            Wanted::Filter(filter(header.expression_type, header.subscription.unwrap_or_default())?)
        } else {
            Wanted::Subscription(header.subscription_version)
        };
        let limit = |asked: i32, max: usize| usize::try_from(asked).unwrap_or_default().clamp(1, max);
        let suspend_ms = header.suspend_timeout_millis.clamp(0, SUSPEND_MILLIS_MAX);
        let suspend = Duration::from_millis(u64::try_from(suspend_ms).unwrap_or_default());
        Ok(Self {
            consumer_group: header.consumer_group.to_owned(),
            topic: header.topic.to_owned(),
            queue: header.queue,
            queue_offset: header.queue_offset,
            messages_max: limit(header.max_messages, PULL_MESSAGES_MAX),
            bytes_max: header
                .max_message_bytes
                .map_or(PULL_BYTES_MAX, |asked| limit(asked, PULL_BYTES_MAX)),
            suspend: (header.has(SYS_SUSPEND) && !suspend.is_zero()).then_some(suspend),
            commit_offset: Some(header.commit_offset).filter(|offset| header.has(SYS_COMMIT_OFFSET) && *offset > 0),
            wanted,
        })
    }

    /// The checks of the official broker, in its order; the number of the queue and the filter if all is well.
    pub(super) fn check(&self, broker: &Broker) -> Result<(u32, TagFilter), Failure> {
        let no_permission = |remark: String| Failure::answer(response::NO_PERMISSION, remark);
        let group = &self.consumer_group;
        if broker
            .subscription_group(group)
            .is_some_and(|config| !config.consume_enable)
        {
            return Err(no_permission(format!("subscription group no permission, {group}")));
        }
        let known = broker.queues_and_perm(&self.topic);
        let (queues, perm) = known.ok_or_else(|| Failure::no_topic(&self.topic))?;
        if perm & PERM_READ == 0 {
            return Err(no_permission(format!(
                "the topic[{}] pulling message is forbidden",
                self.topic
            )));
        }
        let queue = u32::try_from(self.queue).ok().filter(|queue| *queue < queues);
        let queue = queue.ok_or_else(|| {
            Failure::invalid(format!(
                "queueId[{}] is illegal, topic:[{}] queues:[{queues}]",
                self.queue, self.topic
            ))
        })?;
        Ok((queue, self.filter(broker)?))
    }

    fn filter(&self, broker: &Broker) -> Result<TagFilter, Failure> {
        let asked_version = match &self.wanted {
            Wanted::Filter(filter) => return Ok(filter.clone()),
            Wanted::Subscription(version) => *version,
        };
        let subscription = self.subscription(broker).ok_or_else(|| {
            let remark = format!(
                "the consumer's subscription not exist, {} {}",
                self.consumer_group, self.topic
            );
            Failure::answer(response::SUBSCRIPTION_NOT_EXIST, remark)
        })?;
        if subscription.version < asked_version {
            return Err(Failure::answer(
                response::SUBSCRIPTION_NOT_LATEST,
                format!(
                    "the consumer's subscription not latest, {} {}",
                    self.consumer_group, self.topic
                ),
            ));
        }
        filter(Some(&subscription.expression_type), &subscription.expression)
    }

    /// What the consumer group subscribed to: as its coordinator knows it, if that has a replica here, else as its
    /// clients told this node.
    fn subscription(&self, broker: &Broker) -> Option<Subscription> {
        let replicated = coordinators::last_here(broker, &self.consumer_group, |group| {
            group.and_then(|group| group.subscriptions.get(&self.topic).cloned())
        });
        replicated
            .flatten()
            .or_else(|| broker.connections.subscription(&self.consumer_group, &self.topic))
    }

    /// The request as another node is asked: with the filter that this node knows.
    pub(super) fn with_filter(&self, broker: &Broker, request: &RemotingCommand) -> RemotingCommand {
        let (Wanted::Subscription(_), Some(subscription)) = (&self.wanted, self.subscription(broker)) else {
            return request.clone();
        };
        let mut request = request.clone();
        let flags = request
            .fields
            .get("sysFlag")
            .and_then(|flags| flags.parse::<i32>().ok());
        let flags = flags.unwrap_or_default() | SYS_SUBSCRIPTION;
        request.fields.set("sysFlag", flags);
        request.fields.set("subscription", &subscription.expression);
        request.fields.set("expressionType", &subscription.expression_type);
        request
    }

    /// The queue's number; no queue has the one of a negative number.
    pub(super) fn number(&self) -> u32 {
        u32::try_from(self.queue).unwrap_or(u32::MAX)
    }

    /// What is read.
    pub(super) fn segment(&self) -> Owned<'_> {
        Owned::Segment(&self.topic, self.number(), self.queue_offset)
    }

    /// What goes with the open segment.
    pub(super) fn owned(&self) -> Owned<'_> {
        Owned::Queue(&self.topic, self.number())
    }
}

fn filter(expression_type: Option<&str>, expression: &str) -> Result<TagFilter, Failure> {
    if expression_type.is_some_and(|kind| !kind.is_empty() && kind != "TAG") {
        return Err(no_sql92());
    }
    TagFilter::parse(expression)
        .map_err(|error| Failure::answer(response::SUBSCRIPTION_PARSE_FAILED, error.to_string()))
}

#[cfg(test)]
mod tests {
    use flotilla_api::remoting::codes::request as codes;

    use super::*;

    fn request(sys_flag: i32, subscription: Option<&str>, expression_type: Option<&str>) -> RemotingCommand {
        let mut request = RemotingCommand::request(codes::PULL_MESSAGE);
        let header = PullMessageHeader {
            consumer_group: "G",
            topic: "T",
            queue: 3,
            queue_offset: 7,
            max_messages: 1_000,
            sys_flag,
            commit_offset: 5,
            suspend_timeout_millis: 60_000,
            subscription,
            subscription_version: 11,
            expression_type,
            max_message_bytes: Some(i32::MAX),
            request_source: None,
        };
        header.encode(&mut request.fields);
        request
    }

    #[test]
    fn bits_and_limits_of_a_pull() {
        let pull = Pull::decode(&request(SYS_SUSPEND | SYS_COMMIT_OFFSET, None, None)).unwrap();
        assert_eq!(
            pull.suspend,
            Some(Duration::from_secs(20)),
            "clients wait 30 s for the answer"
        );
        assert_eq!(pull.commit_offset, Some(5));
        assert_eq!((pull.messages_max, pull.bytes_max), (PULL_MESSAGES_MAX, PULL_BYTES_MAX));
        assert_eq!(pull.wanted, Wanted::Subscription(11));

        let pull = Pull::decode(&request(SYS_SUBSCRIPTION, Some("TagA || TagB"), None)).unwrap();
        assert_eq!((pull.suspend, pull.commit_offset), (None, None));
        assert_eq!(pull.wanted, Wanted::Filter(TagFilter::parse("TagB||TagA").unwrap()));
    }

    #[test]
    fn filters_that_cannot_be_served_are_refused_with_their_codes() {
        let code = |kind, expression| {
            let failure = Pull::decode(&request(SYS_SUBSCRIPTION, Some(expression), kind)).unwrap_err();
            failure.code_and_remark().0
        };
        assert_eq!(code(Some("SQL92"), "a > 1"), 1);
        assert_eq!(code(Some("TAG"), "||"), 23);
    }
}
