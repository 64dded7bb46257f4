//! Clients: each does one operation after another, through any node, at any level, on few rows, so that they meet.

mod pages;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use cube_storage::clock::Clock;
use cube_storage::model::{Epoch, Hlc, PartitionBits, Record, RowKey, TableId, Version};
use parking_lot::Mutex;

use super::control::{GUEST_KEYSPACE, GUEST_TABLE, KEYSPACE, PLACEMENT, TABLE, TABLE_ID, written_to};
use super::history::{Ended, History, Reach, RowRead, RowWritten};
use super::node::{BITS, Process, SimNode};
use super::time::Schedule;
use crate::catalog::ClusterState;
use crate::consistency::Level;
use crate::coordinator::{
    Change, Coordinator, PrefixPage, RangeRequest, ReadRequest, RequestError, TableName, Terms, WriteRequest, Written,
};

/// Partition keys that clients work on.
const PARTITION_KEYS: u64 = 4;
/// So many of a hundred operations are on the table that comes and goes.
const GUESTS_PERCENT: u64 = 10;
/// So many of a hundred values end some time.
const ENDING_PERCENT: u64 = 15;
/// Sort keys within one of them.
const SORT_KEYS: u64 = 3;

/// An operation's end, told by the coordinator and noted by the run.
pub(super) enum Told {
    Wrote {
        writes: Vec<u64>,
        results: Result<Vec<Result<Written, RequestError>>, RequestError>,
        keys: Vec<Bytes>,
    },
    Read {
        table: TableId,
        key: RowKey,
        reach: Reach,
        begun_us: u64,
        gone: Option<Version>,
        result: Result<(Option<Record>, Hlc), RequestError>,
    },
    /// What came of a write to a table that its coordinator knew to be gone.
    Gone(Result<(), RequestError>),
    /// A page of a scan, with what it was asked behind.
    Page {
        reach: Reach,
        begun_us: u64,
        backward: bool,
        gone: Gone,
        page: PrefixPage,
    },
    Refused(&'static str),
}

impl Told {
    /// The writes that ended, if it was one.
    pub(super) fn writes(&self) -> Vec<u64> {
        if let Self::Wrote { writes, .. } = self { writes.clone() } else { Vec::new() }
    }
}

/// What was purged of each row when an operation began.
type Gone = BTreeMap<RowKey, Version>;

/// What was told and not noted yet, with the client it was told to.
pub(super) type Mailbox = Arc<Mutex<Vec<(usize, Told)>>>;

/// Every row there may be.
pub(super) fn all_keys() -> Vec<RowKey> {
    let keys = (0..PARTITION_KEYS).flat_map(|p| (0..SORT_KEYS).map(move |s| row_key(p, s)));
    keys.collect()
}

fn row_key(partition: u64, sort: u64) -> RowKey {
    // The first row of a partition key has no sort key, as a plain PUT.
    if sort == 0 {
        RowKey::of(format!("key-{partition}"))
    } else {
        RowKey::with_sort(format!("key-{partition}"), format!("{sort}"))
    }
}

/// The table that is always there.
fn resident() -> TableName {
    TableName { keyspace: KEYSPACE.to_owned(), table: TABLE.to_owned() }
}

/// The one that comes and goes.
fn guest() -> TableName {
    TableName { keyspace: GUEST_KEYSPACE.to_owned(), table: GUEST_TABLE.to_owned() }
}

/// Has `client` begin an operation through `node`.
pub(super) fn begin(
    client: usize,
    (node, newest): (&SimNode, &ClusterState),
    schedule: &Schedule,
    history: &mut History,
    mailbox: &Mailbox,
) {
    let Some(process) = &node.process else { return };
    let mut operation = Operation::of(client, (node, process), schedule, mailbox);
    operation.is_behind = process.catalog.epoch() < newest.topology.epoch();
    if schedule.chance(GUESTS_PERCENT) {
        let found = process.catalog.current().schema.find(GUEST_KEYSPACE, GUEST_TABLE);
        match found {
            Ok(target) => operation.table = (guest(), target.table.id),
            Err(_) => return operation.write_to_dropped(&process.coordinator),
        }
    }
    let key = row_key(schedule.pick(0, PARTITION_KEYS - 1), schedule.pick(0, SORT_KEYS - 1));
    match schedule.pick(0, 99) {
        0..45 => operation.write(&process.coordinator, history, vec![key], write_level(schedule), None),
        45..48 => {
            // No two clients choose the same: such writes would be one version.
            let timestamp = Hlc::new(node.clock.wall_ms(), (history.writes.len() & 0xffff) as u16);
            operation.write(&process.coordinator, history, vec![key], write_level(schedule), Some(timestamp));
        }
        48..55 => {
            let partition = schedule.pick(0, PARTITION_KEYS - 1);
            let mut keys: Vec<RowKey> = (0..SORT_KEYS).map(|sort| row_key(partition, sort)).collect();
            keys.push(row_key((partition + 1) % PARTITION_KEYS, 0));
            operation.write(&process.coordinator, history, keys, write_level(schedule), None);
        }
        55..85 => operation.read(&process.coordinator, vec![key], read_level(schedule)),
        85..92 => {
            let keys = (0..PARTITION_KEYS).map(|partition| row_key(partition, 0)).collect();
            operation.read(&process.coordinator, keys, read_level(schedule));
        }
        92..96 => operation.range(&process.coordinator, key.partition, read_level(schedule)),
        _ if operation.table.1 != TABLE_ID => operation.read(&process.coordinator, vec![key], read_level(schedule)),
        _ => operation.scan(process, history, read_level(schedule)),
    }
}

/// Has `client` write every row through `node`, and to the guest table where that is gone.
pub(super) fn write_all(
    client: usize,
    node: &SimNode,
    schedule: &Schedule,
    history: &mut History,
    mailbox: &Mailbox,
    is_gone: bool,
) {
    let Some(process) = &node.process else { return };
    let operation = Operation::of(client, (node, process), schedule, mailbox);
    if process.catalog.current().schema.find(GUEST_KEYSPACE, GUEST_TABLE).is_err() || is_gone {
        operation.write_to_dropped(&process.coordinator);
    }
    operation.write(&process.coordinator, history, all_keys(), Level::EachQuorum, None);
}

/// Has `client` read every row by quorum through `node`.
pub(super) fn read_all(client: usize, node: &SimNode, schedule: &Schedule, mailbox: &Mailbox) {
    let Some(process) = &node.process else { return };
    let operation = Operation::of(client, (node, process), schedule, mailbox);
    operation.read(&process.coordinator, all_keys(), Level::Quorum);
}

fn write_level(schedule: &Schedule) -> Level {
    match schedule.pick(0, 99) {
        0..62 => Level::Quorum,
        62..68 => Level::One,
        68..74 => Level::All,
        74..80 => Level::EachQuorum,
        80..86 => Level::LocalQuorum,
        86..88 => Level::LocalOne,
        88..94 => Level::Any,
        94..98 => Level::Two,
        _ => Level::Three,
    }
}

fn read_level(schedule: &Schedule) -> Level {
    match schedule.pick(0, 99) {
        0..72 => Level::Quorum,
        72..80 => Level::One,
        80..88 => Level::LocalQuorum,
        88..90 => Level::LocalOne,
        90..92 => Level::Two,
        92..96 => Level::EachQuorum,
        _ => Level::All,
    }
}

struct Operation<'a> {
    client: usize,
    node: &'a SimNode,
    life: u64,
    schedule: &'a Schedule,
    mailbox: &'a Mailbox,
    table: (TableName, TableId),
    /// The newest map is not known to the coordinator: it may ask who is no replica any more.
    is_behind: bool,
}

