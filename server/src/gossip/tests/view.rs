use super::*;

const NEW: Changes = Changes { found: Vec::new(), conflicts: Vec::new() };

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn instance(node: u16, generation: u64) -> Instance {
    Instance { node: NodeId(node), generation, incarnation: 0, address: address(node * 100 + generation as u16) }
}

fn seen(node: u16, generation: u64, live: bool) -> Sighting {
    let report = OwnReport { applied_index: generation, ..OwnReport::default() };
    Sighting {
        instance: instance(node, generation),
        live,
        left: false,
        name: format!("node-{node}").into(),
        report: Arc::new(report),
    }
}

fn left(node: u16, generation: u64) -> Sighting {
    Sighting { left: true, ..seen(node, generation, true) }
}

fn view() -> View {
    View::new(instance(1, 1), Timing::default(), 0)
}

/// Updates in regular steps up to a time, as the loop does, and gives all that was found.
fn run(view: &mut View, until_ms: u64, sightings: &[Sighting]) -> Vec<(u16, bool)> {
    let mut found = Vec::new();
    while view.updated_ms < until_ms {
        let now_ms = (view.updated_ms + 250).min(until_ms);
        found.extend(view.update(now_ms, sightings).found.into_iter().map(|(node, alive)| (node.0, alive)));
    }
    found
}

#[test]
fn a_node_heard_of_is_presumed_alive_until_it_should_have_been_heard() {
    let mut view = view();
    assert_eq!(run(&mut view, 4_750, &[seen(2, 1, false)]), []);
    assert!(view.presumes() && view.peers()[0].alive && !view.alive().contains(&NodeId(2)));
    assert_eq!(run(&mut view, 5_000, &[seen(2, 1, false)]), [(2, false)]);
    assert!(!view.presumes() && !view.peers()[0].alive);
}

#[test]
fn a_node_heard_of_later_has_a_moment_to_be_heard_in_which_nobody_calls_it_dead() {
    let mut view = view();
    run(&mut view, 6_000, &[]);
    assert_eq!(run(&mut view, 6_250, &[seen(2, 1, false), seen(3, 1, false)]), []);
    assert!(view.peers().iter().all(|peer| peer.alive) && !view.presumes());
    assert_eq!(run(&mut view, 6_500, &[seen(2, 1, true), seen(3, 1, false)]), [(2, true)]);
    let at_last = 6_250 + Timing::default().hear_ms;
    assert_eq!(run(&mut view, at_last - 250, &[seen(2, 1, true), seen(3, 1, false)]), []);
    assert_eq!(run(&mut view, at_last, &[seen(2, 1, true), seen(3, 1, false)]), [(3, false)]);
    assert_eq!(view.peers().iter().filter(|peer| peer.alive).count(), 1);
    assert_eq!(run(&mut view, at_last + 250, &[seen(2, 1, true), seen(3, 1, true)]), [(3, true)]);
}

#[test]
fn a_node_found_dead_within_the_first_seconds_is_dead_and_not_presumed_alive() {
    let mut view = view();
    assert_eq!(run(&mut view, 1_000, &[seen(2, 1, true)]), [(2, true)]);
    assert_eq!(run(&mut view, 1_250, &[seen(2, 1, false)]), [(2, false)]);
    assert!(view.presumes() && !view.peers()[0].alive);
}

#[test]
fn who_left_is_dead_whatever_its_heartbeat_says() {
    let mut view = view();
    assert_eq!(run(&mut view, 250, &[left(2, 1)]), [(2, false)]);
    assert_eq!(run(&mut view, 500, &[left(2, 1), seen(3, 1, true)]), [(3, true)]);
    assert_eq!(run(&mut view, 750, &[left(2, 1), left(3, 1)]), [(3, false)]);
    assert_eq!(run(&mut view, 1_000, &[left(2, 1), seen(2, 2, true), left(3, 1)]), [(2, true)]);
}

