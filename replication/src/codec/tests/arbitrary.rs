//! Any message there can be, and one of each that is written down.

use std::ops::Bound;

use bytes::Bytes;
use cube_storage::dirty::DirtyRange;
use cube_storage::merkle::{LeafId, LeafSum};
use cube_storage::model::{
    Body, Epoch, Expiry, Hlc, Mutation, NodeId, Origin, Outcome, PartitionId, Record, RecordHeader, RowKey, TableId,
    Version,
};
use cube_storage::scan::{PageToken, Row, ScanRequest, Scope};
use cube_storage::{HeaderPage, Piece, RowDigest, TreeNodes, UnsyncedCause};
use proptest::prelude::*;

use crate::anti_entropy::questions::{
    Answer, ChildSums, HeldRow, LeafRows, NotCompared, Proof, Question, RootDigest, Top, Tree,
};
use crate::handoff::pace::{Coming, Grant};
use crate::messages::{
    Condition, Features, Found, HandedHint, PROTOCOL, PartitionRun, ReadRows, Refusal, Reply, ReplyBody, Request,
    RequestBody, ScanRows, ScanTable, Stamp, TablePage, TakeHints, TakeMarks, Want, WriteRows,
};
use crate::repair::{Active, Asked, Errand, Job, JobTable, Moved, RepairAnswer, RepairId, RepairQuestion, Report, Why};
use crate::trace::TraceContext;

fn hlc() -> impl Strategy<Value = Hlc> {
    prop_oneof![any::<u64>(), 0u64..300].prop_map(Hlc)
}

