//! `flotilla admin`: look at a running cluster and change it, over HTTP to any node.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::admin_client::{AdminClient, path_part};
use super::moves::{self, MOVES, PLAN, QueueChange};
use super::nodes;
use super::table::{self, Column};

/// Look at a running cluster and change it.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The HTTP port of any node.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9880",
        env = "FLOTILLA_HTTP",
        global = true
    )]
    http: String,
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value_t = Output::Table, global = true)]
    output: Output,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// The document as it came.
    Json,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Nodes and Raft groups.
    Cluster,
    /// Raft groups, or the members of one.
    Groups {
        /// Raft group.
        group: Option<String>,
    },
    /// Topics, or one of them.
    Topics {
        /// Topic.
        topic: Option<String>,
        /// Create or change it.
        #[command(flatten)]
        change: TopicChange,
    },
    /// A topic's queues, or move one of them.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Queues {
        /// Topic.
        #[arg(required = true)]
        topic: Option<String>,
        /// Move one.
        #[command(subcommand)]
        change: Option<QueueChange>,
    },
    /// Queues under way to another Raft group and the last that were, or one of these moves.
    Moves {
        /// Number of a move.
        id: Option<u64>,
    },
    /// Even out queues over the Raft groups that are not draining, and then what comes into them.
    Rebalance {
        /// Only say what would move, and why.
        #[arg(long)]
        dry_run: bool,
        /// Wait until the moves have ended, and say how many remain.
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
    },
    /// Have all queues leave a Raft group; it gets no others until it is reopened.
    Drain {
        /// Raft group.
        group: String,
        /// Wait until no queue is open there, and say how many remain.
        #[arg(long)]
        wait: bool,
    },
    /// Let a Raft group get queues again.
    Reopen {
        /// Raft group.
        group: String,
    },
    /// Nodes and the replicas on them, or one node; or have the cluster forget one.
    Nodes {
        /// Node.
        node: Option<String>,
        /// Forget it: it has no replicas and does not run.
        #[arg(long, requires = "node")]
        remove: bool,
    },
    /// Re-create the replicas of a node on others, so that it can be switched off.
    Evacuate {
        /// Node.
        node: String,
        /// Wait until nothing is left on it, and say how much remains.
        #[arg(long, conflicts_with = "cancel")]
        wait: bool,
        /// Let it get replicas again; those on their way elsewhere go.
        #[arg(long)]
        cancel: bool,
    },
    /// The replicas of a Raft group: add, remove or replace one.
    Members {
        /// Raft group.
        group: String,
        /// Node that gets a replica.
        #[arg(long, value_name = "NODE", conflicts_with = "remove")]
        add: Option<String>,
        /// Node whose replica goes once the new one has a vote.
        #[arg(long, value_name = "NODE", requires = "add")]
        replaces: Option<String>,
        /// Node whose replica goes.
        #[arg(long, value_name = "NODE")]
        remove: Option<String>,
    },
    /// Consumer groups, or how far one is.
    Consumers {
        /// Consumer group.
        consumer_group: Option<String>,
    },
    /// Stored messages.
    Messages(MessageSelection),
    /// Compare the state of all live replicas at one log index.
    Digest {
        /// Raft group.
        #[arg(default_value = "g1")]
        group: String,
    },
    /// Hand leadership to a node.
    TransferLeader {
        /// Node.
        node: String,
        /// Raft group.
        #[arg(long, default_value = "g1")]
        group: String,
    },
}

#[derive(Debug, Args)]
struct TopicChange {
    /// Create the topic, or change it.
    #[arg(long, requires = "topic", conflicts_with = "delete")]
    put: bool,
    /// Delete the topic.
    #[arg(long, requires = "topic")]
    delete: bool,
    /// Queues; with --put.
    #[arg(long, requires = "put")]
    queues: Option<u32>,
    /// normal, fifo, delay or transaction; with --put.
    #[arg(long = "type", value_name = "TYPE", requires = "put")]
    kind: Option<String>,
    /// Keep messages so long, such as 72h; with --put.
    #[arg(long, value_name = "TIME", requires = "put")]
    retention: Option<String>,
}

#[derive(Debug, Args)]
struct MessageSelection {
    /// Topic.
    #[arg(long)]
    topic: Option<String>,
    /// Queue.
    #[arg(long)]
    queue: Option<u32>,
    /// Queue offset.
    #[arg(long)]
    offset: Option<i64>,
    /// Key.
    #[arg(long)]
    key: Option<String>,
    /// Message id.
    #[arg(long)]
    id: Option<String>,
    /// At most so many.
    #[arg(long)]
    max: Option<usize>,
}

