//! `flotilla produce`: send messages from a shell.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use flotilla_api::names::AUTO_CREATE_TOPIC;
use flotilla_api::properties;
use flotilla_api::remoting::codes::request;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_api::remoting::headers::send::{SendMessageHeader, SendMessageResponse};

use super::client::Client;
use super::run_client;
use crate::handlers::propose::now_ms;

/// How long one send may take: what official clients allow.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest body read from standard input.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// Send messages.
#[derive(Debug, Args)]
pub struct ProduceArgs {
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
    /// The body; `-` reads it from standard input.
    #[arg(long, allow_hyphen_values = true)]
    body: Option<String>,
    /// Standard input is one message a line.
    #[arg(long, conflicts_with = "body")]
    lines: bool,
    /// Send the body so many times.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Tag.
    #[arg(long)]
    tag: Option<String>,
    /// A key to find the message by; may be given several times.
    #[arg(long)]
    key: Vec<String>,
    /// A property; may be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    property: Vec<String>,
    /// The queue; otherwise one after the other.
    #[arg(long)]
    queue: Option<i32>,
    /// Producer group.
    #[arg(long, default_value = "flotilla-produce")]
    group: String,
}

impl ProduceArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        run_client(self.produce())
    }

    async fn produce(self) -> anyhow::Result<()> {
        let client = Client::connect(&self.server).await?;
        if self.lines {
            for line in std::io::stdin().lines() {
                self.send(&client, Bytes::from(line.context("read standard input")?))
                    .await?;
            }
            return Ok(());
        }
        let body = match self.body.as_deref() {
            Some("-") => {
                let mut body = Vec::new();
                std::io::stdin()
                    .lock()
                    .take(BODY_BYTES_MAX)
                    .read_to_end(&mut body)
                    .context("read standard input")?;
                Bytes::from(body)
            }
            Some(text) => Bytes::copy_from_slice(text.as_bytes()),
            None => bail!("give --body or --lines"),
        };
        for _ in 0..self.count {
            self.send(&client, body.clone()).await?;
        }
        Ok(())
    }

    async fn send(&self, client: &Client, body: Bytes) -> anyhow::Result<()> {
        let unique_key = format!("{:032X}", rand::random::<u128>());
        let keys = self.key.join(" ");
        let mut pairs = Vec::new();
        for property in &self.property {
            pairs.push(
                property
                    .split_once('=')
                    .with_context(|| format!("--property {property}: NAME=VALUE"))?,
            );
        }
        pairs.extend([
            (properties::UNIQUE_KEY, unique_key.as_str()),
            (properties::WAIT, "true"),
        ]);
        pairs.extend(self.tag.as_deref().map(|tag| (properties::TAGS, tag)));
        pairs.extend((!keys.is_empty()).then_some((properties::KEYS, keys.as_str())));
        let properties = properties::encode(pairs);
        let header = SendMessageHeader {
            producer_group: &self.group,
            topic: &self.topic,
            default_topic: AUTO_CREATE_TOPIC,
            default_topic_queues: 8,
            queue: self.queue.unwrap_or(-1),
            born_timestamp: now_ms(),
            properties: Some(&properties),
            ..SendMessageHeader::default()
        };
        let mut command = RemotingCommand::request(request::SEND_MESSAGE_V2).with_body(body);
        header.encode(&mut command.fields, true);
        let answer = client.demand(command, SEND_TIMEOUT).await.context("send")?;
        let stored = SendMessageResponse::decode(&answer.fields).context("read the answer")?;
        println!(
            "{} queue {} offset {}",
            stored.message_id, stored.queue, stored.queue_offset
        );
        Ok(())
    }
}
