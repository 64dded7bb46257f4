//! Every error of the coordinator has its code, and every code its line in the documentation.

use std::collections::BTreeSet;

use cube_replication::catalog::{ClusterState, Schema, UnknownName};
use cube_replication::consistency::{Level, ReadAtAny, Unavailable};
use cube_replication::coordinator::{Failure, Incomplete, RequestError};
use cube_replication::messages::Refusal;
use cube_replication::topology::{Addresses, Member, MemberState, Topology, TopologyChange};
use cube_replication::transport::PeerError;
use cube_storage::StoreError;
use cube_storage::UnsyncedCause;
use cube_storage::clock::ClockError;
use cube_storage::model::{Epoch, Hlc, Invalid, NodeId, PageUnit, PartitionBits, RowKey, TableId};

use super::explain::failure_code;
use super::{Code, EdgeError, Names, explain, refuse};
use crate::admin::{AdminError, BadOptions};

const ERRORS_PAGE: &str = include_str!("../../../docs/errors.md");

fn state() -> ClusterState {
    let mut topology = Topology::new(PartitionBits::DEFAULT);
    for id in 0..3 {
        let member = Member {
            id: NodeId(id),
            name: format!("berlin-{id}"),
            data_center: "dc1".into(),
            rack: "r1".into(),
            weight: 1,
            state: MemberState::Ready,
            addresses: Addresses::default(),
        };
        topology = topology.after(&TopologyChange::Join(member)).unwrap();
    }
    ClusterState { topology, schema: Schema::default() }
}

fn told(error: RequestError) -> EdgeError {
    explain(error, &Names::new(&state()))
}

fn incomplete(write: bool, timed_out: bool) -> Box<Incomplete> {
    let failures = vec![
        (NodeId(1), Failure::Peer(PeerError::TimedOut { peer: NodeId(1) })),
        (NodeId(2), Failure::Refused(Refusal::Drift { ahead_ms: 86_400_000, max_drift_ms: 900_000 })),
        (NodeId(9), Failure::Down),
    ];
    let acknowledged_by = vec![NodeId(0)];
    Box::new(Incomplete {
        write,
        level: Level::Quorum,
        acknowledged_by,
        missing: 1,
        timed_out,
        failures,
        account: None,
    })
}

/// One of each, with the code it is to have and whether a write that ends with it may take effect. The match has no
/// arm for all others: a new error does not compile until it stands here.
fn every_error() -> Vec<(RequestError, Code)> {
    let unavailable = Unavailable { level: Level::All, required: 3, alive: 2, data_center: Some("dc1".into()) };
    let all = vec![
        RequestError::UnknownName(UnknownName::Keyspace { keyspace: "ks".into() }),
        RequestError::UnknownName(UnknownName::Table { keyspace: "ks".into(), table: "t".into() }),
        RequestError::Invalid(Invalid::EmptyKey),
        RequestError::ReadAtAny(ReadAtAny),
        RequestError::Unavailable(unavailable.clone()),
        RequestError::ReadUnavailable(unavailable),
        RequestError::ConditionUnsupported,
        RequestError::Clock(ClockError::Drift { ahead_ms: 2, max_drift_ms: 1 }),
        RequestError::Clock(ClockError::Bound(StoreError::Stopped { cause: "the disk failed".into() })),
        RequestError::BelowFloor { floor: Hlc::new(5, 1) },
        RequestError::Overloaded { in_flight: 2, limit: 1, retry_after_ms: 50 },
        RequestError::OverloadedBytes { bytes: 2, limit_bytes: 1, retry_after_ms: 50 },
        RequestError::AnswerFull { limit_bytes: 1 },
        RequestError::NoReplicas,
        RequestError::Unknown(incomplete(true, true)),
        RequestError::ReadIncomplete(incomplete(false, true)),
        RequestError::ReadIncomplete(incomplete(false, false)),
        RequestError::NotNoted { target: NodeId(1), cause: "no room".into() },
    ];
    let code = |error: &RequestError| match error {
        RequestError::UnknownName(UnknownName::Keyspace { .. }) => Code::UnknownKeyspace,
        RequestError::UnknownName(UnknownName::Table { .. }) => Code::UnknownTable,
        RequestError::Invalid(_) => Code::EmptyKey,
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
    };
    all.into_iter().map(|error| (error.clone(), code(&error))).collect()
}

