//! Peers that stand still, restart, move or leave.

use std::io::Read;
use std::net::TcpStream;

use super::proxy::Proxy;
use super::*;

/// Notices a peer that stands still within a second, and waits long where a busy machine may need it.
fn watchful() -> PeerSettings {
    PeerSettings { keepalive_interval_ms: 500, keepalive_timeout_ms: 500, ..settings() }
}

#[test]
fn requests_to_a_peer_that_stands_still_end_in_time_and_it_is_reached_again_when_it_goes_on() {
    let hoard = Arc::new(Hoard::default());
    let process = Process::member(identity(TWO), hoard.clone());
    let proxy = Proxy::to(&process.address);
    let asker = Asker::new(watchful());
    asker.book.put(TWO, &proxy.address);
    asker.connect(TWO);
    let under_way = asker.send(TWO, Lane::Foreground, request(1, AMPLE_MS));
    eventually("it is under way", || hoard.len() == 1);
    proxy.stop();
    let short = asker.send(TWO, Lane::Foreground, request(2, 100));
    assert!(short.wait().is_err());
    // Long before its deadline: the connection is given up.
    assert_eq!(under_way.wait(), Err(PeerError::Broken { peer: TWO }));
    eventually("nobody waits for a peer that stands still", || {
        asker.send(TWO, Lane::Foreground, request(3, 100)).wait() == Err(PeerError::Unreachable { peer: TWO })
    });
    proxy.go_on();
    eventually("it is reached again", || {
        let told = asker.send(TWO, Lane::Foreground, request(4, 2_000));
        eventually("it is told or under way", || {
            hoard.answer_all();
            told.is_told()
        });
        told.now().is_ok()
    });
    assert!(asker.lane(TWO, Lane::Foreground).unwrap().reconnects >= 1);
    assert_eq!(under_way.now(), Err(PeerError::Broken { peer: TWO }), "a late answer is nobody's");
}

#[test]
fn a_peer_that_stands_still_delays_no_other_one() {
    let (still, lively) = (Process::member(identity(TWO), Arc::new(Hoard::default())), Arc::new(Echo::default()));
    let other = Process::member(identity(THREE), lively);
    let proxy = Proxy::to(&still.address);
    let asker = Asker::new(settings());
    asker.book.put(TWO, &proxy.address);
    asker.book.put(THREE, &other.address);
    asker.connect(TWO);
    proxy.stop();
    let stuck: Vec<Told> = (0..8).map(|_| asker.send(TWO, Lane::Foreground, write_of(1 << 20, AMPLE_MS))).collect();
    asker.ask_until_answered(THREE);
    assert!(stuck.iter().all(|told| !told.is_told()), "this shows something only while they are stuck");
}

#[test]
fn a_peer_that_restarts_on_another_port_is_found_by_its_new_address() {
    let process = Process::member(identity(TWO), Arc::new(Echo::default()));
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.ask_until_answered(TWO);
    process.kill();
    let again = Process::member(identity(TWO), Arc::new(Echo::default()));
    asker.book.put(TWO, &again.address);
    asker.ask_until_answered(TWO);
    let connection = asker.lane(TWO, Lane::Foreground).unwrap().connection.unwrap();
    assert_eq!(connection.address, again.address);
}

#[test]
fn a_peer_that_is_heard_of_is_connected_without_waiting_for_the_next_attempt() {
    let patient =
        PeerSettings { backoff_first_ms: 10 * PATIENCE_MS, backoff_longest_ms: 10 * PATIENCE_MS, ..settings() };
    let asker = Asker::new(patient);
    // Nobody listens there any more.
    let gone = Process::member(identity(TWO), Arc::new(Echo::default()));
    asker.book.put(TWO, &gone.address);
    gone.kill();
    let is_unreachable = || {
        let told = asker.send(TWO, Lane::Foreground, request(1, 1_000)).wait();
        told == Err(PeerError::Unreachable { peer: TWO })
    };
    eventually("an attempt failed", is_unreachable);
    let process = Process::member(identity(TWO), Arc::new(Echo::default()));
    asker.book.put(TWO, &process.address);
    assert!(is_unreachable(), "the next attempt is far away");
    asker.connect(TWO);
    asker.ask_until_answered(TWO);
}

