//! A network whose links can be cut, one way or both, silently as a real cut is: what is sent is lost, and nobody is told.
//!
//! The test runs itself again in namespaces of its own (network, processes, mounts), so that nothing of it can be left on
//! the machine, whatever happens to it; that works as root, and for anybody where user namespaces are allowed. In there
//! each node has a network namespace, and a bridge joins them all. Whom a node can send to is said by its neighbour
//! table, which is fixed: a link is cut by writing a hardware address there that nobody has.

use std::any::type_name_of_val;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::address::Addresses;
use super::process::Process;
use super::slots::Slots;

/// Says to a test process that it is in its own namespaces. Nodes inherit it, and take what begins with CUBE_ for settings.
const INSIDE: &str = "PRIVATE_NETWORK_OF_A_CUBE_TEST";
/// Set to anything, it has a machine without private networks fail the tests that need one: a run that must prove them.
const NO_SKIP: &str = "CUBE_TEST_NO_SKIP";
/// The most that a test in there may take; it has deadlines of its own.
const TEST_TIME_MAX: Duration = Duration::from_secs(1_800);
const NODES_MAX: u8 = 9;
/// The prefix of the network, and the test process's own place in it.
const SUBNET: [u8; 3] = [10, 77, 0];
const TEST_PROCESS: u8 = 254;

/// The way into the namespaces: as root, or as anybody where user namespaces are allowed.
const WAYS: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
const NAMESPACES: [&str; 5] = ["--net", "--mount", "--pid", "--fork", "--kill-child"];
/// `ip netns` keeps its names below /run, which is the machine's own outside.
const PREPARE: &str = "mount -t tmpfs none /run && ip link set lo up";
const TRIAL: &str =
    "ip netns add a && ip link add dev trial0 type bridge && ip link add dev trial1 type veth peer name eth0 netns a";

/// The private network of this process.
pub(crate) struct Network(());

impl Network {
    /// Gives the network to the test if it runs in its own namespaces; else runs it again there, and gives nothing.
    /// `test` is the test itself: its name is what is run.
    pub(crate) fn enter<T>(test: &T, nodes: usize) -> Option<Self> {
        if std::env::var_os(INSIDE).is_some() {
            let bridge = format!(
                "link add dev cube address {} type bridge\naddr add {}/24 dev cube\nlink set dev cube up\n",
                hardware(TEST_PROCESS),
                address(TEST_PROCESS)
            );
            ip(&["-batch", "-"], &bridge);
            return Some(Self(()));
        }
        let name = type_name_of_val(test).split_once("::").expect("a function of this crate").1;
        match allowed_way() {
            Ok(way) => run_inside(name, way, nodes),
            Err(missing) => {
                let missing = format!(
                    "this machine gives it no network of its own. Wanted: root or user namespaces, and the programs \
                     unshare, nsenter, setpriv (util-linux) and ip (iproute2). {missing}"
                );
                let may_skip = std::env::var_os(NO_SKIP).is_none_or(|set| set.is_empty());
                assert!(may_skip, "{NO_SKIP} is set, and {name} cannot run: {missing}");
                tell(&format!("SKIPPED {name}: {missing}"));
            }
        }
        None
    }

    /// Makes a node's place in the network.
    pub(crate) fn add(&self, node: u8) -> Addresses {
        assert!((1..=NODES_MAX).contains(&node), "{node}");
        let (mac, ip_address) = (hardware(node), address(node));
        let outside = format!(
            "netns add n{node}\nlink add dev v{node} type veth peer name eth0 address {mac} netns n{node}\n\
             link set dev v{node} master cube up\n"
        );
        ip(&["-batch", "-"], &outside);
        let mut inside = format!("addr add {ip_address}/24 dev eth0\nlink set lo up\nlink set eth0 up\n");
        for other in (1..=NODES_MAX).chain([TEST_PROCESS]).filter(|other| *other != node) {
            inside.push_str(&neighbour(other, &hardware(other)));
        }
        ip(&["-n", &format!("n{node}"), "-batch", "-"], &inside);
        Addresses::of(address(node))
    }

