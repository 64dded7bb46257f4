//! The supervisor of `cubed dev`, with a stand-in for the node: this test binary, which serves health and does what its
//! name tells it to. And once with the real binary, for what only that does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cube_server::dev::{self, DevError, Launcher, Options};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal, test_kill_process};
use tokio::sync::mpsc;

/// The variable that makes this binary a node: where it listens.
const FAKE_HTTP: &str = "CUBE_TEST_FAKE_HTTP";
/// And its name.
const FAKE_NAME: &str = "CUBE_TEST_FAKE_NAME";
/// Many times what anything here takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);

/// Is a node when it is started as one, and says nothing else about anything.
#[test]
fn stand_in_for_a_node() {
    let Ok(http) = std::env::var(FAKE_HTTP) else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let name = std::env::var(FAKE_NAME).unwrap();
    println!("{name} was started");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _context = runtime.enter();
    if name == "refused-2" {
        println!("the cluster has another node-2");
        std::process::exit(3);
    }
    // Whoever listens for a signal is not ended by it.
    let _deaf = (name == "deaf-2").then(|| tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()));
    let listener = loop {
        // The port was free a moment ago; on a busy machine somebody may borrow it for another moment.
        match TcpListener::bind(&http) {
            Ok(listener) => break listener,
            Err(_) => runtime.block_on(tokio::time::sleep(Duration::from_millis(20))),
        }
    };
    for (asked, stream) in listener.incoming().enumerate() {
        let mut stream = stream.unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "GET /api/v1/health HTTP/1.1\r\n");
        // It serves, then does not for a while.
        let answer: &[u8] = match name == "sick-2" && (1..5).contains(&asked) {
            true => b"HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reasons\":[\"the disk fails\"]}",
            false => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        };
        stream.write_all(answer).unwrap();
    }
}

/// One cluster at a time: two that look for free ports at once could find the same.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nodes are this binary, told to behave as `kind`.
fn launcher(kind: &'static str) -> Launcher {
    Launcher::new(move |node| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "stand_in_for_a_node", "--nocapture"]);
        let name = node.name.replace("node", kind);
        command.env(FAKE_HTTP, node.addresses.http.to_string()).env(FAKE_NAME, name);
        command
    })
}

/// What the supervisor printed so far.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Printed {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until something is printed, and gives all of it.
    async fn has(&self, what: &str) -> String {
        let wait = async {
            while !self.text().contains(what) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what:?} was not printed:\n{}", self.text());
        self.text()
    }
}

fn options(dir: &Path, nodes: u16) -> Options {
    Options { nodes, dir: dir.to_owned(), base_port: 0, stop_patience: PATIENCE }
}

/// Runs the supervisor along with a script, which may tell it to stop any number of times.
fn supervise(
    options: &Options,
    launcher: &Launcher,
    script: impl AsyncFnOnce(Printed, mpsc::Sender<()>),
) -> (Result<(), DevError>, String) {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let printed = Printed::default();
    let (tell, mut told) = mpsc::channel(4);
    let mut out = printed.clone();
    let supervisor = dev::run_until(options, launcher, &mut out, async || {
        if told.recv().await.is_none() {
            std::future::pending().await
        }
    });
    let both = async { tokio::join!(supervisor, script(printed.clone(), tell)) };
    let (result, ()) = runtime.block_on(async { tokio::time::timeout(3 * PATIENCE, both).await }).unwrap();
    (result, printed.text())
}

