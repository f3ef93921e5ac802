//! `flotilla standalone`, `broker` and `validate`.

use std::future::pending;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::config::{Overrides, Ports, Settings};
use crate::node::{Listeners, Node};
use crate::standalone::{self, Options, Standalone};

/// Start a whole cluster in this process.
#[derive(Debug, Args)]
pub struct StandaloneArgs {
    /// Folder that holds everything the cluster stores.
    #[arg(long, value_name = "DIR", default_value = "flotilla-data")]
    data: PathBuf,
    /// Raft groups. This version runs exactly one: several need the controller, which it does not have.
    #[arg(long, value_name = "N", default_value_t = 1)]
    groups: usize,
    /// Nodes, each with a replica: 1, 3 or 5.
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

/// Start one node.
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the settings that file, environment and flags give, and stop.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Check a configuration file.
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
        Settings::load(Some(&self.file), &Overrides::default())?;
        println!("{}: valid", self.file.display());
        Ok(())
    }
}

impl BrokerArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let settings = Settings::load(self.config.as_deref(), &self.flags.overrides())?;
        if self.print_config {
            print!("{}", settings.to_toml());
            return Ok(());
        }
        runtime()?.block_on(run_broker(settings))
    }
}

impl StandaloneArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        if self.groups != 1 {
            bail!("--groups {}: this version runs exactly one Raft group", self.groups);
        }
        if !standalone::REPLICAS.contains(&self.replicas) {
            bail!("--replicas {}: 1, 3 or 5", self.replicas);
        }
        let ports = if self.ports.is_some() {
            Ports::chosen_by_system()
        } else {
            Ports::default()
        };
        let options = Options {
            data: self.data,
            replicas: self.replicas,
            ports,
            listen: self.listen,
            advertise: self.advertise,
            policy: standalone::policy(),
        };
        Settings {
            listen: options.listen.clone(),
            ..Settings::default()
        }
        .validate()?;
        runtime()?.block_on(run_standalone(options))
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

async fn run_broker(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let members = settings.members();
    let (folder, name) = (settings.data.clone(), settings.node.clone());
    info!(node_id = name, cluster = settings.cluster.name, data = %folder.display(), "starting");
    let listeners = Listeners::bind(&settings)?;
    let node = tokio::select! {
        node = Node::start(settings, members, listeners) => node?,
        () = signals.next() => return Ok(()),
    };
    standalone::write_node_ports(&folder, &name, node.ports()).context("write ports.json")?;
    let ports = node.ports();
    announce(&format!(
        "node {name}\n  name server  {}\n  remoting     {} (and {})\n  http         {}\n  peers        {}\nready\n",
        ports.name_server, ports.remoting, ports.vip, ports.http, ports.peer
    ));
    let closed = tokio::select! {
        reason = node.closed() => Some(reason),
        () = signals.next() => None,
    };
    node.stop(signals.next()).await;
    match closed {
        Some(reason) => bail!("the replica closed itself: {reason}"),
        None => Ok(()),
    }
}

async fn run_standalone(options: Options) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let cluster = tokio::select! {
        cluster = Standalone::start(&options) => cluster?,
        () = signals.next() => return Ok(()),
    };
    announce(&greeting(&options, &cluster));
    let closed = tokio::select! {
        closed = cluster.closed() => Some(closed),
        () = signals.next() => None,
    };
    tokio::select! {
        () = cluster.stop() => {}
        () = signals.next() => {}
    }
    match closed {
        Some((node, reason)) => bail!("the replica of {node} closed itself: {reason}"),
        None => Ok(()),
    }
}

fn greeting(options: &Options, cluster: &Standalone) -> String {
    let host = if options.advertise.is_empty() {
        &options.listen
    } else {
        &options.advertise
    };
    let mut text = format!(
        "flotilla cluster of {} node(s), data in {}\n",
        options.replicas,
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
