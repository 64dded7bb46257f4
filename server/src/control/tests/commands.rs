//! What commands make of the hard state.

use std::collections::{BTreeMap, BTreeSet};

use cube_replication::catalog::{Hedge, TableSettings};
use cube_replication::topology::{Addresses, Assignment, MemberState, Strategy as Replication, TopologyChange};
use cube_storage::SyncPolicy;
use cube_storage::model::{NodeId, PartitionId, PlacementId, TableId};
use proptest::prelude::*;

use super::super::{Answer, CHANGES_MAX, Command, FOUNDER, HardState, KEYSPACES_MAX, NewMember, Refusal, TABLES_MAX};
use super::{create_table, founding, newcomer, node};
use crate::cases::cases;
use crate::config::{self, Sources};
use crate::identity::InstanceId;

fn founded() -> HardState {
    HardState::unfounded().after(&Command::Found(founding())).unwrap().0
}

fn after(state: &HardState, command: &Command) -> HardState {
    state.after(command).unwrap().0
}

fn simple(replicas: u8) -> Replication {
    Replication::Simple { replicas }
}

fn create_keyspace(state: &HardState, name: &str, replicas: u8) -> Command {
    state.plan_keyspace(name, simple(replicas), SyncPolicy::Sync, false)
}

fn epoch(state: &HardState) -> u64 {
    state.topology().epoch().0
}

#[test]
fn nothing_can_be_changed_before_the_cluster_is_founded() {
    assert_eq!(HardState::unfounded().after(&Command::Join(newcomer(1))), Err(Refusal::NotFounded));
}

#[test]
fn a_join_is_answered_with_the_next_id_and_again_with_the_same() {
    let joined = after(&founded(), &Command::Join(newcomer(1)));
    assert_eq!(joined.topology().member(node(1)).unwrap().state, MemberState::Joining);
    let (again, answer) = joined.after(&Command::Join(newcomer(1))).unwrap();
    assert_eq!((answer, &again), (Answer::Joined { node: node(1) }, &joined), "nothing changed, the epoch neither");

    let moved =
        NewMember { addresses: Addresses { peer: "elsewhere:1".into(), ..Addresses::default() }, ..newcomer(1) };
    let (again, answer) = joined.after(&Command::Join(moved)).unwrap();
    assert_eq!(answer, Answer::Joined { node: node(1) });
    assert_eq!(again.topology().member(node(1)).unwrap().addresses.peer, "elsewhere:1");
}

#[test]
fn joins_that_cannot_be_are_refused_with_the_way_out() {
    let joined = after(&founded(), &Command::Join(newcomer(1)));
    let wiped = NewMember { instance: InstanceId(5), ..newcomer(1) };
    let renamed = NewMember { name: "another".into(), ..newcomer(1) };
    let elsewhere = NewMember { rack: "r9".into(), ..newcomer(1) };
    let nameless = NewMember { name: "a name".into(), ..newcomer(2) };
    let nowhere = NewMember { data_center: "".into(), ..newcomer(2) };
    let unreachable =
        NewMember { addresses: Addresses { peer: "no port".into(), ..Addresses::default() }, ..newcomer(2) };
    for (member, way_out) in [
        (wiped, "start this node with that directory, or under another name"),
        (renamed, "start it under that name"),
        (elsewhere, "start it there, or start another one"),
        (nameless, "names no node"),
        (nowhere, "names no data center"),
        (unreachable, "HOST:PORT"),
    ] {
        let refused = joined.after(&Command::Join(member)).unwrap_err().to_string();
        assert!(refused.contains(way_out), "{refused}");
    }
    let left = after(&joined, &Command::SetMemberState { node: node(1), state: MemberState::Left });
    assert_eq!(left.after(&Command::Join(newcomer(1))), Err(Refusal::HasLeft { node: node(1) }));
    let fresh = NewMember { instance: InstanceId(6), ..newcomer(1) };
    let (_, answer) = left.after(&Command::Join(fresh)).unwrap();
    assert_eq!(answer, Answer::Joined { node: node(2) }, "the name is free again, the id is not");
}

