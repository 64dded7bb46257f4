//! Who is let in, who is not and why, and what two nodes agree on.

use cube_proto::peer::v1 as wire;
use cube_proto::peer::v1::peer_client::PeerClient;
use cube_replication::anti_entropy::questions::Question;

use super::*;

/// Asks a node that is not to be reached, and tells what the asker's operator is told.
fn refusal(asker: &Asker, process: &Process) -> String {
    asker.book.put(TWO, &process.address);
    let told = asker.send(TWO, Lane::Foreground, request(1, AMPLE_MS)).wait();
    assert_eq!(told, Err(PeerError::Unreachable { peer: TWO }));
    eventually("a reason", || !asker.last_error(TWO).is_empty());
    asker.last_error(TWO)
}

fn asker_of(identity: PeerIdentity, check: CheckPeer) -> Asker {
    Asker::of(identity, check, settings(), Arc::new(SystemClock::new(0)))
}

fn speaking(node: NodeId, protocol_min: u16, protocol_max: u16, features: u64) -> PeerIdentity {
    PeerIdentity { protocol_min, protocol_max, features: Features(features), ..identity(node) }
}

/// A member list in which `node` has another data directory.
fn knows_otherwise(node: NodeId) -> CheckPeer {
    Arc::new(move |peer| match peer.node == node {
        true => {
            let expected = InstanceId(99);
            Err(HandshakeRefused::WrongInstance { node, expected, found: peer.instance })
        }
        false => Ok(()),
    })
}

#[test]
fn nodes_of_different_clusters_refuse_each_other() {
    let echo = Arc::new(Echo::default());
    let process = Process::member(identity(TWO), echo.clone());
    let asker = asker_of(PeerIdentity { cluster: ClusterId(8), ..identity(ONE) }, anybody());
    let reason = refusal(&asker, &process);
    assert!(reason.contains("AnotherCluster") && reason.contains(&ClusterId(7).to_string()), "{reason}");
    assert_eq!(echo.heard.load(Ordering::Relaxed), 0);
}

#[test]
fn a_node_that_no_member_list_has_is_refused() {
    let check: CheckPeer =
        Arc::new(|peer| Err(HandshakeRefused::UnknownMember { node: peer.node, name: peer.name.clone() }));
    let process = Process::listening(settings(), Arc::new(SystemClock::new(0)), Arc::new(NoCalls));
    process
        .server
        .open(Membership { identity: identity(TWO), check, serve: Arc::new(Echo::default()), met: nobody() })
        .unwrap();
    let reason = refusal(&Asker::new(settings()), &process);
    assert!(reason.contains("UnknownMember") && reason.contains("node-1"), "{reason}");
    assert!(process.server.status().is_empty());
}

#[test]
fn a_node_with_another_data_directory_is_refused_by_whoever_notices() {
    let process = Process::listening(settings(), Arc::new(SystemClock::new(0)), Arc::new(NoCalls));
    let serve = Arc::new(Echo::default());
    process
        .server
        .open(Membership { identity: identity(TWO), check: knows_otherwise(ONE), serve, met: nobody() })
        .unwrap();
    let reason = refusal(&Asker::new(settings()), &process);
    assert!(reason.contains("refused this node (WrongInstance)"), "{reason}");

    let process = Process::member(identity(TWO), Arc::new(Echo::default()));
    let reason = refusal(&asker_of(identity(ONE), knows_otherwise(TWO)), &process);
    assert!(reason.starts_with("refused") && reason.contains("n2 is known with the data directory"), "{reason}");
    eventually("the refused node gives the lane up", || process.server.status().is_empty());
}

#[test]
fn an_address_at_which_another_node_answers_is_refused_and_reported() {
    let process = Process::member(identity(THREE), Arc::new(Echo::default()));
    let reason = refusal(&Asker::new(settings()), &process);
    assert!(reason.contains("WrongNode") && reason.contains("n2 was expected at this address, n3 answers"), "{reason}");
}

#[test]
fn nodes_without_a_common_version_refuse_each_other() {
    for (ours, theirs) in [((1, 2), (3, 4)), ((3, 4), (1, 2))] {
        let process = Process::member(speaking(TWO, theirs.0, theirs.1, 0), Arc::new(Echo::default()));
        let asker = asker_of(speaking(ONE, ours.0, ours.1, 0), anybody());
        let reason = refusal(&asker, &process);
        assert!(reason.contains("NoCommonProtocol"), "{reason}");
        assert!(reason.contains(&format!("versions {} to {}, this node {} to {}", ours.0, ours.1, theirs.0, theirs.1)));
    }
}

#[test]
fn nodes_speak_the_newest_version_both_know_and_use_what_both_can() {
    let process = Process::member(speaking(TWO, 2, 5, 0b0110), Arc::new(Echo::default()));
    let asker = asker_of(speaking(ONE, 1, 3, 0b0011), anybody());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    let agreed = Negotiated { protocol: 3, features: Features(0b0010) };
    assert_eq!(asker.transport.negotiated(TWO), Some(agreed));
    let inbound = process.server.status();
    assert_eq!(inbound.len(), 2, "{inbound:?}");
    assert!(inbound.iter().all(|lane| lane.node == ONE && lane.negotiated == agreed), "{inbound:?}");
}

