//! What `cubed dev` prints: one table when all nodes serve, then a line for whatever happens to one.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::{DevNode, Event, News};

/// How far a node has come.
enum State {
    Starting { reason: String },
    Serving,
    GaveUp { reason: String },
}

pub(super) struct Report<'a, W> {
    nodes: &'a [DevNode],
    out: &'a mut W,
    pids: BTreeMap<String, u32>,
    restarts: BTreeMap<String, u32>,
    states: BTreeMap<String, State>,
    is_shown: bool,
}

impl<'a, W: Write> Report<'a, W> {
    pub(super) fn new(nodes: &'a [DevNode], out: &'a mut W) -> Self {
        let states = nodes.iter().map(|node| (node.name.clone(), State::Starting { reason: String::new() })).collect();
        Self { nodes, out, pids: BTreeMap::new(), restarts: BTreeMap::new(), states, is_shown: false }
    }

    /// Whether the table was printed.
    pub(super) fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Why nodes were given up.
    pub(super) fn reasons(&self) -> Vec<String> {
        let gave_up = self.states.iter().filter_map(|(node, state)| match state {
            State::GaveUp { reason } => Some(format!("{node}: {reason}")),
            State::Starting { .. } | State::Serving => None,
        });
        gave_up.collect()
    }

    pub(super) fn starting(&mut self, dir: &Path) -> io::Result<()> {
        let others = std::fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let is_left_out = |name: &String| {
            let is_node = name.strip_prefix("node-").is_some_and(|number| number.parse::<u16>().is_ok());
            is_node && self.nodes.iter().all(|node| node.name != *name)
        };
        let mut left_out: Vec<String> = others.filter(is_left_out).collect();
        left_out.sort();
        writeln!(self.out, "starting {} in {}", count(self.nodes.len()), dir.display())?;
        if !left_out.is_empty() {
            writeln!(self.out, "not started, though their data is there: {}", left_out.join(", "))?;
        }
        self.out.flush()
    }

    /// Takes note of an event, and prints what is worth a line.
    pub(super) fn event(&mut self, Event { node, news }: Event) -> io::Result<()> {
        match news {
            News::Started { pid, restarts } => {
                self.pids.insert(node.clone(), pid);
                self.restarts.insert(node.clone(), restarts);
                self.states.insert(node, State::Starting { reason: String::new() });
            }
            News::Waiting { reason } => drop(self.states.insert(node, State::Starting { reason })),
            News::Serving => {
                if self.is_shown {
                    let pid = self.pids.get(&node).copied().unwrap_or_default();
                    let restarts = match self.restarts.get(&node).copied().unwrap_or_default() {
                        0 => String::new(),
                        1 => ", restarted once".to_owned(),
                        more => format!(", restarted {more} times"),
                    };
                    writeln!(self.out, "{node}: serves, pid {pid}{restarts}")?;
                }
                self.states.insert(node, State::Serving);
            }
            News::Unwell { reason } => {
                writeln!(self.out, "{node}: runs but does not serve: {reason}")?;
                self.states.insert(node, State::Starting { reason });
            }
            News::Died { how, again_in_ms } => {
                writeln!(self.out, "{node}: {how}; it is started again in {again_in_ms} ms")?;
                self.states.insert(node, State::Starting { reason: how });
            }
            News::GaveUp { reason } => {
                writeln!(self.out, "{node}: {reason}\n{node}: another start would end the same way, so it stays down")?;
                self.pids.remove(&node);
                self.states.insert(node, State::GaveUp { reason });
            }
            News::Stopped { how } => writeln!(self.out, "{node}: {how}")?,
        }
        let has_settled = |state: &State| !matches!(state, State::Starting { .. });
        let is_up = self.states.values().any(|state| matches!(state, State::Serving));
        if !self.is_shown && is_up && self.states.values().all(has_settled) {
            self.show()?;
        }
        self.out.flush()
    }

    /// Prints the table, and what to try.
    pub(super) fn show(&mut self) -> io::Result<()> {
        self.is_shown = true;
        let titles = ["NODE", "HTTP", "GRPC", "PEER", "GOSSIP (UDP)", "PID", "LOG"].map(str::to_owned);
        let rows = self.nodes.iter().map(|node| {
            let addresses = node.addresses;
            let pid = self.pids.get(&node.name).map_or_else(|| "-".to_owned(), ToString::to_string);
            let log = node.log.display().to_string();
            let name = node.name.clone();
            let [http, grpc, peer, gossip] =
                [addresses.http, addresses.grpc, addresses.peer, addresses.gossip].map(|address| address.to_string());
            [name, http, grpc, peer, gossip, pid, log]
        });
        let lines: Vec<[String; 7]> = std::iter::once(titles).chain(rows).collect();
        let mut widths = [0; 7];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.len().max(*width);
            }
        }
        writeln!(self.out)?;
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(self.out, "{}", cells.join("  ").trim_end())?;
        }
        for (node, state) in &self.states {
            if let State::Starting { reason } = state {
                writeln!(self.out, "{node} is not ready yet: {reason}")?;
            }
        }
        self.examples()?;
        self.out.flush()
    }

    fn examples(&mut self) -> io::Result<()> {
        let is_up = |node: &&DevNode| !matches!(self.states.get(&node.name), Some(State::GaveUp { .. }));
        let mut up = self.nodes.iter().filter(is_up);
        let Some(first) = up.next() else { return Ok(()) };
        let last = up.next_back().unwrap_or(first);
        let (one, other, name) = (first.addresses.http, last.addresses.http, &last.name);
        let pid = self.pids.get(name).copied().unwrap_or_default();
        writeln!(
            self.out,
            "\nTry, in another terminal:\n\
             \x20 curl -s -X POST http://{one}/api/v1/put -H 'content-type: application/json' \\\n\
             \x20   -d '{{\"key\":\"user:alice\",\"value\":\"Alice\",\"cl\":\"QUORUM\"}}'\n\
             \x20 curl -s 'http://{other}/api/v1/get/user:alice?cl=QUORUM'\n\
             \x20 curl -s http://{one}/api/v1/cluster/nodes\n\
             \x20 kill -9 {pid}    # {name} dies, and is started again\n\
             Ctrl-C stops all nodes; the data stays, and the same command goes on with it."
        )
    }

    pub(super) fn stopping(&mut self) -> io::Result<()> {
        writeln!(self.out, "stopping; once more to kill what does not stop")?;
        self.out.flush()
    }

    pub(super) fn stopped(&mut self) -> io::Result<()> {
        writeln!(self.out, "stopped")?;
        self.out.flush()
    }
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}