#[test]
fn whatever_name_a_node_may_be_configured_with_may_also_join() {
    let state = founded();
    let longest = "x".repeat(63);
    for name in [
        "node-1",
        "1st",
        "_x",
        "10-0-0-7",
        "cube-0.cube.svc.local",
        longest.as_str(),
        ".hidden",
        "-x",
        "a b",
        "ä",
        "a/b",
    ] {
        let data_dir = "data_dir=/tmp/unused".to_owned();
        let sources = Sources { set: vec![format!("name={name}"), data_dir], ..Sources::default() };
        let joined = state.after(&Command::Join(NewMember { name: name.into(), ..newcomer(1) }));
        assert_eq!(joined.is_ok(), config::load(&sources).is_ok(), "{name:?}: {joined:?}");
    }
}

#[test]
fn names_settings_and_numbers_have_bounds() {
    let state = founded();
    let long = "x".repeat(65);
    for name in ["", "9lives", "a b", "ä", "a/b", long.as_str()] {
        assert!(matches!(state.after(&create_table(name)), Err(Refusal::BadName { .. })), "{name:?}");
        assert!(matches!(state.after(&create_keyspace(&state, name, 1)), Err(Refusal::BadName { .. })), "{name:?}");
    }
    assert!(state.after(&create_table(&long[..64])).is_ok());

    let settings = |settings| Command::AlterTable { keyspace: "default".into(), name: "kv".into(), settings };
    let sound = TableSettings::default();
    for bad in [
        TableSettings { read_repair_percent: 101, ..sound },
        TableSettings { default_ttl_ms: Some(0), ..sound },
        TableSettings { hedge: Hedge::After { ms: 0 }, ..sound },
    ] {
        assert!(matches!(state.after(&settings(bad)), Err(Refusal::BadSetting { .. })), "{bad:?}");
    }
    let sync = Some(SyncPolicy::Interval { every_ms: 0 });
    let durability = Command::AlterKeyspace { name: "default".into(), strategy: None, sync };
    assert!(matches!(state.after(&durability), Err(Refusal::BadSetting { .. })));

    let mut full = state.clone();
    for n in 1..KEYSPACES_MAX {
        full = after(&full, &create_keyspace(&full, &format!("ks{n}"), 1));
    }
    assert_eq!(full.after(&create_keyspace(&full, "more", 1)), Err(Refusal::TooManyKeyspaces));
    let mut full = state;
    for n in 1..TABLES_MAX {
        full = after(&full, &create_table(&format!("t{n}")));
    }
    assert_eq!(full.after(&create_table("more")), Err(Refusal::TooManyTables));
    let changes = vec![TopologyChange::SetWeight { node: FOUNDER, weight: 1 }; CHANGES_MAX + 1];
    assert!(matches!(full.after(&Command::Topology(changes)), Err(Refusal::TooManyChanges { .. })));
}

#[test]
fn a_keyspace_and_its_placement_come_and_go_together() {
    let state = founded();
    let (created, answer) = state.after(&create_keyspace(&state, "metrics", 3)).unwrap();
    assert_eq!(answer, Answer::KeyspaceCreated { placement: PlacementId(1) }, "alike, and yet its own");
    assert_eq!(
        created.after(&create_keyspace(&state, "metrics", 3)).unwrap_err(),
        Refusal::KeyspaceExists { keyspace: "metrics".into() }
    );
    let fine = state.plan_keyspace("metrics", simple(2), SyncPolicy::Sync, true);
    assert_eq!(created.after(&fine), Ok((created.clone(), Answer::Unchanged)));

    let alter = Command::AlterKeyspace { name: "metrics".into(), strategy: Some(simple(1)), sync: None };
    let altered = after(&created, &alter);
    let strategies: Vec<_> =
        altered.topology().placements().map(|(_, placement)| placement.strategy().clone()).collect();
    assert_eq!(strategies, [simple(3), simple(1)], "the other keyspace's rows stay where they are");
    assert_eq!(altered.after(&alter), Ok((altered.clone(), Answer::Unchanged)));

    let drop = |if_exists| Command::DropKeyspace { name: "metrics".into(), if_exists };
    let dropped = after(&altered, &drop(false));
    assert!(dropped.topology().placement(PlacementId(1)).is_none());
    assert_eq!(dropped.after(&drop(true)), Ok((dropped.clone(), Answer::Unchanged)));
    assert!(matches!(dropped.after(&drop(false)), Err(Refusal::UnknownKeyspace { .. })));
    let (_, answer) = dropped.after(&create_keyspace(&dropped, "metrics", 1)).unwrap();
    assert_eq!(answer, Answer::KeyspaceCreated { placement: PlacementId(2) });
}