/// The cells of a node's line in the table.
fn row(text: &str, node: &str) -> Vec<String> {
    let line = text.lines().find(|line| line.starts_with(&format!("{node} "))).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

fn pid(text: &str, node: &str) -> Pid {
    Pid::from_raw(row(text, node)[5].parse().unwrap()).unwrap()
}

/// Whether a process runs; one that nobody waited for does not.
fn is_running(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !status.rsplit(") ").next().unwrap_or_default().starts_with('Z')
}

#[test]
fn a_cluster_is_told_in_one_table_and_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let (result, text) = supervise(&options(dir.path(), 3), &launcher("good"), async |printed, tell| {
        let text = printed.has("Ctrl-C stops").await;
        for node in ["node-1", "node-2", "node-3"] {
            let cells = row(&text, node);
            TcpStream::connect(cells[1].parse::<SocketAddr>().unwrap()).unwrap();
            assert!(is_running(pid(&text, node)));
            assert!(std::fs::read_to_string(&cells[6]).unwrap().contains("was started"));
        }
        assert!(text.contains(&format!("kill -9 {} ", pid(&text, "node-3").as_raw_pid())), "{text}");
        tell.send(()).await.unwrap();
    });
    result.unwrap();
    assert!(text.ends_with("stopped\n"), "{text}");
    for node in ["node-1", "node-2", "node-3"] {
        assert!(!is_running(pid(&text, node)));
        assert!(text.contains(&format!("{node}: it was ended by signal 15")), "{text}");
    }
}

#[test]
fn a_node_that_dies_is_started_again_at_the_same_address() {
    let dir = tempfile::tempdir().unwrap();
    let (result, text) = supervise(&options(dir.path(), 2), &launcher("good"), async |printed, tell| {
        let text = printed.has("Ctrl-C stops").await;
        kill_process(pid(&text, "node-2"), Signal::KILL).unwrap();
        printed.has("node-2: it was ended by signal 9; it is started again in").await;
        printed.has("restarted once").await;
        TcpStream::connect(row(&text, "node-2")[1].parse::<SocketAddr>().unwrap()).unwrap();
        assert!(is_running(pid(&text, "node-1")), "the others are left alone");
        tell.send(()).await.unwrap();
    });
    result.unwrap();
    let log = std::fs::read_to_string(dir.path().join("node-2.log")).unwrap();
    assert_eq!(log.matches("good-2 was started").count(), 2, "a log is continued: {log}\n{text}");
}

#[test]
fn a_node_that_stops_serving_though_it_runs_is_told_and_so_is_that_it_serves_again() {
    let dir = tempfile::tempdir().unwrap();
    let (result, text) = supervise(&options(dir.path(), 2), &launcher("sick"), async |printed, tell| {
        printed.has("Ctrl-C stops").await;
        printed.has("node-2: runs but does not serve: the disk fails\n").await;
        printed.has("node-2: serves, pid").await;
        tell.send(()).await.unwrap();
    });
    result.unwrap();
    assert!(!text.contains("node-1: runs but"), "{text}");
    assert!(!text.contains("restarted"), "{text}");
}

#[test]
fn a_node_that_is_refused_for_good_stays_down_and_the_others_run() {
    let dir = tempfile::tempdir().unwrap();
    let (result, text) = supervise(&options(dir.path(), 2), &launcher("refused"), async |printed, tell| {
        let text = printed.has("Ctrl-C stops").await;
        assert!(is_running(pid(&text, "node-1")));
        tell.send(()).await.unwrap();
    });
    result.unwrap();
    let expected = "node-2: it ended with exit code 3: the cluster has another node-2\n\
                    node-2: another start would end the same way, so it stays down\n";
    assert!(text.contains(expected), "{text}");
    assert!(!text.contains("it is started again"), "{text}");
    assert_eq!(row(&text, "node-2")[5], "-");
}

#[test]
fn a_node_that_does_not_stop_is_killed_when_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let (result, text) = supervise(&options(dir.path(), 2), &launcher("deaf"), async |printed, tell| {
        let text = printed.has("Ctrl-C stops").await;
        tell.send(()).await.unwrap();
        printed.has("node-1: it was ended by signal 15").await;
        assert!(is_running(pid(&text, "node-2")));
        tell.send(()).await.unwrap();
    });
    result.unwrap();
    assert!(text.contains("node-2: it did not stop in time and was killed"), "{text}");
    assert!(!is_running(pid(&text, "node-2")));
}

