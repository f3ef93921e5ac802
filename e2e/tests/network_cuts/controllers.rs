//! The controller that leads is cut off from everything, or all nodes are cut off from all controllers.

use std::time::{Duration, Instant};

use anyhow::ensure;
use flotilla_e2e::network::Direction;
use flotilla_e2e::progress;
use flotilla_e2e::wait;
use serde_json::json;

use crate::figures::Figures;
use crate::scene::{HEALED, NODES, QUEUES, Scene};

/// Of each kind of cut.
const TRIALS: usize = 2;
/// A topic can be made again: another controller leads and the nodes have found it.
const MADE: Duration = Duration::from_secs(10);

/// The longest pause of any lane since then, which none of them noticed much.
fn longest_pause(scene: &Scene, begin: Instant) -> Duration {
    let end = Instant::now();
    let lanes = (0..NODES).flat_map(|node| (0..QUEUES).map(move |queue| (node, queue)));
    let pauses = lanes.map(|(node, queue)| scene.untouched(node, queue, begin, end).expect("sends go on"));
    pauses.max().expect("some lanes")
}

fn leader_trial(scene: &Scene, topic: &str, direction: Direction, figures: &mut Figures) {
    scene.restore_leaders();
    let before = scene.leaders();
    let leader = scene.cluster.leading_controller().expect("a leading controller");
    let machine = scene.cluster.controllers()[leader].name.as_str();
    let begin = scene.cut(machine, &scene.others(machine), direction);
    let http = scene.cluster.http(leader % NODES);
    wait::until("a topic is made", MADE, || {
        let (status, body) = http.put(&format!("/v1/topics/{topic}"), &json!({ "queues": 3 }))?;
        // A try of unknown outcome may have made it.
        ensure!([200, 201].contains(&status), "{status} {body}");
        Ok(Some(()))
    })
    .expect("another controller leads");
    let made = begin.elapsed();
    for node in 0..NODES {
        for queue in 0..3 {
            let sent = scene
                .cluster
                .client(node)
                .and_then(|mut client| client.send(topic, queue, "first"));
            sent.unwrap_or_else(|error| panic!("{topic} {queue} at {node}: {error:#}"));
        }
    }
    let now = scene.cluster.leading_controller().expect("another leading controller");
    assert_ne!(now, leader, "one that is cut off leads");
    let pause = longest_pause(scene, begin);
    let words = [
        figures.add(&format!("{direction:?}, leading controller: topic made"), made),
        figures.add(
            &format!("{direction:?}, leading controller: longest pause of any lane"),
            pause,
        ),
        figures.add_heal(&format!("{direction:?}, leading controller"), scene.heal()),
        // Controllers are no matter of the Raft groups of the nodes.
        format!(
            "{} elections that no cut explains",
            figures.add_elections(&before, &scene.leaders(), |_| true)
        ),
    ];
    wait::until("the controllers are level", HEALED, || {
        let seen = scene.cluster.controllers_seen_at(0)?;
        let level = seen.iter().all(|one| one.alive && one.epoch == seen[0].epoch);
        Ok(level.then_some(()))
    })
    .expect("the one that was cut off caught up");
    progress::line(format!("{machine} cut off {direction:?}: {}", words.join(", ")));
}

#[test]
fn a_leading_controller_that_is_cut_off_is_replaced() {
    let scene = Scene::set();
    let mut figures = Figures::default();
    for number in 0..TRIALS {
        for direction in Direction::ALL {
            let topic = format!("{direction:?}-{number}");
            leader_trial(&scene, &topic, direction, &mut figures);
        }
    }
    figures.conclude();
    scene.check();
}

#[test]
fn nodes_that_reach_no_controller_go_on() {
    let scene = Scene::set();
    let mut figures = Figures::default();
    for direction in Direction::ALL {
        scene.restore_leaders();
        let before = scene.leaders();
        let controllers = ["c1", "c2", "c3"];
        let begin = Instant::now();
        for node in scene.cluster.nodes() {
            scene.cut(&node.name, &controllers, direction);
        }
        let cut = Instant::now();
        wait::until("nodes that know that they reach no controller", HEALED, || {
            for node in scene.cluster.nodes() {
                ensure!(node.http().get_ok("/v1/topics")?["stale"] == true, "{}", node.name);
            }
            Ok(Some(()))
        })
        .expect("stale copies are said to be stale");
        let noticed = cut.elapsed();
        for node in 0..NODES {
            for queue in 0..QUEUES {
                scene.await_served(node, queue, cut).expect("sends and pulls go on");
                scene.await_some(node, queue, cut).expect("sends go on");
            }
        }
        let pause = longest_pause(&scene, begin);
        let words = [
            figures.add("all controllers cut off: copies said to be stale", noticed),
            figures.add("all controllers cut off: longest pause of any lane", pause),
            figures.add_heal("all controllers cut off", scene.heal()),
            format!(
                "{} elections that no cut explains",
                figures.add_elections(&before, &scene.leaders(), |_| true)
            ),
        ];
        progress::line(format!("no controller reached, {direction:?}: {}", words.join(", ")));
    }
    figures.conclude();
    scene.check();
}