#[test]
fn a_node_lets_peers_in_as_soon_as_it_is_a_member() {
    let process = Process::listening(settings(), Arc::new(SystemClock::new(0)), Arc::new(NoCalls));
    let asker = Asker::new(settings());
    let reason = refusal(&asker, &process);
    assert!(reason.contains("NotReady"), "{reason}");
    process
        .server
        .open(Membership { identity: identity(TWO), check: anybody(), serve: Arc::new(Echo::default()), met: nobody() })
        .unwrap();
    asker.ask_until_answered(TWO);
}

#[test]
fn what_is_no_handshake_is_refused() {
    let process = Process::member(identity(TWO), Arc::new(Echo::default()));
    let ours = wire::Identity::from(&identity(ONE));
    let lane = wire::Lane::Foreground.into();
    let hello = |identity, lane| wire::Hello { identity, expected_node: TWO.0.into(), lane };
    let short = wire::Identity { cluster: Bytes::from_static(b"short"), ..ours.clone() };
    let out_of_range = wire::Identity { node: 1 << 16, ..ours.clone() };
    for hello in [
        None,
        Some(hello(None, lane)),
        Some(hello(Some(ours.clone()), 0)),
        Some(hello(Some(ours.clone()), 99)),
        Some(hello(Some(short), lane)),
        Some(hello(Some(out_of_range), lane)),
    ] {
        let first = wire::Frame { hello, ..wire::Frame::default() };
        let address = format!("http://{}", process.address);
        let answer = runtime(1).block_on(async {
            let mut client = PeerClient::connect(address).await.unwrap();
            let mut inbound = client.exchange(tokio_stream::iter([first.clone()])).await.unwrap().into_inner();
            let answer = inbound.message().await.unwrap().unwrap();
            assert_eq!(inbound.message().await.unwrap(), None, "it goes on after a refusal");
            answer
        });
        let reason = answer.refused.map(|refused| refused.reason());
        assert_eq!(reason, Some(wire::RefusalReason::Malformed), "{first:?}");
    }
    assert!(process.server.status().is_empty());
}

#[test]
fn a_peer_is_never_sent_what_it_has_not_announced_and_is_once_it_was_upgraded() {
    let (heard, fewer) = (Arc::new(Echo::default()), Features::HINTS);
    let older = PeerIdentity { features: fewer, ..identity(TWO) };
    let process = Process::member(older, heard.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    let scan = || request_of(table_scan(), 1, AMPLE_MS);
    // Asked before anybody can know, and then again and again.
    let mut waiting = vec![asker.send(TWO, Lane::Foreground, scan())];
    asker.connect(TWO);
    assert_eq!(asker.transport.negotiated(TWO).map(|agreed| agreed.features), Some(fewer));
    waiting.extend([Lane::Foreground, Lane::Background].map(|lane| asker.send(TWO, lane, scan())));
    for told in waiting {
        let reply = told.wait().unwrap();
        assert_eq!((reply.from, reply.body), (TWO, Err(Refusal::Unsupported("table scans".into()))));
    }
    assert_eq!(heard.heard.load(Ordering::Relaxed), 0, "it was sent");
    asker.ask_until_answered(TWO);
    let before = heard.heard.load(Ordering::Relaxed);

    process.kill();
    let upgraded = Process::member(identity(TWO), heard.clone());
    asker.book.put(TWO, &upgraded.address);
    eventually("the upgraded peer is asked", || {
        asker.send(TWO, Lane::Foreground, scan()).wait().is_ok_and(|reply| reply.body.is_ok())
    });
    assert!(heard.heard.load(Ordering::Relaxed) > before);
}

#[test]
fn a_peer_that_compares_replicas_and_knows_no_in_sync_times_is_asked_the_one_and_not_told_the_other() {
    let heard = Arc::new(Echo::default());
    let fewer = Features(Features::OF_THIS_BUILD.0 & !Features::SYNC_TIMES.0);
    let process = Process::member(PeerIdentity { features: fewer, ..identity(TWO) }, heard.clone());
    let asker = Asker::new(settings());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    let send = |question| {
        let body = RequestBody::AntiEntropy(Box::new(question));
        asker.send(TWO, Lane::Background, request_of(body, 1, AMPLE_MS)).wait().unwrap()
    };
    let told = send(Question::Equal { horizon: Hlc(1), trees: Vec::new() });
    assert_eq!(told.body, Err(Refusal::Unsupported("in-sync times".into())));
    assert_eq!(heard.heard.load(Ordering::Relaxed), 0, "it was sent");
    assert!(send(Question::Roots { horizon: Hlc(1), tables: Vec::new() }).body.is_ok());
    assert_eq!(heard.heard.load(Ordering::Relaxed), 1);
}

#[test]
fn a_request_says_what_the_two_agreed_on() {
    let hoard = Arc::new(Hoard::default());
    let process = Process::member(speaking(TWO, 1, 1, 0b0101), hoard.clone());
    let asker = asker_of(speaking(ONE, 1, 4, 0b0111), anybody());
    asker.book.put(TWO, &process.address);
    asker.connect(TWO);
    let told = asker.send(TWO, Lane::Foreground, request(1, AMPLE_MS));
    eventually("it arrives", || hoard.len() == 1);
    let said = hoard.0.lock().iter().map(|(request, _)| (request.protocol, request.features)).next();
    assert_eq!(said, Some((1, Features(0b0101))));
    hoard.answer_all();
    told.wait().unwrap();
}

fn table_scan() -> RequestBody {
    RequestBody::ScanTable(ScanTable {
        table: TableId(1),
        prefix: Bytes::new(),
        backward: false,
        rows_max: 1,
        bytes_max: 1,
        position: None,
        partitions: Vec::new(),
    })
}
