//! `flotilla standalone`, `controller`, `broker` and `validate`.

use std::future::pending;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::config::controller::ControllerPorts;
use crate::config::load::{Loadable, to_toml};
use crate::config::{ControllerSettings, Overrides, Ports, Settings, load};
use crate::controller_process::{ControllerListeners, ControllerProcess, Options};
use crate::node::{Listeners, Node};
use crate::open_files;
use crate::standalone::{self, Standalone};

/// Start a whole cluster in this process.
#[derive(Debug, Args)]
pub struct StandaloneArgs {
    /// Folder that holds everything the cluster stores.
    #[arg(long, value_name = "DIR", default_value = "flotilla-data")]
    data: PathBuf,
    /// Raft groups; the queues of a topic are spread over them.
    #[arg(long, value_name = "N", default_value_t = 2)]
    groups: usize,
    /// Nodes, each with a replica of every Raft group: 1, 3 or 5.
    #[arg(long, value_name = "R", default_value_t = 1)]
    replicas: usize,
    /// 0 lets the system choose all ports; they are printed and written to DIR/ports.json. Without it the first node
    /// takes the usual ports.
    #[arg(long, value_name = "0", value_parser = clap::value_parser!(u16).range(0..=0))]
    ports: Option<u16>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    listen: String,
    /// Host name or address to show to clients instead of the listen address.
    #[arg(long, value_name = "HOST", default_value = "")]
    advertise: String,
}

/// Where the settings of a node or a controller come from.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings that file, environment and flags give, and stop.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Check a configuration file, of a controller or of a node.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Configuration file.
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Flags {
    /// This node's name.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Data folder.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Host name or address to show to clients.
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Any other setting, such as `ports.http=9999`; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("expected KEY=VALUE".to_owned()),
    }
}

impl Flags {
    fn overrides(&self) -> Overrides {
        let named = [
            ("node", &self.node),
            ("data", &self.data),
            ("listen", &self.listen),
            ("advertise", &self.advertise),
        ];
        let named = named
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        Overrides {
            set: named.chain(self.set.iter().cloned()).collect(),
        }
    }
}

impl ValidateArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())?;
        let (file, none) = (Some(self.file.as_path()), Overrides::default());
        let kind = match is_of_controller(&text) {
            true => load::<ControllerSettings>(file, &none).map(|_| "controller")?,
            false => load::<Settings>(file, &none).map(|_| "node")?,
        };
        println!("{}: valid for a {kind}", self.file.display());
        Ok(())
    }
}

/// What only a controller's file has.
fn is_of_controller(text: &str) -> bool {
    let Ok(table) = text.parse::<toml::Table>() else {
        return false;
    };
    let ports = table.get("ports").and_then(toml::Value::as_table);
    ["cluster", "peers"].iter().any(|key| table.contains_key(*key))
        || ports.is_some_and(|ports| ports.contains_key("controller"))
}

impl ServerArgs {
    pub(super) fn run_broker(self) -> anyhow::Result<()> {
        self.serve(run_broker)
    }

    pub(super) fn run_controller(self) -> anyhow::Result<()> {
        self.serve(run_controller)
    }

    fn serve<S: Loadable>(self, run: impl AsyncFnOnce(S) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let settings: S = load(self.config.as_deref(), &self.flags.overrides())?;
        if self.print_config {
            print!("{}", to_toml(&settings));
            return Ok(());
        }
        runtime()?.block_on(run(settings))
    }
}

impl StandaloneArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if !(1..=standalone::GROUPS_MAX).contains(&self.groups) {
            bail!("--groups {}: between 1 and {}", self.groups, standalone::GROUPS_MAX);
        }
        if !standalone::REPLICAS.contains(&self.replicas) {
            bail!("--replicas {}: 1, 3 or 5", self.replicas);
        }
        let (ports, controller_port) = match self.ports {
            Some(_) => (Ports::chosen_by_system(), 0),
            None => (Ports::default(), ControllerPorts::default().controller),
        };
        let options = standalone::Options {
            data: self.data,
            groups: self.groups,
            replicas: self.replicas,
            ports,
            controller_port,
            listen: self.listen,
            advertise: self.advertise,
            policy: standalone::policy(),
        };
        if options.listen.parse::<IpAddr>().is_err() {
            bail!("--listen {}: not an IP address", options.listen);
        }
        runtime()?.block_on(run_standalone(options))
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    open_files::raise_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

