//! Starts one node as a process, with its output in a log file.
//!
//! A node is tied to its supervisor: the system kills it when the supervisor ends, however that happens. It stands in a
//! process group of its own, so that Ctrl-C in a terminal reaches the supervisor alone, which then stops all in order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::{Child, Command};

use super::DevNode;

/// A log that has reached this size when its node starts makes room for a new one; one old log is kept.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How much of a log's end is looked at for a reason.
const LOG_END_BYTES: u64 = 4 << 10;

/// How nodes are started.
#[derive(Clone)]
pub struct Launcher {
    command: Arc<dyn Fn(&DevNode) -> std::process::Command + Send + Sync>,
}

impl Launcher {
    /// Nodes are what `command` makes of them. Each must end with its parent by itself.
    pub fn new(command: impl Fn(&DevNode) -> std::process::Command + Send + Sync + 'static) -> Self {
        Self { command: Arc::new(command) }
    }

    /// Nodes are `cubed start` of the binary that runs, all with these files and settings.
    pub fn this_binary(config: &[PathBuf], set: &[String]) -> io::Result<Self> {
        let binary = std::env::current_exe()?;
        let (config, set) = (config.to_owned(), set.to_owned());
        let supervisor = std::process::id().to_string();
        Ok(Self::new(move |node| {
            let DevNode { name, addresses, seeds, data_dir, .. } = node;
            let mut command = std::process::Command::new(&binary);
            command.args(["start", "--supervised-by", &supervisor, "--name", name]).arg("--data-dir").arg(data_dir);
            for (flag, address) in [
                ("--http", addresses.http),
                ("--grpc", addresses.grpc),
                ("--peer", addresses.peer),
                ("--gossip", addresses.gossip),
            ] {
                command.arg(flag).arg(address.to_string());
            }
            for seed in seeds {
                command.arg("--seed").arg(seed.to_string());
            }
            for file in &config {
                command.arg("--config").arg(file);
            }
            for setting in &set {
                command.arg("--set").arg(setting);
            }
            command
        }))
    }

    /// Starts a node.
    pub(super) fn start(&self, node: &DevNode) -> io::Result<Child> {
        let log = open_log(&node.log)?;
        let mut command = Command::from((self.command)(node));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.process_group(0).kill_on_drop(true).spawn()
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|log| log.len() >= LOG_BYTES_MAX) {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        fs::rename(path, old)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The last line of a log, which says why its node ended.
pub(super) fn last_line(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LOG_END_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(LOG_END_BYTES).read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    Ok(end.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned())
}
