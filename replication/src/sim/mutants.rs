//! Seeded mistakes, put where the code meets its seams, each of which a checker must catch. They keep the checkers
//! honest: a checker that no mistake can trip proves nothing.

use cube_storage::engine::{
    Direction, Durability, Engine, EngineError, GetVisitor, MemoryEngine, Reader, Recovery, ScanVisitor, Space, Writes,
};
use cube_storage::keyspace::KeyRange;
use cube_storage::merkle::LeafSum;
use cube_storage::model::{Epoch, Hlc, Origin, Outcome};

use super::control::PLACEMENT;
use crate::anti_entropy::questions::{Answer, LeafRows, Proof, Question};
use crate::consistency::Level;
use crate::messages::{Reply, ReplyBody, Request, RequestBody, ScanTable};
use crate::replica::{OnAnswer, Replica};
use crate::transport::{Lane, Serve};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The coordinator is content with one acknowledgement where a quorum is asked for.
    OneAcknowledgementTooFew,
    /// Replicas acknowledge before their log is synced.
    AcknowledgedBeforeSync,
    /// Replicas say that a row was applied when a newer one is there: the coordinator never stamps again.
    SupersededNotTold,
    /// Reads skip bringing stale replicas up to date.
    ReadRepairSkipped,
    /// Hints are called durable and not kept.
    HintSkipped,
    /// Targets call hints durable and do not keep them.
    HintDroppedByTarget,
    /// Hints are kept and never delivered.
    HintsNeverReplayed,
    /// Deletions are acknowledged and not applied.
    TombstoneIgnored,
    /// Replicas do not look at the map that a request is counted by.
    FenceForgotten,
    /// New replicas call themselves complete without copying.
    CopySkipped,
    /// Copies leave out the rows of all pages but the last.
    PageSkipped,
    /// Replicas report that they caught up while they still copy.
    CaughtUpTooEarly,
    /// A replica that lost something forgets the mark.
    MarkForgotten,
    /// Ranges of rows are not deleted.
    RangesKept,
    /// Rows are answered with the bytes of another row.
    ValueMixedUp,
    /// Coordinators do not look at the time.
    DeadlineForgotten,
    /// Who was once believed dead stays dead to the others.
    SuspicionKept,
    /// A scan that goes on leaves a partition out.
    ScanLeavesOut,
    /// A scan that goes on does so from its beginning.
    ScanBeginsAgain,
    /// A digest is asked of the replica that was asked the last time: one is counted twice.
    ReplicaCountedTwice,
    /// Pages of scans leave out deletions.
    ScanRevives,
    /// Coordinators do not look at the clocks of replies, and judge by their own.
    ClocksOfRepliesIgnored,
    /// The rows of dropped tables stay.
    DroppedTableKept,
    /// Nodes never hear that a table was dropped.
    SchemaNotLearned,
    /// Damaged rows check out.
    DamageUnseen,
    /// Replicas are placed on nodes that have not arrived.
    PlacedTooEarly,
    /// Nodes never tell that they have arrived.
    ArrivalForgotten,
    /// Nodes take hints of rows whatever map they are counted by.
    HintsTakenByAnyone,
    /// A replica that is not reached counts as equal and as one that has fenced whatever floor.
    PurgedWithoutProof,
    /// Comparisons leave out deletions, and values that end.
    DeletionsNotCompared,
    /// Rows are taken below the purge floor, whoever sends them.
    FloorForgotten,
    /// Nothing is ever purged.
    NeverPurged,
    /// Watermarks tell nothing of hints and of writes under way.
    WatermarkForgotten,
}

