//! The decisions of what follows a read that asked all replicas: who is behind, once all have told and the client has its
//! answer. Plain code.
//!
//! Only what a replica told is brought to others, with that replica's purge floor: a row that was purged on one side is
//! judged by storage there as any other record that comes from a replica.

use cube_storage::model::{Hlc, NodeId, Record, RecordHeader};

use crate::messages::Found;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Wait.
    Nothing,
    /// Ask this replica for the newest record, of which only the digest is known.
    Fetch(NodeId),
    /// Bring these replicas the record, on behalf of one with this purge floor.
    Repair { record: Record, floor: Hlc, targets: Vec<NodeId> },
    /// Nobody is behind, or nothing is known to bring.
    Done,
}

/// What happened to the read.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A replica told.
    Found(NodeId, Found),
    /// A replica will not tell.
    Failed(NodeId),
    /// The read is decided; these hold what it returned since.
    Decided(Vec<NodeId>),
}

/// The rest of one row's read.
#[derive(Debug)]
pub(super) struct Mend {
    outstanding: Vec<NodeId>,
    heard: Vec<(NodeId, Option<RecordHeader>)>,
    /// The newest record that came, with its floor.
    best: Option<(Record, RecordHeader, Hlc)>,
    holders: Vec<NodeId>,
    is_decided: bool,
    is_over: bool,
}

impl Mend {
    /// After a read that asked these.
    pub(super) fn new(asked: Vec<NodeId>) -> Self {
        let (heard, holders) = (Vec::with_capacity(asked.len()), Vec::new());
        Self { outstanding: asked, heard, best: None, holders, is_decided: false, is_over: false }
    }

    pub(super) fn on(&mut self, event: Event) -> Step {
        match event {
            Event::Found(node, found) => self.hear(node, found),
            Event::Failed(node) => self.outstanding.retain(|waited_for| *waited_for != node),
            Event::Decided(holders) => (self.is_decided, self.holders) = (true, holders),
        }
        self.next()
    }

    /// The record that was asked for, or what the replica holds by now.
    pub(super) fn on_fetched(&mut self, node: NodeId, found: Option<Found>) -> Step {
        if let Some(found) = found.filter(|found| found.record.is_some()) {
            self.hear(node, found);
        }
        self.conclude(false)
    }

    /// How many answers told of less than the newest.
    pub(super) fn stale(&self) -> usize {
        let newest = self.newest();
        self.heard.iter().filter(|(_, header)| *header != newest).count()
    }

    fn hear(&mut self, node: NodeId, found: Found) {
        self.outstanding.retain(|waited_for| *waited_for != node);
        self.heard.retain(|(other, _)| *other != node);
        self.heard.push((node, found.header));
        if let (Some(header), Some(record)) = (found.header, found.record)
            && self.best.as_ref().is_none_or(|(best, ..)| record.supersedes(best))
        {
            self.best = Some((record, header, found.floor));
        }
    }

    fn newest(&self) -> Option<RecordHeader> {
        let best = self.best.as_ref().map(|(_, header, _)| *header);
        let told = self.heard.iter().filter_map(|(_, header)| *header).max_by_key(|header| header.version);
        // Of two records with one version the one that is here won.
        best.filter(|best| told.is_none_or(|told| best.version >= told.version)).or(told)
    }

    fn next(&mut self) -> Step {
        if self.is_over || !self.is_decided || !self.outstanding.is_empty() {
            return Step::Nothing;
        }
        self.is_over = true;
        self.conclude(true)
    }

    fn conclude(&mut self, may_fetch: bool) -> Step {
        let Some(newest) = self.newest() else { return Step::Done };
        let is_behind = |(node, header): &(NodeId, Option<RecordHeader>)| {
            (*header != Some(newest) && !self.holders.contains(node)).then_some(*node)
        };
        let targets: Vec<NodeId> = self.heard.iter().filter_map(is_behind).collect();
        if targets.is_empty() {
            return Step::Done;
        }
        match &self.best {
            Some((record, header, floor)) if *header == newest => {
                Step::Repair { record: record.clone(), floor: *floor, targets }
            }
            _ if may_fetch => {
                let holder = self.heard.iter().find(|(_, header)| *header == Some(newest));
                holder.map_or(Step::Done, |(node, _)| Step::Fetch(*node))
            }
            _ => Step::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cases::cases;
    use proptest::prelude::*;

    use super::*;
    use crate::coordinator::testing::{n, version};

    fn found(hlc: Option<u64>, with_record: bool) -> Found {
        let record = hlc.map(|hlc| Record::value(version(hlc), "v"));
        let header = record.as_ref().map(|record| RecordHeader::of(record, 7));
        Found { header, record: record.filter(|_| with_record), floor: Hlc(u64::from(hlc.unwrap_or(0) as u32)) }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn whoever_is_behind_is_brought_the_newest_once_and_nobody_else(
            held in prop::collection::vec((prop::option::of(1u64..4), any::<bool>()), 1..5),
            failed in prop::collection::vec(any::<bool>(), 5),
            decided_at in 0usize..6,
        ) {
            let nodes: Vec<NodeId> = (0..held.len() as u16).map(n).collect();
            let mut mend = Mend::new(nodes.clone());
            let mut steps = Vec::new();
            for (place, node) in nodes.iter().enumerate() {
                if place == decided_at {
                    steps.push(mend.on(Event::Decided(Vec::new())));
                }
                let (hlc, with_record) = held[place];
                let event = if failed[place] { Event::Failed(*node) } else { Event::Found(*node, found(hlc, with_record)) };
                steps.push(mend.on(event));
            }
            if decided_at >= nodes.len() {
                steps.push(mend.on(Event::Decided(Vec::new())));
            }
            let last = steps.pop().unwrap();
            prop_assert!(steps.iter().all(|step| *step == Step::Nothing), "nothing is done before all have told");
            let told: Vec<usize> = (0..nodes.len()).filter(|place| !failed[*place]).collect();
            let newest = told.iter().filter_map(|place| held[*place].0).max();
            let behind: Vec<NodeId> =
                told.iter().filter(|place| held[**place].0 != newest).map(|place| nodes[*place]).collect();
            let last = match last {
                Step::Fetch(node) => {
                    prop_assert_eq!(held[node.0 as usize].0, newest);
                    mend.on_fetched(node, Some(found(newest, true)))
                }
                step => step,
            };
            match last {
                Step::Repair { record, floor, targets } => {
                    prop_assert_eq!(Some(record.version.hlc.0), newest);
                    prop_assert_eq!(floor, found(newest, true).floor, "the floor of who told it");
                    prop_assert_eq!(targets, behind);
                }
                Step::Done => prop_assert!(behind.is_empty() || newest.is_none()),
                step => prop_assert!(false, "{:?}", step),
            }
        }
    }

    #[test]
    fn those_that_were_brought_up_to_date_before_the_answer_are_left_alone() {
        let mut mend = Mend::new(vec![n(1), n(2), n(3)]);
        mend.on(Event::Found(n(1), found(Some(2), true)));
        mend.on(Event::Found(n(2), found(Some(1), false)));
        mend.on(Event::Decided(vec![n(1), n(2)]));
        let Step::Repair { targets, .. } = mend.on(Event::Found(n(3), found(None, false))) else { panic!() };
        assert_eq!(targets, [n(3)]);
    }
}
