//! A client that goes away in the middle of anything is soon no member any more: others get its queues within
//! seconds, not after the time that an absent member is waited for.

use std::time::Duration;

use flotilla_api::remoting::codes::request;
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::raw::Raw;
use flotilla_e2e::wait;
use serde_json::json;

/// Consumer groups, each with a client that hangs up.
const GROUPS: usize = 40;
/// Shorter than the 45 s after which absent members are taken out anyway.
const SOON: Duration = Duration::from_secs(15);

fn heartbeat(client: &str, groups: &[&str]) -> RemotingCommand {
    let consumers: Vec<_> = groups
        .iter()
        .map(|group| {
            json!({
                "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
                "subscriptionDataSet": [{"topic": "T", "subString": "*", "subVersion": 1}],
            })
        })
        .collect();
    let body = json!({"clientID": client, "consumerDataSet": consumers, "producerDataSet": []});
    RemotingCommand::request(request::HEART_BEAT).with_body(body.to_string().into_bytes())
}

fn unregister(client: &str, group: &str) -> RemotingCommand {
    let mut command = RemotingCommand::request(request::UNREGISTER_CLIENT);
    command.fields.push("clientID", client);
    command.fields.push("consumerGroup", group);
    command
}

fn names(prefix: &str) -> Vec<(String, String)> {
    let one = |n| (format!("{prefix}-{n}"), format!("{prefix}-client-{n}"));
    (0..GROUPS).map(one).collect()
}

/// Consumer groups of `names` that still have a member.
fn with_members(cluster: &Cluster, names: &[(String, String)]) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for (group, _) in names {
        let (status, document) = cluster.http(0).get(&format!("/v1/consumer-groups/{group}"))?;
        let members = document["members"].as_array().map_or(0, Vec::len);
        if status == 200 && members > 0 {
            left.push(group.clone());
        }
    }
    Ok(left)
}

fn soon_without_members(cluster: &Cluster, names: &[(String, String)]) {
    let mut last = Vec::new();
    wait::until("nobody is a member any more", SOON, || {
        last = with_members(cluster, names)?;
        Ok(last.is_empty().then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
}

#[test]
fn who_hangs_up_is_soon_no_member() {
    let cluster = Cluster::start(3).expect("three nodes start");
    let port = |node: usize| cluster.nodes()[node % 3].ports.remoting;

    // In the middle of the first heartbeat.
    let hung_up = names("hung-up");
    for (number, (group, client)) in hung_up.iter().enumerate() {
        let mut connection = Raw::connect(port(number)).expect("connect");
        connection.ask(&heartbeat(client, &[group])).expect("heartbeat");
    }

    // A heartbeat that overtakes the farewells, at a node that is left first.
    let overtaken = names("overtaken");
    for (number, (group, client)) in overtaken.iter().enumerate() {
        let mut connections: Vec<Raw> = (0..3)
            .map(|n| Raw::connect(port(number + n)).expect("connect"))
            .collect();
        for connection in &mut connections {
            connection.ask(&heartbeat(client, &[group])).expect("heartbeat");
            connection.answer().expect("answer");
        }
        for connection in &mut connections {
            connection.ask(&unregister(client, group)).expect("farewell");
            connection.answer().expect("answer");
        }
        connections[2].ask(&heartbeat(client, &[group])).expect("heartbeat");
        drop(connections.pop());
    }

    // In the middle of the farewell.
    let farewell = names("farewell");
    for (number, (group, client)) in farewell.iter().enumerate() {
        let mut connection = Raw::connect(port(number)).expect("connect");
        connection.ask(&heartbeat(client, &[group])).expect("heartbeat");
        connection.answer().expect("answer");
        connection.ask(&unregister(client, group)).expect("farewell");
    }

    for names in [hung_up, overtaken, farewell] {
        soon_without_members(&cluster, &names);
    }
}
