//! Unmodified Java clients of both lines, in both header encodings, get what they get from the original: every case of
//! `e2e/java` passes, against one process and against three.
//!
//! The cases print a line each when they fail; `e2e/java/src/main/java/flotilla/e2e/Matrix.java` lists them.

use anyhow::Result;
use flotilla_e2e::cluster::{CLUSTER_NAME, Cluster};
use flotilla_e2e::java::{Encoding, Java, VERSIONS};
use flotilla_e2e::progress;
use parking_lot::Mutex;

/// One cluster at a time: some cases measure time.
static ALONE: Mutex<()> = Mutex::new(());

/// Fewest cases that a run must have passed: less means that cases were lost, not that all is well.
const CASES_MIN: usize = 40;

/// The client versions side by side, one encoding after the other.
fn run_matrix(cluster: &Cluster, creates_topics: bool) -> Result<()> {
    let builds = VERSIONS
        .iter()
        .map(|version| Java::build(version))
        .collect::<Result<Vec<_>>>()?;
    for encoding in Encoding::ALL {
        let run = |java: &Java| -> Result<usize> {
            // The client's logs stay with those of the nodes when a case fails.
            let home = cluster.folder().join(format!("client-{}-{encoding:?}", java.version));
            std::fs::create_dir_all(&home)?;
            let properties = [
                ("namesrv", cluster.name_servers()),
                ("http", format!("127.0.0.1:{}", cluster.nodes()[0].ports.http)),
                ("expect.unsupported", "true".to_owned()),
                ("auto.create", creates_topics.to_string()),
                (
                    "template.topic",
                    if creates_topics { "TBW102" } else { CLUSTER_NAME }.to_owned(),
                ),
            ];
            let passed = java.matrix(encoding, &home, &properties).map_err(|error| {
                progress::line(format!("client {} {encoding:?}: {error:#}", java.version));
                error.context(format!("client {} {encoding:?}", java.version))
            })?;
            progress::line(format!("client {} {encoding:?}: {passed} cases passed", java.version));
            Ok(passed)
        };
        let passed = std::thread::scope(|scope| {
            let runs: Vec<_> = builds.iter().map(|java| scope.spawn(|| run(java))).collect();
            runs.into_iter()
                .map(|run| run.join().expect("a run returns its errors"))
                .collect::<Vec<_>>()
        });
        for passed in passed {
            let passed = passed?;
            assert!(passed >= CASES_MIN, "only {passed} cases ran");
        }
    }
    Ok(())
}

#[test]
fn one_process_serves_every_official_java_client() {
    let _alone = ALONE.lock();
    let cluster = Cluster::standalone().expect("standalone starts");
    run_matrix(&cluster, true).expect("every case passes");
}

#[test]
fn three_processes_serve_every_official_java_client() {
    let _alone = ALONE.lock();
    let cluster = Cluster::start(3).expect("three nodes start");
    run_matrix(&cluster, false).expect("every case passes");
}
