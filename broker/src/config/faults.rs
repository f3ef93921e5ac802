//! What is wrong with a configuration: the shape of the file, then the meaning of its values.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use toml::Value;

use super::load::Loadable;
use super::{Settings, address_fault, node_name_fault};

/// Everything found wrong, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    file: Option<PathBuf>,
    lines: Vec<String>,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fault(s) in the configuration", self.lines.len())?;
        if let Some(file) = &self.file {
            write!(f, " {}", file.display())?;
        }
        for line in &self.lines {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl Faults {
    /// None so far, in settings that come from `file` among others.
    pub(super) fn of(file: Option<&Path>) -> Self {
        Self {
            file: file.map(Path::to_owned),
            lines: Vec::new(),
        }
    }

    /// Adds a fault.
    pub fn push(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// True when nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(super) fn extend(&mut self, other: Option<Self>) {
        self.lines.extend(other.into_iter().flat_map(|faults| faults.lines));
    }

    /// Compares a file with the tree of defaults: unknown keys and values of another type.
    pub(super) fn check_shape(&mut self, text: &str, defaults: &Value) {
        match text.parse::<toml::Table>() {
            Ok(table) => self.check_table("", &table, defaults),
            Err(error) => self.push(error.to_string().trim().replace('\n', " ")),
        }
    }

    fn check_table(&mut self, prefix: &str, table: &toml::Table, defaults: &Value) {
        for (key, value) in table {
            let name = if prefix.is_empty() {
                key.clone()
            } else {
                format!("{prefix}.{key}")
            };
            match (defaults.get(key), value) {
                (None, _) => self.push(format!("{name}: no such key")),
                (Some(default @ Value::Table(_)), Value::Table(table)) => self.check_table(&name, table, default),
                (Some(Value::Array(_)), Value::Array(items)) => {
                    if !items.iter().all(Value::is_str) {
                        self.push(format!("{name}: expected a list of strings"));
                    }
                }
                (Some(default), value) if !default.same_type(value) => {
                    self.push(format!(
                        "{name}: expected {}, found {}",
                        default.type_str(),
                        value.type_str()
                    ));
                }
                (Some(Value::Integer(_)), Value::Integer(number)) => self.check_number(&name, *number),
                (Some(_), value) => {
                    if name == "log.flush" && !matches!(value.as_str(), Some("sync" | "async")) {
                        self.push(format!("{name}: expected \"sync\" or \"async\", found {value}"));
                    }
                }
            }
        }
    }

    /// What every process has.
    pub(super) fn check_process(&mut self, node: &str, data: &Path, listen: &str) {
        if let Some(fault) = node_name_fault(node) {
            self.push(format!("node: {fault}"));
        }
        if data.as_os_str().is_empty() {
            self.push("data: a folder is needed");
        }
        if listen.parse::<IpAddr>().is_err() {
            self.push(format!("listen: `{listen}` is not an IP address"));
        }
    }

    /// No port twice, but for those that the system chooses.
    pub(super) fn check_ports(&mut self, ports: &[(&str, u16)]) {
        for (place, (name, port)) in ports.iter().enumerate() {
            for (other, _) in ports[..place].iter().filter(|(_, other)| other == port && *port != 0) {
                self.push(format!("ports.{name}: {port} is also ports.{other}"));
            }
        }
    }

    fn check_number(&mut self, name: &str, number: i64) {
        let most = if name.starts_with("ports.") {
            i64::from(u16::MAX)
        } else {
            i64::MAX
        };
        let most = if name == "policy.default_queues" {
            i64::from(u32::MAX)
        } else {
            most
        };
        if !(0..=most).contains(&number) {
            self.push(format!("{name}: {number} is not between 0 and {most}"));
        }
    }
}

/// Smallest log file: room for the largest entry several times over.
const LOG_FILE_BYTES_MIN: u64 = 16 << 20;
/// Largest message body any setting may allow: a frame holds 16 MiB with its header.
const MESSAGE_BYTES_MAX: usize = 15 << 20;

impl Loadable for Settings {
    fn validate(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.check_process(&self.node, &self.data, &self.listen);
        self.validate_controllers(&mut faults);
        self.validate_ports(&mut faults);
        self.validate_limits(&mut faults);
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

impl Settings {
    fn validate_controllers(&self, faults: &mut Faults) {
        if self.controllers.is_empty() {
            faults.push("controllers: at least one host:port is needed");
        }
        for (place, address) in self.controllers.iter().enumerate() {
            if let Some(fault) = address_fault(address) {
                faults.push(format!("controllers: {fault}"));
            }
            if self.controllers[..place].contains(address) {
                faults.push(format!("controllers: `{address}` is listed twice"));
            }
        }
    }

    fn validate_ports(&self, faults: &mut Faults) {
        let ports = [
            ("remoting", self.ports.remoting),
            ("remoting - 2", self.ports.remoting.saturating_sub(2)),
            ("http", self.ports.http),
            ("peer", self.ports.peer),
            ("name_server", self.ports.name_server),
        ];
        if self.ports.remoting == 1 || self.ports.remoting == 2 {
            faults.push("ports.remoting: the port two below it must exist");
        }
        faults.check_ports(&ports);
    }

    fn validate_limits(&self, faults: &mut Faults) {
        let policy = &self.policy;
        if self.log.file_bytes < LOG_FILE_BYTES_MIN {
            faults.push(format!("log.file_bytes: at least {LOG_FILE_BYTES_MIN}"));
        }
        if policy.retention_hours == 0 {
            faults.push("policy.retention_hours: at least 1");
        }
        if !(1..=99).contains(&policy.disk_used_percent_max) {
            faults.push("policy.disk_used_percent_max: between 1 and 99");
        }
        if policy.message_bytes_max == 0 || policy.message_bytes_max > MESSAGE_BYTES_MAX {
            faults.push(format!("policy.message_bytes_max: between 1 and {MESSAGE_BYTES_MAX}"));
        }
        if policy.connections_max == 0 {
            faults.push("policy.connections_max: at least 1");
        }
        if policy.heartbeat_ms == 0 {
            faults.push("policy.heartbeat_ms: at least 1");
        }
        if policy.election_min_ms <= 2 * policy.heartbeat_ms {
            faults
                .push("policy.election_min_ms: more than twice heartbeat_ms, so that one late heartbeat elects nobody");
        }
        if policy.election_max_ms <= policy.election_min_ms {
            faults.push("policy.election_max_ms: more than election_min_ms");
        }
    }
}
