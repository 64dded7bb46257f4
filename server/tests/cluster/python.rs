//! A client in another language, generated from the protos as its user would: Python, with the tools of its registry.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::Cluster;

/// What a program needs beside Python: the generator, and the messages of rich errors.
const PACKAGES: [&str; 2] = ["grpcio-tools", "grpcio-status"];
const PROTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/proto");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/python/client.py");

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// An environment of its own with the packages in it.
fn install(into: &Path) -> std::path::PathBuf {
    run(Command::new("python3").args(["-m", "venv"]).arg(into));
    let python = into.join("bin/python");
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES));
    python
}

fn generate(python: &Path, into: &Path) {
    std::fs::create_dir(into).unwrap();
    let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
    let mut protoc = Command::new(python);
    protoc.args(["-m", "grpc_tools.protoc", &option("proto_path", Path::new(PROTOS))]);
    protoc.args([option("python_out", into), option("grpc_python_out", into)]);
    run(protoc.args(["kv.proto", "admin.proto"]));
}

#[test]
#[ignore = "long: installs Python packages from their registry"]
fn a_client_generated_for_python_puts_gets_and_reads_the_details_of_errors() {
    let mut cluster = Cluster::of(3).with_long_deadlines().start();
    cluster.wait_settled(&[1, 2, 3], 3);
    let (environment, stubs) = (cluster.path("python"), cluster.path("stubs"));
    let python = install(&environment);
    generate(&python, &stubs);

    let address = cluster.node(1).settings.addresses.grpc.to_string();
    let mut client = Command::new(python)
        .args(["-B", CLIENT, &address])
        .arg(stubs)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut orders = client.stdin.take().unwrap();
    let mut done = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut order = |what: &str| {
        writeln!(orders, "{what}").unwrap();
        let said = done.next().transpose().unwrap();
        assert_eq!(said.as_deref(), Some(what), "its complaint stands above");
    };
    order("rows");
    cluster.kill(&[3]);
    cluster.wait_seen(1, &[3], "DOWN");
    order("errors");
    drop(orders);
    assert!(client.wait().unwrap().success());
}
