//! From the coordinator's errors to those of a client: which code, and names instead of numbers.

use cube_replication::catalog::UnknownName;
use cube_replication::consistency::{Level, Unavailable, UnknownLevel};
use cube_replication::coordinator::{Failure, Incomplete, RequestError};
use cube_replication::messages::Refusal;
use cube_replication::transport::PeerError;
use cube_storage::clock::ClockError;
use cube_storage::model::{Hlc, Invalid};

use super::code::Code;
use super::error::{Details, EdgeError, FAILURES_MAX, ReplicaFailure};
use super::names::Names;
use crate::admin::{AdminError, BadOptions};
use crate::config::ChangeError;

/// What a client is told of an error of the coordinator.
pub fn explain(error: RequestError, names: &Names<'_>) -> EdgeError {
    let (message, code) = (error.to_string(), code_of(&error));
    match error {
        RequestError::UnknownName(unknown) => unknown_name(unknown),
        RequestError::Invalid(invalid) => refuse(invalid),
        RequestError::ReadAtAny(_) => {
            let allowed = Level::EVERY.into_iter().filter(|level| level.for_reading().is_ok()).map(Level::name);
            let details = Details { level: Some(Level::Any.name()), allowed: allowed.collect(), ..Details::default() };
            EdgeError::with(code, message, details)
        }
        RequestError::Unavailable(unavailable) | RequestError::ReadUnavailable(unavailable) => {
            EdgeError::with(code, message, too_few(unavailable))
        }
        RequestError::Clock(ClockError::Drift { ahead_ms, max_drift_ms }) => {
            let details = Details { ahead_ms: Some(ahead_ms), limit: Some(max_drift_ms), ..Details::default() };
            EdgeError::with(code, message, details)
        }
        RequestError::BelowFloor { floor } => too_old(floor),
        RequestError::Overloaded { limit, retry_after_ms, .. } => overloaded(message, limit, retry_after_ms),
        RequestError::OverloadedBytes { limit_bytes, retry_after_ms, .. } => {
            overloaded(message, limit_bytes, retry_after_ms)
        }
        RequestError::AnswerFull { limit_bytes } => over_limit(code, message, limit_bytes),
        RequestError::Unknown(incomplete) | RequestError::ReadIncomplete(incomplete) => {
            fell_short(code, &incomplete, names)
        }
        RequestError::NotNoted { target, cause } => {
            let node = names.of(target);
            let message = format!("the write may take effect, but what {node} missed could not be noted: {cause}");
            let failures = vec![ReplicaFailure::new(node, "not_noted", cause)];
            let details = Details { may_take_effect: true, failures, ..Details::default() };
            EdgeError::with(code, message, details)
        }
        RequestError::ConditionUnsupported | RequestError::Clock(ClockError::Bound(_)) | RequestError::NoReplicas => {
            EdgeError::new(code, message)
        }
    }
}

/// The code that [`explain`] gives an error, for who counts them.
pub(super) const fn code_of(error: &RequestError) -> Code {
    match error {
        RequestError::UnknownName(UnknownName::Keyspace { .. }) => Code::UnknownKeyspace,
        RequestError::UnknownName(UnknownName::Table { .. }) => Code::UnknownTable,
        RequestError::Invalid(invalid) => code_of_invalid(invalid),
        RequestError::ReadAtAny(_) => Code::LevelNotForReading,
        RequestError::Unavailable(_) | RequestError::ReadUnavailable(_) => Code::Unavailable,
        RequestError::ConditionUnsupported => Code::ConditionUnsupported,
        RequestError::Clock(ClockError::Drift { .. }) => Code::TimestampTooFarAhead,
        RequestError::Clock(ClockError::Bound(_)) => Code::CannotStamp,
        RequestError::BelowFloor { .. } => Code::TimestampTooOld,
        RequestError::Overloaded { .. } | RequestError::OverloadedBytes { .. } => Code::Overloaded,
        RequestError::AnswerFull { .. } => Code::AnswerFull,
        RequestError::NoReplicas => Code::NoReplicas,
        RequestError::Unknown(_) => Code::WriteUnknown,
        RequestError::ReadIncomplete(incomplete) if incomplete.timed_out => Code::ReadTimeout,
        RequestError::ReadIncomplete(_) => Code::ReadFailed,
        RequestError::NotNoted { .. } => Code::WriteNotNoted,
    }
}

const fn code_of_invalid(invalid: &Invalid) -> Code {
    match invalid {
        Invalid::EmptyKey => Code::EmptyKey,
        Invalid::KeyTooLong { .. } => Code::KeyTooLarge,
        Invalid::ValueTooLong { .. } => Code::ValueTooLarge,
        Invalid::BatchTooLong { .. } | Invalid::BatchTooManyRows { .. } => Code::BatchTooLarge,
        Invalid::Ttl { .. } => Code::InvalidTtl,
        Invalid::UnknownTable { .. } => Code::UnknownTable,
        Invalid::Page { .. } | Invalid::RangeReversed => Code::InvalidPage,
        Invalid::NoPrefixIndex { .. } => Code::NoPrefixIndex,
        Invalid::PrefixIndexFixed { .. } => Code::Conflict,
        Invalid::PageToken => Code::InvalidPageToken,
    }
}

