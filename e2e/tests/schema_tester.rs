//! The whole admin API, tried from outside: schemathesis makes requests of all shapes out of `/openapi.json`, valid and
//! not, and sees no server error and no answer that the document does not describe.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::progress;

/// The tester's version.
const VERSION: &str = "4.32.5";
/// Requests made up for each operation, beside those at the borders of its schema.
const EXAMPLES: &str = "50";
/// What is looked for.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// The tester, installed once into the build folder.
fn tester() -> Result<PathBuf> {
    let test = std::env::current_exe().context("path of this program")?;
    let target = test.ancestors().nth(3).context("build folder of this program")?;
    let folder = target.join("e2e-python").join(format!("schemathesis-{VERSION}"));
    let program = folder.join("bin/schemathesis");
    if !program.exists() {
        progress::line(format!("installing schemathesis {VERSION}"));
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("schemathesis=={VERSION}")))?;
    }
    Ok(program)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "{command:?}:\n{}", text.join("\n"));
    Ok(())
}

fn try_api(tester: &Path, cluster: &Cluster) -> Result<()> {
    let document = format!("http://127.0.0.1:{}/openapi.json", cluster.nodes()[0].ports.http);
    run(Command::new(tester)
        .current_dir(cluster.folder())
        .args(["run", &document, "--no-color", "--seed", "1"])
        .args(["--checks", CHECKS, "--max-examples", EXAMPLES]))
}

#[test]
fn no_request_made_from_the_document_is_answered_otherwise_than_it_says() {
    let tester = tester().expect("schemathesis installs");
    let cluster = Cluster::start(3).expect("three nodes start");
    cluster.http(0).create_topic("tried", 4).expect("a topic to find");
    try_api(&tester, &cluster).expect("every answer is as documented");
    for node in 0..cluster.len() {
        assert!(cluster.http(node).is_ready().expect("the node answers"), "node {node}");
    }
}
