// Real nodes for tests and examples, gone when dropped. Included as text, because the examples in the documentation are
// programs of their own: so this file has no attributes and no modules.
//
// The program is `cubed` in the build directory: the client depends on no crate of the server, and `cargo test --workspace`
// builds it. CUBE_TEST_CUBED names another one.

/// Nodes on loopback addresses that nobody else uses, in a temporary folder.
#[allow(dead_code)]
struct RealNodes {
    processes: Vec<Option<std::process::Child>>,
    first: [u8; 3],
    dir: std::path::PathBuf,
    _claim: std::net::TcpListener,
}

#[allow(dead_code, clippy::disallowed_methods)]
impl RealNodes {
    /// Starts so many, and waits until they serve.
    fn start(nodes: u8) -> Self {
        static CLAIMED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let turn = CLAIMED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let start = std::process::id().wrapping_mul(61).wrapping_add(turn);
        let claim = |tried: u32| {
            let block = start.wrapping_add(tried);
            let first = [127, 241 + (block / 250 % 10) as u8, (block % 250) as u8];
            let at = std::net::Ipv4Addr::new(first[0], first[1], first[2], 254);
            std::net::TcpListener::bind((at, 17_397)).ok().map(|claim| (first, claim))
        };
        let (first, claim) = (0..1_000).find_map(claim).expect("free loopback addresses");
        let program = Self::program();
        let dir = program.parent().unwrap().join(format!("client-test-{}-{turn}", std::process::id()));
        let mut cluster = Self { processes: Vec::new(), first, dir, _claim: claim };
        for number in 1..=nodes {
            let data = cluster.dir.join(format!("node-{number}"));
            std::fs::create_dir_all(&data).unwrap();
            let mut command = std::process::Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&program).args([
                "start",
                "--name",
                &format!("node-{number}"),
            ]);
            command.arg("--data-dir").arg(&data);
            for (option, port) in [("--http", 8080), ("--grpc", 7400), ("--peer", 7401), ("--gossip", 7402)] {
                command.args([option, &cluster.address(number, port)]);
            }
            for seed in 1..=nodes {
                command.args(["--seed", &cluster.address(seed, 7401)]);
            }
            let small = ["storage.disk_reserve=64MiB", "storage.upkeep_reserve=32MiB", "storage.block_cache=16MiB"];
            // A machine that is busy with other tests is slow, not broken.
            for setting in
                small.into_iter().chain(["timeouts.write=20s", "timeouts.read=20s", "anti_entropy.horizon=20s"])
            {
                command.args(["--set", setting]);
            }
            let log = std::fs::File::create(cluster.dir.join(format!("node-{number}.log"))).unwrap();
            command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            cluster.processes.push(Some(command.spawn().expect("setpriv of util-linux")));
        }
        (1..=nodes).for_each(|number| cluster.wait_until_it_serves(number));
        cluster
    }

    fn program() -> std::path::PathBuf {
        if let Some(named) = std::env::var_os("CUBE_TEST_CUBED") {
            return named.into();
        }
        let builds = std::env::var_os("CARGO_TARGET_DIR").map(std::path::PathBuf::from);
        let builds = builds.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
        let near = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join("cubed")));
        let candidates = near.into_iter().chain([builds.join("release/cubed"), builds.join("debug/cubed")]);
        candidates.into_iter().find(|path| path.is_file()).expect("cubed is built: cargo build --release --workspace")
    }

    fn address(&self, number: u8, port: u16) -> String {
        let [a, b, c] = self.first;
        format!("{a}.{b}.{c}.{number}:{port}")
    }

    /// Where clients find them.
    fn addresses(&self) -> Vec<String> {
        (1..=self.processes.len()).map(|number| self.address(u8::try_from(number).unwrap(), 7400)).collect()
    }

    /// kill -9.
    fn kill(&mut self, number: usize) {
        let mut process = self.processes[number - 1].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// A write to all replicas, through this node, by the REST API: a few lines need no library.
    fn wait_until_it_serves(&mut self, number: u8) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
        let http = self.address(number, 8080);
        let nodes = self.processes.len();
        loop {
            let ended = self.processes[usize::from(number) - 1].as_mut().unwrap().try_wait().unwrap();
            let answer = Self::probe(&http).unwrap_or_else(|error| error.to_string());
            if answer.starts_with("HTTP/1.1 200") && (1..=nodes).all(|node| answer.contains(&format!("node-{node}"))) {
                return;
            }
            let log = || std::fs::read_to_string(self.dir.join(format!("node-{number}.log"))).unwrap_or_default();
            assert_eq!(ended, None, "node-{number} ended: {}", log());
            assert!(std::time::Instant::now() < deadline, "node-{number} does not serve: {answer}\n{}", log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn probe(http: &str) -> std::io::Result<String> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(http)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
        let body = r#"{"key":"probe","value":"probe","cl":"ALL"}"#;
        let length = body.len();
        write!(
            stream,
            "POST /api/v1/put HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for RealNodes {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            // It may have ended, and that is all that is wanted.
            process.kill().unwrap_or_default();
            process.wait().map(drop).unwrap_or_default();
        }
        std::fs::remove_dir_all(&self.dir).unwrap_or_default();
    }
}