/// What a client is told of a name that stands for nothing.
pub fn unknown_name(unknown: UnknownName) -> EdgeError {
    let message = unknown.to_string();
    match unknown {
        UnknownName::Keyspace { keyspace } => {
            let details = Details { keyspace: Some(keyspace), ..Details::default() };
            EdgeError::with(Code::UnknownKeyspace, message, bounded(details))
        }
        UnknownName::Table { keyspace, table } => {
            let details = Details { keyspace: Some(keyspace), table: Some(table), ..Details::default() };
            EdgeError::with(Code::UnknownTable, message, bounded(details))
        }
    }
}

/// What a client is told of a word that names no level.
pub fn unknown_level(unknown: &UnknownLevel) -> EdgeError {
    let allowed = Level::EVERY.into_iter().map(Level::name).collect();
    let details = Details { given: Some(unknown.given.clone()), allowed, ..Details::default() };
    EdgeError::with(Code::UnknownLevel, unknown.to_string(), details)
}

/// What a client is told of a request that breaks a limit.
pub fn refuse(invalid: Invalid) -> EdgeError {
    let (message, code) = (invalid.to_string(), code_of_invalid(&invalid));
    match invalid {
        Invalid::ValueTooLong { bytes, limit, .. } => {
            // The key is left out: it may be longer than a message.
            let message = format!("the value has {bytes} bytes, the limit is {limit}");
            over_limit(code, message, limit)
        }
        Invalid::KeyTooLong { limit, .. }
        | Invalid::BatchTooLong { limit, .. }
        | Invalid::BatchTooManyRows { limit, .. }
        | Invalid::Page { limit, .. } => over_limit(code, message, limit),
        Invalid::Ttl { ttl_ms, limit } => {
            let details = Details { given: Some(ttl_ms.to_string()), limit: Some(limit), ..Details::default() };
            EdgeError::with(code, message, details)
        }
        Invalid::EmptyKey
        | Invalid::UnknownTable { .. }
        | Invalid::NoPrefixIndex { .. }
        | Invalid::PrefixIndexFixed { .. }
        | Invalid::PageToken
        | Invalid::RangeReversed => EdgeError::new(code, message),
    }
}

/// Names come from the client too, and are as long as it likes.
fn bounded(mut details: Details) -> Details {
    const NAME_BYTES_MAX: usize = 64;
    for name in [&mut details.keyspace, &mut details.table] {
        *name = name.take().map(|name| super::error::cut(name, NAME_BYTES_MAX));
    }
    details
}

fn over_limit(code: Code, message: String, limit: usize) -> EdgeError {
    EdgeError::with(code, message, Details { limit: Some(count64(limit)), ..Details::default() })
}

fn overloaded(message: String, limit: usize, retry_after_ms: u32) -> EdgeError {
    let limit = Some(count64(limit));
    let details = Details { limit, retry_after_ms: Some(retry_after_ms), ..Details::default() };
    EdgeError::with(Code::Overloaded, message, details)
}

fn too_few(Unavailable { level, required, alive, data_center }: Unavailable) -> Details {
    Details {
        level: Some(level.name()),
        required: Some(count(required)),
        alive: Some(count(alive)),
        data_center: data_center.map(|name| name.to_string()),
        ..Details::default()
    }
}

fn too_old(floor: Hlc) -> EdgeError {
    let floor_ms = floor.millis();
    let message = format!(
        "the timestamp is not above {floor_ms}, up to which deletions are purged, so it could bring back what was \
         deleted: write with a newer timestamp or with none; nothing was written"
    );
    EdgeError::with(Code::TimestampTooOld, message, Details { floor_ms: Some(floor_ms), ..Details::default() })
}

fn fell_short(code: Code, incomplete: &Incomplete, names: &Names<'_>) -> EdgeError {
    let Incomplete { write, level, acknowledged_by, missing, timed_out, failures, account: _ } = incomplete;
    let acknowledged_by: Vec<String> = acknowledged_by.iter().map(|node| names.of(*node)).collect();
    let failures: Vec<ReplicaFailure> = failures
        .iter()
        .take(FAILURES_MAX)
        .map(|(node, failure)| ReplicaFailure::new(names.of(*node), failure_code(failure), failure_text(failure)))
        .collect();
    let what = if *write { "the write is unknown: it may still take effect" } else { "the read is incomplete" };
    let when = if *timed_out { " after its time was over" } else { "" };
    // A read asks nobody to keep anything.
    let did = if *write { "acknowledged" } else { "answered" };
    let who = match acknowledged_by.as_slice() {
        [] => format!("nobody {did}"),
        nodes => format!("{did} by {}", nodes.join(", ")),
    };
    let mut message = format!("{what}; {level} is {missing} short{when}, {who}");
    for ReplicaFailure { node, message: why, .. } in &failures {
        message.push_str(&format!("; {node}: {why}"));
    }
    let details = Details {
        may_take_effect: *write,
        level: Some(level.name()),
        acknowledged_by: Some(acknowledged_by),
        missing: Some(count(*missing)),
        timed_out: Some(*timed_out),
        failures,
        ..Details::default()
    };
    EdgeError::with(code, message, details)
}

