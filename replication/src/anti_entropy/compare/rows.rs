//! The last stage of a comparison: which rows of the leaves that differ are exchanged, and the exchange.
//!
//! The peer lists the rows of a leaf; those held here are read a page at a time beside the list, in the order of both. A
//! hot leaf is compared by the sums of its pieces first. What is to be sent or fetched waits in queues that are emptied
//! before more is listed, so a comparison holds a bounded number of rows at any time, whatever the size of a leaf.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use cube_storage::merkle::LeafId;
use cube_storage::model::{Batch, Hlc, Mutation, Origin, Record, RowKey, TableId, Token};
use cube_storage::{LeafSpan, Piece, RowDigest, Store, StoreError};

use super::decide::{Decision, decide};
use super::{Mode, Next, Session, Unexpected, Verdict};
use crate::anti_entropy::answer::{LIST_BYTES_MAX, LIST_ROWS_MAX, PIECE_ROWS, ROWS_BYTES_MAX};
use crate::anti_entropy::questions::{Answer, HeldRow, LeafRows, Question, Tree};

/// Leaves listed by one question: of what is listed longer ago, another peer may have mended more meanwhile. Each of them
/// has a row that differs, so these questions are about as many as the batches of rows.
const LEAVES_PER_QUESTION_MAX: usize = 256;
/// Rows sent or fetched together.
pub(super) const ROWS_PER_BATCH_MAX: usize = 256;
/// Rows held here that are read together beside a list.
const PAGE_ROWS: usize = 1_024;

/// Something still to be looked at.
enum Work {
    List {
        table: TableId,
        leaves: Vec<LeafId>,
    },
    Pieces {
        table: TableId,
        leaf: LeafId,
        after: Option<RowKey>,
    },
    Span(Between),
    /// What the peer listed, beside what is held here.
    Merge {
        between: Between,
        theirs: VecDeque<RowDigest>,
    },
}

/// Rows of a leaf behind one and up to another.
#[derive(Clone, Debug)]
struct Between {
    table: TableId,
    leaf: LeafId,
    after: Option<RowKey>,
    upto: Option<RowKey>,
}

impl Between {
    fn tree(&self) -> Tree {
        (self.table, self.leaf.partition())
    }

    fn span(&self) -> LeafSpan<'_> {
        LeafSpan { table: self.table, leaf: self.leaf, after: self.after.as_ref(), upto: self.upto.as_ref() }
    }
}

/// What was asked last.
enum Asked {
    List { table: TableId, leaves: Vec<LeafId> },
    Pieces { table: TableId, leaf: LeafId, after: Option<RowKey> },
    Span(Between),
    Rows { table: TableId, keys: Vec<RowKey> },
}

/// Rows on their way in a batch.
struct Arrived {
    tree: Tree,
    floor: Hlc,
    mutation: Mutation,
}

#[derive(Default)]
pub(super) struct Rows {
    work: VecDeque<Work>,
    asked: Option<Asked>,
    push: VecDeque<(TableId, RowKey)>,
    fetch: VecDeque<(TableId, RowKey)>,
    /// Fetched rows that are to be applied.
    arrived: VecDeque<Arrived>,
    /// The trees of the rows that are being sent or applied.
    under_way: Vec<Tree>,
}

impl Rows {
    pub(super) fn begin(&mut self, table: TableId, leaves: Vec<LeafId>) {
        self.work.push_back(Work::List { table, leaves });
    }

    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    pub(super) fn take_under_way(&mut self) -> Vec<Tree> {
        std::mem::take(&mut self.under_way)
    }
}

/// The order of rows within a leaf, which is that of the engine's keys.
fn place(row: &RowKey) -> (Token, &Bytes, &Bytes) {
    (row.token(), &row.partition, &row.sort)
}