#[test]
fn a_peer_that_connects_is_connected_without_waiting_for_the_next_attempt() {
    let patient =
        PeerSettings { backoff_first_ms: 10 * PATIENCE_MS, backoff_longest_ms: 10 * PATIENCE_MS, ..settings() };
    let asker = Asker::new(patient);
    let gone = Process::member(identity(TWO), Arc::new(Echo::default()));
    asker.book.put(TWO, &gone.address);
    gone.kill();
    eventually("an attempt failed", || {
        let told = asker.send(TWO, Lane::Foreground, request(1, 1_000)).wait();
        told == Err(PeerError::Unreachable { peer: TWO })
    });
    let again = Process::member(identity(TWO), Arc::new(Echo::default()));
    asker.book.put(TWO, &again.address);
    let one = Process::listening(settings(), Arc::new(SystemClock::new(0)), Arc::new(NoCalls));
    let transport = Arc::clone(&asker.transport);
    let met: OnPeer = Arc::new(move |node| transport.wake(node));
    let serve = Arc::new(Echo::default());
    one.server.open(Membership { identity: identity(ONE), check: anybody(), serve, met }).unwrap();

    let other = Asker::of(identity(TWO), anybody(), settings(), Arc::new(SystemClock::new(0)));
    other.book.put(ONE, &one.address);
    other.connect(ONE);
    eventually("it is connected in return", || asker.is_connected(TWO));
}