impl Mutant {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }

    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::OneAcknowledgementTooFew,
        Self::AcknowledgedBeforeSync,
        Self::SupersededNotTold,
        Self::ReadRepairSkipped,
        Self::HintSkipped,
        Self::HintDroppedByTarget,
        Self::HintsNeverReplayed,
        Self::TombstoneIgnored,
        Self::FenceForgotten,
        Self::CopySkipped,
        Self::PageSkipped,
        Self::CaughtUpTooEarly,
        Self::MarkForgotten,
        Self::RangesKept,
        Self::ValueMixedUp,
        Self::DeadlineForgotten,
        Self::SuspicionKept,
        Self::ScanLeavesOut,
        Self::ScanBeginsAgain,
        Self::ReplicaCountedTwice,
        Self::ScanRevives,
        Self::ClocksOfRepliesIgnored,
        Self::DroppedTableKept,
        Self::SchemaNotLearned,
        Self::DamageUnseen,
        Self::PlacedTooEarly,
        Self::ArrivalForgotten,
        Self::HintsTakenByAnyone,
        Self::PurgedWithoutProof,
        Self::DeletionsNotCompared,
        Self::FloorForgotten,
        Self::NeverPurged,
        Self::WatermarkForgotten,
    ];

    /// The level a coordinator counts by.
    pub(super) fn level(mutant: Option<Self>, level: Level) -> Level {
        match (mutant, level) {
            (Some(Self::OneAcknowledgementTooFew), Level::Quorum) => Level::One,
            _ => level,
        }
    }

    /// A request as a replica understands it.
    pub(super) fn spoil_request(mutant: Option<Self>, request: &Request) -> Request {
        let mut request = request.clone();
        if mutant == Some(Self::FenceForgotten) {
            forget_claims(&mut request.body);
        }
        if let (RequestBody::ScanTable(scan), Some(mutant)) = (&mut request.body, mutant) {
            mutant.spoil_scan(scan);
        }
        if let RequestBody::Write(write) = &mut request.body {
            let is_repair = matches!(write.origin, Origin::Replica { .. });
            if mutant == Some(Self::FloorForgotten) {
                write.origin = Origin::Replica { floor: Hlc(u64::MAX) };
            }
            for mutation in &mut write.mutations {
                let dropped = match mutant {
                    Some(Self::TombstoneIgnored) => mutation.record.is_tombstone(),
                    Some(Self::DeletionsNotCompared) => is_repair && mutation.record.is_tombstone(),
                    Some(Self::ReadRepairSkipped) => is_repair,
                    Some(Self::HintDroppedByTarget) => write.origin == Origin::Hint,
                    _ => false,
                };
                if dropped {
                    // Kept where nobody looks, so that the answer still fits the question.
                    mutation.key.partition = [b"dropped ", mutation.key.partition.as_ref()].concat().into();
                    mutation.claim = None;
                }
            }
        }
        request
    }

    fn spoil_scan(self, scan: &mut ScanTable) {
        match self {
            Self::ScanBeginsAgain => scan.position = None,
            Self::ScanLeavesOut if scan.position.is_some() => {
                scan.partitions.iter_mut().filter(|run| run.first.0 == 0).for_each(|run| run.first = run.last);
            }
            _ => {}
        }
    }

    /// A reply as a coordinator gets it.
    pub(super) fn spoil_reply(mutant: Option<Self>, lane: Lane, reply: &Reply) -> Reply {
        let mut reply = reply.clone();
        match (mutant, &mut reply.body) {
            (Some(Self::SupersededNotTold), Ok(ReplyBody::Wrote(outcomes))) => {
                for outcome in outcomes {
                    if matches!(outcome, Outcome::Superseded(_)) {
                        *outcome = Outcome::Applied;
                    }
                }
            }
            (Some(Self::ValueMixedUp), Ok(ReplyBody::Rows(rows))) if rows.len() > 1 => {
                let found: Vec<_> = rows.iter().rev().cloned().collect();
                *rows = found;
            }
            (Some(Self::ScanRevives), Ok(ReplyBody::TablePage(page))) => {
                page.rows.retain(|row| !row.record.is_tombstone());
            }
            (Some(Self::DeletionsNotCompared), Ok(ReplyBody::AntiEntropy(answer))) => leave_out_deletions(answer),
            (Some(Self::ClocksOfRepliesIgnored), _) => reply.clock = Hlc::default(),
            // Only copies ask for pages in the background.
            (Some(Self::CopySkipped), Ok(ReplyBody::Page { rows, next, .. })) if lane == Lane::Background => {
                rows.clear();
                *next = None;
            }
            (Some(Self::PageSkipped), Ok(ReplyBody::Page { rows, next: Some(_), .. })) if lane == Lane::Background => {
                rows.clear();
            }
            _ => {}
        }
        reply
    }

    /// What a node that is not reached would answer.
    pub(super) fn forge(mutant: Option<Self>, body: &RequestBody) -> Option<Answer> {
        let (Some(Self::PurgedWithoutProof), RequestBody::AntiEntropy(question)) = (mutant, body) else { return None };
        let all = Hlc(u64::MAX);
        match question.as_ref() {
            Question::Roots { .. } => Some(Answer::Roots(Vec::new())),
            Question::Watermark => Some(Answer::Watermark(all)),
            Question::Proofs { trees } => {
                let proof = Proof { floor: Hlc(0), synced_through: all, epoch: Epoch(u64::MAX) };
                Some(Answer::Proofs(vec![Some(proof); trees.len()]))
            }
            Question::Fence { floors } => Some(Answer::Fenced(vec![true; floors.len()])),
            Question::Purge { floors } => Some(Answer::Purged { rows: 0, trees: floors.len() }),
            _ => None,
        }
    }

    /// The engine a node runs on.
    pub(super) fn engine(mutant: Option<Self>, engine: MemoryEngine) -> Box<dyn Engine> {
        match mutant {
            Some(Self::AcknowledgedBeforeSync) => Box::new(Spoiled { engine, syncs: false, deletes_ranges: true }),
            Some(Self::RangesKept) => Box::new(Spoiled { engine, syncs: true, deletes_ranges: false }),
            _ => Box::new(engine),
        }
    }
}