impl Session {
    pub(super) fn next_rows(&mut self, store: &Store) -> Result<Next, StoreError> {
        loop {
            if !self.rows.arrived.is_empty() {
                return Ok(self.apply_arrived());
            }
            let is_last = self.rows.work.is_empty();
            if self.rows.push.len() >= ROWS_PER_BATCH_MAX || (is_last && !self.rows.push.is_empty()) {
                match self.send_some(store)? {
                    Some(next) => return Ok(next),
                    None => continue,
                }
            }
            if self.rows.fetch.len() >= ROWS_PER_BATCH_MAX || (is_last && !self.rows.fetch.is_empty()) {
                return Ok(self.fetch_some());
            }
            match self.rows.work.pop_front() {
                None => return Ok(Next::Done),
                Some(Work::Merge { between, theirs }) => self.merge(store, between, theirs)?,
                Some(Work::List { table, mut leaves }) => {
                    let rest = leaves.split_off(leaves.len().min(LEAVES_PER_QUESTION_MAX));
                    if !rest.is_empty() {
                        self.rows.work.push_front(Work::List { table, leaves: rest });
                    }
                    leaves.retain(|leaf| self.is_open((table, leaf.partition())));
                    if !leaves.is_empty() {
                        self.rows.asked = Some(Asked::List { table, leaves: leaves.clone() });
                        return Ok(Next::Ask(Question::Leaves { table, leaves }));
                    }
                }
                Some(Work::Pieces { table, leaf, after }) if self.is_open((table, leaf.partition())) => {
                    self.rows.asked = Some(Asked::Pieces { table, leaf, after: after.clone() });
                    return Ok(Next::Ask(Question::Pieces { table, leaf, after }));
                }
                Some(Work::Span(between)) if self.is_open(between.tree()) => {
                    let Between { table, leaf, after, upto } = between.clone();
                    self.rows.asked = Some(Asked::Span(between));
                    return Ok(Next::Ask(Question::Span { table, leaf, after, upto }));
                }
                Some(Work::Pieces { .. } | Work::Span(_)) => {}
            }
        }
    }

    /// Somebody else sends the same rows: what was listed is listed anew at the end, and the rest begins elsewhere.
    pub(super) fn go_elsewhere(&mut self) {
        let mut again: BTreeMap<TableId, BTreeSet<LeafId>> = BTreeMap::new();
        for work in std::mem::take(&mut self.rows.work) {
            match work {
                Work::Merge { between: Between { table, leaf, after: None, upto: None }, .. } => {
                    again.entry(table).or_default().insert(leaf);
                }
                Work::List { table, mut leaves } => {
                    let half = leaves.len() / 2;
                    leaves.rotate_left(half);
                    self.rows.work.push_back(Work::List { table, leaves });
                }
                other => self.rows.work.push_back(other),
            }
        }
        let again = again.into_iter().map(|(table, leaves)| Work::List { table, leaves: leaves.into_iter().collect() });
        self.rows.work.extend(again);
    }

    /// The peer told something about rows.
    pub(super) fn on_listed(&mut self, store: &Store, answer: Answer) -> Result<(), Unexpected> {
        match (self.rows.asked.take(), answer) {
            (Some(Asked::List { table, leaves }), Answer::Leaves(told)) if !told.is_empty() => {
                self.on_leaves(table, leaves, told);
            }
            (Some(Asked::Pieces { table, leaf, after }), Answer::Pieces { pieces, more }) => {
                self.on_pieces(store, (table, leaf), after, pieces, more)?;
            }
            (Some(Asked::Span(between)), Answer::Span(page)) => {
                self.tally.listed += page.rows.len() as u64;
                let last = page.rows.last().map(|row| row.key.clone()).filter(|_| page.more);
                if let Some(last) = last.clone() {
                    self.rows.work.push_front(Work::Span(Between { after: Some(last), ..between.clone() }));
                }
                let between = Between { upto: last.or(between.upto), ..between };
                self.rows.work.push_front(Work::Merge { between, theirs: page.rows.into() });
            }
            (Some(Asked::Rows { table, keys }), Answer::Rows(held)) if !held.is_empty() => {
                self.on_rows(store, table, keys, held);
            }
            _ => return Err(Unexpected::Answer),
        }
        Ok(())
    }

    fn on_leaves(&mut self, table: TableId, mut leaves: Vec<LeafId>, told: Vec<Result<LeafRows, super::NotCompared>>) {
        let rest = leaves.split_off(leaves.len().min(told.len()));
        if !rest.is_empty() {
            self.rows.work.push_front(Work::List { table, leaves: rest });
        }
        for (leaf, told) in leaves.into_iter().zip(told).rev() {
            match told {
                Err(cause) => self.set((table, leaf.partition()), Verdict::There(cause)),
                Ok(LeafRows::Hot) => self.rows.work.push_front(Work::Pieces { table, leaf, after: None }),
                Ok(LeafRows::All(rows)) => {
                    self.tally.listed += rows.len() as u64;
                    let between = Between { table, leaf, after: None, upto: None };
                    self.rows.work.push_front(Work::Merge { between, theirs: rows.into() });
                }
            }
        }
    }

