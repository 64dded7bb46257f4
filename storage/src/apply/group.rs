//! One group of batches on its way through the write path: from mutations to the changes of one engine write.
//!
//! Plain logic around one multi-get. Invariant: the changes hold each row once, with the winner of all mutations of the
//! group, and the sum of the leaf deltas is exactly what the changed rows add to and take from their leaves.

use std::ops::Range;

use super::queue::Job;
use super::recent::RecentRows;
use super::resolve::{Held, judge, with_loss};
use crate::engine::{Durability, Engine, EngineError, Space, Writes};
use crate::error::{DamagedRange, StoreError};
use crate::keyspace::encode_data_key;
use crate::merkle::{Fingerprint, LeafId, LeafSum, MerkleKey, YoungChange, leaf_key};
use crate::model::{Batch, Hlc, Mutation, Outcome, PartitionId, Record, RecordHeader, TableId};
use crate::partition::{PartitionState, Partitions, SyncState, UnsyncedCause};
use crate::scrub::RowChange;
use crate::store::Store;
use crate::table::{SyncPolicy, TableOptions};

/// One mutation that is to be judged.
struct Entry<'a> {
    /// Its data key, within the group's keys.
    key: Range<usize>,
    partition: PartitionId,
    leaf: LeafId,
    options: TableOptions,
    mutation: &'a Mutation,
    job: usize,
    /// Its place in its batch.
    place: usize,
}

/// One row of the group, and all mutations of it.
struct Row {
    entries: Range<usize>,
    key: Range<usize>,
    fingerprint: Fingerprint,
    held: Held,
}

/// One row that changes.
struct Change<'a> {
    key: Range<usize>,
    fingerprint: Fingerprint,
    leaf: LeafId,
    mutation: &'a Mutation,
    /// What the row holds now.
    before: Option<RecordHeader>,
    /// The row is new and its table keeps an index of keys.
    index: bool,
}

pub(super) struct Group<'a> {
    store: &'a Store,
    jobs: &'a [Job],
    results: Vec<Result<Vec<Outcome>, StoreError>>,
    durability: Durability,
    keys: Vec<u8>,
    /// In the order of their keys, those of one key in the order of arrival.
    entries: Vec<Entry<'a>>,
    /// In the order of their keys.
    rows: Vec<Row>,
    changes: Vec<Change<'a>>,
    /// What the changes add to their leaves; known once they are written.
    leaf_deltas: Vec<(TableId, LeafId, LeafSum)>,
    /// The same for each row, with the version that was written.
    young: Vec<YoungChange>,
    /// What the changed rows hold once they are written.
    written: Vec<(Fingerprint, RecordHeader)>,
    notes: Vec<(Vec<u8>, Vec<u8>)>,
    damage: Vec<DamagedRange>,
}

impl<'a> Group<'a> {
    /// Sorts out what is refused before anything is read.
    pub(super) fn new(store: &'a Store, jobs: &'a [Job], admit: impl Fn(&Batch) -> Result<(), StoreError>) -> Self {
        let rows = jobs.iter().map(|job| job.batch.mutations.len()).sum();
        let mut group = Self {
            store,
            jobs,
            results: Vec::with_capacity(jobs.len()),
            durability: Durability::Buffered,
            keys: Vec::with_capacity(rows * 64),
            entries: Vec::with_capacity(rows),
            rows: Vec::with_capacity(rows),
            changes: Vec::with_capacity(rows),
            leaf_deltas: Vec::with_capacity(rows),
            young: Vec::with_capacity(rows),
            written: Vec::with_capacity(rows),
            notes: Vec::new(),
            damage: Vec::new(),
        };
        for (job, queued) in jobs.iter().enumerate() {
            let batch = &queued.batch;
            let result = queued.check_time().and_then(|()| admit(batch)).and_then(|()| group.take_batch(job, batch));
            group.results.push(result);
        }
        group.sort_into_rows();
        group
    }

    fn sort_into_rows(&mut self) {
        let keys = &self.keys;
        let key_of = |entry: &Entry<'_>| keys.get(entry.key.clone()).unwrap_or_default();
        self.entries.sort_by(|a, b| key_of(a).cmp(key_of(b)));
        let mut start = 0;
        for row in self.entries.chunk_by(|a, b| key_of(a) == key_of(b)) {
            let entries = start..start + row.len();
            start = entries.end;
            let Some(first) = row.first() else { continue };
            let fingerprint = self.store.merkle_key.fingerprint(key_of(first));
            self.rows.push(Row { entries, key: first.key.clone(), fingerprint, held: Held::Absent });
        }
    }

