//! Every command survives its bytes, no other bytes are a command, and the bytes never change.

use std::collections::BTreeMap;

use flotilla_controller::topic::{TopicConfig, TopicKind};
use proptest::prelude::*;

use super::*;
use crate::state::coordinator::{ConsumerGroup, GroupShape, JoinGroup, Member, Subscription};
use crate::state::limits::QUEUES_PER_TOPIC_MAX;
use crate::state::topics::OpenQueue;
use crate::state::topics::handover::QueueState;

fn every_command() -> Vec<Command> {
    let mut config = TopicConfig::new("T", 8);
    config.kind = TopicKind::Fifo;
    config.retention_ms = Some(3_600_000);
    config.attributes = BTreeMap::from([("message.type".to_owned(), "FIFO".to_owned())]);
    let queues = vec![("T".to_owned(), 0), ("T".to_owned(), 7)];
    vec![
        Command::AssignTopic(Assignment {
            config,
            uid: 15,
            version: 16,
            created_ms: 17,
            open: vec![open(2, 1, 0), open(5, 3, 1_000)],
        }),
        Command::DeleteTopic {
            topic: "T".to_owned(),
            uid: 15,
        },
        Command::ForgetSubscriptionGroup {
            group: "CG".to_owned(),
            clean_offsets: true,
        },
        Command::UpdateConsumerOffsets(vec![OffsetUpdate {
            group: "CG".to_owned(),
            topic: "T".to_owned(),
            queue: 3,
            offset: 1 << 40,
        }]),
        Command::LockQueues {
            group: "CG".to_owned(),
            client_id: "c1".to_owned(),
            queues: queues.clone(),
            now_ms: 18,
        },
        Command::UnlockQueues {
            group: "CG".to_owned(),
            client_id: "c1".to_owned(),
            queues,
        },
        Command::Join(join()),
        Command::Leave {
            client_id: "c1".to_owned(),
            node: "n1".to_owned(),
            groups: vec!["CG".to_owned()],
        },
        Command::Trim { log_index: 20 },
        Command::DigestPoint { nonce: 21 },
        Command::Reserve {
            topic: Assignment {
                config: TopicConfig::new("T", 8),
                uid: 15,
                version: 16,
                created_ms: 17,
                open: Vec::new(),
            },
            queue: 3,
            generation: 22,
        },
        Command::Bar(step()),
        Command::Seal {
            step: step(),
            to: 23,
            now_ms: 28,
        },
        Command::Open(Opening {
            step: step(),
            start: 1 << 41,
            state: QueueState {
                last_store_time: 24,
                offsets: vec![("CG".to_owned(), 25)],
                locks: vec![("CG".to_owned(), "c1".to_owned(), 26)],
                consumers: Vec::new(),
            },
        }),
        Command::Open(Opening {
            step: step(),
            start: 0,
            state: QueueState {
                last_store_time: -1,
                consumers: vec![
                    ("CG".to_owned(), consumer_group()),
                    ("G".to_owned(), ConsumerGroup::default()),
                ],
                ..QueueState::default()
            },
        }),
        Command::Delivered(step()),
        Command::ForgetSegments(step()),
    ]
}

fn step() -> Step {
    Step {
        topic: "T".to_owned(),
        uid: 15,
        queue: 3,
        generation: 27,
    }
}

fn consumer_group() -> ConsumerGroup {
    let member = |client: &str| Member {
        client_id: client.to_owned(),
        node: "n1".to_owned(),
        language: 1,
        version: 479,
        since_ms: 29,
    };
    let subscription = |topic: &str| Subscription {
        topic: topic.to_owned(),
        expression_type: "TAG".to_owned(),
        expression: "*".to_owned(),
        version: 5,
    };
    ConsumerGroup {
        shape: GroupShape {
            consume_type: 1,
            message_model: 1,
            consume_from_where: 4,
        },
        members: ["c1", "c2"].map(|client| (client.to_owned(), member(client))).into(),
        subscriptions: ["T", "U"].map(|topic| (topic.to_owned(), subscription(topic))).into(),
    }
}

fn open(queue: u32, generation: u32, start: i64) -> OpenQueue {
    OpenQueue {
        queue,
        generation,
        start,
    }
}

fn join() -> Join {
    let subscription = Subscription {
        topic: "T".to_owned(),
        expression_type: "TAG".to_owned(),
        expression: "A || B".to_owned(),
        version: 5,
    };
    let shape = GroupShape {
        consume_type: 1,
        message_model: 1,
        consume_from_where: 0,
    };
    Join {
        client_id: "c1".to_owned(),
        node: "n1".to_owned(),
        language: 0,
        version: 479,
        groups: vec![
            JoinGroup {
                group: "CG".to_owned(),
                shape,
                subscriptions: Some(vec![subscription]),
            },
            JoinGroup {
                group: "CG2".to_owned(),
                shape,
                subscriptions: None,
            },
        ],
        now_ms: 22,
    }
}