impl<'a> Operation<'a> {
    fn of(
        client: usize,
        (node, process): (&'a SimNode, &Process),
        schedule: &'a Schedule,
        mailbox: &'a Mailbox,
    ) -> Self {
        Self { client, node, life: process.life, schedule, mailbox, table: (resident(), TABLE_ID), is_behind: false }
    }
}

impl Operation<'_> {
    /// A write that must be refused.
    fn write_to_dropped(&self, coordinator: &Arc<Coordinator>) {
        let rows = vec![(row_key(0, 0), Change::Delete)];
        let terms = Terms::at(Level::Any);
        let request = WriteRequest { table: guest(), rows, terms, timestamp: None, seen: None, condition: None };
        let (client, mailbox) = (self.client, Arc::clone(self.mailbox));
        let done = move |results: Result<Vec<Result<Written, RequestError>>, RequestError>| {
            let result = results.and_then(|results| results.into_iter().collect::<Result<Vec<_>, _>>());
            mailbox.lock().push((client, Told::Gone(result.map(drop))));
        };
        coordinator.write(request, Box::new(done));
    }

    /// Every so many-th value ends some time, within the time of a run or as late as clocks are off.
    fn ttl_ms(&self) -> Option<i64> {
        if !self.schedule.chance(ENDING_PERCENT) {
            return None;
        }
        let most_ms = self.schedule.one_of(&[3_000, 600_000]).unwrap_or(3_000);
        i64::try_from(self.schedule.pick(20, most_ms)).ok()
    }

