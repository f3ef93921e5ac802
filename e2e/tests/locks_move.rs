//! Locks of a queue that moved, while nobody but the old owner knows where it went: they are given back and taken at once.

use std::time::Duration;

use flotilla_api::remoting::bodies::{LockBatchRequest, LockBatchResponse, MessageQueue};
use flotilla_api::remoting::codes::{request, response};
use flotilla_api::remoting::frame::RemotingCommand;
use flotilla_e2e::client::Client;
use flotilla_e2e::cluster::Shape;
use flotilla_e2e::moves;
use flotilla_e2e::wait;

const TOPIC: &str = "locked";
const GROUP: &str = "orderly";
/// Two queues, of which one moves: they are asked for together.
const QUEUES: u32 = 2;
/// The only controller dies before it writes down that the queue moved.
const NOBODY_IS_TOLD: &str = "end-asked";
const MOVED: Duration = Duration::from_secs(20);

fn ask(client: &mut Client, code: i32, client_id: &str) -> RemotingCommand {
    let queue = |queue| MessageQueue {
        broker_name: "any".to_owned(),
        queue,
        topic: TOPIC.to_owned(),
    };
    let body = LockBatchRequest {
        queues: (0..QUEUES as i32).map(queue).collect(),
        client_id: client_id.to_owned(),
        consumer_group: GROUP.to_owned(),
        only_this_broker: false,
    };
    let asked = RemotingCommand::request(code).with_body(body.to_bytes());
    let answer = client.call(asked).expect("an answer");
    assert_eq!(answer.code, response::SUCCESS, "{:?}", answer.remark);
    answer
}

fn locks(client: &mut Client, client_id: &str) -> usize {
    let answer = ask(client, request::LOCK_BATCH_MQ, client_id);
    LockBatchResponse::from_bytes(&answer.body)
        .expect("a body")
        .queues
        .len()
}

#[test]
fn locks_are_given_back_and_taken_where_the_queue_went() {
    let mut cluster = Shape::of(3).controllers(1).start().expect("three nodes start");
    let groups = cluster.groups().expect("groups");
    let http = cluster.http(0);
    moves::topic_in(&http, TOPIC, QUEUES, &groups[0]).expect("topic");
    let mut clients: Vec<_> = (0..3).map(|node| cluster.client(node).expect("connect")).collect();
    assert_eq!(locks(&mut clients[0], "first"), QUEUES as usize);
    assert_eq!(locks(&mut clients[1], "second"), 0);

    cluster.arm(NOBODY_IS_TOLD).expect("arm");
    moves::start(&http, TOPIC, 0, &groups[1]).expect("move");
    wait::until("the controller is dead", MOVED, || {
        Ok((!cluster.is_armed(NOBODY_IS_TOLD)).then_some(()))
    })
    .expect("a death");
    wait::until("a dead process", MOVED, || {
        let dead = cluster.bury()?;
        Ok((!dead.is_empty()).then_some(()))
    })
    .expect("a death");

    assert_eq!(locks(&mut clients[1], "second"), 0, "they went along");
    ask(&mut clients[2], request::UNLOCK_BATCH_MQ, "first");
    assert_eq!(locks(&mut clients[1], "second"), QUEUES as usize);
    assert_eq!(locks(&mut clients[0], "first"), 0);
}
