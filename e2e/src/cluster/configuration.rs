//! Configuration files of the form that operators write.

use std::net::Ipv4Addr;
use std::path::Path;

use super::{CLUSTER_NAME, Shape};
use crate::ports::{ControllerPorts, Ports};

/// Small log files, so that a run rolls through several.
const LOG_FILE_BYTES: u64 = 32 << 20;

/// `broker.toml`. A planned stop does not wait for clients to look elsewhere: tests look at once.
pub fn broker_toml(name: &str, data: &Path, listen: Ipv4Addr, ports: Ports, controllers: &[String]) -> String {
    format!(
        "node = \"{name}\"\ndata = \"{data}\"\nlisten = \"{listen}\"\ncontrollers = {controllers:?}\n\n\
         [ports]\nremoting = {remoting}\nhttp = {http}\ngrpc = {grpc}\npeer = {peer}\nname_server = {name_server}\n\n\
         [log]\nfile_bytes = {LOG_FILE_BYTES}\n\n\
         [policy]\nleave_seconds = 0\n",
        data = data.display(),
        remoting = ports.remoting,
        http = ports.http,
        grpc = ports.grpc,
        peer = ports.peer,
        name_server = ports.name_server,
    )
}

/// `controller.toml`; `peers` are the names and addresses of all controllers.
pub fn controller_toml(
    name: &str,
    data: &Path,
    listen: Ipv4Addr,
    ports: ControllerPorts,
    peers: &[String],
    shape: &Shape,
) -> String {
    format!(
        "node = \"{name}\"\ndata = \"{data}\"\nlisten = \"{listen}\"\ncluster = \"{CLUSTER_NAME}\"\npeers = {peers:?}\n\n\
         [ports]\ncontroller = {controller}\nhttp = {http}\nname_server = {name_server}\n\n\
         [policy]\nreplicas = {replicas}\ngroups_per_node = {groups_per_node}\nreplace_after = \"{replace_after}\"\n\
         auto_rebalance = {auto_rebalance}\n",
        data = data.display(),
        controller = ports.controller,
        http = ports.http,
        name_server = ports.name_server,
        replicas = shape.replicas,
        groups_per_node = shape.groups_per_node,
        replace_after = shape.replace_after,
        auto_rebalance = shape.auto_rebalance,
    )
}