#[test]
fn a_node_that_does_not_stop_in_time_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { stop_patience: Duration::from_millis(200), ..options(dir.path(), 2) };
    let (result, text) = supervise(&options, &launcher("deaf"), async |printed, tell| {
        printed.has("Ctrl-C stops").await;
        tell.send(()).await.unwrap();
    });
    result.unwrap();
    assert!(text.contains("node-2: it did not stop in time and was killed"), "{text}");
}

#[test]
fn the_same_folder_gives_the_same_addresses_again_and_says_what_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("node-3")).unwrap();
    let run = |nodes| {
        let (result, text) = supervise(&options(dir.path(), nodes), &launcher("good"), async |printed, tell| {
            printed.has("Ctrl-C stops").await;
            tell.send(()).await.unwrap();
        });
        result.unwrap();
        text
    };
    let (first, second) = (run(3), run(2));
    for node in ["node-1", "node-2"] {
        assert_eq!(row(&first, node)[1..5], row(&second, node)[1..5]);
    }
    assert!(second.contains("not started, though their data is there: node-3"), "{second}");
}

#[test]
fn ports_in_use_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (result, text) = supervise(&options(dir.path(), 2), &launcher("good"), async |printed, tell| {
        let text = printed.has("Ctrl-C stops").await;
        // Another folder that wants the same ports.
        let other = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("ports.json"), other.path().join("ports.json")).unwrap();
        let refused = dev::run_until(&options(other.path(), 2), &launcher("good"), &mut io::sink(), async || ()).await;
        let told = refused.unwrap_err().to_string();
        let taken = format!(
            "these ports are in use: {} (HTTP of node-1), {} (HTTP of node-2). Stop",
            row(&text, "node-1")[1],
            row(&text, "node-2")[1]
        );
        assert!(told.starts_with(&taken), "{told}");
        // And the same folder.
        let refused = dev::run_until(&options(dir.path(), 2), &launcher("good"), &mut io::sink(), async || ()).await;
        assert!(matches!(refused, Err(DevError::Lock(_))));
        tell.send(()).await.unwrap();
    });
    result.unwrap_or_else(|error| panic!("{error}\n{text}"));
}

#[test]
fn a_base_port_that_leaves_no_room_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for base_port in [80, 1703, 65_530] {
        let options = Options { base_port, ..options(dir.path(), 3) };
        let (result, _) = supervise(&options, &launcher("good"), async |_, _| ());
        let told = result.unwrap_err().to_string();
        assert!(told.starts_with("with 3 nodes the base port must be between 1704 and 65215"), "{told}");
    }
}

/// Starts `cubed dev` itself, and gives its table.
fn cubed_dev(dir: &Path) -> (Child, BufReader<ChildStdout>, String) {
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_cubed"))
        .args(["dev", "--nodes", "2", "--base-port", "0", "--dir"])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(supervisor.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("Ctrl-C stops") && stdout.read_line(&mut text).unwrap() > 0 {}
    (supervisor, stdout, text)
}

#[test]
fn no_node_outlives_a_supervisor_that_is_killed() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (mut supervisor, _stdout, text) = cubed_dev(dir.path());
    let nodes = ["node-1", "node-2"].map(|node| pid(&text, node));
    let were_running = nodes.into_iter().all(is_running);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert!(were_running, "{text}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gone = async {
        while nodes.into_iter().any(is_running) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, gone).await }).expect("the nodes end");
}

#[test]
fn a_supervisor_that_is_terminated_stops_its_nodes_and_ends_well() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (mut supervisor, mut stdout, mut text) = cubed_dev(dir.path());
    kill_process(Pid::from_child(&supervisor), Signal::TERM).unwrap();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(supervisor.wait().unwrap().code(), Some(0), "{text}");
    assert!(text.ends_with("stopped\n"), "{text}");
    assert!(!["node-1", "node-2"].map(|node| pid(&text, node)).into_iter().any(is_running), "{text}");
}