const NODES: &[Column] = &[
    ("node", "node"),
    ("alive", "alive"),
    ("ready", "ready"),
    ("evacuated", "evacuated"),
    ("to copy", "remaining_bytes"),
    ("remoting", "address"),
    ("http", "http"),
    ("name server", "name_server"),
    ("peer", "peer"),
];
const GROUPS: &[Column] = &[
    ("group", "name"),
    ("leader", "leader"),
    ("term", "term"),
    ("open queues", "open_queues"),
    ("slots", "coordinator_slots"),
    ("messages/s", "rate.messages"),
    ("bytes/s", "rate.bytes"),
    ("draining", "draining"),
    ("kept segments", "kept_segments"),
    ("committed", "committed_index"),
    ("applied", "applied_index"),
    ("log bytes", "commitlog.bytes"),
];
const MEMBERS: &[Column] = &[
    ("node", "node"),
    ("replica", "replica"),
    ("role", "role"),
    ("alive", "alive"),
    ("leaving", "leaving"),
    ("matched", "matched_index"),
    ("lag bytes", "lag_bytes"),
    ("digest at", "digest.index"),
    ("digest", "digest.value"),
];
const TOPICS: &[Column] = &[
    ("topic", "topic"),
    ("queues", "queues"),
    ("type", "type"),
    ("retention", "retention.time"),
    ("groups", "groups"),
];
const QUEUES: &[Column] = &[
    ("queue", "queue"),
    ("group", "group"),
    ("leader", "leader"),
    ("min", "min_offset"),
    ("max", "max_offset"),
    ("messages/s", "rate.messages"),
    ("bytes/s", "rate.bytes"),
];
const CONSUMER_GROUPS: &[Column] = &[
    ("consumer group", "name"),
    ("members", "members_online"),
    ("lag", "lag"),
];
const CONSUMER_QUEUES: &[Column] = &[
    ("topic", "topic"),
    ("queue", "queue"),
    ("consumer offset", "consumer_offset"),
    ("max", "max_offset"),
    ("lag", "lag"),
];
const MESSAGES: &[Column] = &[
    ("queue", "queue"),
    ("offset", "offset"),
    ("message id", "message_id"),
    ("tag", "tag"),
    ("keys", "keys"),
    ("stored at", "stored_at"),
    ("body (base64)", "body_base64"),
];

impl AdminArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let client = AdminClient::new(&self.http);
        let (answer, columns) = self.command.ask(&client)?;
        if self.output == Output::Json {
            println!("{}", serde_json::to_string_pretty(&answer)?);
            return Ok(());
        }
        if answer["stale"] == true {
            eprintln!("no leader could be reached: this is one node's copy");
        }
        for (key, columns) in columns {
            table::print(&rows(&answer, key), columns);
        }
        Ok(())
    }
}

type Tables = &'static [(&'static str, &'static [Column])];