    /// What a node is started through, to be in its place.
    pub(crate) fn way_in(node: u8) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/n{node}"), "--".into()]
    }

    /// From now on nothing that these nodes send reaches those.
    pub(crate) fn cut(&self, from: &[u8], to: &[u8]) {
        // An address that no card has: the bridge passes it to all, and none takes it.
        Self::link(from, to, |node| format!("02:00:00:00:ff:{node:02x}"));
    }

    pub(crate) fn heal(&self, from: &[u8], to: &[u8]) {
        Self::link(from, to, hardware);
    }

    pub(crate) fn cut_both_ways(&self, some: &[u8], others: &[u8]) {
        self.cut(some, others);
        self.cut(others, some);
    }

    pub(crate) fn heal_both_ways(&self, some: &[u8], others: &[u8]) {
        self.heal(some, others);
        self.heal(others, some);
    }

    fn link(from: &[u8], to: &[u8], hardware: impl Fn(u8) -> String) {
        for node in from {
            let lines: String = to.iter().map(|other| neighbour(*other, &hardware(*other))).collect();
            ip(&["-n", &format!("n{node}"), "-batch", "-"], &lines);
        }
    }
}

fn address(node: u8) -> Ipv4Addr {
    let [first, second, third] = SUBNET;
    Ipv4Addr::new(first, second, third, node)
}

fn hardware(node: u8) -> String {
    format!("02:00:00:00:00:{node:02x}")
}

fn neighbour(node: u8, hardware: &str) -> String {
    format!("neigh replace {} lladdr {hardware} dev eth0 nud permanent\n", address(node))
}

/// `ip` is often where only root looks.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Runs `ip` with lines on its standard input.
fn ip(arguments: &[&str], lines: &str) {
    let mut child = Command::new("ip")
        .env("PATH", path())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}\n{lines}", String::from_utf8_lossy(&output.stderr));
}

/// How this machine lets a process have a network of its own, or what it said.
fn allowed_way() -> Result<&'static [&'static str], String> {
    let mut said = String::new();
    for way in WAYS {
        let script = format!("{PREPARE} && {TRIAL} && nsenter --net=/run/netns/a setpriv --pdeathsig KILL true");
        let trial =
            Command::new("unshare").env("PATH", path()).args(way).args(NAMESPACES).args(["sh", "-c", &script]).output();
        match trial {
            Ok(output) if output.status.success() => return Ok(way),
            Ok(output) => said = String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => return Err(format!("unshare: {error}")),
        }
    }
    Err(format!("It said: {}", said.trim()))
}