    /// What was purged of the rows by now, where the client must not be told of it any more.
    fn gone(&self) -> Gone {
        let rows = if self.is_behind { Vec::new() } else { self.node.purged.rows() };
        rows.into_iter().filter(|((table, _), _)| *table == self.table.1).map(|((_, key), v)| (key, v)).collect()
    }

    /// Where its coordinator is counts for the levels of one data center.
    fn reach(&self, level: Level) -> Reach {
        let member = self.node.known.state.topology.member(self.node.id);
        let data_center = member.map_or_else(|| "".into(), |member| member.data_center.clone());
        Reach { level, data_center }
    }

    fn write(
        &self,
        coordinator: &Arc<Coordinator>,
        history: &mut History,
        keys: Vec<RowKey>,
        level: Level,
        timestamp: Option<Hlc>,
    ) {
        let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
        // What the coordinator works by: what the node has heard of may be newer, until its follower has stepped.
        let Some(state) = self.node.process.as_ref().map(|process| process.catalog.current()) else { return };
        let mut writes = Vec::new();
        let mut rows = Vec::new();
        for key in &keys {
            let write = history.writes.len() as u64;
            let is_delete = self.schedule.chance(20);
            let value = Bytes::copy_from_slice(&write.to_be_bytes());
            rows.push((
                key.clone(),
                if is_delete { Change::Delete } else { Change::Put { value, ttl_ms: self.ttl_ms() } },
            ));
            writes.push(write);
            let partition = bits.partition_of(key.token());
            let map = state.topology.placement(PLACEMENT).and_then(|placement| placement.partition(partition));
            history.writes.push(RowWritten {
                write,
                table: self.table.1,
                key: key.clone(),
                is_delete,
                reach: self.reach(level),
                client_timestamp: timestamp.is_some(),
                coordinator: self.node.id,
                coordinator_life: self.life,
                begun_us: self.schedule.now_us(),
                map: map.map_or(Epoch(0), |map| map.epoch()),
                replicas: written_to(&state, partition),
                ended: None,
            });
        }
        let request = WriteRequest {
            table: self.table.0.clone(),
            rows,
            terms: Terms::at(level),
            timestamp,
            seen: None,
            condition: None,
        };
        let mut partitions: Vec<Bytes> = Vec::new();
        for key in keys {
            if !partitions.contains(&key.partition) {
                partitions.push(key.partition);
            }
        }
        let (client, mailbox) = (self.client, Arc::clone(self.mailbox));
        let done = Box::new(move |results| {
            mailbox.lock().push((client, Told::Wrote { writes, results, keys: partitions }));
        });
        coordinator.write(request, done);
    }

    fn read(&self, coordinator: &Arc<Coordinator>, keys: Vec<RowKey>, level: Level) {
        let request = ReadRequest { table: self.table.0.clone(), keys: keys.clone(), terms: Terms::at(level) };
        let (client, mailbox, begun_us) = (self.client, Arc::clone(self.mailbox), self.schedule.now_us());
        let (reach, table, gone) = (self.reach(level), self.table.1, self.gone());
        let done =
            Box::new(move |results: Result<Vec<Result<crate::coordinator::ReadRow, RequestError>>, RequestError>| {
                let mut mailbox = mailbox.lock();
                match results {
                    Err(error) => mailbox.push((client, Told::Refused(name(&error)))),
                    Ok(rows) => {
                        for (key, row) in keys.into_iter().zip(rows) {
                            let result = row.map(|row| (row.record, row.as_of));
                            let (reach, gone) = (reach.clone(), gone.get(&key).copied());
                            mailbox.push((client, Told::Read { table, key, reach, begun_us, gone, result }));
                        }
                    }
                }
            });
        coordinator.read(request, done);
    }