/// A replica that takes rows as if they were counted by its own map: hints alone, or whatever comes.
pub(super) struct TakesAnything<'a> {
    pub(super) replica: &'a Replica,
    pub(super) hints_alone: bool,
}

impl Serve for TakesAnything<'_> {
    fn serve(&self, mut request: Request, answer: OnAnswer) {
        if let RequestBody::Write(write) = &mut request.body
            && (write.origin == Origin::Hint || !self.hints_alone)
        {
            let store = self.replica.store();
            for mutation in &mut write.mutations {
                let partition = store.bits().partition_of(mutation.key.token());
                mutation.claim = Some(store.partition(PLACEMENT, partition).epoch);
            }
        }
        self.replica.handle(request, answer);
    }
}

fn leave_out_deletions(answer: &mut Answer) {
    match answer {
        Answer::Leaves(leaves) => {
            for leaf in leaves {
                if let Ok(LeafRows::All(rows)) = leaf {
                    rows.retain(|row| !row.header.is_purgeable(Hlc(u64::MAX)));
                }
            }
        }
        Answer::Span(page) => page.rows.retain(|row| !row.header.is_purgeable(Hlc(u64::MAX))),
        Answer::Rows(rows) => {
            for row in rows {
                row.record.take_if(|record| record.is_tombstone());
            }
        }
        _ => {}
    }
}

/// Those of writes are forgotten where they come.
fn forget_claims(body: &mut RequestBody) {
    match body {
        RequestBody::Read(read) => read.rows.iter_mut().for_each(|(_, claim)| *claim = Epoch(u64::MAX)),
        RequestBody::Scan(scan) => scan.claim = None,
        RequestBody::ScanTable(scan) => scan.partitions.iter_mut().for_each(|run| run.epoch = Epoch(u64::MAX)),
        RequestBody::Write(_)
        | RequestBody::HintCredits(_)
        | RequestBody::TakeHints(_)
        | RequestBody::TakeMarks(_)
        | RequestBody::AntiEntropy(_)
        | RequestBody::Repair(_)
        | RequestBody::Unknown { .. } => {}
    }
}

/// An engine that calls everything synced and syncs nothing, or one that deletes no range of rows.
struct Spoiled {
    engine: MemoryEngine,
    syncs: bool,
    deletes_ranges: bool,
}

/// Changes but those that delete ranges of rows.
struct WithoutRanges<'a>(&'a mut dyn Writes);

impl Writes for WithoutRanges<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        self.0.put(space, key, value);
    }

    fn delete(&mut self, space: Space, key: &[u8]) {
        self.0.delete(space, key);
    }

    fn delete_range(&mut self, space: Space, range: &KeyRange) {
        if space != Space::Data {
            self.0.delete_range(space, range);
        }
    }

    fn add(&mut self, key: &[u8], delta: LeafSum) {
        self.0.add(key, delta);
    }
}

impl Reader for Spoiled {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
        self.engine.get(space, key)
    }

    fn multi_get(&self, space: Space, keys: &[&[u8]], visit: &mut GetVisitor<'_>) {
        self.engine.multi_get(space, keys, visit);
    }

    fn scan(
        &self,
        space: Space,
        range: &KeyRange,
        direction: Direction,
        visit: &mut ScanVisitor<'_>,
    ) -> Result<(), EngineError> {
        self.engine.scan(space, range, direction, visit)
    }
}

impl Engine for Spoiled {
    fn snapshot(&self) -> Box<dyn Reader + '_> {
        self.engine.snapshot()
    }

    fn write(&self, durability: Durability, fill: &mut dyn FnMut(&mut dyn Writes)) -> Result<(), EngineError> {
        let durability = if self.syncs { durability } else { Durability::Buffered };
        let mut without_ranges = |writes: &mut dyn Writes| fill(&mut WithoutRanges(writes));
        self.engine.write(durability, if self.deletes_ranges { fill } else { &mut without_ranges })
    }

    fn sync(&self) -> Result<(), EngineError> {
        if self.syncs { self.engine.sync() } else { Ok(()) }
    }

    fn recovery(&self) -> Recovery {
        Recovery::Complete
    }

    fn acknowledge_recovery(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn space_debt_bytes(&self) -> u64 {
        0
    }
}
