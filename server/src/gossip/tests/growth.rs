//! How nodes find each other: seeds, names, late seeds, many at once.

use super::*;

#[tokio::test]
async fn nodes_learn_each_others_names_addresses_and_reports() {
    let net = Net::udp();
    let nodes = net.cluster(3).await;
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.me != node.me) {
            let arrived = || node.peer(other.me).is_some_and(|peer| !peer.name.is_empty());
            net.until(arrived, "the report arrives").await;
            let told = node.peer(other.me).unwrap();
            let mut expected = report_of(other.me.0);
            expected.addresses.gossip = other.address().to_string();
            assert_eq!((told.name, told.address), (format!("node-{}", other.me.0), other.address()));
            assert_eq!((*told.report).clone(), expected);
        }
    }
}

#[tokio::test]
async fn a_report_that_changes_is_told_again() {
    let net = Net::udp();
    let first = net.start(1, 1, &[]);
    let state = Arc::new(parking_lot::Mutex::new("JOINING".to_owned()));
    let own_state = Arc::clone(&state);
    let own = move || OwnReport { state: own_state.lock().clone(), ..OwnReport::default() };
    let _second = net.start_reporting(2, &[first.address()], Arc::new(own));
    let told = |state: &str| first.peer(NodeId(2)).is_some_and(|peer| peer.report.state == state);
    net.until(|| told("JOINING"), "the first report").await;
    *state.lock() = "READY".into();
    net.until(|| told("READY"), "the second report").await;
}

#[tokio::test]
async fn ten_nodes_with_one_seed_find_each_other() {
    let net = Net::udp();
    let started_ms = net.clock.monotonic_ms();
    let nodes = net.cluster(10).await;
    println!("{} nodes found each other in {} ms", nodes.len(), net.clock.monotonic_ms() - started_ms);
}

#[tokio::test]
async fn a_seed_that_starts_late_under_a_name_is_found() {
    let net = Net::udp();
    // Its port is free again once it has ended, and nobody else is given it soon.
    let port = net.start(9, 1, &[]).address().port();
    let early = net.start_with(1, 1, vec![format!("localhost:{port}"), "no-such-host.invalid:1".into()]);
    net.until(|| early.counters().sent.load(std::sync::atomic::Ordering::Relaxed) > 0, "the seed is asked").await;
    assert_eq!(found(&early), BTreeSet::from([1]));
    let late = loop {
        let listen = ([127, 0, 0, 1], port).into();
        let settings = GossipSettings { listen, advertise: listen, ..net.settings(2, 1, Vec::new()) };
        match Gossip::start(settings, Arc::new(OwnReport::default)) {
            Ok(late) => break late,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    net.until(|| found(&early).contains(&2) && found(&late).contains(&1), "they find each other").await;
}

#[tokio::test]
async fn seeds_given_later_are_asked() {
    let net = Net::udp();
    let (first, second) = (net.start(1, 1, &[]), net.start(2, 1, &[]));
    first.set_seeds(vec![first.address().to_string(), second.address().to_string()]);
    net.until(|| found(&first).contains(&2) && found(&second).contains(&1), "they find each other").await;
}

#[test]
fn an_address_that_is_taken_an_unspecified_host_and_an_impossible_generation_are_refused_with_the_reason() {
    let net = Net::udp();
    let taken = net.start(1, 1, &[]);
    let settings = |listen: SocketAddr, advertise: SocketAddr, generation| GossipSettings {
        listen,
        advertise,
        ..net.settings(2, generation, Vec::new())
    };
    let refused = |settings| Gossip::start(settings, Arc::new(OwnReport::default)).err().unwrap().to_string();
    let free: SocketAddr = ([127, 0, 0, 1], 0).into();
    let in_use = refused(settings(taken.address(), free, 1));
    assert!(in_use.contains(&taken.address().to_string()) && in_use.contains("use"), "{in_use}");
    assert!(refused(settings(free, ([0, 0, 0, 0], 7402).into(), 1)).contains("0.0.0.0:7402"));
    assert!(refused(settings(free, free, u64::MAX)).contains("generation"));
}