#[test]
fn every_command_survives_its_bytes() {
    for command in every_command() {
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
    }
}

#[test]
fn every_cut_and_every_extension_is_refused() {
    for command in every_command() {
        let mut bytes = command.encode().to_vec();
        for end in 0..bytes.len() {
            assert_eq!(
                Command::decode(&bytes[..end]),
                Err(Malformed),
                "{command:?} cut at {end}"
            );
        }
        bytes.push(0);
        assert_eq!(
            Command::decode(&bytes),
            Err(Malformed),
            "{command:?} with one byte more"
        );
    }
}

#[test]
fn the_bytes_of_commands_do_not_change() {
    let bytes = |command: Command| command.encode().to_vec();
    assert_eq!(bytes(Command::Trim { log_index: 20 }), [13, 1, 0, 0, 0, 0, 0, 0, 0, 20]);
    assert_eq!(
        bytes(Command::DeleteTopic {
            topic: "T".to_owned(),
            uid: 258
        }),
        [3, 1, 0, 1, b'T', 0, 0, 0, 0, 0, 0, 1, 2]
    );
    assert_eq!(
        bytes(Command::ForgetSubscriptionGroup {
            group: "G".to_owned(),
            clean_offsets: true
        }),
        [5, 1, 0, 1, b'G', 1]
    );
    let offsets = vec![OffsetUpdate {
        group: "G".to_owned(),
        topic: "T".to_owned(),
        queue: 2,
        offset: 258,
    }];
    assert_eq!(
        bytes(Command::UpdateConsumerOffsets(offsets)),
        [
            6, 1, 0, 0, 0, 1, 0, 1, b'G', 0, 1, b'T', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2
        ]
    );
}

#[test]
fn the_bytes_of_a_heartbeat_do_not_change() {
    let mut heartbeat = join();
    heartbeat.groups.truncate(1);
    let mut golden = vec![9, 1];
    golden.extend([0, 2, b'c', b'1', 0, 2, b'n', b'1', 0, 0, 0, 1, 0xdf]); // client, node, language, version
    golden.extend([0, 0, 0, 1, 0, 2, b'C', b'G', 1, 1, 0]); // groups: name, shape
    golden.extend([1, 0, 0, 0, 1, 0, 1, b'T', 0, 3, b'T', b'A', b'G', 0, 6]); // subscriptions
    golden.extend(b"A || B");
    golden.extend([0, 0, 0, 0, 0, 0, 0, 5]); // the subscription's version
    golden.extend([0, 0, 0, 0]); // producer groups
    golden.extend([0, 0, 0, 0, 0, 0, 0, 22]); // time
    assert_eq!(Command::Join(heartbeat).encode().to_vec(), golden);
    let place = golden.len() - 9;
    golden[place] = 1;
    golden.splice(place + 1..place + 1, [0, 2, b'P', b'G']);
    assert_eq!(Command::decode(&golden), Err(Malformed), "producers are not logged");
}

#[test]
fn the_bytes_of_an_opening_do_not_change() {
    let opening = |consumers| {
        let state = QueueState {
            last_store_time: 3,
            consumers,
            ..QueueState::default()
        };
        let opening = Opening {
            step: step(),
            start: 2,
            state,
        };
        Command::Open(opening)
    };
    let mut golden = vec![18, 1];
    golden.extend([0, 1, b'T', 0, 0, 0, 0, 0, 0, 0, 15, 0, 0, 0, 3, 0, 0, 0, 27]); // the step
    golden.extend([0, 0, 0, 0, 0, 0, 0, 2]); // start
    golden.extend([0, 0, 0, 0, 0, 0, 0, 3]); // store time
    golden.extend([0; 8]); // offsets, locks
    assert_eq!(opening(Vec::new()).encode().to_vec(), golden);
    golden[1] = 2;
    assert_eq!(
        Command::decode(&golden),
        Err(Malformed),
        "without what its version is for"
    );
    golden.extend([0, 0, 0, 0]);
    assert_eq!(Command::decode(&golden), Err(Malformed), "with none of it");
    golden.truncate(golden.len() - 4);
    golden.extend([0, 0, 0, 1, 0, 2, b'C', b'G', 1, 1, 4]); // groups: name, shape
    golden.extend([0, 0, 0, 1, 0, 2, b'c', b'1', 0, 2, b'n', b'1', 1, 0, 0, 1, 0xdf]); // members
    golden.extend([0, 0, 0, 0, 0, 0, 0, 29]); // since
    golden.extend([0, 0, 0, 1, 0, 1, b'T', 0, 3, b'T', b'A', b'G', 0, 1, b'*']); // subscriptions
    golden.extend([0, 0, 0, 0, 0, 0, 0, 5]); // version
    let mut group = consumer_group();
    group.members.remove("c2");
    group.subscriptions.remove("U");
    assert_eq!(opening(vec![("CG".to_owned(), group)]).encode().to_vec(), golden);
    golden[0] = 17;
    assert_eq!(
        Command::decode(&golden),
        Err(Malformed),
        "no other kind has the version"
    );
}

