//! `flotilla consume`: receive messages in a shell, as a member of a consumer group.
//!
//! Members share the queues as official clients do by default: sorted by client id, each takes a run of neighbouring
//! queues. Consumer offsets are updated after the messages were printed, so a restart repeats rather than skips.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use flotilla_api::message as wire;
use flotilla_api::properties;
use flotilla_api::remoting::bodies::{
    ConsumeFromWhere, ConsumeType, ConsumerData, ConsumerList, HeartbeatData, MessageModel, SubscriptionData,
    TopicRouteData,
};
use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::consumer::{ConsumerGroupHeader, UnregisterClientHeader};
use flotilla_api::remoting::headers::offset::{
    OffsetResponse, QueryConsumerOffsetHeader, QueueHeader, UpdateConsumerOffsetHeader,
};
use flotilla_api::remoting::headers::pull::{PullMessageHeader, PullMessageResponse, SYS_SUBSCRIPTION, SYS_SUSPEND};
use flotilla_api::remoting::headers::route::RouteHeader;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::Client;
use super::run_client;
use crate::handlers::propose::now_ms;
use crate::message_body::{foreign_compression, plain_body};

/// How long a request that waits for nothing may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the server may hold a pull, and how long its answer is waited for.
const SUSPEND: Duration = Duration::from_secs(15);
const PULL_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two heartbeats; the group is looked at again with each.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// After a pull that failed.
const PULL_AGAIN: Duration = Duration::from_secs(1);
/// Messages of one pull.
const PULL_MESSAGES: i32 = 32;
/// Pulled answers waiting to be printed.
const PULLED_MAX: usize = 4;

/// Receive messages and print them.
#[derive(Clone, Debug, Args)]
pub struct ConsumeArgs {
    /// Any remoting port of any node; the name server's will do.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9876",
        env = "FLOTILLA_SERVER"
    )]
    server: String,
    /// Topic.
    #[arg(long)]
    topic: String,
    /// Consumer group.
    #[arg(long)]
    group: String,
    /// Where a group starts that has read nothing yet.
    #[arg(long, value_enum, default_value_t = From::Last)]
    from: From,
    /// Only these tags, such as `A || B`.
    #[arg(long, default_value = "*")]
    tags: String,
    /// Stop after so many messages.
    #[arg(long)]
    count: Option<u64>,
    /// Stop when nothing came for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
    /// How to print a message.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum From {
    /// The oldest message there is.
    First,
    /// Messages that come from now on.
    Last,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Place and body.
    Text,
    /// Only the body, one message a line.
    Body,
    /// One JSON document a line.
    Json,
}

/// Messages of one queue, and where to go on after them.
struct Pulled {
    queue: i32,
    next: i64,
    body: Bytes,
}

