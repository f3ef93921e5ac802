//! Two nodes are cut off from each other, and both still reach the third and the controllers.

use std::time::{Duration, Instant};

use anyhow::Result;
use flotilla_e2e::history::Outcome;
use flotilla_e2e::network::Direction;
use flotilla_e2e::progress;
use flotilla_e2e::traffic::Attempt;

use crate::figures::Figures;
use crate::scene::{ANSWERED, HEALED, Led, NODES, Scene, refusals};

/// Of each kind of cut; the first is a long one.
const TRIALS: usize = 3;

/// Two nodes that do not reach each other.
struct Pair<'a> {
    scene: &'a Scene,
    nodes: [usize; 2],
    before: Vec<Led>,
    begin: Instant,
}

impl Pair<'_> {
    /// Whether the cut is between a client's node and the leader of its queue.
    fn is_between(&self, node: usize, leader: usize) -> bool {
        node != leader && self.nodes.contains(&node) && self.nodes.contains(&leader)
    }

    /// Waits until every lane has shown how it is served while the cut lasts; returns the pauses of those whose leader is
    /// reached.
    fn served(&self, is_long: bool) -> Result<Vec<Duration>> {
        for Led { queue, leader, .. } in &self.before {
            for node in 0..NODES {
                self.scene.await_some(node, *queue, self.begin)?;
                if !self.is_between(node, *leader) {
                    self.scene.await_served(node, *queue, self.begin)?;
                } else if is_long {
                    self.await_refused(node, *queue)?;
                }
            }
        }
        let end = Instant::now();
        let mut pauses = Vec::new();
        for Led { queue, leader, .. } in &self.before {
            for node in (0..NODES).filter(|node| !self.is_between(*node, *leader)) {
                pauses.push(self.scene.untouched(node, *queue, self.begin, end)?);
            }
        }
        Ok(pauses)
    }

    /// The connection is given up after a while: then it is sure that nothing is sent over it.
    fn await_refused(&self, node: usize, queue: u32) -> Result<()> {
        let what = "a send that is refused for sure";
        let refused =
            |attempt: &Attempt| (attempt.node, attempt.queue, attempt.outcome) == (node, queue, Outcome::Failed);
        self.scene.traffic().await_send(what, HEALED, self.begin, refused)?;
        Ok(())
    }
}

fn trial(scene: &Scene, nodes: [usize; 2], direction: Direction, is_long: bool, figures: &mut Figures) {
    scene.restore_leaders();
    let before = scene.leaders();
    let names = nodes.map(|node| scene.cluster.nodes()[node].name.as_str());
    let begin = scene.cut(names[0], &names[1..], direction);
    let pair = Pair {
        scene,
        nodes,
        before,
        begin,
    };
    let served = pair.served(is_long);
    let attempts = scene.traffic().since(begin);
    let third = (0..NODES).find(|node| !nodes.contains(node)).expect("a third node");
    let elections = figures.add_elections(&pair.before, &scene.leaders_seen_at(third), |_| true);
    let mut words = vec![format!("{elections} elections that no cut explains")];
    match served {
        Ok(pauses) => words.extend(pauses.into_iter().map(|pause| {
            figures.add(
                &format!("{direction:?}, pair: pause of a queue whose leader is reached"),
                pause,
            )
        })),
        // A busy machine has moved a leader to where one of the two does not reach it.
        Err(error) => {
            assert!(elections > 0, "{error:#}");
            words.push(format!("{error:#}"));
        }
    }
    for attempt in &attempts {
        assert!(attempt.time() < ANSWERED, "{attempt:?}");
    }
    words.push(figures.add_heal(&format!("{direction:?}, pair"), scene.heal()));
    let told = refusals(&attempts);
    progress::line(format!(
        "{names:?} cut {direction:?}: {}; told {told:?}",
        words.join(", ")
    ));
}

#[test]
fn two_nodes_that_do_not_reach_each_other_do_not_stop_the_queues_they_lead() {
    let scene = Scene::set();
    let mut figures = Figures::default();
    for number in 0..TRIALS {
        for direction in [Direction::Both, Direction::Outgoing] {
            let pair = [number, (number + 1) % NODES];
            trial(&scene, pair, direction, number == 0, &mut figures);
        }
    }
    figures.conclude();
    scene.check();
}