impl AdminCommand {
    /// The answer, and which lists of it to show as tables; an empty name is the document itself.
    fn ask(self, client: &AdminClient) -> anyhow::Result<(Value, Tables)> {
        Ok(match self {
            Self::Cluster => (client.get("/v1/cluster")?, &[("nodes", NODES), ("groups", GROUPS)]),
            Self::Groups { group: None } => (client.get("/v1/groups")?, &[("items", GROUPS)]),
            Self::Groups { group: Some(group) } => {
                let path = format!("/v1/groups/{}", path_part(&group));
                (client.get(&path)?, &[("", GROUPS), ("members", MEMBERS)])
            }
            Self::Topics { topic: None, .. } => (client.get("/v1/topics")?, &[("items", TOPICS)]),
            Self::Topics {
                topic: Some(topic),
                change,
            } => {
                let path = format!("/v1/topics/{}", path_part(&topic));
                match change {
                    TopicChange { delete: true, .. } => (client.delete(&path)?, &[]),
                    TopicChange {
                        put: true,
                        queues,
                        kind,
                        retention,
                        ..
                    } => (
                        client.put(&path, &topic_settings(queues, kind, retention))?,
                        &[("", TOPICS)],
                    ),
                    TopicChange { .. } => (client.get(&path)?, &[("", TOPICS)]),
                }
            }
            Self::Queues {
                change: Some(change), ..
            } => (change.ask(client)?, &[("", MOVES)]),
            Self::Queues { topic, .. } => {
                let path = format!("/v1/topics/{}/queues", path_part(&topic.unwrap_or_default()));
                (client.get(&path)?, &[("queues", QUEUES)])
            }
            Self::Moves { id: Some(id) } => (moves::moves(client, Some(id))?, &[("", MOVES)]),
            Self::Moves { id: None } => (moves::moves(client, None)?, &[("moves", MOVES)]),
            Self::Rebalance { dry_run, wait } => (
                moves::rebalance(client, dry_run, wait)?,
                if dry_run { PLAN } else { &[("moves", MOVES)] },
            ),
            Self::Drain { group, wait } => (moves::drain(client, &group, wait)?, &[("moves", MOVES)]),
            Self::Reopen { group } => (moves::reopen(client, &group)?, &[("", GROUPS)]),
            Self::Nodes { node: None, .. } => (client.get("/v1/nodes")?, &[("items", NODES)]),
            Self::Nodes {
                node: Some(node),
                remove: true,
            } => (client.delete(&nodes::path(&node))?, &[]),
            Self::Nodes { node: Some(node), .. } => (
                client.get(&nodes::path(&node))?,
                &[("", NODES), ("replicas", nodes::REPLICAS)],
            ),
            Self::Evacuate { node, wait, cancel } => (
                nodes::evacuate(client, &node, wait, cancel)?,
                &[("", NODES), ("replicas", nodes::REPLICAS)],
            ),
            Self::Members {
                group,
                add,
                replaces,
                remove,
            } => (
                nodes::members(client, &group, add, replaces, remove)?,
                &[("", GROUPS), ("members", MEMBERS)],
            ),
            Self::Consumers { consumer_group: None } => {
                let mut answer = client.get("/v1/consumer-groups")?;
                summarise(&mut answer);
                (answer, &[("items", CONSUMER_GROUPS)])
            }
            Self::Consumers {
                consumer_group: Some(name),
            } => {
                let path = format!("/v1/consumer-groups/{}", path_part(&name));
                (
                    client.get(&path)?,
                    &[("members", MEMBER_CLIENTS), ("queues", CONSUMER_QUEUES)],
                )
            }
            Self::Messages(selection) => {
                let answer = client.get(&format!("/v1/messages?{}", selection.query()))?;
                let tables: Tables = if answer["items"].is_array() {
                    &[("items", MESSAGES)]
                } else {
                    &[("", MESSAGES)]
                };
                (answer, tables)
            }
            Self::Digest { group } => {
                let path = format!("/v1/groups/{}/digest", path_part(&group));
                (client.post(&path, &json!({}))?, &[("members", MEMBERS)])
            }
            Self::TransferLeader { node, group } => {
                let path = format!("/v1/groups/{}/leader", path_part(&group));
                (
                    client.post(&path, &json!({ "node": node }))?,
                    &[("", &[("leader", "leader"), ("term", "term")])],
                )
            }
        })
    }
}

const MEMBER_CLIENTS: &[Column] = &[
    ("client", "client_id"),
    ("node", "node"),
    ("language", "language"),
    ("version", "version"),
];

fn topic_settings(queues: Option<u32>, kind: Option<String>, retention: Option<String>) -> Value {
    let mut settings = serde_json::Map::new();
    if let Some(queues) = queues {
        settings.insert("queues".to_owned(), queues.into());
    }
    if let Some(kind) = kind {
        settings.insert("type".to_owned(), kind.into());
    }
    if let Some(time) = retention {
        settings.insert("retention".to_owned(), json!({ "time": time }));
    }
    settings.into()
}

/// Adds to each consumer group what its row shows.
fn summarise(answer: &mut Value) {
    for group in answer["items"].as_array_mut().into_iter().flatten() {
        let lag: i64 = group["queues"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|queue| queue["lag"].as_i64())
            .sum();
        let members = group["members"].as_array().map_or(0, Vec::len);
        group["lag"] = lag.into();
        group["members_online"] = members.into();
    }
}

fn rows(answer: &Value, key: &str) -> Vec<Value> {
    match key {
        "" => vec![answer.clone()],
        key => answer[key].as_array().cloned().unwrap_or_default(),
    }
}

impl MessageSelection {
    fn query(&self) -> String {
        let parts = [
            ("topic", self.topic.clone()),
            ("queue", self.queue.map(|queue| queue.to_string())),
            ("offset", self.offset.map(|offset| offset.to_string())),
            ("key", self.key.clone()),
            ("id", self.id.clone()),
            ("max", self.max.map(|max| max.to_string())),
        ];
        let given = parts
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", path_part(&value?))));
        given.collect::<Vec<_>>().join("&")
    }
}