impl ConsumeArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        run_client(self.consume())
    }

    async fn consume(self) -> anyhow::Result<()> {
        let client = Arc::new(Client::connect(&self.server).await?);
        let version = now_ms();
        self.heartbeat(&client, version).await?;
        let (pulled, mut arrived) = mpsc::channel(PULLED_MAX);
        let mut pulls: BTreeMap<i32, tokio::task::AbortHandle> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut heartbeats = tokio::time::interval(HEARTBEAT_INTERVAL);
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut last = Instant::now();
        while left > 0 {
            let idle = self.idle.map(|seconds| last + Duration::from_secs(seconds));
            tokio::select! {
                _ = heartbeats.tick() => {
                    self.heartbeat(&client, version).await?;
                    self.share(&client, &pulled, &mut pulls, &mut tasks).await?;
                }
                Some(batch) = arrived.recv() => {
                    last = Instant::now();
                    self.print(&client, batch, &mut left).await?;
                }
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Ok(outcome) = ended {
                        outcome?;
                    }
                }
                () = until(idle) => break,
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted?;
                    break;
                }
            }
        }
        tasks.abort_all();
        let mut leave = RemotingCommand::request(request::UNREGISTER_CLIENT);
        let header = UnregisterClientHeader {
            client_id: &client.client_id,
            producer_group: None,
            consumer_group: Some(&self.group),
        };
        header.encode(&mut leave.fields);
        client
            .demand(leave, ASK_TIMEOUT)
            .await
            .context("leave the group")
            .map(|_| ())
    }

    async fn heartbeat(&self, client: &Client, version: i64) -> anyhow::Result<()> {
        let subscription = SubscriptionData {
            expression_type: "TAG".to_owned(),
            sub_string: self.tags.clone(),
            sub_version: version,
            topic: self.topic.clone(),
            ..SubscriptionData::default()
        };
        let consumer = ConsumerData {
            consume_from_where: match self.from {
                From::First => ConsumeFromWhere::FirstOffset,
                From::Last => ConsumeFromWhere::LastOffset,
            },
            consume_type: ConsumeType::Passively,
            group_name: self.group.clone(),
            message_model: MessageModel::Clustering,
            subscriptions: vec![subscription],
            unit_mode: false,
        };
        let heartbeat = HeartbeatData {
            client_id: client.client_id.clone(),
            consumers: vec![consumer],
            ..HeartbeatData::default()
        };
        let command = RemotingCommand::request(request::HEART_BEAT).with_body(heartbeat.to_bytes());
        client
            .demand(command, ASK_TIMEOUT)
            .await
            .context("join the group")
            .map(|_| ())
    }

    /// Looks at the group again and pulls from this member's share of the queues.
    async fn share(
        &self,
        client: &Arc<Client>,
        pulled: &mpsc::Sender<Pulled>,
        pulls: &mut BTreeMap<i32, tokio::task::AbortHandle>,
        tasks: &mut JoinSet<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let queues = self.queues(client).await?;
        let mut list = RemotingCommand::request(request::GET_CONSUMER_LIST_BY_GROUP);
        ConsumerGroupHeader {
            consumer_group: &self.group,
        }
        .encode(&mut list.fields);
        let answer = client.demand(list, ASK_TIMEOUT).await.context("list the group")?;
        let mut members = ConsumerList::from_bytes(&answer.body)
            .context("read the group's members")?
            .client_ids;
        members.sort();
        let place = members.iter().position(|member| *member == client.client_id);
        let share = place.map_or(0..0, |place| share_of(place, members.len(), queues));
        pulls.retain(|queue, pull| {
            let keep = share.contains(queue) && !pull.is_finished();
            if !keep {
                pull.abort();
            }
            keep
        });
        for queue in share {
            pulls.entry(queue).or_insert_with(|| {
                let (args, client, pulled) = (self.clone(), client.clone(), pulled.clone());
                tasks.spawn(async move { args.pull(&client, queue, pulled).await })
            });
        }
        Ok(())
    }

    async fn queues(&self, client: &Client) -> anyhow::Result<i32> {
        let mut command = RemotingCommand::request(request::GET_ROUTEINFO_BY_TOPIC);
        RouteHeader {
            topic: &self.topic,
            accept_standard_json_only: Some(true),
        }
        .encode(&mut command.fields);
        let answer = client.ask(command, ASK_TIMEOUT).await.context("ask for the route")?;
        match answer.code {
            response::SUCCESS => {
                let route = TopicRouteData::from_bytes(&answer.body).context("read the route")?;
                let queues = route.queues.iter().map(|queue| queue.read_queues).max().unwrap_or(0);
                Ok(i32::try_from(queues).unwrap_or(i32::MAX))
            }
            // It may be created later.
            response::TOPIC_NOT_EXIST => Ok(0),
            code => bail!("ask for the route: code {code}: {}", answer.remark.unwrap_or_default()),
        }
    }

    async fn pull(self, client: &Client, queue: i32, pulled: mpsc::Sender<Pulled>) -> anyhow::Result<()> {
        let mut next = self.start(client, queue).await?;
        loop {
            let mut command = RemotingCommand::request(request::PULL_MESSAGE);
            let header = PullMessageHeader {
                consumer_group: &self.group,
                topic: &self.topic,
                queue,
                queue_offset: next,
                max_messages: PULL_MESSAGES,
                sys_flag: SYS_SUSPEND | SYS_SUBSCRIPTION,
                commit_offset: 0,
                suspend_timeout_millis: SUSPEND.as_millis() as i64,
                subscription: Some(&self.tags),
                subscription_version: 0,
                expression_type: Some("TAG"),
                max_message_bytes: None,
                request_source: None,
            };
            header.encode(&mut command.fields);
            let answer = match client.ask(command, PULL_TIMEOUT).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(queue, %error, "pull");
                    tokio::time::sleep(PULL_AGAIN).await;
                    continue;
                }
            };
            match answer.code {
                response::SUCCESS => {
                    next = PullMessageResponse::decode(&answer.fields)
                        .context("read the answer")?
                        .next_begin_offset;
                    if pulled
                        .send(Pulled {
                            queue,
                            next,
                            body: answer.body,
                        })
                        .await
                        .is_err()
                    {
                        return Ok(());
                    }
                }
                response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY | response::PULL_OFFSET_MOVED => {
                    let moved = PullMessageResponse::decode(&answer.fields).context("read the answer")?;
                    next = moved.next_begin_offset;
                }
                code => {
                    tracing::warn!(queue, code, remark = answer.remark.unwrap_or_default(), "pull");
                    tokio::time::sleep(PULL_AGAIN).await;
                }
            }
        }
    }

    /// Where the group left off in a queue, or where a new one starts.
    async fn start(&self, client: &Client, queue: i32) -> anyhow::Result<i64> {
        let mut command = RemotingCommand::request(request::QUERY_CONSUMER_OFFSET);
        let header = QueryConsumerOffsetHeader {
            consumer_group: &self.group,
            topic: &self.topic,
            queue,
            set_zero_if_not_found: Some(false),
        };
        header.encode(&mut command.fields);
        let answer = client
            .ask(command, ASK_TIMEOUT)
            .await
            .context("ask for the consumer offset")?;
        match answer.code {
            response::SUCCESS => return Ok(OffsetResponse::decode(&answer.fields)?.offset),
            response::QUERY_NOT_FOUND => {}
            code => bail!(
                "ask for the consumer offset: code {code}: {}",
                answer.remark.unwrap_or_default()
            ),
        }
        let code = match self.from {
            From::First => request::GET_MIN_OFFSET,
            From::Last => request::GET_MAX_OFFSET,
        };
        let mut command = RemotingCommand::request(code);
        QueueHeader {
            topic: &self.topic,
            queue,
            committed: None,
        }
        .encode(&mut command.fields);
        let answer = client
            .demand(command, ASK_TIMEOUT)
            .await
            .context("ask for the queue's bounds")?;
        Ok(OffsetResponse::decode(&answer.fields)?.offset)
    }

    /// Prints messages, as many as are wanted, and then notes how far the group is.
    async fn print(&self, client: &Client, pulled: Pulled, left: &mut u64) -> anyhow::Result<()> {
        let mut next = pulled.next;
        let mut text = Vec::new();
        for record in wire::records(&pulled.body) {
            let message = record.context("read a message")?.to_owned();
            if *left == 0 {
                next = message.queue_offset;
                break;
            }
            *left -= 1;
            self.format(&message, &mut text)?;
        }
        std::io::stdout()
            .lock()
            .write_all(&text)
            .context("write to standard output")?;
        let mut command = RemotingCommand::request(request::UPDATE_CONSUMER_OFFSET);
        let header = UpdateConsumerOffsetHeader {
            consumer_group: &self.group,
            topic: &self.topic,
            queue: pulled.queue,
            commit_offset: next,
        };
        header.encode(&mut command.fields);
        client
            .demand(command, ASK_TIMEOUT)
            .await
            .context("update the consumer offset")
            .map(|_| ())
    }

    fn format(&self, message: &wire::StoredMessage, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let body = plain_body(message.sys_flag, &message.body).context("unfold a body")?;
        match self.format {
            Format::Body => out.extend_from_slice(&body),
            Format::Text => {
                let tag = properties::get(&message.properties, properties::TAGS).unwrap_or("-");
                write!(
                    out,
                    "queue {} offset {} tag {tag} ",
                    message.queue, message.queue_offset
                )?;
                match foreign_compression(message.sys_flag) {
                    Some(compression) => write!(out, "({} bytes of {compression})", body.len())?,
                    None => out.extend_from_slice(&body),
                }
            }
            Format::Json => {
                let document = serde_json::json!({
                    "topic": message.topic,
                    "queue": message.queue,
                    "offset": message.queue_offset,
                    "properties": properties::decode(&message.properties),
                    "born_at": message.born_timestamp,
                    "stored_at": message.store_timestamp,
                    "body": String::from_utf8_lossy(&body),
                });
                serde_json::to_writer(&mut *out, &document)?;
            }
        }
        out.push(b'\n');
        Ok(())
    }
}

/// The run of queues that the member at `place` takes: the first members take one more when it does not come out even.
fn share_of(place: usize, members: usize, queues: i32) -> std::ops::Range<i32> {
    let (place, members) = (place as i32, members as i32);
    let (each, more) = (queues / members, queues % members);
    let start = place * each + place.min(more);
    start..start + each + i32::from(place < more)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_queue_once() {
        for members in 1..6 {
            for queues in 0..12 {
                let shares: Vec<i32> = (0..members)
                    .flat_map(|place| share_of(place, members, queues))
                    .collect();
                assert_eq!(
                    shares,
                    (0..queues).collect::<Vec<_>>(),
                    "{members} members, {queues} queues"
                );
            }
        }
    }
}
