//! A run under load: official clients send to a topic and receive from it while a test does something to the cluster,
//! and at the end everything they saw is one history, to be held against what is promised.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, iter};

use anyhow::Result;

use crate::cluster::Cluster;
use crate::history::{Dump, History, load};
use crate::java::{Java, Load};
use crate::wait;

/// All replicas alike and whole reads possible, once all nodes run.
pub const ALIKE_WITHIN: Duration = Duration::from_secs(60);
/// Everything stored is consumed.
const CONSUMED_WITHIN: Duration = Duration::from_secs(120);
/// The load program stops.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// The load program on a topic, with a consumer group of the topic's name.
pub struct LoadRun {
    /// The running program.
    pub load: Load,
    /// Further ones on the same topic, in the same consumer group: see [`LoadRun::join`].
    pub others: Vec<Load>,
    /// What was seen so far beside what the programs write down.
    pub history: History,
    files: Vec<PathBuf>,
    topic: Loaded,
}

struct Loaded {
    name: String,
    queues: u32,
}

impl LoadRun {
    /// Starts the program on a topic that exists; `further` are settings of the program beside the usual ones.
    pub fn start(cluster: &Cluster, java: &Java, topic: &str, queues: u32, further: &[(&str, &str)]) -> Result<Self> {
        let topic = Loaded {
            name: topic.to_owned(),
            queues,
        };
        let (load, file) = topic.start_program(cluster, java, "", further)?;
        Ok(Self {
            load,
            others: Vec::new(),
            history: History::default(),
            files: vec![file],
            topic,
        })
    }

    /// Starts one more program beside those that run. Their histories become one.
    pub fn join(&mut self, cluster: &Cluster, java: &Java, further: &[(&str, &str)]) -> Result<()> {
        let program = format!("program-{}-", self.files.len());
        let (load, file) = self.topic.start_program(cluster, java, &program, further)?;
        self.others.push(load);
        self.files.push(file);
        Ok(())
    }

    /// All programs.
    pub fn loads(&self) -> impl Iterator<Item = &Load> {
        iter::once(&self.load).chain(&self.others)
    }

    /// Adds a whole read of the topic through one node.
    pub fn dump(&mut self, cluster: &Cluster, node: usize) -> Result<()> {
        self.history.dumps.push(self.topic.dump(cluster, node)?);
        Ok(())
    }

    /// Ends the senders, lets everything be consumed, ends the consumers, and reads the topic through every node once
    /// all replicas are alike.
    pub fn finish(self, cluster: &Cluster) -> Result<History> {
        let Self {
            load,
            others,
            mut history,
            files,
            topic,
        } = self;
        let mut loads: Vec<Load> = iter::once(load).chain(others).collect();
        for load in &mut loads {
            load.stop_sending(STOP_WITHIN)?;
        }
        wait::until("everything is consumed", CONSUMED_WITHIN, || topic.is_consumed(cluster))?;
        for load in loads {
            load.exit(STOP_WITHIN)?;
        }
        cluster.await_alike(ALIKE_WITHIN)?;
        for node in 0..cluster.len() {
            history.dumps.push(topic.dump(cluster, node)?);
        }
        for file in files {
            load::read(&file, &mut history)?;
        }
        Ok(history)
    }
}

impl Loaded {
    /// `program` begins the names of its senders, of its folder as well.
    fn start_program(
        &self,
        cluster: &Cluster,
        java: &Java,
        program: &str,
        further: &[(&str, &str)],
    ) -> Result<(Load, PathBuf)> {
        let home = cluster.folder().join(format!("{program}load"));
        fs::create_dir_all(&home)?;
        let file = home.join("history.jsonl");
        let mut properties = vec![
            ("namesrv", cluster.name_servers()),
            ("topic", self.name.clone()),
            ("group", self.name.clone()),
            ("program", program.to_owned()),
        ];
        properties.extend(further.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let load = java.load(&home, &file, &properties)?;
        Ok((load, file))
    }

    fn dump(&self, cluster: &Cluster, node: usize) -> Result<Dump> {
        wait::until("a whole read", ALIKE_WITHIN, || {
            cluster.client(node)?.dump(&self.name, self.queues).map(Some)
        })
    }

    fn is_consumed(&self, cluster: &Cluster) -> Result<Option<()>> {
        let mut client = cluster.client(0)?;
        for queue in 0..self.queues {
            let end = client.max_offset(&self.name, queue)?;
            if client.consumer_offset(&self.name, &self.name, queue)? != Some(end) && end > 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }
}