fn version() -> impl Strategy<Value = Version> {
    (hlc(), any::<u16>()).prop_map(|(hlc, node)| Version::new(hlc, NodeId(node)))
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = RowKey> {
    (bytes(), bytes()).prop_map(|(partition, sort)| RowKey { partition, sort })
}

fn record() -> impl Strategy<Value = Record> {
    let value = (bytes(), prop::option::of(any::<u64>().prop_map(Expiry)));
    let body = prop_oneof![
        3 => value.prop_map(|(value, expiry)| Body::Value { value, expiry }),
        1 => Just(Body::Tombstone),
    ];
    (version(), body).prop_map(|(version, body)| Record { version, body })
}

fn header() -> impl Strategy<Value = RecordHeader> {
    (record(), any::<u32>()).prop_map(|(record, checksum)| RecordHeader::of(&record, checksum))
}

fn mutation() -> impl Strategy<Value = Mutation> {
    (any::<u32>(), key(), record(), prop::option::of(epoch())).prop_map(|(table, key, record, claim)| Mutation {
        table: TableId(table),
        key,
        record,
        claim,
    })
}

fn write() -> impl Strategy<Value = WriteRows> {
    let origin =
        prop_oneof![Just(Origin::Client), Just(Origin::Hint), hlc().prop_map(|floor| Origin::Replica { floor })];
    let stamp = prop_oneof![Just(Stamp::New), version().prop_map(Stamp::Succeeds), Just(Stamp::Old)];
    let condition = prop_oneof![version().prop_map(Condition::VersionIs), Just(Condition::Absent)];
    let mutations = prop::collection::vec(mutation(), 0..6);
    (origin, mutations, stamp, prop::option::of(version()), prop::option::of(condition))
        .prop_map(|(origin, mutations, stamp, seen, condition)| WriteRows { origin, mutations, stamp, seen, condition })
}

fn read() -> impl Strategy<Value = ReadRows> {
    let want = prop_oneof![Just(Want::Record), Just(Want::Header)];
    (any::<u32>(), prop::collection::vec((key(), epoch()), 0..6), want).prop_map(|(table, rows, want)| ReadRows {
        table: TableId(table),
        rows,
        want,
    })
}

fn bound() -> impl Strategy<Value = Bound<Bytes>> {
    prop_oneof![Just(Bound::Unbounded), bytes().prop_map(Bound::Included), bytes().prop_map(Bound::Excluded)]
}

fn scan() -> impl Strategy<Value = ScanRows> {
    let scope = prop_oneof![
        (bytes(), bound(), bound()).prop_map(|(key, from, to)| Scope::Partition { key, from, to }),
        bytes().prop_map(Scope::Prefix),
        any::<[u64; 2]>().prop_map(|[first, last]| Scope::Tokens(
            cube_storage::model::Token(first),
            cube_storage::model::Token(last)
        )),
    ];
    let resume = prop::option::of(bytes().prop_map(PageToken));
    (any::<u32>(), scope, any::<bool>(), any::<[usize; 2]>(), resume, prop::option::of(epoch())).prop_map(
        |(table, scope, backward, [rows_max, bytes_max], resume, claim)| ScanRows {
            page: ScanRequest { table: TableId(table), scope, backward, rows_max, bytes_max, resume },
            claim,
        },
    )
}

fn coming() -> impl Strategy<Value = Coming> {
    any::<[u64; 4]>().prop_map(|[records, bytes, sent_records, sent_bytes]| Coming {
        records,
        bytes,
        sent_records,
        sent_bytes,
    })
}

fn grant() -> impl Strategy<Value = Grant> {
    prop_oneof![
        (any::<u64>(), any::<u32>()).prop_map(|(bytes, for_ms)| Grant::Lease { bytes, for_ms }),
        any::<u32>().prop_map(|for_ms| Grant::Wait { for_ms }),
    ]
}

fn take_hints() -> impl Strategy<Value = TakeHints> {
    let hint = (mutation(), any::<u64>(), any::<bool>()).prop_map(|(mutation, created_ms, only_copy)| HandedHint {
        mutation,
        created_ms,
        only_copy,
    });
    (any::<u16>(), prop::collection::vec(hint, 0..6))
        .prop_map(|(target, hints)| TakeHints { target: NodeId(target), hints })
}

fn take_marks() -> impl Strategy<Value = TakeMarks> {
    let range = prop_oneof![
        Just(DirtyRange::Everything),
        any::<u32>().prop_map(|table| DirtyRange::Table(TableId(table))),
        (any::<u32>(), any::<u16>()).prop_map(|(table, at)| DirtyRange::Partition(TableId(table), PartitionId(at))),
        any::<[u32; 2]>().prop_map(|[table, leaf]| DirtyRange::Leaf(TableId(table), LeafId(leaf))),
    ];
    (any::<u16>(), prop::collection::vec((range, version()), 0..6))
        .prop_map(|(target, marks)| TakeMarks { target: NodeId(target), marks })
}

fn scan_table() -> impl Strategy<Value = ScanTable> {
    let run = ([any::<u16>(), any::<u16>()], epoch()).prop_map(|([first, last], epoch)| PartitionRun {
        first: PartitionId(first),
        last: PartitionId(last),
        epoch,
    });
    let runs = prop::collection::vec(run, 0..6);
    (any::<u32>(), bytes(), any::<bool>(), any::<[usize; 2]>(), prop::option::of(bytes()), runs).prop_map(
        |(table, prefix, backward, [rows_max, bytes_max], position, partitions)| ScanTable {
            table: TableId(table),
            prefix,
            backward,
            rows_max,
            bytes_max,
            position,
            partitions,
        },
    )
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    let body = prop_oneof![
        write().prop_map(RequestBody::Write),
        read().prop_map(RequestBody::Read),
        scan().prop_map(RequestBody::Scan),
        coming().prop_map(RequestBody::HintCredits),
        take_hints().prop_map(RequestBody::TakeHints),
        scan_table().prop_map(RequestBody::ScanTable),
        question().prop_map(|question| RequestBody::AntiEntropy(Box::new(question))),
        take_marks().prop_map(RequestBody::TakeMarks),
        repair_question().prop_map(|question| RequestBody::Repair(Box::new(question))),
    ];
    let trace = (1u128.., 1u64..).prop_map(|(trace, span)| TraceContext { trace, span });
    let trace = prop::option::of(trace);
    (any::<u16>(), any::<u64>(), any::<u16>(), hlc(), any::<u32>(), any::<bool>(), trace, body).prop_map(
        |(protocol, features, from, clock, time_left_ms, explain, trace, body)| Request {
            protocol,
            features: Features(features),
            from: NodeId(from),
            clock,
            time_left_ms,
            explain,
            trace,
            body,
        },
    )
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let cause = prop_oneof![
        Just(UnsyncedCause::New),
        Just(UnsyncedCause::DamagedData),
        Just(UnsyncedCause::DamagedLog),
        Just(UnsyncedCause::Operator),
    ];
    prop_oneof![
        any::<u32>().prop_map(|retry_after_ms| Refusal::Overloaded { retry_after_ms }),
        Just(Refusal::DeadlinePassed),
        epoch().prop_map(Refusal::Fenced),
        epoch().prop_map(Refusal::MapBehind),
        cause.prop_map(Refusal::Unsynced),
        any::<[u64; 2]>().prop_map(|[ahead_ms, max_drift_ms]| Refusal::Drift { ahead_ms, max_drift_ms }),
        any::<u32>().prop_map(|table| Refusal::UnknownTable(TableId(table))),
        Just(Refusal::DiskFull),
        Just(Refusal::Stopped),
        ".{0,20}".prop_map(Refusal::Damaged),
        ".{0,20}".prop_map(Refusal::Unsupported),
        ".{0,20}".prop_map(Refusal::Invalid),
        any::<u16>().prop_map(|last| Refusal::MembersBehind(NodeId(last))),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Applied),
        Just(Outcome::Present),
        version().prop_map(Outcome::Superseded),
        hlc().prop_map(Outcome::BelowFloor),
        epoch().prop_map(Outcome::Fenced),
        hlc().prop_map(Outcome::LostUpTo),
    ]
}

