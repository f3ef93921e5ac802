//! One node is cut off from all the others and from the controllers, not from its clients. It leads one Raft group and
//! follows in two. Its own clients hear in time that it can do nothing; the others' see one short pause.

use std::time::Instant;

use flotilla_e2e::client::Client;
use flotilla_e2e::network::Direction;
use flotilla_e2e::progress;
use flotilla_e2e::traffic::{Attempt, PATIENCE};

use crate::figures::Figures;
use crate::scene::{ANSWERED, Led, NODES, QUEUES, Scene, TOPIC, refusals};

/// Of each kind of cut.
const TRIALS: usize = 5;

fn trial(scene: &Scene, victim: usize, direction: Direction, figures: &mut Figures) {
    scene.restore_leaders();
    let before = scene.leaders();
    let machine = scene.cluster.nodes()[victim].name.as_str();
    let begin = scene.cut(machine, &scene.others(machine), direction);
    let mut words = Vec::new();
    for Led { queue, leader, .. } in &before {
        let others = (0..NODES).filter(|node| *node != victim);
        let served = others.map(|node| {
            scene
                .await_served(node, *queue, begin)
                .expect("the others serve every queue")
        });
        if let Some(served) = served.max().filter(|_| *leader == victim) {
            words.push(figures.add(&format!("{direction:?}: next send acknowledged"), served));
        }
    }
    // A reader that must not be told what was true once is told nothing.
    for Led { queue, .. } in before.iter().filter(|led| led.leader == victim) {
        let client = Client::connect_to(scene.cluster.remoting(victim), PATIENCE);
        let asked = client.expect("the client is not cut off").max_offset(TOPIC, *queue);
        assert!(
            asked.is_err(),
            "a node that was replaced says where queue {queue} ends: {asked:?}"
        );
    }
    for queue in 0..QUEUES {
        scene.await_some(victim, queue, begin).expect("an answer");
    }
    let end = Instant::now();
    let told = what_it_told(scene, victim, begin, end);
    for Led { queue, .. } in before.iter().filter(|led| led.leader != victim) {
        for node in (0..NODES).filter(|node| *node != victim) {
            let pause = scene.untouched(node, *queue, begin, end).expect("a queue that goes on");
            words.push(figures.add(&format!("{direction:?}: pause of a queue led by another"), pause));
        }
    }
    let told = refusals(&told);
    words.push(figures.add_heal(&format!("{direction:?}"), scene.heal()));
    // Neither while it is away nor when it comes back does it disturb those who go on without it.
    words.push(format!(
        "{} elections that no cut explains",
        figures.add_elections(&before, &scene.leaders(), |led| led.leader != victim)
    ));
    progress::line(format!(
        "{machine} cut off {direction:?}: {}; it says {told:?}",
        words.join(", ")
    ));
}

/// What a client of the node that is cut off was told: in time, and never that something was done.
fn what_it_told(scene: &Scene, victim: usize, begin: Instant, end: Instant) -> Vec<Attempt> {
    let mut told = scene.traffic().since(begin);
    told.retain(|attempt| attempt.node == victim && attempt.end < end);
    for attempt in &told {
        assert!(
            !attempt.is_acked(),
            "acknowledged by a node that is cut off: {attempt:?}"
        );
        let answered = attempt.told.starts_with("code ");
        assert!(answered && attempt.time() < ANSWERED, "{attempt:?}");
    }
    told
}

#[test]
fn a_node_that_is_cut_off_acknowledges_nothing_and_the_others_go_on() {
    let scene = Scene::set();
    let mut figures = Figures::default();
    for number in 0..TRIALS {
        for (place, direction) in Direction::ALL.into_iter().enumerate() {
            trial(&scene, (number + place) % NODES, direction, &mut figures);
        }
    }
    figures.conclude();
    scene.check();
}