    /// Adds the mutations of a batch whose tables are all known and whose fences they all pass; the outcomes of the
    /// others.
    fn take_batch(&mut self, job: usize, batch: &'a Batch) -> Result<Vec<Outcome>, StoreError> {
        let tables = self.store.tables.read();
        let options: Vec<TableOptions> =
            batch.mutations.iter().map(|m| tables.get(m.table)).collect::<Result<_, _>>()?;
        drop(tables);
        let partitions = self.store.partitions.read();
        let mut outcomes = Vec::with_capacity(batch.mutations.len());
        for (place, (mutation, options)) in batch.mutations.iter().zip(options).enumerate() {
            let start = self.keys.len();
            let token = encode_data_key(mutation.table, &mutation.key, &mut self.keys);
            let partition = self.store.bits.partition_of(token);
            let fence = partitions.state(options.placement, partition).epoch;
            if mutation.claim.is_some_and(|claim| claim < fence) {
                outcomes.push(Outcome::Fenced(fence));
                continue;
            }
            if options.sync == SyncPolicy::Sync {
                self.durability = Durability::Synced;
            }
            // Replaced when the mutation is judged.
            outcomes.push(Outcome::Present);
            let leaf = LeafId::of(token, self.store.bits);
            let key = start..self.keys.len();
            self.entries.push(Entry { key, partition, leaf, options, mutation, job, place });
        }
        Ok(outcomes)
    }

