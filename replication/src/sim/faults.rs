//! What goes wrong in a run: which fault comes next, and how long it stays.

use cube_storage::model::NodeId;

use super::time::Schedule;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A process dies and its machine loses what was not synced; it comes back after a while.
    Crash,
    /// A process stands still for a while.
    Pause,
    /// A link carries nothing in one direction.
    OneWayCut,
    /// The nodes fall into two halves.
    Partition,
    /// Messages are lost.
    Loss,
    /// Messages take long, and overtake each other.
    Delay,
    /// Messages come twice.
    Doubling,
    /// A wall clock is set to another time.
    ClockJump,
    /// A wall clock runs faster or slower than before.
    ClockDrift,
    /// A node is believed dead that is not.
    FalseSuspicion,
    /// The number of replicas, or the weight of a node, changes.
    Reshape,
    /// A node hears nothing of it while replicas change, and goes on coordinating.
    StaleCoordinator,
    /// Moves of replicas are taken back.
    AbortMoves,
    /// A segment of a hint log is cut off, or a byte of it flips.
    HintDamage,
    /// The disk under a node's hints is full for a while.
    HintDiskFull,
    /// An operator changes caps and window of hints.
    HintSettings,
    /// A process dies and comes back, again and again.
    Flapping,
    /// Who drives the moves forgets what was reported.
    LeaderChange,
    /// A replica finds that all it held of a partition is lost.
    Damage,
    /// A node that copies dies in the middle of it; it comes back after a while.
    CopyCrash,
    /// A node joins, and replicas move to it.
    Join,
    /// A table comes, or goes with all its rows.
    Schema,
    /// A bit of a row flips on a replica's disk.
    RowDamage,
    /// A node that compares replicas, or answers one that does, dies in the middle of it; it comes back after a while.
    CompareCrash,
    /// A member that lives is decommissioned: it hands over what it has, and ends.
    Decommission,
    /// A node dies for good and is removed; now and then it comes back with all it had.
    Remove,
}

impl FaultKind {
    const ALL: [Self; 26] = [
        Self::Crash,
        Self::Pause,
        Self::OneWayCut,
        Self::Partition,
        Self::Loss,
        Self::Delay,
        Self::Doubling,
        Self::ClockJump,
        Self::ClockDrift,
        Self::FalseSuspicion,
        Self::Reshape,
        Self::StaleCoordinator,
        Self::AbortMoves,
        Self::HintDamage,
        Self::HintDiskFull,
        Self::HintSettings,
        Self::Flapping,
        Self::LeaderChange,
        Self::Damage,
        Self::CopyCrash,
        Self::Join,
        Self::Schema,
        Self::RowDamage,
        Self::CompareCrash,
        Self::Decommission,
        Self::Remove,
    ];
}

/// A fault that is to happen.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    Crash { node: NodeId, down_ms: u64 },
    Pause { node: NodeId, for_ms: u64 },
    Cut { links: Vec<(NodeId, NodeId)>, for_ms: u64 },
    Loss { percent: u64, for_ms: u64 },
    Delay { us_max: u64, for_ms: u64 },
    Doubling { percent: u64, for_ms: u64 },
    ClockJump { node: NodeId, skew_ms: i64 },
    ClockDrift { node: NodeId, ppm: i64 },
    FalseSuspicion { by: NodeId, of: NodeId, for_ms: u64 },
    Reshape { replicas: u8, heavier: NodeId, weight: u32 },
    StaleCoordinator { node: NodeId, replicas: u8, heavier: NodeId, weight: u32, for_ms: u64 },
    AbortMoves,
    HintDamage { node: NodeId },
    HintDiskFull { node: NodeId, for_ms: u64 },
    HintSettings { node: NodeId },
    Flapping { node: NodeId, times: u64 },
    LeaderChange,
    Damage { node: NodeId, partition: u16 },
    CopyCrash { down_ms: u64 },
    Join,
    Schema,
    RowDamage { node: NodeId, row: u64, bit: u64 },
    CompareCrash { answering: bool, down_ms: u64 },
    Decommission { node: NodeId },
    Remove { node: NodeId, after_ms: u64, back_ms: Option<u64> },
}

/// Clocks are up to five minutes off, either way.
const SKEW_MS_MAX: u64 = 300_000;
/// Clocks run up to so much too fast or too slow: far more than real ones, so that it adds up within a run of seconds.
const DRIFT_PPM_MAX: u64 = 50_000;
/// So long a node does not hear that replicas change: longer than most changes take.
const STALE_MS_MAX: u64 = 4_000;
/// So many of a hundred nodes that died for good and were removed come back.
const BACK_PERCENT: u64 = 40;
/// Every so many-th fault at least is a crash, a partition or a reshape.
const ALTERNATE: u64 = 2;

/// How far off a clock is to be.
pub(super) fn skew_ms(schedule: &Schedule) -> i64 {
    either_way(schedule, SKEW_MS_MAX)
}

