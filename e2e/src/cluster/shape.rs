//! How many processes a cluster has, and what its controllers are told to make of them.

use anyhow::Result;

use super::Cluster;

/// Most replicas of a Raft group, unless a test asks for another number.
const REPLICAS: usize = 3;
/// Controllers of a cluster with more than one node.
const CONTROLLERS: usize = 3;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes at the start.
    pub nodes: usize,
    /// Controllers.
    pub controllers: usize,
    /// Replicas of a Raft group.
    pub replicas: usize,
    /// Raft groups for each node.
    pub groups_per_node: usize,
    /// Whether queues move without being asked.
    pub auto_rebalance: bool,
    /// Whether every process runs on a machine of its own in a [`Network`](crate::network::Network).
    pub networked: bool,
    /// How long a node may be silent before it is replaced; empty: for ever.
    pub replace_after: &'static str,
}

impl Shape {
    /// The usual shape for so many nodes: one controller for one node, three for more; as many replicas as there are
    /// nodes, but at most three; a Raft group a node.
    pub const fn of(nodes: usize) -> Self {
        let alone = nodes == 1;
        Self {
            nodes,
            controllers: if alone { 1 } else { CONTROLLERS },
            replicas: if nodes < REPLICAS { nodes } else { REPLICAS },
            groups_per_node: 1,
            auto_rebalance: false,
            networked: false,
            replace_after: "",
        }
    }

    /// With so many controllers.
    pub const fn controllers(self, controllers: usize) -> Self {
        Self { controllers, ..self }
    }

    /// With so many replicas of a Raft group.
    pub const fn replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// With so many Raft groups for each node.
    pub const fn groups_per_node(self, groups_per_node: usize) -> Self {
        Self {
            groups_per_node,
            ..self
        }
    }

    /// With the policy that queues move without being asked.
    pub const fn auto_rebalance(self) -> Self {
        Self {
            auto_rebalance: true,
            ..self
        }
    }

    /// With a network whose connections can be cut; see [`Cluster::network`].
    pub const fn networked(self) -> Self {
        Self {
            networked: true,
            ..self
        }
    }

    /// With nodes that are replaced when they are silent for so long.
    pub const fn replace_after(self, replace_after: &'static str) -> Self {
        Self { replace_after, ..self }
    }

    /// How many Raft groups the controllers make once there are so many nodes.
    pub const fn groups(self, nodes: usize) -> usize {
        if nodes < self.replicas {
            return 0;
        }
        nodes * self.groups_per_node
    }

    /// Starts all processes; returns once all serve clients and every Raft group has a leader that all nodes name.
    pub fn start(self) -> Result<Cluster> {
        Cluster::of(self)
    }
}
