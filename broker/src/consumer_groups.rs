//! Records of consumer groups that appear with their first member: the subscription group and its retry topic.
//!
//! Both are the controller's to make, and consumption does not wait for it: a group without a record has the
//! defaults. So what is missing is asked for in the background, many at a time; what fails is asked for again by the
//! next heartbeat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_api::names;
use flotilla_controller::state::Command;
use flotilla_controller::subscription_group::SubscriptionGroupConfig;
use flotilla_controller::topic::TopicConfig;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::debug;

use crate::node::Broker;
use crate::server::stopped;
use crate::topic_changes;

/// Groups waiting to be looked at; further ones are left to their next heartbeat.
const WAITING_MAX: usize = 4_096;
/// Groups asked for at a time.
const BATCH_MAX: usize = 256;
/// How long a heartbeat waits for its group's retry topic, which the client asks for next.
const RETRY_TOPIC_WAIT_MAX: Duration = Duration::from_millis(500);
/// Heartbeats do not wait for this long after the controllers could not be reached.
const NO_WAIT_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// A consumer group that was seen.
#[derive(Debug)]
struct Appeared {
    group: String,
    with_retry_topic: bool,
}

/// Whom to tell of consumer groups.
#[derive(Debug)]
pub struct ConsumerGroups {
    appeared: mpsc::Sender<Appeared>,
    failed_at: Mutex<Option<Instant>>,
}

/// The other end of [`ConsumerGroups`].
#[derive(Debug)]
pub struct AppearedGroups(mpsc::Receiver<Appeared>);

impl ConsumerGroups {
    /// Both ends.
    pub fn new() -> (Self, AppearedGroups) {
        let (appeared, receiver) = mpsc::channel(WAITING_MAX);
        let groups = Self {
            appeared,
            failed_at: Mutex::default(),
        };
        (groups, AppearedGroups(receiver))
    }
}

/// A consumer group was used; makes its record if it has none. A member that clusters needs a retry topic, too.
pub async fn used(broker: &Broker, group: &str, with_retry_topic: bool) {
    let retry_topic = names::retry_topic(group);
    let complete = broker.metadata.read(|metadata| {
        metadata.subscription_groups.contains_key(group)
            && (!with_retry_topic || metadata.topics.contains_key(&retry_topic))
    });
    if complete {
        return;
    }
    let appeared = Appeared {
        group: group.to_owned(),
        with_retry_topic,
    };
    let told = broker.consumer_groups.appeared.try_send(appeared).is_ok();
    let failed_at = *broker.consumer_groups.failed_at.lock();
    let hopeless = failed_at.is_some_and(|at| at.elapsed() < NO_WAIT_AFTER_FAILURE);
    if told && with_retry_topic && !hopeless {
        let mut epochs = broker.metadata.subscribe();
        // Not inside of `wait_for`: that holds the epoch's lock, which whoever changes the metadata waits for.
        let made = async { while broker.topic(&retry_topic).is_none() && epochs.changed().await.is_ok() {} };
        // Without it the client asks again later.
        let _ = timeout(RETRY_TOPIC_WAIT_MAX, made).await;
    }
}

/// Makes records until `stop`.
pub async fn keep(broker: Arc<Broker>, mut appeared: AppearedGroups, mut stop: watch::Receiver<bool>) {
    let mut batch = Vec::new();
    loop {
        batch.clear();
        tokio::select! {
            received = appeared.0.recv_many(&mut batch, BATCH_MAX) => if received == 0 { return },
            () = stopped(&mut stop) => return,
        }
        let made = make(&broker, &batch).await;
        if let Err(error) = &made {
            debug!(%error, groups = batch.len(), "make records of consumer groups");
        }
        *broker.consumer_groups.failed_at.lock() = made.err().map(|_| Instant::now());
    }
}

async fn make(broker: &Arc<Broker>, appeared: &[Appeared]) -> Result<(), crate::controllers::NoController> {
    let missing = broker.metadata.read(|metadata| {
        let mut missing: Vec<&str> = appeared
            .iter()
            .map(|appeared| appeared.group.as_str())
            .filter(|group| !metadata.subscription_groups.contains_key(*group))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    });
    if !missing.is_empty() {
        let command = Command::PutSubscriptionGroups {
            configs: missing.into_iter().map(SubscriptionGroupConfig::new).collect(),
            if_absent: true,
        };
        broker.controllers.propose(command).await?;
    }
    let mut topics: Vec<TopicConfig> = appeared
        .iter()
        .filter(|appeared| appeared.with_retry_topic)
        .filter_map(|appeared| {
            let topic = names::retry_topic(&appeared.group);
            let queues = broker
                .subscription_group(&appeared.group)
                .map_or(1, |group| group.retry_queues);
            broker
                .topic(&topic)
                .is_none()
                .then(|| TopicConfig::new(topic, queues.max(1)))
        })
        .collect();
    topics.dedup();
    let made = topics.into_iter().map(|config| topic_changes::create(broker, config));
    for made in join_all(made).await {
        made?;
    }
    Ok(())
}
