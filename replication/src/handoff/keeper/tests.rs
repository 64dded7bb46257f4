//! What waits is bounded: what finds no room is marked or refused, and told.

use cube_storage::clock::SystemClock;
use cube_storage::engine::MemoryEngine;
use cube_storage::files::SimulatedFiles;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{Record, RowKey};
use cube_storage::{Identity, Store, StoreOptions};

use super::*;
use crate::catalog::ClusterState;
use crate::topology::{Addresses, Member, MemberState, Topology, TopologyChange};

const ME: NodeId = NodeId(1);
const THERE: NodeId = NodeId(0);

fn open(files: &SimulatedFiles) -> Result<HintedHandoff, FilesError> {
    let bits = PartitionBits::DEFAULT;
    let identity = Identity { bits, merkle_key: MerkleKey([7; 16]) };
    let store = Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).unwrap();
    let clock = NodeClock::new(ME, Arc::new(SystemClock::new(0)), Arc::new(store), 900_000).unwrap();
    let member = Member {
        id: THERE,
        name: "there".into(),
        data_center: "a".into(),
        rack: "r".into(),
        weight: 1,
        state: MemberState::Ready,
        addresses: Addresses::default(),
    };
    let topology = Topology::new(bits).after(&TopologyChange::Join(member)).unwrap();
    let catalog = Arc::new(Catalog::new(ClusterState { topology, schema: Default::default() }));
    HintedHandoff::open(HandoffParts {
        files: Arc::new(files.clone()),
        settings: HandoffSettings::default(),
        bits,
        catalog,
        clock: Arc::new(clock),
        wake: Box::new(|| {}),
    })
}

fn missed(bytes: usize, only_copy: bool) -> Missed {
    let record = Record::value(Version::ZERO, vec![b'x'; bytes]);
    let row = Mutation { table: TableId(1), key: RowKey::of("k"), record, claim: None };
    Missed { target: THERE, mutations: vec![row], only_copy }
}

type Told = Arc<Mutex<Option<Result<Kept, NotKept>>>>;

fn keep(handoff: &HintedHandoff, missed: Missed) -> Told {
    let told = Told::default();
    let teller = Arc::clone(&told);
    handoff.keep(missed, Box::new(move |kept| *teller.lock() = Some(kept)));
    told
}

#[test]
fn past_its_bound_rows_that_wait_are_only_marked_and_only_copies_are_refused() {
    let handoff = open(&SimulatedFiles::new()).unwrap();
    let first = keep(&handoff, missed(WAITING_BYTES_MAX, true));
    let more = keep(&handoff, missed(100, false));
    let only = keep(&handoff, missed(100, true));
    assert!(only.lock().as_ref().is_some_and(Result::is_err), "it is refused at once");
    assert!(handoff.waiting.lock().bytes() <= WAITING_BYTES_MAX + 200);
    assert!(first.lock().is_none() && more.lock().is_none(), "nothing is durable yet");
    handoff.flush();
    assert_eq!(*more.lock(), Some(Ok(Kept::Mark)));
    assert!(first.lock().is_some());
    let leaf = LeafId::of(RowKey::of("k").token(), PartitionBits::DEFAULT);
    let marks = handoff.marks().target("there").unwrap();
    assert!(marks.covering(TableId(1), leaf).is_some());
    let again = keep(&handoff, missed(100, true));
    handoff.flush();
    assert_eq!(*again.lock(), Some(Ok(Kept::Hint)), "there is room again");
}

#[test]
fn while_one_target_is_written_others_are_and_what_comes_for_it_is_written_next() {
    let handoff = Arc::new(open(&SimulatedFiles::new()).unwrap());
    let told = Arc::new(Mutex::new(Vec::new()));
    let (inner, order) = (Arc::clone(&handoff), Arc::clone(&told));
    let in_the_middle = move |_| {
        // This target is being written: another thread that flushes now writes what waits for others, and only that.
        for (target, name) in [(THERE, "same"), (NodeId(9), "other")] {
            let order = Arc::clone(&order);
            let missed = Missed { target, ..missed(100, false) };
            inner.keep(missed, Box::new(move |_| order.lock().push(name)));
        }
        inner.flush();
        order.lock().push("first");
    };
    handoff.keep(missed(100, false), Box::new(in_the_middle));
    handoff.flush();
    assert_eq!(*told.lock(), ["other", "first", "same"]);
    assert_eq!(handoff.waiting.lock().bytes(), 0);
}