#[test]
fn every_error_of_the_coordinator_has_its_code_and_names_nodes_by_name() {
    for (error, code) in every_error() {
        let told = told(error.clone());
        assert_eq!(told.code, code, "{error:?}");
        let json = serde_json::to_string(told.details.as_ref()).unwrap();
        for number in ["n0", "n1", "n2"] {
            let shown = format!(" {} {json}", told.message.replace(['"', ':', ';', ','], " "));
            assert!(!shown.contains(&format!(" {number} ")) && !shown.contains(&format!("\"{number}\"")), "{shown}");
        }
    }
}

#[test]
fn only_writes_that_may_have_taken_effect_end_with_504_or_say_so() {
    for (error, _) in every_error() {
        let unknown = matches!(error, RequestError::Unknown(_) | RequestError::NotNoted { .. });
        let told = told(error);
        assert_eq!(told.details.may_take_effect, unknown, "{told:?}");
        let is_504 = told.code.http().as_u16() == 504;
        assert_eq!(is_504, unknown || told.code == Code::ReadTimeout);
        assert_eq!(is_504, told.code.grpc() == tonic::Code::DeadlineExceeded);
    }
}

#[test]
fn an_unknown_write_names_who_holds_it_and_why_the_others_do_not() {
    let told = told(RequestError::Unknown(incomplete(true, true)));
    assert_eq!(
        told.message,
        "the write is unknown: it may still take effect; QUORUM is 1 short after its time was over, acknowledged by \
         berlin-0; berlin-1: it did not answer in time; berlin-2: the write's timestamp, by the clock \
         of the node that was asked unless the client chose it, is 86400000 ms ahead of its own clock, more than \
         clock.max_drift (900000 ms) allows; n9: it is down"
    );
    assert_eq!(told.details.acknowledged_by.as_deref(), Some(["berlin-0".to_owned()].as_slice()));
    let codes: Vec<&str> = told.details.failures.iter().map(|failure| failure.code).collect();
    assert_eq!(codes, ["timed_out", "clock_drift", "down"]);
}

#[test]
fn a_read_that_fell_short_names_who_answered() {
    let message = told(RequestError::ReadIncomplete(incomplete(false, true))).message;
    let begins = "the read is incomplete; QUORUM is 1 short after its time was over, answered by berlin-0; berlin-1: ";
    assert!(message.starts_with(begins), "{message}");
    let mut nobody = incomplete(false, false);
    nobody.acknowledged_by.clear();
    let message = told(RequestError::ReadIncomplete(nobody)).message;
    assert!(message.contains("1 short, nobody answered; "), "{message}");
}

#[test]
fn every_limit_that_a_request_breaks_has_its_code() {
    let key = RowKey::of("k".repeat(5_000));
    for (invalid, code) in [
        (Invalid::EmptyKey, Code::EmptyKey),
        (Invalid::KeyTooLong { bytes: 2, limit: 1 }, Code::KeyTooLarge),
        (Invalid::ValueTooLong { key, bytes: 2, limit: 1 }, Code::ValueTooLarge),
        (Invalid::BatchTooLong { bytes: 2, limit: 1 }, Code::BatchTooLarge),
        (Invalid::BatchTooManyRows { rows: 2, limit: 1 }, Code::BatchTooLarge),
        (Invalid::Ttl { ttl_ms: -1, limit: 1 }, Code::InvalidTtl),
        (Invalid::UnknownTable { table: TableId(7) }, Code::UnknownTable),
        (Invalid::Page { of: PageUnit::Bytes, given: 2, limit: 1 }, Code::InvalidPage),
        (Invalid::NoPrefixIndex { table: TableId(7) }, Code::NoPrefixIndex),
        (Invalid::PrefixIndexFixed { table: TableId(7) }, Code::Conflict),
        (Invalid::PageToken, Code::InvalidPageToken),
        (Invalid::RangeReversed, Code::InvalidPage),
    ] {
        let told = refuse(invalid);
        assert_eq!(told.code, code);
        assert!((400..500).contains(&told.code.http().as_u16()), "the client can mend it: {told:?}");
    }
}

