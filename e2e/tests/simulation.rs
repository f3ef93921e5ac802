//! Three replicas on virtual time: crashes that drop unsynced data on any subset of nodes, slow disks, cut
//! connections of living leaders. Each trial is decided by its seed; a failure is replayed by
//! `flotilla-sim --seed S`.

use std::time::Duration;

use flotilla_e2e::sim::trial::{Settings, Summary, run};

/// Trials with our settings.
const SEEDS: u64 = 100;

fn trial(seed: u64, resume_leadership: bool) -> Summary {
    run(Settings {
        seed,
        duration: Duration::from_secs(20),
        resume_leadership,
    })
}

#[test]
fn acked_writes_survive_crashes_of_any_subset() {
    let mut total = Summary::default();
    for seed in 0..SEEDS {
        let summary = trial(seed, false);
        assert!(summary.violations.is_empty(), "flotilla-sim --seed {seed}\n{summary}");
        total.acked += summary.acked;
        total.kills += summary.kills;
        total.power_losses += summary.power_losses;
        total.cuts += summary.cuts;
    }
    println!("{SEEDS} seeds: {total}");
    // A trial that never reaches the rare events proves nothing.
    assert!(total.acked > 100_000, "only {} writes were acknowledged", total.acked);
    assert!(
        total.kills > 500 && total.power_losses > 50 && total.cuts > 100,
        "too few faults: {total}"
    );
}

#[test]
fn a_leader_that_resumes_its_term_loses_acked_writes() {
    let lost = (0..SEEDS).find(|seed| !trial(*seed, true).violations.is_empty());
    assert!(
        lost.is_some(),
        "the engine's default leader restore lost nothing: the faults are too weak to show it"
    );
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..3 {
        assert_eq!(trial(seed, false).digest, trial(seed, false).digest, "seed {seed}");
    }
}
