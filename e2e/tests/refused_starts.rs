//! What a process cannot start with it refuses: within seconds, with a message that names the file or port and the
//! reason, with exit code 1, and without changing anything.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flotilla_e2e::cluster::Cluster;
use flotilla_e2e::process;
use flotilla_e2e::progress;
use flotilla_e2e::small_disk::SmallDisk;
use flotilla_e2e::wait;

/// A refusal takes no longer.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);
const DISK_BYTES: u64 = 64 << 20;
const TOPIC: &str = "refused-starts";

/// Starts a process that must refuse to; what it says must hold all of this.
fn refuses(what: &str, command: &str, config: &Path, says: &[&str]) {
    let outcome = try_to_refuse(command, config, says);
    outcome.unwrap_or_else(|error| panic!("{what}: {error:#}"));
}

fn try_to_refuse(command: &str, config: &Path, says: &[&str]) -> Result<()> {
    let (out, errors) = (config.with_extension("out"), config.with_extension("errors"));
    let begin = Instant::now();
    let mut child = Command::new(process::program()?)
        .args([command, "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&errors)?)
        .spawn()?;
    let ended = wait::until("it ends", REFUSED_WITHIN, || Ok(child.try_wait()?));
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (out, errors) = (fs::read_to_string(out)?, fs::read_to_string(errors)?);
    let status = ended.with_context(|| format!("it said {errors}"))?;
    ensure!(status.code() == Some(1), "ended with {status}: {errors}");
    ensure!(out.is_empty(), "said that it runs: {out}");
    // What is logged before does not count.
    let refusal: Vec<&str> = errors
        .lines()
        .skip_while(|line| !line.starts_with("flotilla: "))
        .collect();
    let refusal = refusal.join("\n");
    for part in says {
        ensure!(refusal.contains(part), "no {part:?} in {errors:?}");
    }
    for part in ["panicked", "backtrace", "RUST_"] {
        ensure!(!errors.contains(part), "{part:?} in {errors:?}");
    }
    progress::line(format!("{:?}: {}", begin.elapsed(), refusal.replace('\n', " ")));
    Ok(())
}

/// The configuration file of a process of the cluster, with other lines where they begin alike.
fn config(cluster: &Cluster, of: &str, name: &str, changes: &[(&str, &str)]) -> PathBuf {
    let text = fs::read_to_string(cluster.folder().join(of).with_extension("toml")).expect("settings");
    let mut changes: BTreeMap<&str, &str> = changes.iter().copied().collect();
    let lines = text.lines().map(|line| {
        let key = line.split(" = ").next().unwrap_or_default();
        match changes.remove(key) {
            Some(value) => format!("{key} = {value}\n"),
            None => format!("{line}\n"),
        }
    });
    let text: String = lines.collect();
    assert!(changes.is_empty(), "no {changes:?} in {text}");
    let file = cluster.folder().join(format!("{name}.toml"));
    fs::write(&file, text).expect("settings");
    file
}

/// Ports of its own, so that nothing but what is tested is in the way.
const OWN_PORTS: [(&str, &str); 4] = [("remoting", "0"), ("http", "0"), ("peer", "0"), ("name_server", "0")];
const OWN_CONTROLLER_PORTS: [(&str, &str); 3] = [("controller", "0"), ("http", "0"), ("name_server", "0")];

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

fn node(cluster: &Cluster, name: &str, changes: &[(&str, &str)]) -> PathBuf {
    config(cluster, "n1", name, &[&OWN_PORTS[..], changes].concat())
}

fn controller(cluster: &Cluster, name: &str, changes: &[(&str, &str)]) -> PathBuf {
    config(cluster, "c1", name, &[&OWN_CONTROLLER_PORTS[..], changes].concat())
}

#[test]
fn a_data_folder_that_cannot_be_used_is_refused() {
    let cluster = Cluster::start(1).expect("start");
    let folder = cluster.folder();
    let file = folder.join("a-file");
    fs::write(&file, "not a folder").expect("write");
    let below = file.join("data");
    let says = [below.to_str().expect("text"), "Not a directory"];
    for command in ["broker", "controller"] {
        let data = [("data", &*quoted(&below))];
        let config = match command {
            "broker" => node(&cluster, "below-a-file", &data),
            _ => controller(&cluster, "below-a-file", &data),
        };
        refuses("a path below a file", command, &config, &says);
    }

    let disk = match SmallDisk::mount(DISK_BYTES) {
        Ok(disk) => disk,
        Err(error) => return progress::line(format!("read-only folders not tested: {error:#}")),
    };
    let (new, used) = (disk.path().join("new"), disk.path().join("used"));
    for folder in [&new, &used] {
        fs::create_dir(folder).expect("folder");
    }
    let copied = Command::new("cp")
        .arg("-a")
        .arg(cluster.nodes()[0].data().join("volume.json"))
        .arg(&used)
        .status();
    assert!(copied.expect("cp").success());
    disk.make_read_only().expect("read-only");
    for data in [&new, &used] {
        let path = data.to_str().expect("text");
        let text = quoted(data);
        let config = node(&cluster, "read-only", &[("data", &text)]);
        refuses(
            "a read-only folder",
            "broker",
            &config,
            &[path, "Read-only file system"],
        );
        let config = controller(&cluster, "read-only", &[("data", &text)]);
        refuses(
            "a read-only folder",
            "controller",
            &config,
            &[path, "Read-only file system"],
        );
    }
}

#[test]
fn what_another_process_uses_is_refused() {
    let cluster = Cluster::start(1).expect("start");
    cluster.http(0).create_topic(TOPIC, 1).expect("topic");
    let mut client = cluster.client(0).expect("connect");
    assert_eq!(client.send(TOPIC, 0, "kept").expect("send"), 0);

    let n1 = cluster.nodes()[0].data().display().to_string();
    refuses(
        "a folder in use",
        "broker",
        &node(&cluster, "again", &[]),
        &[&n1, "in use by another process"],
    );
    let c1 = cluster.controllers()[0].data().display().to_string();
    let again = controller(&cluster, "again", &[]);
    refuses(
        "a folder in use",
        "controller",
        &again,
        &[&c1, "in use by another process"],
    );

    let elsewhere = quoted(&cluster.folder().join("elsewhere"));
    let ports = cluster.nodes()[0].ports;
    let taken = [
        ("remoting", ports.remoting),
        ("http", ports.http),
        ("peer", ports.peer),
        ("name_server", ports.name_server),
    ];
    for (name, port) in taken {
        let port = port.to_string();
        let mut changes: BTreeMap<&str, &str> = OWN_PORTS.into();
        changes.extend([(name, &*port), ("data", &*elsewhere)]);
        let changes: Vec<_> = changes.into_iter().collect();
        let file = config(&cluster, "n1", "port", &changes);
        refuses("a port in use", "broker", &file, &[&port, "in use"]);
    }
    let port = cluster.controllers()[0].ports.controller.to_string();
    let mut changes: BTreeMap<&str, &str> = OWN_CONTROLLER_PORTS.into();
    changes.extend([("controller", &*port), ("data", &*elsewhere)]);
    let changes: Vec<_> = changes.into_iter().collect();
    let file = config(&cluster, "c1", "port", &changes);
    refuses("a port in use", "controller", &file, &[&port, "in use"]);
    assert!(
        !cluster.folder().join("elsewhere").exists(),
        "something was made for nothing"
    );

    assert_eq!(client.send(TOPIC, 0, "undisturbed").expect("send"), 1);
    assert_eq!(client.pull(TOPIC, 0, 0).expect("pull")[0].1, "kept");
}

#[test]
fn a_folder_of_somebody_else_is_refused_and_left_as_it_is() {
    let mut cluster = Cluster::start(1).expect("start");
    let other = Cluster::start(1).expect("another cluster");
    cluster.http(0).create_topic(TOPIC, 1).expect("topic");
    let mut client = cluster.client(0).expect("connect");
    assert_eq!(client.send(TOPIC, 0, "kept").expect("send"), 0);
    cluster.terminate(0).expect("stop");
    cluster.controllers_mut()[0].terminate().expect("stop");
    let (n1, c1) = (
        cluster.nodes()[0].data().to_owned(),
        cluster.controllers()[0].data().to_owned(),
    );
    let (n1_text, c1_text) = (n1.display().to_string(), c1.display().to_string());
    let labels = || [&n1, &c1].map(|data| fs::read(data.join("volume.json")).expect("label"));
    let before = labels();

    let config = node(&cluster, "renamed", &[("node", "\"n2\"")]);
    refuses(
        "the folder of another node",
        "broker",
        &config,
        &[&n1_text, "belongs to node n1", "n2"],
    );
    let config = controller(
        &cluster,
        "renamed",
        &[("node", "\"c2\""), ("peers", "[\"c2=127.0.0.1:1\"]")],
    );
    refuses(
        "the folder of another controller",
        "controller",
        &config,
        &[&c1_text, "belongs to node c1", "c2"],
    );
    let config = node(&cluster, "role", &[("data", &quoted(&c1)), ("node", "\"c1\"")]);
    refuses(
        "a controller's folder",
        "broker",
        &config,
        &[&c1_text, "belongs to a controller"],
    );
    let config = controller(
        &cluster,
        "role",
        &[("data", &quoted(&n1)), ("node", "\"n1\""), ("peers", "[]")],
    );
    refuses(
        "a node's folder",
        "controller",
        &config,
        &[&n1_text, "belongs to a node"],
    );

    let theirs = format!("[\"127.0.0.1:{}\"]", other.controllers()[0].ports.controller);
    let config = node(&cluster, "foreign", &[("controllers", &theirs)]);
    refuses(
        "a folder of another cluster",
        "broker",
        &config,
        &[&n1_text, "belongs to cluster e2e"],
    );
    // Its copy of the metadata is worth no more.
    let copy = n1.join("metadata.json");
    let bytes = fs::read(&copy).expect("copy");
    fs::remove_file(&copy).expect("remove the copy");
    refuses(
        "a folder of another cluster",
        "broker",
        &config,
        &[&n1_text, "belongs to cluster e2e"],
    );
    fs::write(&copy, bytes).expect("put the copy back");
    let config = controller(&cluster, "foreign", &[("cluster", "\"other\"")]);
    refuses(
        "a folder of another cluster",
        "controller",
        &config,
        &[&c1_text, "belongs to cluster e2e", "other"],
    );

    for (file, bytes, says) in [
        ("version", "flotilla volume 1\n", "flotilla volume 1"),
        ("volume.json", "{", "EOF"),
    ] {
        let path = n1.join(file);
        let whole = fs::read(&path).expect("read");
        fs::write(&path, bytes).expect("write");
        refuses(
            file,
            "broker",
            &node(&cluster, "damaged", &[]),
            &[path.to_str().expect("text"), says],
        );
        fs::write(&path, whole).expect("write");
    }
    assert_eq!(labels(), before);

    cluster.controllers_mut()[0].launch().expect("start");
    cluster.launch(0).expect("start");
    cluster.await_whole().expect("the rightful owners start");
    let mut client = cluster.client(0).expect("connect");
    assert_eq!(client.pull(TOPIC, 0, 0).expect("pull"), [(0, "kept".to_owned())]);
}

#[test]
fn all_that_is_wrong_with_a_file_is_told_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let data = quoted(&data);
    let bad: [(&str, &str, String, &[&str]); 12] = [
        (
            "broker",
            "wrong values",
            format!(
                "node = \"n 1\"\ndata = {data}\nlisten = \"nowhere\"\ncontrollers = [\"c1\", \"c2:1\", \"c2:1\"]\ncolour = 1\n\
             [ports]\nremoting = 2\nhttp = 9876\n[log]\nfile_bytes = 1\n\
             [policy]\ndisk_used_percent_max = 100\nmessage_bytes_max = 0\nelection_min_ms = 1\n"
            ),
            &[
                "node",
                "listen",
                "c1",
                "twice",
                "colour",
                "ports.remoting",
                "9876",
                "log.file_bytes",
                "disk_used_percent_max",
                "message_bytes_max",
                "election_min_ms",
            ],
        ),
        (
            "broker",
            "wrong types",
            format!(
                "node = 1\ndata = {data}\ncontrollers = \"c1:1\"\n[ports]\nhttp = \"x\"\npeer = 70000\n[log]\nflush = \"never\"\n"
            ),
            &["node", "controllers", "ports.http", "ports.peer", "log.flush"],
        ),
        ("broker", "no controllers", format!("data = {data}\n"), &["controllers"]),
        (
            "broker",
            "a controller's file",
            format!("data = {data}\ncluster = \"e2e\"\npeers = []\n"),
            &["cluster", "peers"],
        ),
        ("broker", "no TOML", "node = = 1\n".to_owned(), &["TOML", "line 1"]),
        (
            "broker",
            "an unknown way of filling up",
            format!("data = {data}\ncontrollers = [\"c1:1\"]\n[policy]\non_disk_pressure = \"explode\"\n"),
            &["on_disk_pressure"],
        ),
        (
            "controller",
            "wrong values",
            format!(
                "node = \"c9\"\ndata = {data}\ncluster = \"a b\"\npeers = [\"c1\", \"c2=h:1\", \"c2=h:2\"]\nlisten = \"\"\ncolour = 1\n\
             [ports]\nhttp = 9878\n[policy]\nreplicas = 0\ngroups_per_node = 0\nreplace_after = \"soon\"\n"
            ),
            &[
                "cluster",
                "c1",
                "twice",
                "c9",
                "listen",
                "colour",
                "9878",
                "replicas",
                "groups_per_node",
                "replace_after",
            ],
        ),
        (
            "controller",
            "wrong types",
            format!(
                "cluster = 7\ndata = {data}\npeers = [1]\n[ports]\ncontroller = -1\n[policy]\nreplicas = \"three\"\n"
            ),
            &["cluster", "peers", "ports.controller", "policy.replicas"],
        ),
        (
            "controller",
            "a node's file",
            format!("data = {data}\ncontrollers = [\"c1:1\"]\n"),
            &["controllers"],
        ),
        ("controller", "no TOML", "[policy\n".to_owned(), &["TOML", "line 1"]),
        (
            "broker",
            "no data folder",
            "data = \"\"\ncontrollers = [\"c1:1\"]\n".to_owned(),
            &["data"],
        ),
        ("controller", "no data folder", "data = \"\"\n".to_owned(), &["data"]),
    ];
    for (number, (command, what, text, says)) in bad.iter().enumerate() {
        let file = folder.path().join(format!("bad-{number}.toml"));
        fs::write(&file, text).expect("write");
        let what = format!("{command}: {what}");
        refuses(
            &what,
            command,
            &file,
            &[&["fault(s) in the configuration"], *says].concat(),
        );
    }
    for command in ["broker", "controller"] {
        let missing = folder.path().join("missing.toml");
        refuses(
            "no file",
            command,
            &missing,
            &[missing.to_str().expect("text"), "No such file"],
        );
        let no_text = folder.path().join("no-text.toml");
        fs::write(&no_text, b"node = \"\xff\"\n").expect("write");
        refuses(
            "no text",
            command,
            &no_text,
            &[no_text.to_str().expect("text"), "UTF-8"],
        );
    }
    assert!(!folder.path().join("data").exists(), "something was made for nothing");
}
