//! Every command survives its bytes, no other bytes are a command, and the bytes never change.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::state::coordinator::{GroupShape, JoinGroup, Subscription};
use crate::state::topics::TopicKind;

fn every_command() -> Vec<Command> {
    let mut config = TopicConfig::new("T", 8);
    config.kind = TopicKind::Fifo;
    config.retention_ms = Some(3_600_000);
    config.attributes = BTreeMap::from([("message.type".to_owned(), "FIFO".to_owned())]);
    let mut group = SubscriptionGroupConfig::new("CG");
    group.retry_policy = Some(r#"{"type":"CUSTOMIZED"}"#.to_owned());
    let queues = vec![("T".to_owned(), 0), ("T".to_owned(), 7)];
    vec![
        Command::PutTopic {
            config,
            if_absent: true,
            now_ms: 17,
        },
        Command::DeleteTopic { topic: "T".to_owned() },
        Command::PutSubscriptionGroup {
            config: group,
            if_absent: false,
        },
        Command::DeleteSubscriptionGroup {
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
        Command::LeaveNode {
            node: "n1".to_owned(),
            keep: vec!["c2".to_owned()],
        },
        Command::Expire {
            node: "n1".to_owned(),
            now_ms: 19,
        },
        Command::Trim { log_index: 20 },
        Command::DigestPoint { nonce: 21 },
    ]
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
        producer_groups: vec!["PG".to_owned()],
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
        bytes(Command::DeleteTopic { topic: "T".to_owned() }),
        [3, 1, 0, 1, b'T']
    );
    let config = TopicConfig::new("T", 8);
    assert_eq!(
        bytes(Command::PutTopic {
            config,
            if_absent: true,
            now_ms: 1
        }),
        [
            2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b'T', 0, 0, 0, 8, 6, 1, 0, 0, 0, 0, 0, 0, 0
        ]
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
    fn a_damaged_command_never_panics(number in 0_usize..13, place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut frame = every_command()[number].encode().to_vec();
        let place = place.index(frame.len());
        frame[place] = byte;
        if let Ok(command) = Command::decode(&frame) {
            prop_assert_eq!(command.encode().to_vec(), frame);
        }
    }
}