#[test]
fn a_table_that_is_made_again_has_another_id() {
    let state = after(&founded(), &create_table("events"));
    let drop = |if_exists| Command::DropTable { keyspace: "default".into(), name: "events".into(), if_exists };
    let dropped = after(&state, &drop(false));
    assert_eq!(epoch(&dropped), epoch(&state), "the schema alone changed");
    assert!(matches!(dropped.after(&drop(false)), Err(Refusal::UnknownTable { .. })));
    assert_eq!(dropped.after(&drop(true)), Ok((dropped.clone(), Answer::Unchanged)));
    let (_, answer) = dropped.after(&create_table("events")).unwrap();
    assert_eq!(answer, Answer::TableCreated { table: TableId(3) });
    assert!(matches!(state.after(&create_table("events")), Err(Refusal::TableExists { .. })));
}

#[test]
fn a_strategy_that_names_no_members_is_refused() {
    let state = founded();
    let mistyped = Replication::Network(BTreeMap::from([("dc9".into(), 3)]));
    let expected = Refusal::NobodyThere { data_center: "dc9".into() };
    let create = state.plan_keyspace("metrics", mistyped.clone(), SyncPolicy::Sync, false);
    assert_eq!(state.after(&create).unwrap_err(), expected);
    let alter = Command::AlterKeyspace { name: "default".into(), strategy: Some(mistyped), sync: None };
    assert_eq!(state.after(&alter).unwrap_err(), expected);
}

#[test]
fn a_plan_that_members_outran_is_told_from_other_refusals() {
    let joined = after(&founded(), &Command::Join(newcomer(1)));
    let arrived = after(&joined, &Command::SetMemberState { node: node(1), state: MemberState::Warming });
    let planned = create_keyspace(&arrived, "metrics", 2);
    let left = after(&arrived, &Command::SetMemberState { node: node(1), state: MemberState::Leaving });
    assert!(matches!(left.after(&planned), Err(Refusal::PlanOutdated { .. })));
}

