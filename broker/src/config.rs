//! The settings of one node; those of a controller are in [`controller`].
//!
//! Both come from a TOML file, then `FLOTILLA_…` environment variables, then flags ([`load()`]). Defaults are written
//! once, in the `Default` implementations.

pub mod controller;
mod faults;
pub mod load;
mod members;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use flotilla_raft_store::group::Timing;
use serde::{Deserialize, Serialize};

pub use controller::ControllerSettings;
pub use faults::Faults;
pub use load::{Overrides, load};
pub use members::{Member, address_fault, node_name_fault};

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
    /// `host:port` of the controllers' controller ports.
    pub controllers: Vec<String>,
    /// Where to listen.
    pub ports: Ports,
    /// The CommitLog.
    pub log: Log,
    /// What the node does by itself, and limits.
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
            ports: Ports::default(),
            log: Log::default(),
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

impl Policy {
    /// How long messages are kept, in milliseconds.
    pub fn retention_ms(&self) -> u64 {
        self.retention_hours.saturating_mul(3_600_000)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
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

impl Settings {
    /// The address to listen on; checked when the settings are loaded.
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

    /// Election and heartbeat times.
    pub fn timing(&self) -> Timing {
        Timing {
            heartbeat: Duration::from_millis(self.policy.heartbeat_ms),
            election_min: Duration::from_millis(self.policy.election_min_ms),
            election_max: Duration::from_millis(self.policy.election_max_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings, Faults> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, text).unwrap();
        load::load(Some(&path), &Overrides::default())
    }

    const CONTROLLERS: &str = "controllers = [\"c1:9878\"]\n";

    #[test]
    fn a_file_with_controllers_alone_gives_the_defaults() {
        let settings = Settings {
            controllers: vec!["c1:9878".into()],
            ..Settings::default()
        };
        assert_eq!(load(CONTROLLERS).unwrap(), settings);
        assert!(load("").unwrap_err().to_string().contains("controllers"));
    }

    #[test]
    fn printed_settings_read_back_as_they_were() {
        let settings = Settings {
            node: "n2".into(),
            controllers: vec!["c1:1".into(), "c2:2".into()],
            ..Settings::default()
        };
        assert_eq!(load(&load::to_toml(&settings)).unwrap(), settings);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = load(
            "node = \"n 9\"\nlisten = \"nowhere\"\ncolour = 1\n[ports]\nhttp = \"x\"\nremoting = 10912\n[log]\nflush = \"never\"\n\
             [policy]\nelection_min_ms = 50",
        )
        .unwrap_err()
        .to_string();
        // A wrong type hides the meaning of the rest; a wrong key does not.
        for part in ["colour", "ports.http", "log.flush"] {
            assert!(faults.contains(part), "{part} missing in:\n{faults}");
        }
        let faults = load(
            "node = \"n 9\"\nlisten = \"nowhere\"\ncolour = 1\ncontrollers = [\"c1\", \"c2:1\", \"c2:1\"]\n\
             [ports]\nremoting = 10912\n[policy]\nelection_min_ms = 50",
        )
        .unwrap_err()
        .to_string();
        for part in ["colour", "node", "listen", "c1", "twice", "election_min_ms", "10912"] {
            assert!(faults.contains(part), "{part} missing in:\n{faults}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, format!("{CONTROLLERS}[ports]\nhttp = 1\nname_server = 7")).unwrap();
        let overrides = Overrides {
            set: vec![("ports.http".into(), "2".into()), ("node".into(), "n7".into())],
        };
        let settings: Settings = load::load(Some(&path), &overrides).unwrap();
        assert_eq!((settings.ports.http, settings.ports.name_server), (2, 7));
        assert_eq!(settings.node, "n7");
    }
}
