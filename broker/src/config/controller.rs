//! The settings of a controller.

use std::collections::BTreeSet;
use std::path::PathBuf;

use flotilla_controller::metadata;
use flotilla_controller::state::limits::{QUEUES_PER_TOPIC_MAX, REPLICAS_MAX};
use serde::{Deserialize, Serialize};

use super::load::Loadable;
use super::{Faults, Member, node_name_fault};
use crate::http::parse_duration;

/// Most Raft groups that may be asked for.
const GROUPS_MAX: usize = 256;
/// Shortest `replace_after` in milliseconds: a node that is silent for less may just be slow.
const REPLACE_AFTER_MS_MIN: u64 = 1_000;

/// Everything a controller is told from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControllerSettings {
    /// This controller's stable name; never an address.
    pub node: String,
    /// The folder that holds everything it stores.
    pub data: PathBuf,
    /// The address to listen on.
    pub listen: String,
    /// Host name or address under which clients reach this process; as for nodes.
    pub advertise: String,
    /// The cluster's name.
    pub cluster: String,
    /// `name=host:port` of every controller's controller port, this one's included. Empty: this controller alone.
    pub peers: Vec<String>,
    /// Where to listen.
    pub ports: ControllerPorts,
    /// What the cluster does by itself. That of the controller that leads counts.
    pub policy: ControllerPolicy,
}

/// Ports of a controller; 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControllerPorts {
    /// Between controllers, and from nodes to controllers.
    pub controller: u16,
    /// Admin API, metrics, health.
    pub http: u16,
    /// Name-server protocol.
    pub name_server: u16,
}

/// What the cluster does by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControllerPolicy {
    /// Replicas of a Raft group.
    pub replicas: usize,
    /// Raft groups made for each node.
    pub groups_per_node: usize,
    /// Raft groups in all, whatever the number of nodes; 0: as many as `groups_per_node` says.
    pub groups: usize,
    /// Move queues without being asked: to Raft groups that come or are reopened, and when some have carried much more
    /// than others for minutes.
    pub auto_rebalance: bool,
    /// How long a node may be silent before it is taken for lost and its replicas are made anew elsewhere, such as `30m`.
    /// Empty: only when somebody says so.
    pub replace_after: String,
    /// Make a topic when a client first sends to it.
    pub auto_create_topics: bool,
    /// Queues of a topic made without a number.
    pub default_queues: u32,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            node: "c1".to_owned(),
            data: PathBuf::from("flotilla-controller-data"),
            listen: "127.0.0.1".to_owned(),
            advertise: String::new(),
            cluster: "flotilla".to_owned(),
            peers: Vec::new(),
            ports: ControllerPorts::default(),
            policy: ControllerPolicy::default(),
        }
    }
}

impl Default for ControllerPorts {
    fn default() -> Self {
        Self {
            controller: 9878,
            http: 9880,
            name_server: 9876,
        }
    }
}

impl Default for ControllerPolicy {
    fn default() -> Self {
        let policy = metadata::Policy::default();
        Self {
            replicas: policy.replicas,
            groups_per_node: policy.groups_per_node,
            groups: policy.groups,
            auto_rebalance: false,
            replace_after: String::new(),
            auto_create_topics: policy.auto_create_topics,
            default_queues: policy.default_queues,
        }
    }
}

impl ControllerPolicy {
    /// As all processes are told.
    pub fn shared(&self) -> metadata::Policy {
        metadata::Policy {
            replicas: self.replicas,
            groups_per_node: self.groups_per_node,
            groups: self.groups,
            replace_after_ms: parse_duration(&self.replace_after).unwrap_or(0),
            auto_create_topics: self.auto_create_topics,
            default_queues: self.default_queues,
        }
    }
}

impl ControllerSettings {
    /// All controllers, in the order of the list.
    pub fn members(&self) -> Vec<Member> {
        self.peers.iter().filter_map(|text| Member::parse(text).ok()).collect()
    }

    fn validate_peers(&self, faults: &mut Faults) {
        let mut names = BTreeSet::new();
        for text in &self.peers {
            match Member::parse(text) {
                Err(fault) => faults.push(format!("peers: {fault}")),
                Ok(member) => {
                    if !names.insert(member.name.clone()) {
                        faults.push(format!("peers: `{}` is listed twice", member.name));
                    }
                }
            }
        }
        if !self.peers.is_empty() && !names.contains(&self.node) {
            faults.push(format!("peers: this controller, `{}`, is not among them", self.node));
        }
    }
}

impl Loadable for ControllerSettings {
    fn validate(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.check_process(&self.node, &self.data, &self.listen);
        if let Some(fault) = node_name_fault(&self.cluster) {
            faults.push(format!("cluster: {}", fault.replace("node name", "cluster name")));
        }
        self.validate_peers(&mut faults);
        faults.check_ports(&[
            ("controller", self.ports.controller),
            ("http", self.ports.http),
            ("name_server", self.ports.name_server),
        ]);
        let policy = &self.policy;
        if !(1..=REPLICAS_MAX).contains(&policy.replicas) {
            faults.push(format!("policy.replicas: between 1 and {REPLICAS_MAX}"));
        }
        if !(1..=64).contains(&policy.groups_per_node) {
            faults.push("policy.groups_per_node: between 1 and 64");
        }
        if policy.groups > GROUPS_MAX {
            faults.push(format!("policy.groups: at most {GROUPS_MAX}"));
        }
        if !(1..=QUEUES_PER_TOPIC_MAX).contains(&policy.default_queues) {
            faults.push(format!("policy.default_queues: between 1 and {QUEUES_PER_TOPIC_MAX}"));
        }
        if !policy.replace_after.is_empty()
            && parse_duration(&policy.replace_after).is_none_or(|after| after < REPLACE_AFTER_MS_MIN)
        {
            faults.push("policy.replace_after: a duration such as 30m, at least 1s; empty for never");
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::{Overrides, load, to_toml};
    use super::*;

    fn read(text: &str) -> Result<ControllerSettings, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("controller.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), &Overrides::default())
    }

    #[test]
    fn settings_read_back_as_they_were_printed() {
        assert_eq!(read("").unwrap(), ControllerSettings::default());
        let settings = ControllerSettings {
            node: "c2".into(),
            peers: vec!["c1=h1:9878".into(), "c2=h2:9878".into()],
            policy: ControllerPolicy {
                auto_rebalance: true,
                ..ControllerPolicy::default()
            },
            ..ControllerSettings::default()
        };
        assert_eq!(read(&to_toml(&settings)).unwrap(), settings);
        assert_eq!(settings.members()[1].address, "h2:9878");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = read(
            "node = \"c9\"\ncolour = 1\ncluster = \"a b\"\npeers = [\"c1\", \"c2=h:1\", \"c2=h:2\"]\n\
             [ports]\nhttp = 9878\n[policy]\nreplicas = 0\nreplace_after = \"soon\"",
        );
        let faults = faults.unwrap_err().to_string();
        for part in [
            "colour",
            "cluster",
            "c1",
            "twice",
            "c9",
            "9878",
            "replicas",
            "replace_after",
        ] {
            assert!(faults.contains(part), "{part} missing in:\n{faults}");
        }
    }
}
