//! Scans of clients, a page at a time: each goes on where the one before ended, through any node.

use std::sync::Arc;

use bytes::Bytes;
use cube_storage::keyspace::encode_index_key;
use cube_storage::model::{PartitionBits, RowKey};

use super::super::control::TABLE_ID;
use super::super::history::{Cursor, History, Reach, RowRead};
use super::super::node::{BITS, Process};
use super::{Gone, Operation, Told, all_keys, name, resident};
use crate::consistency::Level;
use crate::coordinator::{PrefixPage, PrefixRequest, RequestError, Terms};

impl Operation<'_> {
    /// Goes on with the client's scan, through whichever node this is, or begins one.
    pub(super) fn scan(&self, process: &Process, history: &History, level: Level) {
        let cursor = history.scans.get(&self.client);
        let backward = cursor.map_or_else(|| self.schedule.chance(50), |cursor| cursor.backward);
        let request = PrefixRequest {
            table: resident(),
            prefix: Bytes::from_static(b"key-"),
            backward,
            rows_max: usize::try_from(self.schedule.pick(1, 4)).unwrap_or(1),
            bytes_max: None,
            resume: cursor.map(|cursor| cursor.resume.clone()),
            terms: Terms::at(level),
        };
        let (client, mailbox, begun_us) = (self.client, Arc::clone(self.mailbox), self.schedule.now_us());
        let (reach, gone) = (self.reach(level), self.gone());
        let done = Box::new(move |result: Result<PrefixPage, RequestError>| {
            let told = match result {
                Err(error) => Told::Refused(name(&error)),
                Ok(page) => Told::Page { reach, begun_us, backward, gone, page },
            };
            mailbox.lock().push((client, told));
        });
        let scanning = process.coordinator.scan(request, done);
        process.scans.lock().insert(self.client, scanning);
    }
}

/// A row's place in the order of a scan, as resume tokens name it.
fn place_of(key: &RowKey) -> Vec<u8> {
    let mut place = Vec::new();
    encode_index_key(TABLE_ID, key, &mut place);
    place
}

/// The place that a resume token holds, between its head and its checksum.
fn place_in(token: &Bytes) -> Option<Vec<u8>> {
    let (sealed, _) = token.split_last_chunk::<8>()?;
    Some(sealed.split_first_chunk::<9>()?.1.to_vec())
}

/// Notes a page: the rows on it, the rows that it passed over as absent, and where the scan goes on.
pub(super) fn note_page(history: &mut History, now_us: u64, client: usize, told: (Reach, u64, bool, Gone, PrefixPage)) {
    let (reach, begun_us, backward, gone, page) = told;
    let bits = PartitionBits::new(BITS).unwrap_or(PartitionBits::DEFAULT);
    let from = history.scans.remove(&client).and_then(|cursor| place_in(&cursor.resume));
    let to = page.next.as_ref().and_then(place_in);
    let is_behind = |key: &RowKey, place: &Option<Vec<u8>>, otherwise: bool| match place {
        None => otherwise,
        Some(place) => (place_of(key) < *place) == backward,
    };
    for row in page.rows.iter().filter(|row| !is_behind(&row.key, &from, true)) {
        history.scanned_twice.push(format!("{} came again behind {from:?} at {now_us} us", row.key));
    }
    let is_covered = |key: &RowKey| is_behind(key, &from, true) && !is_behind(key, &to, false);
    for key in all_keys().into_iter().filter(is_covered) {
        if page.partial.contains(&bits.partition_of(key.token())) {
            continue;
        }
        let record = page.rows.iter().find(|row| row.key == key).map(|row| row.record.clone());
        let (reach, as_of) = (reach.clone(), page.as_of);
        let (gone, purged) = (gone.get(&key).copied(), history.purged.newest(TABLE_ID, &key));
        let table = TABLE_ID;
        history.reads.push(RowRead { table, key, reach, begun_us, ended_us: now_us, record, as_of, purged, gone });
    }
    history.count(if page.partial.is_empty() { "page" } else { "partial page" });
    if let Some(resume) = page.next {
        history.scans.insert(client, Cursor { resume, backward });
    }
}
