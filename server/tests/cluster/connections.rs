//! Many connections of clients, and connections on which nothing is said.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::Cluster;
use crate::harness::time::{PATIENCE, eventually, now};

/// On the two ports for clients and the one for peers together.
const IDLE: usize = 10_000;
/// Of these on the port for peers: more than it takes.
const IDLE_PEERS: usize = 2_000;
/// What this process needs beside them.
const FILES_ELSE: u64 = 500;
/// Memory that idle connections may take each: buffers are made when there is something to buffer.
const BYTES_EACH_MAX: u64 = 32 << 10;

fn read_all(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    said
}

#[test]
fn who_finds_no_place_is_told_so_and_those_who_have_one_notice_nothing() {
    let mut cluster = Cluster::of(1).set("overload.connections_max", "4").start();
    let (http, grpc) = (cluster.node(1).settings.addresses.http, cluster.node(1).settings.addresses.grpc);
    let mut api = cluster.api(1);
    assert!(api.put("kept", "value", "ONE").unwrap().is_success());

    // Other connections of this test may still be closing.
    let mut idle = Vec::new();
    let refused = eventually("a connection is refused", PATIENCE, || {
        let stream = TcpStream::connect(http).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).map_err(|error| error.to_string())?;
        match stream.peek(&mut [0]) {
            Ok(bytes) if bytes > 0 => Ok(stream),
            _ => {
                idle.push(stream);
                Err("it is taken".to_owned())
            }
        }
    });
    let said = String::from_utf8(read_all(refused)).unwrap();
    assert!(said.starts_with("HTTP/1.1 429 ") && said.contains("retry-after: 1"), "{said}");
    assert!(said.contains("\"code\":\"overloaded\"") && said.contains("as many connections as it may (4)"), "{said}");
    assert!(api.get("kept", "ONE").unwrap().is_success(), "a connection that has a place keeps it");
    idle.clear();
    eventually("there is a place again", PATIENCE, || match cluster.api(1).get("kept", "ONE") {
        Ok(answer) if answer.is_success() => Ok(()),
        other => Err(format!("{other:?}")),
    });

    let calling: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(grpc).unwrap()).collect();
    let said = read_all(TcpStream::connect(grpc).unwrap());
    assert!(said.ends_with(b"no place is left for connections"), "{said:?}");
    drop(calling);
}

fn connect_idle(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(to).unwrap()).collect()
}

#[test]
#[ignore = "long: ten thousand connections wait until they are hung up on"]
fn ten_thousand_connections_on_which_nothing_is_said_harm_nobody_and_are_hung_up_on() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let granted = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        granted >= IDLE as u64 + FILES_ELSE,
        "this needs {IDLE} open files (ulimit -Hn), and {granted} are granted"
    );
    let mut cluster = Cluster::of(1).start();
    let addresses = &cluster.node(1).settings.addresses;
    let (http, grpc, peer) = (addresses.http, addresses.grpc, addresses.peer);
    let mut api = cluster.api(1);
    assert!(api.put("row", "value", "ONE").unwrap().is_success());
    let before = cluster.node(1).resident_bytes();

    let mut idle = connect_idle(http, (IDLE - IDLE_PEERS) / 2);
    idle.extend(connect_idle(grpc, (IDLE - IDLE_PEERS) / 2));
    idle.extend(connect_idle(peer, IDLE_PEERS));
    // Some say something, slowly.
    for stream in idle.iter_mut().take(100) {
        stream.write_all(b"GET /api/v1/health HTTP/1.1\r\nx-slow: ").unwrap();
    }
    let mut longest = Duration::ZERO;
    for number in 0..500 {
        let started = now();
        // A new connection each time: those who come are served too.
        let mut api = cluster.api(1);
        assert!(api.put(&format!("row-{number}"), "value", "ONE").unwrap().is_success());
        assert_eq!(api.get(&format!("row-{number}"), "ONE").unwrap().json()["value"], "value");
        longest = longest.max(started.elapsed());
    }
    let grown = cluster.node(1).resident_bytes().saturating_sub(before);
    println!("{IDLE} idle connections: {} KiB more memory, the longest PUT and GET took {longest:?}", grown >> 10);
    assert!(grown < IDLE as u64 * BYTES_EACH_MAX, "{grown} bytes");
    assert!(api.health().unwrap().is_success());
    eventually("all are hung up on", PATIENCE, || {
        idle.retain_mut(|stream| {
            stream.set_nonblocking(true).unwrap();
            let read = stream.read(&mut [0; 64]);
            !matches!(read, Ok(0)) && !matches!(read, Err(error) if error.kind() != std::io::ErrorKind::WouldBlock)
        });
        if idle.is_empty() { Ok(()) } else { Err(format!("{} are open", idle.len())) }
    });
    assert!(cluster.api(1).get("row", "ONE").unwrap().is_success());
}
