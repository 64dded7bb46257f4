//! Comparing two replicas that hold the same million rows in 256 partitions: what it takes, with both sides and the codec on
//! one thread.

#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot be set up has nothing to measure")]

use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use cube_benches::measure::thread_ns;
use cube_benches::workload::key;
use cube_replication::anti_entropy::answer::answer;
use cube_replication::anti_entropy::compare::{Mode, Next, Session, Verdict};
use cube_replication::codec;
use cube_replication::messages::{Features, PROTOCOL, Reply, ReplyBody, Request, RequestBody};
use cube_storage::engine::MemoryEngine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{
    Batch, Epoch, Hlc, Mutation, NodeId, Origin, PartitionBits, PlacementId, Record, TableId, Version,
};
use cube_storage::{Identity, PartitionState, Store, StoreOptions, SyncPolicy, SyncState, TableOptions};

const ROWS: u32 = 1_000_000;
const BATCH_ROWS: u32 = 1_000;
const TABLE: TableId = TableId(1);
const NODES: [NodeId; 2] = [NodeId(0), NodeId(1)];
const HORIZON: Hlc = Hlc(1_000);

/// A replica. What rows hold does not matter to the sums that are compared, so it is little.
fn replica() -> Arc<Store> {
    let identity = Identity { bits: PartitionBits::DEFAULT, merkle_key: MerkleKey(*b"benchmarkmerkle!") };
    let store = Store::open(Arc::new(MemoryEngine::new()), identity, StoreOptions::default()).expect("a store opens");
    let store = Arc::new(store);
    let options = TableOptions { placement: PlacementId(0), prefix_index: false, sync: SyncPolicy::Sync };
    store.put_table(TABLE, options).expect("a table is made");
    let synced = PartitionState { epoch: Epoch(1), sync: SyncState::Synced };
    let partitions = PartitionBits::DEFAULT.all().map(|partition| (partition, synced));
    store.set_partitions(PlacementId(0), partitions).expect("partitions are set");
    for first in (0..ROWS).step_by(BATCH_ROWS as usize) {
        let record = Record::value(Version::new(Hlc(10), NODES[0]), "value");
        let row = |number| Mutation { table: TABLE, key: key(number), record: record.clone(), claim: None };
        let mutations = (first..first + BATCH_ROWS).map(row).collect();
        store.apply(Batch { origin: Origin::Replica { floor: Hlc(u64::MAX) }, mutations }).expect("rows are written");
    }
    store
}

/// Compares two replicas that hold the same. The bytes that go between them.
fn compare(mine: &Store, theirs: &Store) -> usize {
    let trees = PartitionBits::DEFAULT.all().map(|partition| (TABLE, partition));
    let mut session = Session::new(NODES[0], NODES[1], HORIZON, Mode::Repair, trees);
    let mut bytes = 0;
    loop {
        let question = match session.next(mine).expect("this side can be read") {
            Next::Done => break,
            Next::Ask(question) => question,
            other => panic!("they hold the same: {other:?}"),
        };
        let request = Request {
            protocol: PROTOCOL,
            features: Features::default(),
            from: NODES[0],
            clock: HORIZON,
            time_left_ms: 2_000,
            explain: false,
            trace: None,
            body: RequestBody::AntiEntropy(Box::new(question)),
        };
        let sent = codec::encode(&request).expect("a question is encoded");
        let RequestBody::AntiEntropy(question) = codec::decode::<Request>(&sent).expect("and decoded").body else {
            panic!("it was a question");
        };
        let body = answer(theirs, None, NODES[0], &question).map(|told| ReplyBody::AntiEntropy(Box::new(told)));
        let told = codec::encode(&Reply { from: NODES[1], clock: HORIZON, body }).expect("an answer is encoded");
        let Ok(ReplyBody::AntiEntropy(answer)) = codec::decode::<Reply>(&told).expect("and decoded").body else {
            panic!("it was an answer");
        };
        session.on_answer(mine, *answer).expect("the answer fits");
        bytes += sent.len() + told.len();
    }
    assert!(session.verdicts().all(|(_, verdict)| verdict == Verdict::Equal), "they hold the same");
    bytes
}

fn anti_entropy(criterion: &mut Criterion) {
    let [mine, theirs] = [replica(), replica()];
    println!("anti_entropy/compare_a_million_equal_rows: {} bytes", compare(&mine, &theirs));
    criterion.bench_function("anti_entropy/compare_a_million_equal_rows", |bencher| {
        bencher.iter_custom(|runs| {
            let before_ns = thread_ns();
            for _ in 0..runs {
                compare(&mine, &theirs);
            }
            Duration::from_nanos(thread_ns() - before_ns)
        });
    });
}

criterion_group!(benches, anti_entropy);
criterion_main!(benches);