fn found() -> impl Strategy<Value = Found> {
    (prop::option::of(header()), prop::option::of(record()), hlc()).prop_map(|(header, record, floor)| Found {
        header,
        record,
        floor,
    })
}

fn table_page() -> impl Strategy<Value = TablePage> {
    let row = (key(), record()).prop_map(|(key, record)| Row { key, record });
    let refused = (any::<u16>().prop_map(PartitionId), refusal());
    (prop::collection::vec(row, 0..6), prop::option::of(bytes()), prop::collection::vec(refused, 0..6))
        .prop_map(|(rows, stopped, refused)| TablePage { rows, stopped, refused })
}

pub(super) fn reply() -> impl Strategy<Value = Reply> {
    let row = (key(), record()).prop_map(|(key, record)| Row { key, record });
    let page = (prop::collection::vec(row, 0..6), prop::option::of(bytes().prop_map(PageToken)), hlc());
    let body = prop_oneof![
        prop::collection::vec(outcome(), 0..6).prop_map(ReplyBody::Wrote),
        prop::collection::vec(prop_oneof![3 => found().prop_map(Ok), 1 => refusal().prop_map(Err)], 0..6)
            .prop_map(ReplyBody::Rows),
        page.prop_map(|(rows, next, floor)| ReplyBody::Page { rows, next, floor }),
        grant().prop_map(ReplyBody::HintCredits),
        Just(ReplyBody::TookHints),
        Just(ReplyBody::TookMarks),
        table_page().prop_map(ReplyBody::TablePage),
        told().prop_map(|told| ReplyBody::AntiEntropy(Box::new(told))),
        repair_answer().prop_map(|told| ReplyBody::Repair(Box::new(told))),
    ];
    let body = prop_oneof![3 => body.prop_map(Ok), 1 => refusal().prop_map(Err)];
    (any::<u16>(), hlc(), body).prop_map(|(from, clock, body)| Reply { from: NodeId(from), clock, body })
}

fn floors() -> impl Strategy<Value = Vec<(TableId, PartitionId, Hlc)>> {
    let floor = (any::<u32>(), any::<u16>(), hlc());
    prop::collection::vec(floor.prop_map(|(table, at, floor)| (TableId(table), PartitionId(at), floor)), 0..4)
}

fn digests() -> impl Strategy<Value = Vec<RowDigest>> {
    prop::collection::vec((key(), header()).prop_map(|(key, header)| RowDigest { key, header }), 0..4)
}