/// The code of a replica's failure.
pub(crate) fn failure_code(failure: &Failure) -> &'static str {
    match failure {
        Failure::Down => "down",
        Failure::Peer(PeerError::Unreachable { .. }) => "unreachable",
        Failure::Peer(PeerError::QueueFull { .. }) => "queue_full",
        Failure::Peer(PeerError::Broken { .. }) => "connection_broken",
        Failure::Peer(PeerError::TimedOut { .. }) | Failure::Refused(Refusal::DeadlinePassed) => "timed_out",
        Failure::Refused(Refusal::Overloaded { .. }) => "overloaded",
        Failure::Refused(Refusal::Fenced(_)) | Failure::Fenced(_) => "newer_map",
        Failure::Refused(Refusal::MapBehind(_)) => "older_map",
        Failure::Refused(Refusal::Unsynced(_)) => "unsynced",
        Failure::Refused(Refusal::Drift { .. }) => "clock_drift",
        Failure::Refused(Refusal::UnknownTable(_)) => "unknown_table",
        Failure::Refused(Refusal::DiskFull) => "disk_full",
        Failure::Refused(Refusal::Stopped) => "disk_failed",
        Failure::Refused(Refusal::Damaged(_)) => "damaged",
        Failure::Refused(Refusal::Unsupported(_)) => "unsupported",
        // The second is never told of a client's rows.
        Failure::Refused(Refusal::Invalid(_) | Refusal::MembersBehind(_)) | Failure::Nonsense => "misunderstood",
        Failure::BelowFloor(_) => "below_floor",
    }
}

/// A replica's failure in words that stand behind its name.
pub(crate) fn failure_text(failure: &Failure) -> String {
    match failure {
        Failure::Peer(PeerError::Unreachable { .. }) => "it cannot be reached".to_owned(),
        Failure::Peer(PeerError::QueueFull { waiting, limit, .. }) => {
            format!("too many requests wait for it ({waiting}, the limit is {limit})")
        }
        Failure::Peer(PeerError::Broken { .. }) => "the connection broke before it answered".to_owned(),
        Failure::Peer(PeerError::TimedOut { .. }) => "it did not answer in time".to_owned(),
        other => other.to_string(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn count64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// When a node that has as many repairs as it may is worth another try.
const REPAIR_RETRY_AFTER_MS: u32 = 10_000;

impl From<ChangeError> for EdgeError {
    fn from(error: ChangeError) -> Self {
        let code = match error {
            ChangeError::Unusable(_) => Code::InvalidRequest,
            ChangeError::NeedsRestart { .. } => Code::Conflict,
        };
        Self::new(code, error.to_string())
    }
}

impl From<AdminError> for EdgeError {
    fn from(error: AdminError) -> Self {
        let message = error.to_string();
        match error {
            AdminError::AlreadyExists { .. } => Self::new(Code::AlreadyExists, message),
            AdminError::UnknownKeyspace { keyspace } => unknown_name(UnknownName::Keyspace { keyspace }),
            AdminError::UnknownTable { keyspace, table } => unknown_name(UnknownName::Table { keyspace, table }),
            AdminError::Invalid { .. } => Self::new(Code::InvalidSchema, message),
            AdminError::Conflict { .. } => Self::new(Code::Conflict, message),
            AdminError::RepairUnderWay { id } => {
                Self::with(Code::RepairUnderWay, message, Details { repair_id: Some(id), ..Details::default() })
            }
            AdminError::UnknownNode { .. } => Self::new(Code::UnknownNode, message),
            AdminError::UnknownRepair { .. } => Self::new(Code::UnknownRepair, message),
            AdminError::TooManyRepairs { .. } => {
                let details = Details { retry_after_ms: Some(REPAIR_RETRY_AFTER_MS), ..Details::default() };
                Self::with(Code::Overloaded, message, details)
            }
            AdminError::Elsewhere { .. } => Self::new(Code::NodeUnavailable, message),
            AdminError::NoMajority { may_take_effect, .. } => {
                Self::with(Code::NoMajority, message, Details { may_take_effect, ..Details::default() })
            }
        }
    }
}

impl From<BadOptions> for EdgeError {
    fn from(bad: BadOptions) -> Self {
        Self::new(Code::InvalidSchema, bad.to_string())
    }
}