async fn run_broker(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let (folder, name) = (settings.data.clone(), settings.node.clone());
    info!(node_id = name, data = %folder.display(), "starting");
    let listeners = Listeners::bind(&settings)?;
    let node = tokio::select! {
        node = Node::start(settings, listeners) => node?,
        () = signals.next() => return Ok(()),
    };
    let ports = node.ports();
    standalone::write_ports_of(&folder, &name, ports).context("write ports.json")?;
    announce(&format!(
        "node {name}\n  name server  {}\n  remoting     {} (and {})\n  http         {}\n  peers        {}\nready\n",
        ports.name_server, ports.remoting, ports.vip, ports.http, ports.peer
    ));
    let reason = tokio::select! {
        reason = node.must_end() => reason,
        () = signals.next() => {
            node.stop(signals.next()).await;
            return Ok(());
        }
    };
    node.stop(std::future::ready(())).await;
    bail!(reason)
}

async fn run_controller(settings: ControllerSettings) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let (folder, name) = (settings.data.clone(), settings.node.clone());
    info!(node_id = name, cluster = settings.cluster, data = %folder.display(), "starting");
    let listeners = ControllerListeners::bind(&settings, true)?;
    let policy = settings.policy.shared();
    let controller = tokio::select! {
        controller = ControllerProcess::start(Options { settings, policy }, listeners) => controller?,
        () = signals.next() => return Ok(()),
    };
    let ports = controller.ports();
    standalone::write_ports_of(&folder, &name, ports).context("write ports.json")?;
    announce(&format!(
        "controller {name}\n  controller   {}\n  name server  {}\n  http         {}\nready\n",
        ports.controller.unwrap_or_default(),
        ports.name_server,
        ports.http
    ));
    let failure = tokio::select! {
        reason = controller.must_end() => Some(reason),
        () = signals.next() => None,
    };
    controller.stop().await;
    failure.map_or(Ok(()), |reason| bail!(reason))
}

async fn run_standalone(options: standalone::Options) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let cluster = tokio::select! {
        cluster = Standalone::start(&options) => cluster?,
        () = signals.next() => return Ok(()),
    };
    announce(&greeting(&options, &cluster));
    let failure = tokio::select! {
        reason = cluster.must_end() => Some(reason),
        () = signals.next() => None,
    };
    tokio::select! {
        () = cluster.stop() => {}
        () = signals.next() => {}
    }
    failure.map_or(Ok(()), |reason| bail!(reason))
}

fn greeting(options: &standalone::Options, cluster: &Standalone) -> String {
    let host = if options.advertise.is_empty() {
        &options.listen
    } else {
        &options.advertise
    };
    let mut text = format!(
        "flotilla cluster of {} node(s) with {} raft group(s), data in {}\n",
        options.replicas,
        options.groups,
        options.data.display()
    );
    for node in cluster.nodes() {
        let ports = node.ports();
        text.push_str(&format!(
            "  {}  name server {host}:{}  remoting {host}:{}  http http://{host}:{}\n",
            node.broker().node,
            ports.name_server,
            ports.remoting,
            ports.http
        ));
    }
    let Some(first) = cluster.nodes().first().map(Node::ports) else {
        return text;
    };
    let (server, http) = (first.name_server, first.http);
    text.push_str(&format!(
        "\ntry\n  flotilla produce --server {host}:{server} --topic hello --body world\n  \
         flotilla consume --server {host}:{server} --topic hello --group readers --from first --count 1\n  \
         flotilla admin --http {host}:{http} topics\n\
         point a RocketMQ client at name server {host}:{server}\nready\n"
    ));
    text
}

/// Written to standard output at once: whoever started the process may wait for the last line.
fn announce(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason to stop serving.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        Ok(Self { terminate, interrupt })
    }

    /// Returns when one arrives.
    async fn next(&mut self) {
        let received = tokio::select! {
            received = self.terminate.recv() => received,
            received = self.interrupt.recv() => received,
        };
        if received.is_none() {
            pending::<()>().await;
        }
    }
}
