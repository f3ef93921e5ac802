//! A queue moves while two of those who take part in the move lose sight of each other, or one of them of everybody: the old
//! leader, the new one, the leading controller, at every step of a move.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::moves;
use flotilla_e2e::network::Direction;
use flotilla_e2e::progress;
use flotilla_e2e::settings::setting;
use flotilla_e2e::wait;

use crate::scene::{HEALED, NODES, QUEUES, Scene, TOPIC};

/// Kinds of cuts tried at each step; the first of them is another one at each.
const KINDS_PER_STEP: usize = 1;
/// No queue is without a writer for longer while its groups have majorities: an election and a second, and what a busy
/// machine adds.
const WITHOUT_WRITER: Duration = Duration::from_secs(4);
/// How long a cut lasts at least: longer than an election.
const LASTS: Duration = Duration::from_secs(3);
const REACHED: Duration = Duration::from_secs(20);
const ENDED: Duration = Duration::from_secs(30);

/// Who is cut off from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    OldFromNew,
    OldFromController,
    NewFromController,
    Old,
    New,
    Controller,
}

const KINDS: [Cut; 6] = [
    Cut::OldFromNew,
    Cut::Old,
    Cut::New,
    Cut::Controller,
    Cut::OldFromController,
    Cut::NewFromController,
];

fn trial(scene: &Scene, point: &str, cut: Cut, queue: u32) -> Result<()> {
    scene.restore_leaders();
    let http = scene.cluster.http(0);
    let from = http.owners(TOPIC)?[queue as usize].clone();
    let leaders = scene.cluster.leaders()?;
    let old = *leaders.get(&from).context("the old leader")?;
    let others = leaders.iter().filter(|(_, leader)| **leader != old);
    let (to, new) = others.min().context("a group led by another node")?;
    let controller = scene.cluster.leading_controller()?;
    let controller = scene.cluster.controllers()[controller].name.as_str();
    let [old_name, new_name] = [old, *new].map(|place| scene.cluster.nodes()[place].name.as_str());
    scene.cluster.arm_pause(point)?;
    // Asked of a node that is not cut off, which need not hear the answer.
    let third = (0..NODES)
        .find(|node| *node != old && node != new)
        .context("a third node")?;
    let id = moves::start(&scene.cluster.http(third), TOPIC, queue, to)?;
    wait::until(&format!("some process comes to {point}"), REACHED, || {
        Ok((!scene.cluster.is_armed(point)).then_some(()))
    })?;
    let begin = match cut {
        Cut::OldFromNew => scene.cut(old_name, &[new_name], Direction::Both),
        Cut::OldFromController => scene.cut(old_name, &[controller], Direction::Both),
        Cut::NewFromController => scene.cut(new_name, &[controller], Direction::Both),
        Cut::Old => scene.cut(old_name, &scene.others(old_name), Direction::Both),
        Cut::New => scene.cut(new_name, &scene.others(new_name), Direction::Both),
        Cut::Controller => scene.cut(controller, &scene.others(controller), Direction::Both),
    };
    std::thread::sleep(LASTS);
    let end = Instant::now();
    // The third node is never cut off, and every group has a majority with it.
    let pauses = (0..QUEUES).map(|queue| scene.traffic().pause(third, queue, begin, end));
    let pause = pauses.max().context("a lane")?;
    let state = |id: u64| -> Result<String> {
        let document = scene.cluster.http(third).get_ok(&format!("/v1/moves/{id}"))?;
        Ok(document["state"].as_str().unwrap_or_default().to_owned())
    };
    let meanwhile = state(id)?;
    let healed = scene.heal();
    let ended = wait::until("the move ended", ENDED, || {
        let state = state(id)?;
        Ok((state == "done" || state == "cancelled").then_some(state))
    })?;
    let owner = http.owners(TOPIC)?[queue as usize].clone();
    ensure!(
        owner == if ended == "done" { to.clone() } else { from.clone() },
        "{ended}, yet it is in {owner}"
    );
    progress::line(format!(
        "{point}, {cut:?}: longest pause {pause:?}, {meanwhile} while cut, {ended} in the end, all served {:?} after the cut",
        healed[0]
    ));
    ensure!(pause < WITHOUT_WRITER, "{pause:?} without a writer");
    Ok(())
}

#[test]
fn a_move_ends_whoever_loses_sight_of_whom_at_whatever_step() {
    let scene = Scene::set();
    let seed = std::process::id() as usize;
    progress::line(format!("seed {seed}"));
    for (number, point) in moves::STEPS.iter().enumerate() {
        for kind in 0..setting("CUTS_PER_STEP", KINDS_PER_STEP) {
            let cut = KINDS[(seed + number + kind) % KINDS.len()];
            let queue = (number + kind) as u32 % QUEUES;
            let ended = trial(&scene, point, cut, queue);
            ended
                .with_context(|| format!("{point}, {cut:?}"))
                .expect("the move ends");
            wait::until("moves that ended", HEALED, || {
                let document = scene.cluster.http(0).get_ok("/v1/moves")?;
                let all = document["moves"].as_array().context("moves")?;
                Ok(all.iter().all(|one| one["state"] != "preparing").then_some(()))
            })
            .expect("nothing is left over");
        }
    }
    scene.check();
}