fn question() -> impl Strategy<Value = Question> {
    let root = (any::<u16>(), any::<[u8; 16]>()).prop_map(|(at, digest)| (PartitionId(at), RootDigest(digest)));
    let tables = prop::collection::vec((any::<u32>().prop_map(TableId), prop::collection::vec(root, 0..4)), 0..3);
    let nodes = (any::<u32>(), any::<u16>(), 0u8..3, prop::collection::vec(any::<u16>(), 0..5)).prop_map(
        |(table, at, level, nodes)| TreeNodes { table: TableId(table), partition: PartitionId(at), level, nodes },
    );
    let trees = prop::collection::vec(nodes, 0..4);
    prop_oneof![
        (hlc(), tables).prop_map(|(horizon, tables)| Question::Roots { horizon, tables }),
        (hlc(), floors(), trees).prop_map(|(horizon, floors, trees)| Question::Nodes { horizon, floors, trees }),
        (any::<u32>(), any::<[u32; 3]>()).prop_map(|(table, leaves)| {
            Question::Leaves { table: TableId(table), leaves: leaves.map(LeafId).to_vec() }
        }),
        (any::<[u32; 2]>(), prop::option::of(key())).prop_map(|([table, leaf], after)| {
            Question::Pieces { table: TableId(table), leaf: LeafId(leaf), after }
        }),
        (any::<[u32; 2]>(), prop::option::of(key()), prop::option::of(key())).prop_map(
            |([table, leaf], after, upto)| {
                Question::Span { table: TableId(table), leaf: LeafId(leaf), after, upto }
            }
        ),
        (any::<u32>(), prop::collection::vec(key(), 0..4))
            .prop_map(|(table, keys)| Question::Rows { table: TableId(table), keys }),
        (any::<u32>(), any::<u16>())
            .prop_map(|(table, at)| Question::Proofs { trees: vec![(TableId(table), PartitionId(at))] }),
        Just(Question::Watermark),
        floors().prop_map(|floors| Question::Fence { floors }),
        floors().prop_map(|floors| Question::Purge { floors }),
        (hlc(), self::trees()).prop_map(|(horizon, trees)| Question::Equal { horizon, trees }),
        any::<u16>().prop_map(|last| Question::WatermarkAmong { last: NodeId(last) }),
    ]
}

fn told() -> impl Strategy<Value = Answer> {
    let sums = (any::<u16>(), prop::collection::vec(any::<[u8; 8]>(), 0..5))
        .prop_map(|(present, sums)| ChildSums { present, sums });
    let top = (hlc(), any::<u64>(), sums.clone()).prop_map(|(floor, epoch, children)| Top {
        floor,
        epoch: Epoch(epoch),
        children,
    });
    let cause = prop_oneof![
        Just(NotCompared::UnknownTable),
        Just(NotCompared::Unsynced(UnsyncedCause::New)),
        Just(NotCompared::Damaged),
        Just(NotCompared::OtherMap),
    ];
    let top = prop_oneof![top.prop_map(Ok), cause.clone().prop_map(Err)];
    let top = (any::<u32>(), any::<u16>(), top).prop_map(|(table, at, top)| (TableId(table), PartitionId(at), top));
    let leaf = prop_oneof![
        digests().prop_map(|rows| Ok(LeafRows::All(rows))),
        Just(Ok(LeafRows::Hot)),
        cause.clone().prop_map(Err),
    ];
    let piece =
        (key(), any::<u128>(), any::<i64>()).prop_map(|(last, sum, rows)| Piece { last, sum: LeafSum { sum, rows } });
    let held = (prop::option::of(record()), hlc()).prop_map(|(record, floor)| HeldRow { record, floor });
    let proof =
        (hlc(), hlc(), epoch()).prop_map(|(floor, synced_through, epoch)| Proof { floor, synced_through, epoch });
    let nodes = prop_oneof![prop::collection::vec(sums, 0..3).prop_map(Ok), cause.prop_map(Err)];
    prop_oneof![
        prop::collection::vec(top, 0..4).prop_map(Answer::Roots),
        prop::collection::vec(nodes, 0..3).prop_map(Answer::Nodes),
        prop::collection::vec(leaf, 0..3).prop_map(Answer::Leaves),
        (prop::collection::vec(piece, 0..3), any::<bool>()).prop_map(|(pieces, more)| Answer::Pieces { pieces, more }),
        (digests(), any::<bool>()).prop_map(|(rows, more)| Answer::Span(HeaderPage { rows, more })),
        prop::collection::vec(held, 0..3).prop_map(Answer::Rows),
        prop::collection::vec(prop::option::of(proof), 0..3).prop_map(Answer::Proofs),
        hlc().prop_map(Answer::Watermark),
        prop::collection::vec(any::<bool>(), 0..4).prop_map(Answer::Fenced),
        (any::<u64>(), any::<usize>()).prop_map(|(rows, trees)| Answer::Purged { rows, trees }),
        Just(Answer::Noted),
    ]
}

