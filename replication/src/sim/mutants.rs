//! Seeded mistakes, put where the code meets its seams, each of which a checker must catch. They keep the checkers
//! honest: a checker that no mistake can trip proves nothing.

mod engine;
mod membership;
mod replica;
mod transport;

use cube_storage::model::{Epoch, Hlc, Origin, Outcome};

use crate::anti_entropy::questions::{Answer, LeafRows, Proof, Question};
use crate::messages::{Reply, ReplyBody, Request, RequestBody, ScanTable};
use crate::transport::Lane;

pub(super) use self::membership::NeverRevived;
pub(super) use self::replica::SpoiledReplica;
pub(super) use self::transport::{Counting, Remembered};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// Coordinators count the first replica that they send a write to before it has answered.
    OneAcknowledgementTooFew,
    /// Coordinators count replicas that are in the new set alone before they have answered.
    OneSetCounted,
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
    /// Replicas do not look at the map that a client's read or write is counted by.
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
    /// Who was once believed dead stays dead to coordinators.
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
    /// A replica that is not reached counts as equal and as one that has fenced whatever floor. Nor does anybody tell what is
    /// kept for it.
    PurgedWithoutProof,
    /// Comparisons leave out deletions, and values that end.
    DeletionsNotCompared,
    /// Rows are taken below the purge floor, whoever sends them.
    FloorForgotten,
    /// Nothing is ever purged.
    NeverPurged,
    /// Watermarks tell nothing of hints and of writes under way.
    WatermarkForgotten,
    /// Replicas go on telling clients of rows that they have purged.
    PurgedRemembered,
    /// The leaf of some rows is never brought up to date.
    LeafForgotten,
    /// A replica that lost something does not report it.
    LossUnreported,
    /// Nodes never report that they caught up.
    CatchingUpUnreported,
    /// The last row of what is committed together is synced with whatever is committed next.
    CommitTorn,
    /// Replicas refuse the first row of a batch by itself.
    RowsJudgedAlone,
    /// A node that leaves says that it keeps nothing while it still does.
    HintsLeftBehind,
    /// A node that leaves never says how far it is.
    LeavingUnreported,
}

impl Mutant {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }

    /// All of them.
    pub const ALL: [Self; 42] = [
        Self::OneAcknowledgementTooFew,
        Self::OneSetCounted,
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
        Self::PurgedRemembered,
        Self::LeafForgotten,
        Self::LossUnreported,
        Self::CatchingUpUnreported,
        Self::CommitTorn,
        Self::RowsJudgedAlone,
        Self::HintsLeftBehind,
        Self::LeavingUnreported,
    ];

    /// A request as a replica understands it.
    pub(super) fn spoil_request(mutant: Option<Self>, lane: Lane, request: &Request) -> Request {
        let mut request = request.clone();
        if mutant == Some(Self::FenceForgotten) && lane == Lane::Foreground {
            forget_claims(&mut request.body);
        }
        if let (RequestBody::ScanTable(scan), Some(mutant)) = (&mut request.body, mutant) {
            mutant.spoil_scan(scan);
        }
        if let (RequestBody::Write(write), Some(Self::FloorForgotten)) = (&mut request.body, mutant) {
            write.origin = Origin::Replica { floor: Hlc(u64::MAX) };
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
            Question::WatermarkAmong { .. } => Some(Answer::Watermark(all)),
            Question::Proofs { trees } => {
                let proof = Proof { floor: Hlc(0), synced_through: all, epoch: Epoch(u64::MAX) };
                Some(Answer::Proofs(vec![Some(proof); trees.len()]))
            }
            Question::Fence { floors } => Some(Answer::Fenced(vec![true; floors.len()])),
            Question::Purge { floors } => Some(Answer::Purged { rows: 0, trees: floors.len() }),
            _ => None,
        }
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