#[test]
fn a_start_that_left_is_not_outlived_by_the_one_before_it_that_crashed() {
    let mut view = view();
    run(&mut view, 250, &[seen(2, 1, true)]);
    assert_eq!(run(&mut view, 500, &[seen(2, 1, true), left(2, 2)]), [(2, false)]);
}

#[test]
fn the_newest_living_start_speaks_for_a_node() {
    let mut view = view();
    run(&mut view, 250, &[seen(2, 1, true)]);
    assert_eq!(run(&mut view, 500, &[seen(2, 1, true), seen(2, 2, false)]), []);
    assert_eq!(view.peers()[0].generation, 1, "the new one may be hearsay");
    assert_eq!(run(&mut view, 750, &[seen(2, 1, true), seen(2, 2, true)]), [(2, true)]);
    let peer = &view.peers()[0];
    assert_eq!((peer.generation, peer.report.applied_index, peer.since_ms), (2, 2, 250));
    assert_eq!(run(&mut view, 1_000, &[seen(2, 1, false), seen(2, 2, true)]), []);
}

#[test]
fn silence_that_this_node_slept_through_kills_nobody() {
    let mut view = view();
    run(&mut view, 10_000, &[seen(2, 1, true), seen(3, 1, true)]);
    // Stopped for ten seconds. The protocol finds all silent, and needs a moment to hear them again.
    assert_eq!(view.update(20_000, &[seen(2, 1, false), seen(3, 1, false)]), NEW);
    assert_eq!(run(&mut view, 21_000, &[seen(2, 1, false), seen(3, 1, false)]), []);
    // One of them had died meanwhile.
    assert_eq!(run(&mut view, 25_000, &[seen(2, 1, true), seen(3, 1, false)]), [(3, false)]);
}

#[test]
fn a_node_that_sleeps_again_and_again_still_finds_the_dead() {
    let mut view = view();
    run(&mut view, 10_000, &[seen(2, 1, true)]);
    let found: Vec<_> = (1..=4).flat_map(|nap| view.update(10_000 + nap * 1_500, &[seen(2, 1, false)]).found).collect();
    assert_eq!(found, [(NodeId(2), false)]);
}

#[test]
fn a_restart_is_no_conflict_and_two_that_live_on_are() {
    let mut view = view();
    let both = [seen(2, 1, true), seen(2, 2, true)];
    run(&mut view, 5_000, &both);
    run(&mut view, 6_000, &[seen(2, 1, false), seen(2, 2, true)]);
    run(&mut view, 15_750, &both);
    assert!(view.conflicts().is_empty());
    let new = view.update(16_250, &both).conflicts;
    assert_eq!(new.len(), 1);
    assert_eq!(new[0].instances, [(1, address(201)), (2, address(202))]);
    assert_eq!(view.conflicts(), new);
    assert!(view.update(16_500, &both).conflicts.is_empty(), "it is told once");
    view.update(16_750, &[seen(2, 2, true)]);
    assert!(view.conflicts().is_empty());
}

#[test]
fn two_clones_of_one_start_and_a_clone_of_this_node_are_conflicts() {
    let mut view = view();
    let mut clone = seen(2, 1, true);
    clone.instance.address = address(9);
    let heard = [seen(2, 1, true), clone, seen(1, 1, true)];
    run(&mut view, 11_000, &heard);
    assert_eq!(view.conflicts().iter().map(|conflict| conflict.node.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(view.peers().len(), 1, "this node is no peer of its own");
}

#[test]
fn a_node_forgotten_by_the_protocol_is_dead_and_stays_listed_for_a_day() {
    let mut view = view();
    run(&mut view, 10_000, &[seen(2, 1, true)]);
    assert_eq!(run(&mut view, 10_250, &[]), [(2, false)]);
    view.update(10_250 + 86_399_999, &[]);
    assert_eq!(view.peers().len(), 1);
    view.update(10_250 + 86_400_000, &[]);
    assert!(view.peers().is_empty());
}