fn repair_id() -> impl Strategy<Value = RepairId> + Clone {
    any::<(u64, u16)>().prop_map(|(hlc, node)| RepairId::new(Version::new(Hlc(hlc), NodeId(node))))
}

fn trees() -> impl Strategy<Value = Vec<Tree>> {
    prop::collection::vec((any::<u32>().prop_map(TableId), any::<u16>().prop_map(PartitionId)), 0..4)
}

fn repair_question() -> impl Strategy<Value = RepairQuestion> {
    let errand = (repair_id(), any::<[u32; 2]>(), any::<u16>(), any::<bool>(), trees()).prop_map(
        |(job, [unit, attempt], with, dry_run, trees)| Errand {
            job,
            unit,
            attempt,
            with: NodeId(with),
            dry_run,
            trees,
        },
    );
    prop_oneof![
        errand.prop_map(RepairQuestion::Run),
        repair_id().prop_map(RepairQuestion::Forget),
        Just(RepairQuestion::Active),
        Just(RepairQuestion::List),
        repair_id().prop_map(RepairQuestion::Show),
        repair_id().prop_map(RepairQuestion::Cancel),
    ]
}

fn repair_answer() -> impl Strategy<Value = RepairAnswer> {
    let why = prop_oneof![
        Just(Why::Down),
        ".{0,10}".prop_map(Why::Refused),
        Just(Why::NotInSync(UnsyncedCause::New)),
        Just(Why::Dropped),
    ];
    let moved = any::<[u64; 4]>().prop_map(|[leaves, sent, fetched, bytes]| Moved { leaves, sent, fetched, bytes });
    let left = prop::collection::vec((trees(), any::<u16>().prop_map(NodeId), why.clone()), 0..3);
    let report = (trees(), left, moved.clone()).prop_map(|(differed, left, moved)| {
        let left = left.into_iter().flat_map(|(trees, node, why)| {
            trees.into_iter().map(move |tree| (tree, node, why.clone())).collect::<Vec<_>>()
        });
        Report { differed, left: left.collect(), moved }
    });
    let job = (repair_id(), prop::option::of(".{0,10}"), any::<[bool; 2]>(), any::<u64>()).prop_map(
        |(id, keyspace, [dry_run, runs], now_ms)| {
            let asked = Asked { keyspace, table: None, dry_run };
            let table = JobTable { id: TableId(1), keyspace: "default".into(), name: "kv".into() };
            let mut job = Job::new(id, asked, vec![table], Vec::new(), now_ms);
            if runs {
                job.begin(now_ms);
            }
            job
        },
    );
    let active = (repair_id(), any::<u32>(), any::<bool>()).prop_map(|(id, table, is_claim)| Active {
        id,
        tables: vec![TableId(table)],
        is_claim,
    });
    prop_oneof![
        (moved, any::<u64>()).prop_map(|(moved, beat)| RepairAnswer::Working { moved, beat }),
        report.prop_map(RepairAnswer::Done),
        (any::<u16>(), why).prop_map(|(node, why)| RepairAnswer::Failed(NodeId(node), why)),
        Just(RepairAnswer::Forgotten),
        prop::collection::vec(active, 0..3).prop_map(RepairAnswer::Active),
        prop::collection::vec(job.clone(), 0..3).prop_map(RepairAnswer::Jobs),
        prop::option::of(job).prop_map(|job| RepairAnswer::Job(job.map(Box::new))),
    ]
}