    /// Finds out what the rows hold: what is remembered of them, and the others read, each once. A row that is damaged
    /// takes what comes; one that cannot be read for another reason may hold something newer, so nothing is written.
    pub(super) fn read(&mut self, engine: &dyn Engine, recent: &mut RecentRows) -> Result<(), EngineError> {
        let Self { keys, entries, rows, .. } = self;
        let mut unknown = Vec::with_capacity(rows.len());
        for row in rows {
            match recent.get(row.fingerprint) {
                Some(header) if !row.is_rewritten_by(entries, &header) => {
                    row.held = Held::Record { header, record: None };
                }
                _ => unknown.push(row),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let data_keys: Vec<&[u8]> = unknown.iter().filter_map(|row| keys.get(row.key.clone())).collect();
        let mut failed = None;
        engine.multi_get(Space::Data, &data_keys, &mut |place, value| {
            let (Some(row), Some(key)) = (unknown.get_mut(place), data_keys.get(place)) else { return };
            row.held = match value {
                Ok(None) => Held::Absent,
                Ok(Some(bytes)) => Held::read(key, bytes, |header| row.is_rewritten_by(entries, header)),
                Err(EngineError::Corruption { detail }) => Held::Damaged { detail },
                Err(error) => {
                    failed.get_or_insert(error);
                    return;
                }
            };
        });
        failed.map_or(Ok(()), Err)
    }

    /// Judges every mutation and puts together what changes.
    pub(super) fn resolve(&mut self, partitions: &mut Partitions) {
        let entries = std::mem::take(&mut self.entries);
        for row in std::mem::take(&mut self.rows) {
            self.resolve_row(entries.get(row.entries).unwrap_or_default(), row.fingerprint, row.held, partitions);
        }
    }

    fn resolve_row(&mut self, row: &[Entry<'a>], fingerprint: Fingerprint, held: Held, partitions: &mut Partitions) {
        let before = held.header().copied();
        if let (Held::Damaged { detail }, Some(entry)) = (&held, row.first()) {
            self.note_damage(entry, detail.clone(), partitions);
        }
        let mut now = held;
        let mut winner = None;
        for entry in row {
            let floor = partitions.range(entry.mutation.table, entry.partition).floor;
            let origin = match self.jobs.get(entry.job) {
                Some(job) => job.batch.origin,
                None => continue,
            };
            let outcome = judge(&entry.mutation.record, origin, &now, floor);
            match outcome {
                Outcome::Applied => (now, winner) = (Held::taken(&entry.mutation.record), Some(entry)),
                Outcome::BelowFloor(_) => self.store.counters.count_below_floor(),
                _ => {}
            }
            let lost_up_to = partitions.lost_up_to(entry.options.placement, entry.partition);
            self.set_outcome(entry, with_loss(outcome, &entry.mutation.record, origin, lost_up_to));
        }
        if let Some(winner) = winner {
            self.keep(winner, fingerprint, before, partitions);
        }
    }

    fn keep(
        &mut self,
        entry: &Entry<'a>,
        fingerprint: Fingerprint,
        before: Option<RecordHeader>,
        partitions: &mut Partitions,
    ) {
        let Mutation { table, record, .. } = entry.mutation;
        if let Some(state) = partitions.applied(*table, entry.partition, record.version.hlc) {
            self.notes.push(Partitions::note_range(*table, entry.partition, state));
        }
        self.notes.extend(partitions.reached(entry.options.placement, entry.partition, record.version.hlc));
        self.changes.push(Change {
            key: entry.key.clone(),
            fingerprint,
            leaf: entry.leaf,
            mutation: entry.mutation,
            before,
            index: before.is_none() && entry.options.prefix_index,
        });
    }

    /// The partition of an unreadable row is not counted any more, from the same write on.
    fn note_damage(&mut self, entry: &Entry<'_>, detail: String, partitions: &mut Partitions) {
        let placement = entry.options.placement;
        let state = partitions.state(placement, entry.partition);
        self.damage.push(DamagedRange::of_row(entry.mutation.table, self.key(&entry.key), detail));
        if state.sync.hides_damage() {
            let state = PartitionState { sync: SyncState::Unsynced(UnsyncedCause::DamagedData), ..state };
            partitions.set_state(placement, entry.partition, state);
            self.notes.push(Partitions::note_state(placement, entry.partition, state));
        } else {
            partitions.found_more(placement, entry.partition);
        }
    }

    fn set_outcome(&mut self, entry: &Entry<'_>, outcome: Outcome) {
        let Some(Ok(outcomes)) = self.results.get_mut(entry.job) else { return };
        if let Some(place) = outcomes.get_mut(entry.place) {
            *place = outcome;
        }
    }

    /// Puts the whole change into one engine write. Each record is encoded on its way there, into one buffer that stays
    /// in the processor's cache.
    pub(super) fn fill(&mut self, writes: &mut dyn Writes) {
        let (mut value, mut index_key) = (Vec::new(), Vec::new());
        self.leaf_deltas.clear();
        self.young.clear();
        self.written.clear();
        for change in &self.changes {
            let Some(key) = self.keys.get(change.key.clone()) else { continue };
            value.clear();
            let checksum = change.mutation.record.encode_into(key, &mut value);
            writes.put(Space::Data, key, &value);
            if change.index {
                // The same key without its token.
                index_key.clear();
                index_key.extend_from_slice(key.get(..4).unwrap_or_default());
                index_key.extend_from_slice(key.get(12..).unwrap_or_default());
                writes.put(Space::Keys, &index_key, &[]);
            }
            self.written.push((change.fingerprint, RecordHeader::of(&change.mutation.record, checksum)));
            let delta = change.leaf_delta(&self.store.merkle_key, key, checksum);
            // Rows come in token order, so those of a leaf come together.
            let place = (change.mutation.table, change.leaf);
            let version = change.mutation.record.version.hlc;
            self.young.push(YoungChange { table: place.0, leaf: place.1, version, delta });
            match self.leaf_deltas.last_mut() {
                Some((table, leaf, sum)) if (*table, *leaf) == place => *sum = sum.plus(delta),
                _ => self.leaf_deltas.push((place.0, place.1, delta)),
            }
        }
        for (table, leaf, delta) in &self.leaf_deltas {
            writes.add(&leaf_key(*table, *leaf), *delta);
        }
        for (key, value) in &self.notes {
            writes.put(Space::Meta, key, value);
        }
    }

    /// Remembers the rows that were written.
    pub(super) fn remember(&self, recent: &mut RecentRows) {
        for &(row, header) in &self.written {
            recent.put(row, header);
        }
    }

    /// What a failed write was to note of the partitions.
    pub(super) fn take_notes(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.notes)
    }

    pub(super) fn is_unchanged(&self) -> bool {
        self.changes.is_empty() && self.notes.is_empty()
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn leaf_deltas(&self) -> &[(TableId, LeafId, LeafSum)] {
        &self.leaf_deltas
    }

    /// What changed in each row.
    pub(super) fn row_changes(&self) -> impl Iterator<Item = RowChange<'_>> {
        self.changes.iter().zip(&self.young).map(|(change, young)| RowChange {
            table: young.table,
            leaf: young.leaf,
            data_key: self.key(&change.key),
            delta: young.delta,
        })
    }

    pub(super) fn young(&self) -> &[YoungChange] {
        &self.young
    }

    /// The rows that were written and that purge removes one day: from which floor on.
    pub(super) fn mortal(&self) -> impl Iterator<Item = (TableId, LeafId, Hlc)> + '_ {
        let written = self.changes.iter().zip(&self.written);
        written.filter_map(|(change, (_, header))| Some((change.mutation.table, change.leaf, header.purgeable_from()?)))
    }

    pub(super) fn damage(&self) -> &[DamagedRange] {
        &self.damage
    }

    pub(super) fn changed_rows(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn into_results(self) -> Vec<Result<Vec<Outcome>, StoreError>> {
        self.results
    }

    fn key(&self, key: &Range<usize>) -> &[u8] {
        self.keys.get(key.clone()).unwrap_or_default()
    }
}

impl Row {
    /// Whether a mutation of the row has the version of what it holds: then their values must be compared.
    fn is_rewritten_by(&self, entries: &[Entry<'_>], held: &RecordHeader) -> bool {
        let row = entries.get(self.entries.clone()).unwrap_or_default();
        row.iter().any(|entry| entry.mutation.record.version == held.version)
    }
}

impl Change<'_> {
    /// What the row adds to its leaf, less what it added before.
    fn leaf_delta(&self, hash: &MerkleKey, key: &[u8], checksum: u32) -> LeafSum {
        let now = hash.row(key, self.mutation.record.version, checksum);
        match self.before {
            Some(before) => now.minus(hash.row(key, before.version, before.checksum)),
            None => now,
        }
    }
}

impl Held {
    /// The row as it will be with this record. Its checksum is not known yet, and no judgement asks for it.
    fn taken(record: &Record) -> Self {
        Self::Record { header: RecordHeader::of(record, 0), record: Some(record.clone()) }
    }
}
