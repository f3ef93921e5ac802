//! The settings of one node: a TOML file, then `FLOTILLA_…` environment variables, then flags.
//!
//! Defaults are written once, in the `Default` implementations here. The shape of the file is checked against them,
//! so that a mistyped key is a fault, not a silently kept default; [`Settings::load`] and [`Settings::validate`]
//! report all faults at once. An environment variable is named after its key: `ports.name_server` is
//! `FLOTILLA_PORTS_NAME_SERVER`. Variables of other names are left alone: orchestrators invent some of their own.

mod faults;
mod members;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use flotilla_raft_store::group::Timing;
use serde::{Deserialize, Serialize};

pub use faults::Faults;
pub use members::{Member, node_name_fault};

/// Everything a node is told from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// This node's stable name; never an address.
    pub node: String,
    /// The folder that holds everything this node stores.
    pub data: PathBuf,
    /// The address to listen on.
    pub listen: String,
    /// Host name or address under which clients reach this node. Clients are shown the literal address it has now.
    /// Empty: the listen address, or the system's host name when that is unspecified.
    pub advertise: String,
    /// Failure zone, for placement.
    pub zone: String,
    /// Addresses of the controllers.
    pub controllers: Vec<String>,
    /// This replica's Raft id. 0: the node's place in the sorted member list, plus one. A node that lost its disk
    /// comes back under an id that was never used.
    pub replica: u64,
    /// Where to listen.
    pub ports: Ports,
    /// The CommitLog.
    pub log: Log,
    /// Who forms the cluster.
    pub cluster: Cluster,
    /// What the cluster does by itself, and limits.
    pub policy: Policy,
}

/// Ports of a node; 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ports {
    /// Remoting protocol. Two below it is the old clients' "VIP" port with the same handlers.
    pub remoting: u16,
    /// Admin API, metrics, health.
    pub http: u16,
    /// Reserved: not listening yet.
    pub grpc: u16,
    /// Between nodes.
    pub peer: u16,
    /// Name-server protocol.
    pub name_server: u16,
}

/// Settings of the CommitLog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Bytes of one log file.
    pub file_bytes: u64,
    /// When a send is answered.
    pub flush: Flush,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flush {
    /// On stable storage of a majority.
    Sync,
    /// In the page cache of a majority.
    Async,
}

/// The cluster and its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// The cluster's name; the cluster id follows from it.
    pub name: String,
    /// `node=host:port` of every member's peer port. Empty: this node alone.
    pub members: Vec<String>,
}

/// What a leader does when its disk is nearly full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDiskPressure {
    /// Takes no more messages until there is room.
    #[default]
    Refuse,
    /// Takes them, and removes the oldest before their time.
    Delete,
}

/// Automatic behaviour and limits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Create a topic when a client first sends to it.
    pub auto_create_topics: bool,
    /// Queues of a topic created without a number.
    pub default_queues: u32,
    /// How long messages are kept.
    pub retention_hours: u64,
    /// Bytes of log kept per Raft group; 0 is no limit.
    pub retention_bytes: u64,
    /// Share of the disk in percent that may be used, by whatever, before [`Policy::on_disk_pressure`] applies.
    pub disk_used_percent_max: u64,
    /// What happens above that.
    pub on_disk_pressure: OnDiskPressure,
    /// Largest message body.
    pub message_bytes_max: usize,
    /// Most client connections.
    pub connections_max: usize,
    /// Most pulls waiting for a message.
    pub parked_pulls_max: usize,
    /// How long a planned stop keeps serving after leaving the routes: clients look at routes every 30 s.
    pub leave_seconds: u64,
    /// Heartbeat interval of the Raft group.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_min_ms: u64,
    /// Longest election timeout.
    pub election_max_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: "n1".to_owned(),
            data: PathBuf::from("flotilla-data"),
            listen: "127.0.0.1".to_owned(),
            advertise: String::new(),
            zone: String::new(),
            controllers: Vec::new(),
            replica: 0,
            ports: Ports::default(),
            log: Log::default(),
            cluster: Cluster::default(),
            policy: Policy::default(),
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            remoting: 10911,
            http: 9880,
            grpc: 8081,
            peer: 10912,
            name_server: 9876,
        }
    }
}

impl Ports {
    /// Every port chosen by the system.
    pub const fn chosen_by_system() -> Self {
        Self {
            remoting: 0,
            http: 0,
            grpc: 0,
            peer: 0,
            name_server: 0,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            file_bytes: 1 << 30,
            flush: Flush::Sync,
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "flotilla".to_owned(),
            members: Vec::new(),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            auto_create_topics: false,
            default_queues: 8,
            retention_hours: 72,
            retention_bytes: 0,
            disk_used_percent_max: 95,
            on_disk_pressure: OnDiskPressure::Refuse,
            message_bytes_max: 4 << 20,
            connections_max: 16_384,
            parked_pulls_max: 100_000,
            leave_seconds: 35,
            heartbeat_ms: 60,
            election_min_ms: 250,
            election_max_ms: 450,
        }
    }
}

/// Settings given on the command line; they win over file and environment.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `key=value`, where the key is dotted (`ports.http`) and the value is written as in an environment variable.
    pub set: Vec<(String, String)>,
}

