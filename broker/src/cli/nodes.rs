//! The part of `flotilla admin` that says which replicas are where, and waits until a node is empty.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::admin_client::{AdminClient, path_part};
use super::moves::Progress;
use super::table::Column;

/// Between two looks at what remains.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

pub(super) const REPLICAS: &[Column] = &[
    ("group", "group"),
    ("role", "role"),
    ("leaving", "leaving"),
    ("to copy", "remaining_bytes"),
];

/// Where a node is in the admin API.
pub(super) fn path(node: &str) -> String {
    format!("/v1/nodes/{}", path_part(node))
}

/// Has a node's replicas re-created elsewhere, or not any more, and waits until it is empty if that is asked for.
pub(super) fn evacuate(client: &AdminClient, node: &str, wait: bool, cancel: bool) -> anyhow::Result<Value> {
    let path = path(node);
    let step = if cancel { "reopen" } else { "evacuate" };
    let mut shown = client.post(&format!("{path}/{step}"), &json!({}))?;
    if wait {
        let mut progress = Progress::default();
        while progress.remains(replicas(&shown)?, "replicas left") {
            sleep(LOOK_INTERVAL);
            shown = client.get(&path)?;
            ensure!(shown["evacuating"] == true, "the node was reopened");
        }
    }
    Ok(shown)
}

fn replicas(node: &Value) -> anyhow::Result<u64> {
    let replicas = node["replicas"].as_array();
    let replicas = replicas.context("the answer does not say which replicas are left")?;
    Ok(replicas.len() as u64)
}

/// Changes the replicas of a Raft group, or shows them.
pub(super) fn members(
    client: &AdminClient,
    group: &str,
    add: Option<String>,
    replaces: Option<String>,
    remove: Option<String>,
) -> anyhow::Result<Value> {
    let path = format!("/v1/groups/{}", path_part(group));
    match (add, remove) {
        (Some(node), _) => {
            let mut wanted = json!({ "node": node });
            if let Some(replaces) = replaces {
                wanted["replaces"] = replaces.into();
            }
            client.post(&format!("{path}/members"), &wanted)
        }
        (None, Some(node)) => client.delete(&format!("{path}/members/{}", path_part(&node))),
        (None, None) => client.get(&path),
    }
}