/// Runs one test of this binary in namespaces of its own, and shows what it printed if it fails.
fn run_inside(name: &str, way: &[&str], nodes: usize) {
    let _room = Slots::take(nodes);
    let dir = tempfile::tempdir().unwrap();
    let printed = dir.path().join("printed");
    File::create(&printed).unwrap();
    let script = format!("{PREPARE} && exec \"$@\"");
    let own = std::env::current_exe().unwrap();
    // The long tests are marked as ignored, and whoever asked for this one wants it.
    let test = [
        "sh",
        "-c",
        &script,
        "sh",
        own.to_str().unwrap(),
        "--exact",
        name,
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let words = ["unshare"].iter().chain(way).chain(&NAMESPACES).chain(&test).map(|word| (*word).to_owned());
    let words: Vec<String> = words.collect();
    // Folders of the inner test are below the one of this test, and go with it whatever happens.
    let folder = dir.path().to_str().unwrap().to_owned();
    let variables = [(INSIDE, "1".to_owned()), ("TMPDIR", folder), ("PATH", path())];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let status = Process::start(&words, &variables, &printed).wait(TEST_TIME_MAX);
    let printed = std::fs::read_to_string(printed).unwrap();
    assert!(status.success(), "in its own network: {status}\n{printed}");
    assert!(printed.contains("1 passed"), "no test has the name {name}\n{printed}");
}

/// Says it on the terminal even if the test passes.
fn tell(notice: &str) {
    let mut terminal = std::io::stderr().lock();
    terminal.write_all(format!("\n{notice}\n\n").as_bytes()).unwrap();
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::path::Path;

    use super::*;
    use crate::harness::time::{PATIENCE, eventually, pause, throughout};

    /// Makes this test binary a node of its own kind: it asks another one over and over, and counts the answers in a file.
    const ASKER: &str = "CUBE_CLUSTER_TEST_ASKER";

    /// Not a test of its own: listens at its address, and says in a file how often the other one took its connection.
    #[test]
    fn asker() {
        let Some(asker) = std::env::var_os(ASKER) else { return };
        let asker = asker.into_string().unwrap();
        let [own, other, file] = asker.split(' ').collect::<Vec<_>>()[..] else { panic!("{asker}") };
        let listener = TcpListener::bind(own).unwrap();
        let accept = move || listener.incoming().for_each(drop);
        std::thread::Builder::new().spawn(accept).unwrap();
        let other: SocketAddr = other.parse().unwrap();
        let mut file = File::create(file).unwrap();
        loop {
            while TcpStream::connect_timeout(&other, Duration::from_millis(200)).is_err() {}
            // A byte for each: whoever looks never finds the file between two states.
            file.write_all(b".").unwrap();
            pause(Duration::from_millis(5));
        }
    }

    fn start_asker(dir: &Path, own: (u8, SocketAddr), other: SocketAddr) -> Process {
        let test = ["harness::network::tests::asker", "--exact", "--nocapture"].map(str::to_owned);
        let mut words = Network::way_in(own.0);
        words.push(std::env::current_exe().unwrap().to_str().unwrap().to_owned());
        words.extend(test);
        let told = format!("{} {other} {}", own.1, answers_file(dir, own.0).display());
        Process::start(&words, &[(ASKER.to_owned(), told)], &dir.join(format!("log-{}", own.0)))
    }

    fn answers_file(dir: &Path, node: u8) -> std::path::PathBuf {
        dir.join(format!("answers-{node}"))
    }

    fn answers(dir: &Path, node: u8) -> u64 {
        std::fs::metadata(answers_file(dir, node)).map(|file| file.len()).unwrap_or_default()
    }

    fn wait_for_an_answer(dir: &Path, node: u8) {
        let before = answers(dir, node);
        eventually("an answer", PATIENCE, || (answers(dir, node) > before).then_some(()).ok_or("none".to_owned()));
    }

    #[test]
    fn a_cut_link_loses_everything_until_it_is_healed() {
        let Some(network) = Network::enter(&a_cut_link_loses_everything_until_it_is_healed, 0) else { return };
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = [1, 2].map(|node| network.add(node).http);
        let _nodes = [start_asker(dir.path(), (1, one), two), start_asker(dir.path(), (2, two), one)];
        [1, 2].into_iter().for_each(|node| wait_for_an_answer(dir.path(), node));
        // A connection needs both directions: either cut ends both nodes' luck, and the test process still reaches both.
        for (from, to) in [(1, 2), (2, 1)] {
            network.cut(&[from], &[to]);
            // Each may still tell of one connection that was made before the cut.
            let most = answers(dir.path(), 1) + answers(dir.path(), 2) + 2;
            throughout("no answer over a cut link", Duration::from_secs(1), || {
                let told = answers(dir.path(), 1) + answers(dir.path(), 2);
                if told <= most { Ok(()) } else { Err(format!("{told} answers, and at most {most} were made")) }
            });
            TcpStream::connect_timeout(&one, PATIENCE).unwrap();
            TcpStream::connect_timeout(&two, PATIENCE).unwrap();
            network.heal(&[from], &[to]);
            [1, 2].into_iter().for_each(|node| wait_for_an_answer(dir.path(), node));
        }
    }
}