impl Settings {
    /// Reads the file (when given), the environment and the overrides. Nothing is returned unless all of it is valid.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, Faults> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        let mut faults = Faults::default();
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    faults.check_shape(&text);
                    figment = figment.merge(Toml::string(&text));
                }
                Err(error) => faults.push(format!("{}: {error}", path.display())),
            }
        }
        figment = figment.merge(Env::prefixed(ENVIRONMENT_PREFIX).filter_map(|name| {
            let name = name.as_str().to_ascii_lowercase();
            keys()
                .into_iter()
                .find(|key| key.replace('.', "_") == name)
                .map(Into::into)
        }));
        for (key, value) in &overrides.set {
            if keys().iter().any(|known| known == key) {
                // The parser of environment values, so that a flag is written like a variable.
                let value: figment::value::Value = value.parse().unwrap_or_else(|never| match never {});
                figment = figment.merge((key.as_str(), value));
            } else {
                faults.push(format!("--set {key}: no such key"));
            }
        }
        if !faults.is_empty() {
            // Types are wrong: the values cannot be read, yet what can be read is still checked for its meaning.
            if let Ok(settings) = figment.extract::<Self>() {
                faults.extend(settings.validate().err());
            }
            return Err(faults);
        }
        match figment.extract::<Self>() {
            Ok(settings) => settings.validate().map(|()| settings),
            Err(errors) => {
                for error in errors {
                    faults.push(error.to_string());
                }
                Err(faults)
            }
        }
    }

    /// The address to listen on; checked by [`Settings::validate`].
    pub fn listen_address(&self) -> Option<IpAddr> {
        self.listen.parse().ok()
    }

    /// Host name or address to show to clients.
    pub fn advertised_host(&self) -> String {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        match self.listen_address() {
            Some(address) if address.is_unspecified() => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            _ => self.listen.clone(),
        }
    }

    /// All members, sorted by name; this node alone when none are listed.
    pub fn members(&self) -> Vec<Member> {
        if self.cluster.members.is_empty() {
            let address = format!("{}:{}", self.advertised_host(), self.ports.peer);
            return vec![Member {
                name: self.node.clone(),
                address,
            }];
        }
        let mut members: Vec<Member> = self
            .cluster
            .members
            .iter()
            .filter_map(|text| Member::parse(text).ok())
            .collect();
        members.sort_by(|left, right| left.name.cmp(&right.name));
        members
    }

    /// The member that founds the group: the first one written in the list.
    pub fn founder(&self) -> String {
        match self.cluster.members.first().map(|text| Member::parse(text)) {
            Some(Ok(member)) => member.name,
            _ => self.node.clone(),
        }
    }

    /// This replica's Raft id.
    pub fn replica_id(&self) -> u64 {
        if self.replica != 0 {
            return self.replica;
        }
        let place = self
            .members()
            .iter()
            .position(|member| member.name == self.node)
            .unwrap_or(0);
        place as u64 + 1
    }

    /// Election and heartbeat times.
    pub fn timing(&self) -> Timing {
        Timing {
            heartbeat: Duration::from_millis(self.policy.heartbeat_ms),
            election_min: Duration::from_millis(self.policy.election_min_ms),
            election_max: Duration::from_millis(self.policy.election_max_ms),
        }
    }

    /// The settings as a file that would give them.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings are tables of plain values")
    }
}

/// Variables that start with it may be settings.
const ENVIRONMENT_PREFIX: &str = "FLOTILLA_";

/// Every key, dotted.
fn keys() -> Vec<String> {
    fn walk(prefix: &str, value: &toml::Value, keys: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    walk(&key, value, keys);
                }
            }
            _ => keys.push(prefix.to_owned()),
        }
    }
    let mut keys = Vec::new();
    walk("", &faults::default_tree(), &mut keys);
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(Some(&path), &Overrides::default())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(load("").unwrap(), Settings::default());
    }

    #[test]
    fn printed_settings_read_back_as_they_were() {
        let settings = Settings {
            node: "n2".into(),
            cluster: Cluster {
                name: "c".into(),
                members: vec!["n1=h1:1".into(), "n2=h2:2".into()],
            },
            ..Settings::default()
        };
        assert_eq!(load(&settings.to_toml()).unwrap(), settings);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = load(
            "node = \"n 9\"\nlisten = \"nowhere\"\ncolour = 1\n[ports]\nhttp = \"x\"\nremoting = 10912\n[log]\nflush = \"never\"\n\
             [cluster]\nmembers = [\"n1\", \"n2=h:1\", \"n2=h:2\"]\n[policy]\nelection_min_ms = 50",
        )
        .unwrap_err()
        .to_string();
        // A wrong type hides the meaning of the rest; a wrong key does not.
        for part in ["colour", "ports.http", "log.flush"] {
            assert!(faults.contains(part), "{part} missing in:\n{faults}");
        }
        let faults = load(
            "node = \"n 9\"\nlisten = \"nowhere\"\ncolour = 1\n[ports]\nremoting = 10912\n\
             [cluster]\nmembers = [\"n1\", \"n2=h:1\", \"n2=h:2\"]\n[policy]\nelection_min_ms = 50",
        )
        .unwrap_err()
        .to_string();
        for part in ["colour", "node", "listen", "n1", "twice", "election_min_ms", "10912"] {
            assert!(faults.contains(part), "{part} missing in:\n{faults}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, "[ports]\nhttp = 1\nname_server = 7").unwrap();
        let overrides = Overrides {
            set: vec![("ports.http".into(), "2".into()), ("node".into(), "n7".into())],
        };
        let settings = Settings::load(Some(&path), &overrides).unwrap();
        assert_eq!((settings.ports.http, settings.ports.name_server), (2, 7));
        assert_eq!(settings.node, "n7");
    }

    #[test]
    fn a_replica_id_follows_from_the_sorted_names() {
        let mut settings = load("node = \"b\"\n[cluster]\nmembers = [\"c=h:1\", \"b=h:2\", \"a=h:3\"]").unwrap();
        assert_eq!(settings.replica_id(), 2);
        assert_eq!(settings.founder(), "c");
        settings.replica = 9;
        assert_eq!(settings.replica_id(), 9);
    }
}
