//! What the command line may say, and what each command does.
//!
//! Exit codes, for whoever supervises a node: 0 it was told to stop and did; 1 it failed, and starting it again may
//! help; 2 the command line, the configuration or the data directory must be changed first; 3 the cluster refuses this
//! node for good.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use cube_server::config::{self, Flag, Live, Sources};
use cube_server::{dev, heap, node, telemetry};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Something failed that may not fail the next time.
const FAILED: u8 = 1;
/// The same start fails again until its operator changes something.
const UNUSABLE: u8 = 2;

/// What the command line may say.
#[derive(Parser)]
#[command(name = "cubed", version, about = "One node of Cube KV", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one node until SIGTERM or Ctrl-C.
    Start {
        #[command(flatten)]
        node: NodeArguments,
        /// Ends with this process, however that one ends: how `cubed dev` leaves no node behind.
        #[arg(long, hide = true, value_name = "PID")]
        supervised_by: Option<i32>,
    },
    /// Runs a local cluster of real nodes, and restarts those that die. Ctrl-C stops it.
    Dev(DevArguments),
    /// Looks at configurations.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Checks a configuration and prints it as TOML, each setting with where it came from.
    Check {
        #[command(flatten)]
        node: NodeArguments,
    },
}

/// Settings that have a flag of their own, and the ways to give all others.
#[derive(Args)]
struct NodeArguments {
    /// The node's name, unique in its cluster.
    #[arg(long)]
    name: Option<String>,
    /// The folder of everything the node keeps.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// A TOML file with settings; of several, the later wins.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// The peer address of a node to ask for the cluster; may be given several times.
    #[arg(long, value_name = "HOST:PEERPORT")]
    seed: Vec<String>,
    /// Where to listen for REST [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Where to listen for clients, over gRPC [default: 127.0.0.1:7400].
    #[arg(long, value_name = "ADDR")]
    grpc: Option<String>,
    /// Where to listen for other nodes [default: 127.0.0.1:7401].
    #[arg(long, value_name = "ADDR")]
    peer: Option<String>,
    /// Where to listen for gossip, over UDP [default: 127.0.0.1:7402].
    #[arg(long, value_name = "ADDR")]
    gossip: Option<String>,
    /// The data center the node stands in [default: dc1].
    #[arg(long)]
    dc: Option<String>,
    /// The rack: what fails together [default: r1].
    #[arg(long)]
    rack: Option<String>,
    /// Any setting, over files and environment; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct DevArguments {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(dev::NODES_MAX)))]
    nodes: u16,
    /// The folder for data and logs. What is there from the last time is continued.
    #[arg(long)]
    dir: PathBuf,
    /// The HTTP port of node-1; node-2 has it 10 higher, and so on. 0 takes free ports.
    #[arg(long, default_value_t = 8080)]
    base_port: u16,
    /// A TOML file with settings for all nodes; of several, the later wins.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// A setting for all nodes; may be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl NodeArguments {
    fn sources(self) -> Sources {
        let seeds = (!self.seed.is_empty()).then(|| self.seed.join(","));
        let flags = [
            ("--name", "name", self.name),
            ("--data-dir", "data_dir", self.data_dir),
            ("--seed", "seeds", seeds),
            ("--http", "listen.http", self.http),
            ("--grpc", "listen.grpc", self.grpc),
            ("--peer", "listen.peer", self.peer),
            ("--gossip", "listen.gossip", self.gossip),
            ("--dc", "dc", self.dc),
            ("--rack", "rack", self.rack),
        ];
        let given = flags.into_iter().filter_map(|(flag, setting, value)| Some(Flag { flag, setting, value: value? }));
        let variables = std::env::vars_os().collect();
        Sources { files: self.config, variables, set: self.set, flags: given.collect() }
    }
}

/// Reads the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    match Arguments::parse().command {
        Command::Start { node, supervised_by } => start(node, supervised_by),
        Command::Dev(arguments) => run_dev(arguments),
        Command::Config { command: ConfigCommand::Check { node } } => check(node),
    }
}

fn fail(command: &str, error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("{command}: {error}");
    ExitCode::from(code)
}

fn start(arguments: NodeArguments, supervised_by: Option<i32>) -> ExitCode {
    const COMMAND: &str = "cubed start";
    if let Some(Err(error)) = supervised_by.map(end_with) {
        return fail(COMMAND, &error, FAILED);
    }
    let (settings, warnings) = match Live::start(arguments.sources()) {
        Ok(started) => started,
        Err(error) => return fail(COMMAND, &error, UNUSABLE),
    };
    let config = settings.current();
    if let Err(error) = telemetry::start(&config.log, &config.name) {
        return fail(COMMAND, &error, FAILED);
    }
    heap::share();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match node::run(&settings) {
        Ok(()) => end_process(0),
        Err(error) => {
            tracing::error!("{error}");
            end_process(error.exit_code())
        }
    }
}

/// Ends the process without the exit handlers of the libraries in it. A late task may still hold the store, and RocksDB's
/// threads, at work on a compaction, would meet what its handlers have taken apart, and abort. What counts was synced long
/// before.
fn end_process(code: u8) -> ! {
    signal_hook::low_level::exit(code.into())
}

/// Has the system kill this process when its parent ends, if the parent is still the supervisor.
fn end_with(supervisor: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(Pid::as_raw_pid) == Some(supervisor) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("process {supervisor}, which was to supervise this, has ended"),
    ))
}

fn check(arguments: NodeArguments) -> ExitCode {
    const COMMAND: &str = "cubed config check";
    let loaded = match config::load(&arguments.sources()) {
        Ok(loaded) => loaded,
        Err(error) => return fail(COMMAND, &error, UNUSABLE),
    };
    for missing in &loaded.missing {
        eprintln!("needed for cubed start: {missing}");
    }
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    match write!(io::stdout().lock(), "{}", config::effective_toml(&loaded)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(COMMAND, &error, FAILED),
    }
}

fn run_dev(arguments: DevArguments) -> ExitCode {
    const COMMAND: &str = "cubed dev";
    /// On top of the time that a node gives to what is under way.
    const STOP_MARGIN: Duration = Duration::from_secs(10);
    let DevArguments { nodes, dir, base_port, config: files, set } = arguments;
    // What no node could use is refused before any is started.
    let variables = std::env::vars_os().collect();
    let sources = Sources { files: files.clone(), variables, set: set.clone(), flags: Vec::new() };
    let settings = match config::load(&sources) {
        Ok(loaded) => loaded.config,
        Err(error) => return fail(COMMAND, &error, UNUSABLE),
    };
    let launcher = match dev::Launcher::this_binary(&files, &set) {
        Ok(launcher) => launcher,
        Err(error) => return fail(COMMAND, &error, FAILED),
    };
    let options = dev::Options {
        nodes,
        dir,
        base_port,
        stop_patience: settings.timeouts.announce + settings.timeouts.drain + STOP_MARGIN,
    };
    match dev::run(&options, &launcher, &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(COMMAND, &error, error.exit_code()),
    }
}
