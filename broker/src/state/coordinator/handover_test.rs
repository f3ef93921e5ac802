//! Consumer groups in frames.

use proptest::prelude::*;

use super::*;

fn member(client: &str) -> Member {
    Member {
        client_id: client.to_owned(),
        node: "n1".to_owned(),
        language: 1,
        version: 479,
        since_ms: 5,
    }
}

fn group(clients: &[String], topics: &[String]) -> ConsumerGroup {
    let subscription = |topic: &String| Subscription {
        topic: topic.clone(),
        expression_type: "TAG".to_owned(),
        expression: "A || B".to_owned(),
        version: 7,
    };
    ConsumerGroup {
        shape: GroupShape {
            consume_type: 1,
            message_model: 0,
            consume_from_where: 4,
        },
        members: clients.iter().map(|client| (client.clone(), member(client))).collect(),
        subscriptions: topics
            .iter()
            .map(|topic| (topic.clone(), subscription(topic)))
            .collect(),
    }
}

fn encoded(groups: &[Named]) -> Vec<u8> {
    let mut out = Encoder::new();
    encode_groups(groups, &mut out);
    out.finish()
}

fn decoded(bytes: &[u8]) -> Result<Vec<Named>, Malformed> {
    let mut from = Decoder::new(bytes);
    let groups = decode_groups(&mut from)?;
    from.finish()?;
    Ok(groups)
}

proptest! {
    #[test]
    fn groups_survive_their_bytes_and_their_bytes_are_foreseen(
        shapes in prop::collection::vec((prop::collection::vec("[a-z]{1,40}", 0..6), prop::collection::vec("[A-Z]{1,9}", 0..4)), 0..5),
    ) {
        let groups: Vec<Named> = shapes.iter().zip(0..)
            .map(|((clients, topics), number)| (format!("G{number}"), group(clients, topics)))
            .collect();
        let bytes = encoded(&groups);
        prop_assert_eq!(decoded(&bytes), Ok(groups.clone()));
        let foreseen: usize = groups.iter().map(|(name, group)| name.len() + group.bytes()).sum();
        // The number of groups comes before them.
        prop_assert!(bytes.len() <= foreseen + 4 && foreseen <= 2 * bytes.len(), "{} bytes, {foreseen} foreseen", bytes.len());
    }
}

#[test]
fn members_out_of_order_are_refused() {
    let names = ["a", "b"].map(str::to_owned);
    let bytes = encoded(&[("G".to_owned(), group(&names, &[]))]);
    let at = |name: u8| bytes.iter().position(|byte| *byte == name).expect("the name");
    let (first, second) = (at(b'a'), at(b'b'));
    for (one, other) in [(b'b', b'a'), (b'a', b'a')] {
        let mut changed = bytes.clone();
        changed[first] = one;
        changed[second] = other;
        assert_eq!(decoded(&changed), Err(Malformed));
    }
}