pub(super) fn empty() -> Reply {
    Reply { from: NodeId(1), clock: Hlc(0), body: Ok(ReplyBody::Wrote(Vec::new())) }
}

pub(super) fn example_request() -> Request {
    let record = Record::expiring(Version::new(Hlc(0x0123_4567_89ab), NodeId(258)), "value", Expiry(1_800_000_000_000));
    let mutation = Mutation { table: TableId(3), key: RowKey::with_sort("user", "42"), record, claim: Some(Epoch(7)) };
    let write = WriteRows {
        origin: Origin::Client,
        mutations: vec![mutation],
        stamp: Stamp::Succeeds(Version::new(Hlc(5), NodeId(1))),
        seen: None,
        condition: None,
    };
    Request {
        protocol: PROTOCOL,
        features: Features(1),
        from: NodeId(2),
        clock: Hlc(300),
        time_left_ms: 2_000,
        explain: false,
        trace: None,
        body: RequestBody::Write(write),
    }
}

/// A body of every kind, in the order of their places.
pub(super) fn one_of_each() -> Vec<RequestBody> {
    let scan_table = ScanTable {
        table: TableId(1),
        prefix: Bytes::new(),
        backward: false,
        rows_max: 1,
        bytes_max: 1,
        position: None,
        partitions: Vec::new(),
    };
    vec![
        RequestBody::Write(rows(0)),
        example_read(),
        example_scan(),
        RequestBody::HintCredits(Coming { records: 0, bytes: 0, sent_records: 0, sent_bytes: 0 }),
        RequestBody::TakeHints(TakeHints { target: NodeId(1), hints: Vec::new() }),
        RequestBody::ScanTable(scan_table),
        RequestBody::AntiEntropy(Box::new(Question::WatermarkAmong { last: NodeId(4) })),
        RequestBody::TakeMarks(TakeMarks { target: NodeId(1), marks: Vec::new() }),
        RequestBody::Repair(Box::new(RepairQuestion::Active)),
    ]
}

pub(super) fn example_read() -> RequestBody {
    RequestBody::Read(ReadRows { table: TableId(1), rows: Vec::new(), want: Want::Record })
}

pub(super) fn example_scan() -> RequestBody {
    let scope = Scope::Prefix(Bytes::new());
    let page = ScanRequest { table: TableId(1), scope, backward: false, rows_max: 1, bytes_max: 1, resume: None };
    RequestBody::Scan(ScanRows { page, claim: None })
}

pub(super) fn example_reply() -> Reply {
    let outcomes = vec![Outcome::Applied, Outcome::Superseded(Version::new(Hlc(9), NodeId(4)))];
    Reply { from: NodeId(4), clock: Hlc(301), body: Ok(ReplyBody::Wrote(outcomes)) }
}

/// Rows without keys and values: what is left is what stands around them.
pub(super) fn rows(count: usize) -> WriteRows {
    let record = Record::expiring(Version::new(Hlc(u64::MAX), NodeId(u16::MAX)), "", Expiry(u64::MAX));
    let mutation = Mutation { table: TableId(u32::MAX), key: RowKey::of(""), record, claim: Some(Epoch(u64::MAX)) };
    WriteRows {
        origin: Origin::Client,
        mutations: vec![mutation; count],
        stamp: Stamp::New,
        seen: None,
        condition: None,
    }
}

/// The longest answer for a row without its value.
pub(super) fn longest_found() -> Found {
    let record = Record::expiring(Version::new(Hlc(u64::MAX), NodeId(u16::MAX)), "", Expiry(u64::MAX));
    Found { header: Some(RecordHeader::of(&record, u32::MAX)), record: Some(record), floor: Hlc(u64::MAX) }
}