#[test]
fn every_refusal_of_a_change_has_its_code() {
    let (keyspace, table, reason) = (|| "ks".to_owned(), || "t".to_owned(), || "so it is".to_owned());
    for (error, code) in [
        (AdminError::AlreadyExists { what: keyspace(), differences: reason() }, Code::AlreadyExists),
        (AdminError::UnknownKeyspace { keyspace: keyspace() }, Code::UnknownKeyspace),
        (AdminError::UnknownTable { keyspace: keyspace(), table: table() }, Code::UnknownTable),
        (AdminError::Invalid { reason: reason() }, Code::InvalidSchema),
        (AdminError::Conflict { reason: reason() }, Code::Conflict),
        (AdminError::RepairUnderWay { id: reason() }, Code::RepairUnderWay),
        (AdminError::UnknownRepair { id: reason() }, Code::UnknownRepair),
        (AdminError::TooManyRepairs { reason: reason() }, Code::Overloaded),
        (AdminError::Elsewhere { reason: reason() }, Code::NodeUnavailable),
        (AdminError::NoMajority { reason: reason(), may_take_effect: true }, Code::NoMajority),
    ] {
        assert_eq!(EdgeError::from(error).code, code);
    }
    assert_eq!(EdgeError::from(BadOptions::Hedge { given: "x".into() }).code, Code::InvalidSchema);
}

#[test]
fn names_as_long_as_a_client_likes_do_not_swell_the_details() {
    let told = told(RequestError::UnknownName(UnknownName::Keyspace { keyspace: "k".repeat(100_000) }));
    assert!(serde_json::to_string(told.details.as_ref()).unwrap().len() < 200);
}

/// The rows of a table in the documentation that begin with a code.
fn documented(heading: &str) -> Vec<Vec<String>> {
    let section = ERRORS_PAGE.split(heading).nth(1).unwrap_or_else(|| panic!("docs/errors.md has {heading}"));
    let section = section.split("\n## ").next().unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    section.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

#[test]
fn the_documentation_lists_every_code_with_its_statuses() {
    let documented: BTreeSet<(String, String, String)> =
        documented("## Codes").into_iter().map(|row| (row[0].clone(), row[1].clone(), row[2].clone())).collect();
    let grpc_name = |code: tonic::Code| {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    };
    let codes: BTreeSet<(String, String, String)> = Code::EVERY
        .iter()
        .map(|code| (code.name().to_owned(), code.http().as_u16().to_string(), grpc_name(code.grpc())))
        .collect();
    assert_eq!(documented, codes);
}

#[test]
fn the_documentation_lists_every_code_of_a_replicas_failure() {
    let peer = NodeId(1);
    let refusals = vec![
        Refusal::Overloaded { retry_after_ms: 1 },
        Refusal::DeadlinePassed,
        Refusal::Fenced(Epoch(1)),
        Refusal::MapBehind(Epoch(1)),
        Refusal::Unsynced(UnsyncedCause::New),
        Refusal::Drift { ahead_ms: 2, max_drift_ms: 1 },
        Refusal::UnknownTable(TableId(1)),
        Refusal::DiskFull,
        Refusal::Stopped,
        Refusal::Damaged("bits".into()),
        Refusal::Unsupported("this".into()),
        Refusal::Invalid("that".into()),
    ];
    let others = vec![
        Failure::Down,
        Failure::Peer(PeerError::Unreachable { peer }),
        Failure::Peer(PeerError::QueueFull { peer, waiting: 2, limit: 1 }),
        Failure::Peer(PeerError::Broken { peer }),
        Failure::Peer(PeerError::TimedOut { peer }),
        Failure::Fenced(Epoch(1)),
        Failure::BelowFloor(Hlc(1)),
        Failure::Nonsense,
    ];
    let failures = refusals.into_iter().map(Failure::Refused).chain(others);
    let mut codes: BTreeSet<String> = failures.map(|failure| failure_code(&failure).to_owned()).collect();
    codes.insert("not_noted".to_owned());
    let documented: BTreeSet<String> =
        documented("## Why a replica did not").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(documented, codes);
}