#[test]
fn a_batch_of_changes_makes_those_that_can_be_made_and_names_the_others() {
    let state = after(&founded(), &Command::Join(newcomer(1)));
    let placement = PlacementId(0);
    let begin = |partition, replicas: &[u16]| TopologyChange::BeginMove {
        placement,
        partition: PartitionId(partition),
        replicas: replicas.iter().copied().map(NodeId).collect(),
    };
    let changes = vec![
        begin(0, &[0, 1]),
        begin(0, &[1]),
        TopologyChange::SetStrategy { placement, strategy: simple(1) },
        begin(1, &[0, 1]),
        TopologyChange::DropPlacement { placement },
    ];
    let (next, answer) = state.after(&Command::Topology(changes)).unwrap();
    let Answer::Changed { refused } = answer else { panic!("{answer:?}") };
    assert_eq!(refused.iter().map(|change| change.index).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(epoch(&next), epoch(&state) + 2);
}

fn commands() -> impl proptest::strategy::Strategy<Value = Vec<Wish>> {
    let name = || prop::sample::select(vec!["a", "b", "default", "kv", "0"]).prop_map(str::to_owned);
    let wish = prop_oneof![
        3 => (1u16..6, 1u16..6).prop_map(|(name, instance)| Wish::Join(name, instance)),
        2 => (0u16..6, prop::sample::select(vec![MemberState::Warming, MemberState::Ready, MemberState::Leaving, MemberState::Left]))
            .prop_map(|(n, state)| Wish::Other(Command::SetMemberState { node: node(n), state })),
        3 => (name(), 1u8..4, any::<bool>()).prop_map(|(name, replicas, fine)| Wish::Keyspace(name, replicas, fine)),
        2 => (name(), 1u8..4).prop_map(|(name, replicas)| {
            Wish::Other(Command::AlterKeyspace { name, strategy: Some(simple(replicas)), sync: None })
        }),
        2 => (name(), any::<bool>()).prop_map(|(name, if_exists)| Wish::Other(Command::DropKeyspace { name, if_exists })),
        3 => (name(), name(), any::<bool>()).prop_map(|(keyspace, name, if_not_exists)| {
            let settings = TableSettings::default();
            Wish::Other(Command::CreateTable { keyspace, name, prefix_index: true, settings, if_not_exists })
        }),
        2 => (name(), name(), any::<bool>()).prop_map(|(keyspace, name, if_exists)| {
            Wish::Other(Command::DropTable { keyspace, name, if_exists })
        }),
        2 => (0u16..8, prop::collection::vec(0u16..6, 0..3)).prop_map(|(partition, replicas)| {
            let replicas = replicas.into_iter().map(NodeId).collect();
            let (placement, partition) = (PlacementId(0), PartitionId(partition));
            Wish::Other(Command::Topology(vec![TopologyChange::BeginMove { placement, partition, replicas }]))
        }),
        1 => Just(Wish::Other(Command::Found(founding()))),
    ];
    prop::collection::vec(wish, 1..40)
}

/// A command, or one that is planned for the state it meets.
#[derive(Clone, Debug)]
enum Wish {
    Join(u16, u16),
    Keyspace(String, u8, bool),
    Other(Command),
}

impl Wish {
    fn command(&self, state: &HardState) -> Command {
        match self {
            Self::Join(name, instance) => {
                let instance = InstanceId(u128::from(*instance));
                Command::Join(NewMember { instance, ..newcomer(*name) })
            }
            Self::Keyspace(name, replicas, fine) => {
                state.plan_keyspace(name, simple(*replicas), SyncPolicy::Sync, *fine)
            }
            Self::Other(command) => command.clone(),
        }
    }
}

/// Ids in use, as (nodes with their instances, placements, tables).
fn ids(state: &HardState) -> (BTreeSet<(NodeId, InstanceId)>, BTreeSet<PlacementId>, BTreeSet<TableId>) {
    let members = state.instances.iter().map(|(node, instance)| (*node, *instance)).collect();
    let placements = state.topology().placements().map(|(id, _)| id).collect();
    let tables = state.schema().table_options().map(|(id, _)| id).collect();
    (members, placements, tables)
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn whatever_is_asked_the_state_stays_sound(wishes in commands()) {
        let mut now = founded();
        let (_, mut placements_ever, mut tables_ever) = ids(&now);
        for wish in wishes {
            let command = wish.command(&now);
            // Every node reads the command from its log, and finds the same.
            let bytes = postcard::to_stdvec(&command).unwrap();
            let read: Command = postcard::from_bytes(&bytes).unwrap();
            let copy: HardState = postcard::from_bytes(&postcard::to_stdvec(&now).unwrap()).unwrap();
            let outcome = now.after(&command);
            prop_assert_eq!(&copy.after(&read), &outcome);
            let Ok((next, answer)) = outcome else { continue };

            prop_assert_eq!(next.topology() != now.topology(), epoch(&next) > epoch(&now));
            if answer == Answer::Unchanged {
                prop_assert_eq!(&next, &now);
            }
            let ((before, placements_before, tables_before), (members, placements, tables)) = (ids(&now), ids(&next));
            prop_assert!(members.is_superset(&before), "who joined stays known");
            prop_assert_eq!(members.len(), next.topology().members().len(), "every member has its instance");
            let instances: BTreeSet<_> = members.iter().map(|(_, instance)| instance).collect();
            prop_assert_eq!(instances.len(), members.len(), "and no other's");
            for new in placements.difference(&placements_before) {
                prop_assert!(placements_ever.insert(*new), "{} was used before", new);
            }
            for new in tables.difference(&tables_before) {
                prop_assert!(tables_ever.insert(*new), "{} was used before", new);
            }
            let owned: Vec<_> = next.schema().keyspaces.values().map(|keyspace| keyspace.placement).collect();
            prop_assert_eq!(owned.iter().copied().collect::<BTreeSet<_>>(), placements, "each keyspace has its placement");
            prop_assert_eq!(owned.len(), next.schema().keyspaces.len());
            if let Command::Join(member) = &command {
                let again = next.after(&command).unwrap();
                prop_assert_eq!(again, (next.clone(), answer), "a join of {} is one join", member.name);
            }
            now = next;
        }
    }
}

#[test]
fn an_assignment_of_another_cluster_is_refused() {
    let state = founded();
    let assignment = Assignment::from_rows(vec![vec![FOUNDER]; 4]);
    let (name, strategy) = ("metrics".to_owned(), simple(1));
    let create = Command::CreateKeyspace { name, strategy, sync: SyncPolicy::Sync, if_not_exists: false, assignment };
    assert!(matches!(state.after(&create), Err(Refusal::PlanOutdated { .. })));
}
