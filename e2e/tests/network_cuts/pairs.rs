//! Two nodes are cut off from each other, and both still reach the third and the controllers.

use std::time::{Duration, Instant};

use anyhow::Result;
use flotilla_e2e::history::Outcome;
use flotilla_e2e::network::Direction;
use flotilla_e2e::progress;
use flotilla_e2e::traffic::Attempt;

use crate::figures::Figures;
use crate::scene::{ANSWERED, HEALED, Led, NODES, Scene, refusals};

/// Short ones of each kind of cut; a long one comes before them.
const TRIALS: usize = 2;
/// Tries at a long one in which no leader moves.
const LONG_TRIES: usize = 4;

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

    /// A node that is silent for a while is sent nothing: then it is sure that nothing is done.
    fn await_refused(&self, node: usize, queue: u32) -> Result<()> {
        let what = "a send that is refused for sure";
        let refused =
            |attempt: &Attempt| (attempt.node, attempt.queue, attempt.outcome) == (node, queue, Outcome::Failed);
        self.scene.traffic().await_send(what, HEALED, self.begin, refused)?;
        Ok(())
    }
}

/// True if no leader moved meanwhile, so that every lane was looked at.
fn trial(scene: &Scene, nodes: [usize; 2], direction: Direction, is_long: bool, figures: &mut Figures) -> bool {
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
    let undisturbed = served.is_ok();
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
    undisturbed
}

#[test]
fn two_nodes_that_do_not_reach_each_other_do_not_stop_the_queues_they_lead() {
    let scene = Scene::set();
    let mut figures = Figures::default();
    for direction in [Direction::Both, Direction::Outgoing] {
        let seen = (0..LONG_TRIES).any(|_| trial(&scene, [0, 1], direction, true, &mut figures));
        assert!(seen, "{direction:?}: leaders moved in {LONG_TRIES} long trials");
        for number in 1..=TRIALS {
            let pair = [number, (number + 1) % NODES];
            trial(&scene, pair, direction, false, &mut figures);
        }
    }
    figures.conclude();
    scene.check();
}
