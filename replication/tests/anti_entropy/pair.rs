//! Two replicas and every byte that goes between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cube_replication::anti_entropy::answer::answer;
use cube_replication::anti_entropy::compare::{Mode, Next, Session, Tally, Verdict};
use cube_replication::anti_entropy::questions::Tree;
use cube_replication::codec;
use cube_replication::messages::{Features, PROTOCOL, Reply, ReplyBody, Request, RequestBody, Stamp, WriteRows};
use cube_storage::engine::MemoryEngine;
use cube_storage::merkle::MerkleKey;
use cube_storage::model::{
    Batch, Epoch, Hlc, Mutation, NodeId, Origin, PartitionBits, PlacementId, Record, RowKey, TableId, Version,
};
use cube_storage::{Identity, PartitionState, Store, StoreOptions, SyncPolicy, SyncState, TableOptions};

pub(crate) const TABLE: TableId = TableId(4);
pub(crate) const HORIZON: Hlc = Hlc(1_000_000 << 16);

pub(crate) fn version(hlc: u64) -> Version {
    Version::new(Hlc(hlc), NodeId(1))
}

pub(crate) fn store(bits: PartitionBits) -> (Arc<Store>, MemoryEngine) {
    let engine = MemoryEngine::new();
    let identity = Identity { bits, merkle_key: MerkleKey(*b"one for all test") };
    let store = Arc::new(Store::open(Arc::new(engine.clone()), identity, StoreOptions::default()).unwrap());
    let options = TableOptions { placement: PlacementId(0), prefix_index: false, sync: SyncPolicy::Sync };
    store.put_table(TABLE, options).unwrap();
    let synced = PartitionState { epoch: Epoch(1), sync: SyncState::Synced };
    store.set_partitions(PlacementId(0), bits.all().map(|partition| (partition, synced))).unwrap();
    (store, engine)
}

/// Puts rows into a replica behind the other's back.
pub(crate) fn plant(store: &Store, rows: impl IntoIterator<Item = (RowKey, Record)>) {
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let mutations = rows.by_ref().take(500);
        let mutations = mutations.map(|(key, record)| Mutation { table: TABLE, key, record, claim: None }).collect();
        store.apply(Batch { origin: Origin::Replica { floor: Hlc(u64::MAX) }, mutations }).unwrap();
    }
}

/// What went between two replicas, and how each tree was found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) bytes: usize,
    /// Messages that asked for sums.
    pub(crate) tree_round_trips: usize,
    pub(crate) longest: usize,
    pub(crate) verdicts: BTreeMap<Tree, Verdict>,
}

impl Outcome {
    pub(crate) fn all(&self, verdict: Verdict) -> bool {
        self.verdicts.values().all(|found| *found == verdict)
    }
}

fn ask(peer: &Store, body: RequestBody, outcome: &mut Outcome) -> ReplyBody {
    let request = Request {
        protocol: PROTOCOL,
        features: Features::default(),
        from: NodeId(0),
        clock: HORIZON,
        time_left_ms: 2_000,
        explain: false,
        trace: None,
        body,
    };
    let bytes = codec::encode(&request).unwrap();
    let body = match codec::decode::<Request>(&bytes).unwrap().body {
        RequestBody::AntiEntropy(question) => {
            outcome.tree_round_trips += usize::from(matches!(
                *question,
                cube_replication::anti_entropy::questions::Question::Roots { .. }
                    | cube_replication::anti_entropy::questions::Question::Nodes { .. }
            ));
            answer(peer, None, NodeId(0), &question).map(|told| ReplyBody::AntiEntropy(Box::new(told)))
        }
        RequestBody::Write(write) => {
            assert_eq!(write.stamp, Stamp::Old);
            Ok(ReplyBody::Wrote(peer.apply(Batch { origin: write.origin, mutations: write.mutations }).unwrap()))
        }
        other => panic!("not asked by a comparison: {other:?}"),
    };
    let reply = codec::encode(&Reply { from: NodeId(1), clock: HORIZON, body }).unwrap();
    outcome.bytes += bytes.len() + reply.len();
    outcome.longest = outcome.longest.max(bytes.len()).max(reply.len());
    codec::decode::<Reply>(&reply).unwrap().body.unwrap()
}

/// Runs a comparison to its end, or until so many rows were exchanged.
pub(crate) fn compare_until(mine: &Store, theirs: &Store, horizon: Hlc, mode: Mode, rows_max: u64) -> Outcome {
    let trees = mine.bits().all().map(|partition| (TABLE, partition));
    let mut session = Session::new(NodeId(0), NodeId(1), horizon, mode, trees);
    let mut outcome = Outcome::default();
    while session.tally().rows_sent + session.tally().rows_fetched < rows_max {
        match session.next(mine).unwrap() {
            Next::Done => break,
            Next::Ask(question) => match ask(theirs, RequestBody::AntiEntropy(Box::new(question)), &mut outcome) {
                ReplyBody::AntiEntropy(told) => session.on_answer(mine, *told).unwrap(),
                other => panic!("{other:?}"),
            },
            Next::Send { floor, mutations } => {
                let origin = Origin::Replica { floor };
                let write = WriteRows { origin, mutations, stamp: Stamp::Old, seen: None, condition: None };
                match ask(theirs, RequestBody::Write(write), &mut outcome) {
                    ReplyBody::Wrote(outcomes) => session.on_sent(&outcomes.into_iter().map(Some).collect::<Vec<_>>()),
                    other => panic!("{other:?}"),
                }
            }
            Next::Apply(batch) => session.on_applied(&mine.apply(batch).unwrap()),
        }
    }
    outcome.tally = session.tally();
    outcome.verdicts = session.verdicts().collect();
    outcome
}

pub(crate) fn compare(mine: &Store, theirs: &Store) -> Outcome {
    compare_until(mine, theirs, HORIZON, Mode::Repair, u64::MAX)
}

/// Everything a replica holds.
pub(crate) fn rows(store: &Store) -> BTreeMap<RowKey, Record> {
    use cube_storage::scan::{ScanRequest, Scope};
    let all = Scope::Tokens(cube_storage::model::Token(0), cube_storage::model::Token(u64::MAX));
    let mut request = ScanRequest::all(TABLE, all, store.limits());
    let mut rows = BTreeMap::new();
    loop {
        let page = store.scan(&request).unwrap();
        rows.extend(page.rows.into_iter().map(|row| (row.key, row.record)));
        match page.next {
            Some(next) => request.resume = Some(next),
            None => return rows,
        }
    }
}
