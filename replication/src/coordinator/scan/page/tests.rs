//! Pages of tables held by replicas that differ, answered in any order, cut anywhere.

use std::sync::Arc;

use crate::cases::cases;
use cube_storage::model::{Record, Token};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::coordinator::testing::{n, set, version};
use crate::messages::Refusal;
use crate::transport::PeerError;

const BITS: PartitionBits = match PartitionBits::new(2) {
    Some(bits) => bits,
    None => PartitionBits::DEFAULT,
};

type Held = BTreeMap<RowKey, u64>;

fn key(number: u8) -> RowKey {
    RowKey::of(format!("k{number:02}"))
}

fn row(key: &RowKey, hlc: u64) -> Row {
    Row { key: key.clone(), record: Record::value(version(hlc), hlc.to_string()) }
}

fn scope(level: Level, backward: bool, rows_max: usize) -> Scope {
    Scope {
        table: TableId(1),
        bits: BITS,
        backward,
        rows_max,
        bytes_max: usize::MAX,
        uncertain_max: usize::MAX,
        level,
        local: DataCenter::from("a"),
    }
}

/// What a replica tells of the partitions that it is asked for.
fn piece(page: &Page, held: &Held, asked: &[(PartitionId, Epoch)], rows_max: usize) -> TablePage {
    let mut all: Vec<&RowKey> = held.keys().collect();
    if page.scope.backward {
        all.reverse();
    }
    let stopped = all.get(rows_max - 1).filter(|_| all.len() > rows_max).map(|last| page.behind(last));
    all.truncate(rows_max);
    let is_asked = |key: &&&RowKey| asked.iter().any(|(partition, _)| *partition == BITS.partition_of(key.token()));
    TablePage {
        rows: all.iter().filter(is_asked).map(|key| row(key, held[*key])).collect(),
        stopped,
        refused: Vec::new(),
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Lost,
    Refused,
    Late,
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn a_page_is_the_beginning_of_the_newest_of_every_quorum_or_says_where_it_is_not(
        held in prop::collection::vec(prop::collection::btree_map(0u8..24, 1u64..4, 0..16), 4),
        level in prop::sample::select(vec![Level::One, Level::Quorum, Level::All]),
        backward in any::<bool>(),
        sizes in (1usize..30, 1usize..30),
        events in prop::collection::vec((any::<Index>(), prop_oneof![
            4 => Just(Fate::Well), 1 => Just(Fate::Lost), 1 => Just(Fate::Refused), 1 => Just(Fate::Late),
        ]), 0..20),
    ) {
        let sets = ["a0 a1 a2", "a1 a2 a3", "a2 a3 a0", "a3 a0 a1"].map(set);
        let maps: Vec<PartitionMap> = sets.iter().map(|set| PartitionMap::stable(Arc::clone(set), Epoch(5))).collect();
        // A node holds what it is a replica of.
        let holds = |node: usize, key: &RowKey| sets[BITS.partition_of(key.token()).0 as usize].contains(n(node as u16));
        let held: Vec<Held> = held.into_iter().enumerate().map(|(node, rows)| {
            rows.into_iter().map(|(number, hlc)| (key(number), hlc)).filter(|(key, _)| holds(node, key)).collect()
        }).collect();
        let mut page = Page::new(scope(level, backward, sizes.0), (0..4).map(n).collect(), BITS.all().zip(&maps));
        let mut outstanding: Vec<Ask> = page.plan();
        let mut told: BTreeMap<PartitionId, BTreeSet<usize>> = BTreeMap::new();
        let mut events = events.into_iter();
        while !outstanding.is_empty() {
            let next = events.next().map(|(index, fate)| (index.index(outstanding.len()), fate));
            let (place, fate) = next.unwrap_or((0, Fate::Well));
            if matches!(fate, Fate::Late) {
                let node = outstanding[place].0;
                page.on_late(&[node]);
            } else {
                let (node, asked) = outstanding.remove(place);
                let mut answer = piece(&page, &held[node.0 as usize], &asked, sizes.1);
                let mut counted: Vec<PartitionId> = asked.iter().map(|(partition, _)| *partition).collect();
                let answer = match fate {
                    Fate::Lost => {
                        counted.clear();
                        Err(Failure::Peer(PeerError::TimedOut { peer: node }))
                    }
                    Fate::Refused => {
                        let refused = counted.remove(0);
                        answer.rows.retain(|row| BITS.partition_of(row.key.token()) != refused);
                        answer.refused.push((refused, Refusal::Stopped));
                        Ok(answer)
                    }
                    Fate::Well | Fate::Late => Ok(answer),
                };
                let counts: BTreeSet<PartitionId> = counted.into_iter()
                    .filter(|partition| page.parts[partition].fate == super::Fate::Open).collect();
                counts.iter().for_each(|partition| { told.entry(*partition).or_default().insert(node.0 as usize); });
                page.on_answer(node, &asked, answer);
            }
            outstanding.extend(page.plan());
        }
        prop_assert!(page.is_decided(), "every partition ends");
        let merged = page.merge();
        for (partition, map) in BITS.all().zip(&maps) {
            let answered = told.get(&partition).map_or(0, BTreeSet::len);
            let needed = match level { Level::One => 1, Level::Quorum => 2, _ => map.serving().len() };
            prop_assert_eq!(answered < needed, merged.partial.contains(&partition), "{:?}", partition);
        }
        // The newest of what those told whose answers count, in order, up to where the page ends.
        let mut newest: BTreeMap<RowKey, u64> = BTreeMap::new();
        let mut agreed: BTreeMap<RowKey, bool> = BTreeMap::new();
        for (partition, nodes) in told.iter().filter(|(partition, _)| !merged.partial.contains(partition)) {
            let here = |key: &&RowKey| BITS.partition_of(key.token()) == *partition;
            let keys: BTreeSet<&RowKey> = nodes.iter().flat_map(|node| held[*node].keys()).filter(here).collect();
            for key in keys {
                let versions: BTreeSet<Option<&u64>> = nodes.iter().map(|node| held[*node].get(key)).collect();
                newest.insert(key.clone(), **versions.iter().flatten().max().unwrap());
                agreed.insert(key.clone(), versions.len() == 1);
            }
        }
        let mut expected: Vec<Row> = newest.iter().map(|(key, hlc)| row(key, *hlc)).collect();
        if backward {
            expected.reverse();
        }
        prop_assert_eq!(&merged.rows[..], &expected[..merged.rows.len()]);
        prop_assert!(merged.rows.len() <= sizes.0);
        match &merged.next {
            None => prop_assert_eq!(merged.rows.len(), expected.len(), "the last page is complete"),
            Some(next) => for row in &expected[merged.rows.len()..] {
                prop_assert!(!page.is_covered(&row.key, Some(next)), "{} would be passed over", row.key);
            },
        }
        for row in &merged.rows {
            let certain = agreed[&row.key] || level == Level::One;
            prop_assert_eq!(!merged.uncertain.contains(&row.key), certain, "{}", row.key);
        }
    }
}

#[test]
fn as_few_nodes_are_asked_as_there_need_be() {
    let map = PartitionMap::stable(set("a0 a1 a2"), Epoch(5));
    let maps: Vec<_> = BITS.all().map(|partition| (partition, &map)).collect();
    let mut page = Page::new(scope(Level::Quorum, false, 10), (0..3).map(n).collect(), maps.into_iter());
    let asks = page.plan();
    assert_eq!(asks.iter().map(|(node, _)| node.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(runs(&asks[0].1), [PartitionRun { first: PartitionId(0), last: PartitionId(3), epoch: Epoch(5) }]);
    assert!(page.plan().is_empty(), "nobody is asked twice");
}

#[test]
fn a_partition_that_moved_is_asked_for_by_its_newer_map_alone() {
    let (old, new) = (PartitionMap::stable(set("a0"), Epoch(5)), PartitionMap::stable(set("a1"), Epoch(6)));
    let maps: Vec<_> = BITS.all().map(|partition| (partition, &old)).collect();
    let mut page = Page::new(scope(Level::Quorum, false, 10), (0..2).map(n).collect(), maps.into_iter());
    let asks = page.plan();
    let moved = BITS.partition_of(Token::of(b"k01"));
    let refused = vec![(moved, Refusal::Fenced(Epoch(6)))];
    page.on_answer(n(0), &asks[0].1, Ok(TablePage { rows: Vec::new(), stopped: None, refused }));
    assert!(page.plan().is_empty());
    assert_eq!(page.waiting(), [(moved, Epoch(6))]);
    page.reroute(moved, &new);
    assert_eq!(page.plan(), [(n(1), vec![(moved, Epoch(6))])]);
    let told = TablePage { rows: vec![row(&key(1), 9)], stopped: None, refused: Vec::new() };
    page.on_answer(n(1), &[(moved, Epoch(6))], Ok(told));
    assert!(page.is_decided());
    assert_eq!(page.merge().rows, [row(&key(1), 9)]);
}

#[test]
fn a_page_ends_where_more_rows_differ_than_can_be_read_by_themselves() {
    let map = PartitionMap::stable(set("a0 a1"), Epoch(5));
    let scope = Scope { uncertain_max: 3, ..scope(Level::All, false, 100) };
    let mut page = Page::new(scope, [0, 1].map(n).to_vec(), BITS.all().map(|partition| (partition, &map)));
    let held: [Held; 2] = [2, 1].map(|hlc| (0..10).map(|number| (key(number), hlc)).collect());
    for (node, asked) in page.plan() {
        let answer = piece(&page, &held[usize::from(node.0)], &asked, 100);
        page.on_answer(node, &asked, Ok(answer));
    }
    let merged = page.merge();
    assert_eq!(merged.uncertain, (0..3).map(key).collect::<Vec<_>>());
    assert_eq!((merged.rows.len(), merged.next), (3, Some(page.behind(&key(2)))));
}