#[test]
fn the_kinds_left_out_are_refused() {
    for kind in [0, 1, 4, 11, 12, 15] {
        let frame = [kind, 1, 0, 1, b'n', 0, 0, 0, 0];
        assert_eq!(Command::decode(&frame), Err(Malformed), "{kind}");
    }
}

#[test]
fn the_bytes_of_an_assignment_do_not_change() {
    let mut config = TopicConfig::new("T", 8);
    config.kind = TopicKind::Fifo;
    config.retention_ms = Some(259);
    config.attributes = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let assignment = Assignment {
        config,
        uid: 258,
        version: 3,
        created_ms: 4,
        open: vec![open(2, 1, 0), open(7, 5, 1_000)],
    };
    let mut golden = vec![2, 1];
    golden.extend([0, 0, 0, 0, 0, 0, 1, 2]); // uid
    golden.extend([0, 0, 0, 0, 0, 0, 0, 3]); // version
    golden.extend([0, 0, 0, 0, 0, 0, 0, 4]); // created
    golden.extend([0, 1, b'T', 0, 0, 0, 8, 6, 2]); // name, queues, perm, kind
    golden.extend([1, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0]); // retention: time, bytes; order
    golden.extend([0, 0, 0, 1, 0, 1, b'a', 0, 1, b'b']); // attributes
    golden.extend([0, 0, 0, 2]); // open queues: number, generation, start
    golden.extend([0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend([0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 3, 0xe8]);
    assert_eq!(Command::AssignTopic(assignment).encode().to_vec(), golden);
}

#[test]
fn every_kind_of_topic_has_its_byte() {
    for (kind, byte) in TopicKind::ALL.into_iter().zip(0..) {
        let mut config = TopicConfig::new("T", 1);
        config.kind = kind;
        let command = assign(config, Vec::new());
        let mut frame = command.encode().to_vec();
        let place = 2 + 3 * 8 + 3 + 4 + 1;
        assert_eq!(frame[place], byte, "{kind:?}");
        assert_eq!(Command::decode(&frame), Ok(command));
        frame[place] = 5;
        assert_eq!(Command::decode(&frame), Err(Malformed), "no kind has this byte");
    }
}

#[test]
fn an_assignment_of_more_queues_than_a_topic_may_have_is_refused() {
    let queues = |count| (0..count).map(|queue| open(queue, 1, 0)).collect::<Vec<_>>();
    let most = assign(
        TopicConfig::new("T", QUEUES_PER_TOPIC_MAX),
        queues(QUEUES_PER_TOPIC_MAX),
    );
    assert_eq!(Command::decode(&most.encode()), Ok(most));
    let too_many = assign(TopicConfig::new("T", QUEUES_PER_TOPIC_MAX + 1), Vec::new());
    assert_eq!(Command::decode(&too_many.encode()), Err(Malformed));
    let too_many = assign(TopicConfig::new("T", 1), queues(QUEUES_PER_TOPIC_MAX + 1));
    assert_eq!(Command::decode(&too_many.encode()), Err(Malformed));
}

fn assign(config: TopicConfig, open: Vec<OpenQueue>) -> Command {
    Command::AssignTopic(Assignment {
        config,
        uid: 1,
        version: 2,
        created_ms: 3,
        open,
    })
}

#[test]
fn another_version_is_refused() {
    let mut bytes = Command::Trim { log_index: 1 }.encode().to_vec();
    bytes[1] = 2;
    assert_eq!(Command::decode(&bytes), Err(Malformed));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(kind in 0_u8..20, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut frame = vec![kind, 1];
        frame.extend(bytes);
        if let Ok(command) = Command::decode(&frame) {
            prop_assert_eq!(command.encode().to_vec(), frame);
        }
    }

    #[test]
    fn a_damaged_command_never_panics(number in 0..every_command().len(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut frame = every_command()[number].encode().to_vec();
        let place = place.index(frame.len());
        frame[place] = byte;
        if let Ok(command) = Command::decode(&frame) {
            prop_assert_eq!(command.encode().to_vec(), frame);
        }
    }
}