    fn range(&self, coordinator: &Arc<Coordinator>, partition: Bytes, level: Level) {
        let request = RangeRequest {
            table: self.table.0.clone(),
            partition: partition.clone(),
            from: Bound::Unbounded,
            to: Bound::Unbounded,
            backward: self.schedule.chance(50),
            rows_max: usize::try_from(self.schedule.pick(1, SORT_KEYS + 1)).unwrap_or(1),
            terms: Terms::at(level),
        };
        let (client, mailbox, begun_us) = (self.client, Arc::clone(self.mailbox), self.schedule.now_us());
        let (reach, table, gone) = (self.reach(level), self.table.1, self.gone());
        let done = Box::new(move |result: Result<crate::coordinator::RangePage, RequestError>| {
            let mut mailbox = mailbox.lock();
            match result {
                Err(error) => mailbox.push((client, Told::Refused(name(&error)))),
                Ok(page) => {
                    let listed = page.rows.into_iter().map(|row| (row.key, Some(row.record)));
                    let mut listed: Vec<_> = listed.collect();
                    // The last page lists all there is: what is not on it is absent.
                    let absent = all_keys().into_iter().filter(|key| !page.more && key.partition == partition);
                    let absent: Vec<_> = absent.filter(|key| listed.iter().all(|(known, _)| known != key)).collect();
                    listed.extend(absent.into_iter().map(|key| (key, None)));
                    for (key, record) in listed {
                        let (reach, gone) = (reach.clone(), gone.get(&key).copied());
                        let result = Ok((record, page.as_of));
                        mailbox.push((client, Told::Read { table, key, reach, begun_us, gone, result }));
                    }
                }
            }
        });
        coordinator.range(request, done);
    }
}

/// Notes what clients were told. The clients that were told something may go on.
pub(super) fn note(history: &mut History, now_us: u64, client: usize, told: Told) {
    match told {
        Told::Page { reach, begun_us, backward, gone, page } => {
            pages::note_page(history, now_us, client, (reach, begun_us, backward, gone, page));
        }
        Told::Refused(name) => history.count(name),
        Told::Gone(Err(RequestError::UnknownName(_))) => history.count("unknown table"),
        Told::Gone(result) => {
            history.count("dropped table served");
            history
                .served_dropped
                .push(format!("a write to a table that is gone ended at {now_us} us with {result:?}"));
        }
        Told::Read { table, key, reach, begun_us, gone, result } => match result {
            Err(error) => {
                history.count(name(&error));
                history.remember(&error);
            }
            Ok((record, as_of)) => {
                history.count("read");
                let purged = history.purged.newest(table, &key);
                history.reads.push(RowRead {
                    table,
                    key,
                    reach,
                    begun_us,
                    ended_us: now_us,
                    record,
                    as_of,
                    purged,
                    gone,
                });
            }
        },
        Told::Wrote { writes, results, keys } => {
            for write in writes {
                let Some(row) = usize::try_from(write).ok().and_then(|w| history.writes.get_mut(w)) else { continue };
                let place = keys.iter().position(|key| *key == row.key.partition);
                let result = match &results {
                    Err(error) => Err(error.clone()),
                    Ok(results) => match place.and_then(|place| results.get(place)) {
                        Some(result) => result.clone(),
                        None => continue,
                    },
                };
                let (success, outcome, refused) = match result {
                    Ok(written) => (Some((written.version, written.acknowledged_by)), "written", false),
                    Err(error) => (None, name(&error), is_refused(&error)),
                };
                row.ended = Some(Ended { at_us: now_us, success, refused });
                history.count(outcome);
            }
        }
    }
}

/// Whether the error says that nothing was written.
fn is_refused(error: &RequestError) -> bool {
    !matches!(error, RequestError::Unknown(_) | RequestError::NotNoted { .. })
}

fn name(error: &RequestError) -> &'static str {
    match error {
        RequestError::Unavailable(_) | RequestError::ReadUnavailable(_) => "unavailable",
        RequestError::Unknown(_) => "unknown write",
        RequestError::ReadIncomplete(_) => "incomplete read",
        RequestError::Overloaded { .. } => "overloaded",
        RequestError::Clock(_) => "clock",
        RequestError::UnknownName(_) => "unknown table",
        _ => "other error",
    }
}