#[test]
fn a_peer_that_leaves_answers_what_it_was_asked_and_takes_nothing_more() {
    let hoard = Arc::new(Hoard::default());
    let process = Process::member(identity(TWO), hoard.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    let under_way: Vec<Told> =
        (1..=20).map(|number| asker.send(TWO, Lane::Foreground, request(number, AMPLE_MS))).collect();
    eventually("they are under way", || hoard.len() == 20);
    process.stop.cancel();
    eventually("the goodbye is heard", || {
        let told = asker.send(TWO, Lane::Foreground, request(99, 1));
        told.wait() == Err(PeerError::Unreachable { peer: TWO })
    });
    assert!(under_way.iter().all(|told| !told.is_told()));
    hoard.answer_all();
    for told in under_way {
        assert!(told.wait().is_ok());
    }
    eventually("all lanes are closed", || process.server.status().is_empty());
}

#[test]
fn when_the_transport_ends_everybody_is_told() {
    let hoard = Arc::new(Hoard::default());
    let process = Process::member(identity(TWO), hoard.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    let under_way = asker.send(TWO, Lane::Foreground, request(1, AMPLE_MS));
    eventually("it is under way", || hoard.len() == 1);
    asker.transport.close();
    assert_eq!(under_way.wait(), Err(PeerError::Broken { peer: TWO }));
    eventually("the lanes are closed", || process.server.status().is_empty());
    asker.book.put(THREE, &process.address);
    for node in [TWO, THREE] {
        let told = asker.send(node, Lane::Foreground, request(2, AMPLE_MS));
        assert_eq!(told.wait(), Err(PeerError::Unreachable { peer: node }));
    }
}

#[test]
fn a_node_that_is_no_member_any_more_is_forgotten() {
    let process = Process::member(identity(TWO), Arc::new(Echo::default()));
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.ask_until_answered(TWO);
    asker.book.0.lock().remove(&TWO);
    asker.transport.forget(TWO);
    assert!(asker.transport.status().is_empty());
    eventually("the lanes are closed", || process.server.status().is_empty());
    let told = asker.send(TWO, Lane::Foreground, request(1, AMPLE_MS));
    assert_eq!(told.now(), Err(PeerError::Unreachable { peer: TWO }));
}

#[test]
fn peers_tell_each_other_their_clocks() {
    const AHEAD_MS: i64 = 300_000;
    let process = Process::listening(settings(), Arc::new(SystemClock::new(AHEAD_MS)), Arc::new(NoCalls));
    process
        .server
        .open(Membership { identity: identity(TWO), check: anybody(), serve: Arc::new(Echo::default()), met: nobody() })
        .unwrap();
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    eventually("clocks are told again and again", || asker.pings.lock().len() >= 3);
    for ping in asker.pings.lock().iter() {
        assert_eq!(ping.node, TWO);
        let offset_ms = |ours: u64| i64::try_from(ping.theirs_wall_ms).unwrap() - i64::try_from(ours).unwrap();
        assert!(offset_ms(ping.sent_wall_ms) >= AHEAD_MS && offset_ms(ping.received_wall_ms) <= AHEAD_MS, "{ping:?}");
    }
    let connection = asker.lane(TWO, Lane::Foreground).unwrap().connection.unwrap();
    assert!(connection.ping_rtt_us.is_some());
}

/// Panics at the first request.
#[derive(Default)]
struct Fragile(AtomicU64);

impl Serve for Fragile {
    fn serve(&self, request: Request, answer: OnAnswer) {
        assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the first request, on purpose");
        answer(reply_to(&request));
    }
}

#[test]
fn a_request_that_panics_costs_its_connection_and_nothing_else() {
    for lane in [Lane::Foreground, Lane::Background] {
        let process = Process::member(identity(TWO), Arc::new(Fragile::default()));
        let asker = Asker::new(settings());
        asker.book.put(TWO, &process.address);
        asker.connect(TWO);
        let told = asker.send(TWO, lane, request(1, AMPLE_MS));
        assert_eq!(told.wait(), Err(PeerError::Broken { peer: TWO }));
        eventually("it is reached again", || asker.send(TWO, lane, request(2, 2_000)).wait().is_ok());
        eventually("each lane is open once", || process.server.status().len() == 2);
    }
}

#[test]
fn who_connects_and_says_nothing_is_hung_up_on_while_peers_are_served() {
    let settings = PeerSettings { handshake_timeout_ms: 1_000, ..settings() };
    let process = Process::listening(settings, Arc::new(SystemClock::new(0)), Arc::new(NoCalls));
    let mut silent = TcpStream::connect(&process.address).unwrap();
    silent.set_read_timeout(Some(Duration::from_millis(PATIENCE_MS))).unwrap();
    silent.read_to_end(&mut Vec::new()).expect("the connection is closed");
    process
        .server
        .open(Membership { identity: identity(TWO), check: anybody(), serve: Arc::new(Echo::default()), met: nobody() })
        .unwrap();
    let asker = Asker::new(settings);
    asker.book.put(TWO, &process.address);
    asker.ask_until_answered(TWO);
}

#[test]
fn connections_past_the_bound_are_refused_and_those_within_it_stay() {
    let settings = PeerSettings { connections_max: 2, handshake_timeout_ms: PATIENCE_MS, ..settings() };
    let process = Process::listening(settings, Arc::new(SystemClock::new(0)), Arc::new(NoCalls));
    let held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(&process.address).unwrap()).collect();
    let mut refused = TcpStream::connect(&process.address).unwrap();
    refused.set_read_timeout(Some(Duration::from_millis(PATIENCE_MS))).unwrap();
    let mut said = Vec::new();
    refused.read_to_end(&mut said).expect("the connection is closed");
    assert!(said.ends_with(b"no place is left for connections"), "{said:?}");
    for stream in &held {
        stream.set_nonblocking(true).unwrap();
        assert!(!matches!(stream.peek(&mut [0]), Ok(0)), "it was there before");
    }
}