/// How much too fast a clock is to run.
pub(super) fn drift_ppm(schedule: &Schedule) -> i64 {
    either_way(schedule, DRIFT_PPM_MAX)
}

fn either_way(schedule: &Schedule, most: u64) -> i64 {
    let off = schedule.pick(0, 2 * most);
    i64::try_from(off).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
}

/// The next fault, at random. It counts when it strikes: many would change nothing.
pub(super) fn next(schedule: &Schedule, nodes: &[NodeId]) -> Option<(FaultKind, Fault)> {
    let heavy = [
        FaultKind::Crash,
        FaultKind::Partition,
        FaultKind::Reshape,
        FaultKind::StaleCoordinator,
        FaultKind::OneWayCut,
        FaultKind::Damage,
        FaultKind::CopyCrash,
        FaultKind::CompareCrash,
        FaultKind::Decommission,
        FaultKind::Remove,
    ];
    let kind =
        if schedule.pick(1, ALTERNATE) == 1 { schedule.one_of(&heavy)? } else { schedule.one_of(&FaultKind::ALL)? };
    Some((kind, make(schedule, nodes, kind)?))
}

/// A number of replicas, and the weight of a node.
fn shape(schedule: &Schedule) -> Option<(u8, u32)> {
    let replicas = schedule.one_of(&[1, 3, 3, 3, 5])?;
    Some((replicas, u32::try_from(schedule.pick(1, 3)).unwrap_or(1)))
}

fn make(schedule: &Schedule, nodes: &[NodeId], kind: FaultKind) -> Option<Fault> {
    let node = schedule.one_of(nodes)?;
    let others: Vec<NodeId> = nodes.iter().copied().filter(|other| *other != node).collect();
    let other = schedule.one_of(&others)?;
    let for_ms = schedule.pick(50, 1_500);
    Some(match kind {
        FaultKind::Crash => Fault::Crash { node, down_ms: schedule.pick(20, 2_000) },
        FaultKind::Pause => Fault::Pause { node, for_ms: schedule.pick(20, 1_200) },
        FaultKind::OneWayCut => Fault::Cut { links: vec![(node, other)], for_ms },
        FaultKind::Partition => {
            let one_side: Vec<NodeId> = nodes.iter().copied().filter(|_| schedule.chance(50)).collect();
            let other_side = nodes.iter().filter(|node| !one_side.contains(node));
            let pairs = other_side.flat_map(|a| one_side.iter().map(move |b| (*a, *b)));
            Fault::Cut { links: pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect(), for_ms }
        }
        FaultKind::Loss => Fault::Loss { percent: schedule.pick(1, 40), for_ms },
        FaultKind::Delay => Fault::Delay { us_max: schedule.pick(5_000, 600_000), for_ms },
        FaultKind::Doubling => Fault::Doubling { percent: schedule.pick(5, 60), for_ms },
        FaultKind::ClockJump => Fault::ClockJump { node, skew_ms: skew_ms(schedule) },
        FaultKind::ClockDrift => Fault::ClockDrift { node, ppm: drift_ppm(schedule) },
        FaultKind::FalseSuspicion => Fault::FalseSuspicion { by: node, of: other, for_ms },
        FaultKind::Reshape => {
            let (replicas, weight) = shape(schedule)?;
            Fault::Reshape { replicas, heavier: node, weight }
        }
        FaultKind::StaleCoordinator => {
            let (replicas, weight) = shape(schedule)?;
            Fault::StaleCoordinator {
                node,
                replicas,
                heavier: other,
                weight,
                for_ms: schedule.pick(1_000, STALE_MS_MAX),
            }
        }
        FaultKind::AbortMoves => Fault::AbortMoves,
        FaultKind::HintDamage => Fault::HintDamage { node },
        FaultKind::HintDiskFull => Fault::HintDiskFull { node, for_ms },
        FaultKind::HintSettings => Fault::HintSettings { node },
        FaultKind::Flapping => Fault::Flapping { node, times: schedule.pick(2, 4) },
        FaultKind::LeaderChange => Fault::LeaderChange,
        FaultKind::Damage => Fault::Damage { node, partition: u16::try_from(schedule.pick(0, 1)).unwrap_or(0) },
        FaultKind::CopyCrash => Fault::CopyCrash { down_ms: schedule.pick(20, 2_000) },
        FaultKind::Join => Fault::Join,
        FaultKind::Schema => Fault::Schema,
        FaultKind::CompareCrash => {
            Fault::CompareCrash { answering: schedule.chance(50), down_ms: schedule.pick(20, 2_000) }
        }
        FaultKind::Decommission => Fault::Decommission { node },
        FaultKind::Remove => Fault::Remove {
            node,
            after_ms: schedule.pick(200, 2_000),
            back_ms: schedule.chance(BACK_PERCENT).then(|| schedule.pick(50, 2_000)),
        },
        FaultKind::RowDamage => Fault::RowDamage { node, row: schedule.pick(0, 99), bit: schedule.pick(0, 191) },
    })
}