    /// Compares the pieces of a hot leaf with the rows that are held here between the same rows.
    fn on_pieces(
        &mut self,
        store: &Store,
        (table, leaf): (TableId, LeafId),
        mut after: Option<RowKey>,
        pieces: Vec<Piece>,
        more: bool,
    ) -> Result<(), Unexpected> {
        if more && pieces.is_empty() {
            // It would be asked for ever.
            return Err(Unexpected::Answer);
        }
        for piece in pieces {
            let between = Between { table, leaf, after: after.take(), upto: Some(piece.last.clone()) };
            after = Some(piece.last);
            // More rows than the peer has there are a difference, however they sum up.
            let mine = match store.leaf_pieces(between.span(), PIECE_ROWS, 1) {
                Ok((mine, false)) => mine.first().map(|mine| mine.sum),
                Ok((_, true)) => None,
                Err(error) => return Ok(self.exclude(between.tree(), error)?),
            };
            if mine != Some(piece.sum) {
                self.rows.work.push_back(Work::Span(between));
            }
        }
        if more {
            self.rows.work.push_back(Work::Pieces { table, leaf, after });
        } else {
            // Behind the peer's last row there may be rows that only this node has.
            let between = Between { table, leaf, after, upto: None };
            self.rows.work.push_back(Work::Merge { between, theirs: VecDeque::new() });
        }
        Ok(())
    }

    /// Goes through a page of what is held here and what the peer listed beside it.
    fn merge(
        &mut self,
        store: &Store,
        mut between: Between,
        mut theirs: VecDeque<RowDigest>,
    ) -> Result<(), StoreError> {
        let tree = between.tree();
        let page = match store.leaf_headers(between.span(), PAGE_ROWS, LIST_BYTES_MAX) {
            Ok(page) => page,
            Err(error) => return self.exclude(tree, error),
        };
        let last = page.rows.last().map(|row| row.key.clone()).filter(|_| page.more);
        let mut mine: VecDeque<RowDigest> = page.rows.into();
        loop {
            let order = match (mine.front(), theirs.front()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                // What the peer listed behind this page is for the next one.
                (None, Some(_)) if last.is_some() => break,
                (None, Some(_)) => Ordering::Greater,
                (Some(mine), Some(theirs)) => place(&mine.key).cmp(&place(&theirs.key)),
            };
            let mine = if order == Ordering::Greater { None } else { mine.pop_front() };
            let theirs = if order == Ordering::Less { None } else { theirs.pop_front() };
            self.judge(store, tree, mine, theirs);
        }
        if last.is_some() {
            between.after = last;
            self.rows.work.push_front(Work::Merge { between, theirs });
        }
        Ok(())
    }

    fn judge(&mut self, store: &Store, tree: Tree, mine: Option<RowDigest>, theirs: Option<RowDigest>) {
        let floor = self.trees.get(&tree).map(|state| state.floor).unwrap_or_default();
        let header = |row: &Option<RowDigest>| row.as_ref().map(|row| row.header);
        let decision = decide(header(&mine).as_ref(), header(&theirs).as_ref(), self.horizon, floor);
        let Some(key) = mine.or(theirs).map(|row| row.key) else { return };
        let (push, fetch) = match decision {
            Decision::Agree => return,
            Decision::Dead => {
                self.unpurged.insert(tree);
                return;
            }
            Decision::Push => (true, false),
            Decision::Fetch => (false, true),
            Decision::Both => (true, true),
        };
        self.set(tree, Verdict::Repaired);
        match self.mode {
            Mode::Plan => {
                self.tally.rows_sent += u64::from(push);
                self.tally.rows_fetched += u64::from(fetch);
                if let (true, Ok(Some(record))) = (push, store.get(tree.0, &key)) {
                    self.tally.row_bytes += (key.len_bytes() + record.encoded_len()) as u64;
                }
            }
            Mode::Repair => {
                if push {
                    self.rows.push.push_back((tree.0, key.clone()));
                }
                if fetch {
                    self.rows.fetch.push_back((tree.0, key));
                }
            }
        }
    }

