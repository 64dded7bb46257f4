//! What a run tells on standard error while it goes on, to whom replays a seed: messages in words, writes as they begin and
//! end, maps as they change. None of it changes the run or its fingerprint.

use super::cluster::Run;
use super::control::PLACEMENT;
use super::event::Event;
use super::history::RowWritten;
use crate::codec;
use crate::messages::{Reply, Request};

/// Of a message no more is told.
const CHARACTERS_MAX: usize = 600;

impl Run {
    /// What an event brings.
    pub(super) fn tell_event(&self, event: &Event) {
        let brought = match event {
            Event::Deliver { bytes, .. } => {
                codec::decode::<Request>(bytes).map(|r| format!("from {}: {:?}", r.from, r.body))
            }
            Event::DeliverReply { bytes, .. } => {
                codec::decode::<Reply>(bytes).map(|r| format!("from {}: {:?}", r.from, r.body))
            }
            _ => return,
        };
        let words = brought.unwrap_or_else(|error| error.to_string());
        self.tell(&words.chars().take(CHARACTERS_MAX).collect::<String>());
    }

    /// Writes from this one on, as they begin.
    pub(super) fn tell_begun(&self, first: usize) {
        for row in self.history.writes.iter().skip(first) {
            let RowWritten { write, table, key, reach, coordinator, map, replicas, .. } = row;
            self.tell(&format!(
                "write {write} of {table} {key} ({reach}) through {coordinator} by map {map} to {replicas:?}"
            ));
        }
    }

    /// How a write ended.
    pub(super) fn tell_ended(&self, write: u64) {
        let row = usize::try_from(write).ok().and_then(|place| self.history.writes.get(place));
        let ended = row.and_then(|row| row.ended.as_ref());
        self.tell(&format!("write {write} ended: {:?}", ended.map(|ended| &ended.success)));
    }

    /// The maps of all partitions, and the members.
    pub(super) fn tell_maps(&self) {
        let topology = &self.control.state.topology;
        for (partition, map) in topology.placement(PLACEMENT).into_iter().flat_map(|placement| placement.partitions()) {
            self.tell(&format!("{partition} by {}: {:?}", map.epoch(), map.step()));
        }
    }

    pub(super) fn tell(&self, words: &str) {
        if self.options.trace {
            eprintln!("  {words}");
        }
    }
}