    /// Sends the first rows that wait, as they are held now.
    fn send_some(&mut self, store: &Store) -> Result<Option<Next>, StoreError> {
        let mut batch = BatchOfRows::default();
        while let Some((table, key)) = self.rows.push.pop_front() {
            let tree = (table, store.bits().partition_of(key.token()));
            if !self.is_open(tree) {
                continue;
            }
            let record = match store.get(table, &key) {
                Ok(Some(record)) => record,
                // Purged, or cleared, meanwhile.
                Ok(None) => continue,
                Err(error) => {
                    self.exclude(tree, error)?;
                    continue;
                }
            };
            let (floor, claim) = (store.range_state(table, tree.1).floor, self.map_of(tree));
            if let Some(mutation) = batch.take(tree, floor, Mutation { table, key, record, claim }) {
                self.rows.push.push_front((table, mutation.key));
                break;
            }
        }
        if batch.mutations.is_empty() {
            return Ok(None);
        }
        self.tally.rows_sent += batch.mutations.len() as u64;
        self.tally.row_bytes += batch.bytes as u64;
        self.rows.under_way = batch.trees;
        Ok(Some(Next::Send { floor: batch.floor, mutations: batch.mutations }))
    }

    /// Asks for the first rows that wait to be fetched, of one table.
    fn fetch_some(&mut self) -> Next {
        let table = self.rows.fetch.front().map_or(TableId(0), |(table, _)| *table);
        let mut keys = Vec::new();
        while keys.len() < ROWS_PER_BATCH_MAX
            && let Some((_, key)) = self.rows.fetch.pop_front_if(|(of, _)| *of == table)
        {
            keys.push(key);
        }
        self.rows.asked = Some(Asked::Rows { table, keys: keys.clone() });
        Next::Ask(Question::Rows { table, keys })
    }

    fn on_rows(&mut self, store: &Store, table: TableId, mut keys: Vec<RowKey>, held: Vec<HeldRow>) {
        let rest = keys.split_off(keys.len().min(held.len()));
        rest.into_iter().rev().for_each(|key| self.rows.fetch.push_front((table, key)));
        for (key, HeldRow { record, floor }) in keys.into_iter().zip(held) {
            let Some(record) = record else { continue };
            let tree = (table, store.bits().partition_of(key.token()));
            let mutation = Mutation { table, key, record, claim: self.map_of(tree) };
            self.rows.arrived.push_back(Arrived { tree, floor, mutation });
        }
    }

    fn apply_arrived(&mut self) -> Next {
        let mut batch = BatchOfRows::default();
        while let Some(Arrived { tree, floor, mutation }) = self.rows.arrived.pop_front() {
            if let Some(mutation) = batch.take(tree, floor, mutation) {
                self.rows.arrived.push_front(Arrived { tree, floor, mutation });
                break;
            }
        }
        self.tally.rows_fetched += batch.mutations.len() as u64;
        self.tally.row_bytes += batch.bytes as u64;
        self.rows.under_way = batch.trees;
        Next::Apply(Batch { origin: Origin::Replica { floor: batch.floor }, mutations: batch.mutations })
    }
}

/// Rows that travel under one purge floor.
///
/// The floor says how far the sender has purged, so it is never above that of any row's partition; and a row that is not
/// above its own partition's floor travels under no lower one, or it would be refused.
#[derive(Default)]
struct BatchOfRows {
    floor: Hlc,
    /// Whether a row is in it that needs this floor.
    is_needed: bool,
    mutations: Vec<Mutation>,
    trees: Vec<Tree>,
    bytes: usize,
}

impl BatchOfRows {
    /// Takes a row in, or gives it back: then it is for the next batch. The first row is always taken.
    fn take(&mut self, tree: Tree, floor: Hlc, mutation: Mutation) -> Option<Mutation> {
        let is_first = self.mutations.is_empty();
        let bytes = mutation.key.len_bytes() + Record::encoded_len(&mutation.record);
        let lowest = if is_first { floor } else { self.floor.min(floor) };
        let needs = mutation.record.version.hlc <= floor;
        let loses = (self.is_needed && lowest < self.floor) || (needs && lowest < floor);
        let is_full =
            self.mutations.len() >= ROWS_PER_BATCH_MAX.min(LIST_ROWS_MAX) || self.bytes + bytes > ROWS_BYTES_MAX;
        if !is_first && (loses || is_full) {
            return Some(mutation);
        }
        (self.floor, self.is_needed) = (lowest, self.is_needed || needs);
        self.bytes += bytes;
        self.mutations.push(mutation);
        self.trees.push(tree);
        None
    }
}
