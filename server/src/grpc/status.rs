//! Errors as gRPC: the status of the code, and what machines want to know in the two ways there are.
//!
//! `grpc-status-details-bin` holds a `google.rpc.Status` with one `cube.v1.ErrorDetail`, the form that gRPC libraries of
//! all languages unpack. For whoever has no such library at hand, the trailers `cube-error-code` and, where another try
//! may help, `grpc-retry-pushback-ms` say the most important in plain text.

use bytes::Bytes;
use cube_proto::v1::{ErrorDetail, Explained, ReplicaFailure};
use prost::Message;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::explained::account_of;
use crate::edge::{Details, EdgeError, Explanation, Names};

/// The code, in plain text.
pub(crate) const CODE_TRAILER: &str = "cube-error-code";
/// When to try again; gRPC libraries with a retry policy heed it by themselves.
pub(crate) const RETRY_TRAILER: &str = "grpc-retry-pushback-ms";
/// The type of the one detail.
const DETAIL_TYPE: &str = "type.googleapis.com/cube.v1.ErrorDetail";

/// As long may a detail be with what was done for the request: in base64, with the message, it fits into 8 KiB of headers.
const DETAIL_BYTES_MAX: usize = 5 << 10;

/// `google.rpc.Status`, which no crate of the graph has.
#[derive(Clone, PartialEq, Message)]
struct RichStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What a batch tells of one partition key, and a status of a whole call.
pub(crate) fn detail(error: &EdgeError) -> ErrorDetail {
    let Details {
        may_take_effect,
        retry_after_ms,
        level,
        required,
        alive,
        data_center,
        acknowledged_by,
        missing,
        timed_out,
        failures,
        given,
        limit,
        allowed,
        keyspace,
        table,
        ahead_ms,
        floor_ms,
        repair_id,
    } = error.details.as_ref().clone();
    let failures = failures.into_iter().map(|failure| ReplicaFailure {
        node: failure.node,
        code: failure.code.to_owned(),
        message: failure.message,
    });
    let mut detail = ErrorDetail {
        code: error.code.name().to_owned(),
        message: error.message.clone(),
        status: u32::from(status_number(error)),
        may_take_effect,
        retry_after_ms,
        level: level.unwrap_or_default().to_owned(),
        required,
        alive,
        data_center: data_center.unwrap_or_default(),
        acknowledged_by: acknowledged_by.unwrap_or_default(),
        missing,
        timed_out,
        failures: failures.collect(),
        given: given.unwrap_or_default(),
        limit,
        allowed: allowed.into_iter().map(str::to_owned).collect(),
        keyspace: keyspace.unwrap_or_default(),
        table: table.unwrap_or_default(),
        ahead_ms,
        floor_ms,
        repair_id: repair_id.unwrap_or_default(),
        explained: None,
    };
    detail.explained = error.explained.as_ref().map(|told| Box::new(fitting(told, &detail)));
    detail
}

/// As much of what was done as there is room for beside the rest of the detail.
fn fitting(told: &Explanation, beside: &ErrorDetail) -> Explained {
    let mut explained = account_of(&told.account, &Names::new(&told.state));
    // The message says it.
    explained.error.clear();
    let room = DETAIL_BYTES_MAX.saturating_sub(beside.encoded_len());
    while explained.encoded_len() > room && explained.messages.pop().is_some() {
        explained.messages_left_out += 1;
    }
    explained
}

fn status_number(error: &EdgeError) -> u8 {
    // The numbers of gRPC run from 0 to 16.
    u8::try_from(i32::from(error.code.grpc())).unwrap_or_default()
}

impl From<EdgeError> for Status {
    fn from(error: EdgeError) -> Self {
        let code = error.code.grpc();
        // The message is the status's own, and is not sent twice more.
        let detail = ErrorDetail { message: String::new(), ..detail(&error) };
        let value = AnyMessage { type_url: DETAIL_TYPE.to_owned(), value: detail.encode_to_vec().into() };
        let rich = RichStatus { code: code.into(), message: error.message.clone(), details: vec![value] };
        let mut trailers = MetadataMap::new();
        trailers.insert(CODE_TRAILER, MetadataValue::from_static(error.code.name()));
        if let Some(retry_after_ms) = error.details.retry_after_ms {
            trailers.insert(RETRY_TRAILER, MetadataValue::from(retry_after_ms));
        }
        Self::with_details_and_metadata(code, error.message, rich.encode_to_vec().into(), trailers)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cube_replication::catalog::{ClusterState, Schema};
    use cube_replication::consistency::Level;
    use cube_replication::coordinator::{Account, Asked, Kind, Message as Sent, Role, RowTold, Told, Why};
    use cube_replication::topology::{DataCenter, Topology};
    use cube_storage::model::{Epoch, NodeId, PartitionBits, RowKey, TableId};

    use super::*;
    use crate::edge::{Code, ReplicaFailure};

    #[test]
    fn a_status_carries_its_detail_as_grpc_libraries_unpack_it() {
        let details = Details { required: Some(3), alive: Some(2), level: Some("ALL"), ..Details::default() };
        let status = Status::from(EdgeError::with(Code::Unavailable, "too few", details));
        assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "too few"));
        assert_eq!(status.metadata().get(CODE_TRAILER).unwrap(), "unavailable");
        assert!(status.metadata().get(RETRY_TRAILER).is_none());
        let rich = RichStatus::decode(status.details()).unwrap();
        assert_eq!((rich.code, rich.message.as_str()), (14, "too few"));
        let any = &rich.details[0];
        assert_eq!(any.type_url, "type.googleapis.com/cube.v1.ErrorDetail");
        let detail = ErrorDetail::decode(any.value.clone()).unwrap();
        assert_eq!((detail.code.as_str(), detail.status), ("unavailable", 14));
        assert_eq!((detail.required, detail.alive, detail.level.as_str()), (Some(3), Some(2), "ALL"));
    }

    #[test]
    fn an_overload_says_when_to_try_again_where_libraries_look() {
        let details = Details { retry_after_ms: Some(50), ..Details::default() };
        let status = Status::from(EdgeError::with(Code::Overloaded, "later", details));
        assert_eq!(status.metadata().get(RETRY_TRAILER).unwrap(), "50");
    }

    /// Of a read of a row with a long key that asked so many times.
    fn explanation(messages: usize) -> Explanation {
        let key = RowKey::of("k".repeat(500));
        let message = Sent {
            replica: NodeId(7),
            role: Role::Near,
            asked: Asked::Digest,
            why: Why::Level,
            rows: 1,
            sent_ms: 0,
            answered_ms: Some(1),
            told: Some(Told::Rows(vec![RowTold { key, held: Ok(None) }])),
        };
        let account = Account {
            kind: Kind::Read,
            table: TableId(1),
            level: Level::All,
            coordinator: NodeId(7),
            data_center: DataCenter::from("dc1"),
            epoch: Epoch(1),
            took_ms: 1,
            messages: vec![message; messages],
            messages_left_out: 0,
            verdicts: Vec::new(),
            hedged: Vec::new(),
            by_chance: Vec::new(),
            hints: Vec::new(),
            error: None,
        };
        let state = ClusterState { topology: Topology::new(PartitionBits::DEFAULT), schema: Schema::default() };
        Explanation { account, state: Arc::new(state) }
    }

    #[test]
    fn what_was_done_is_told_as_far_as_there_is_room() {
        let mut error = EdgeError::new(Code::ReadTimeout, "too few");
        error.explained = Some(Box::new(explanation(3)));
        let told = detail(&error).explained.unwrap();
        assert_eq!((told.messages.len(), told.messages_left_out), (3, 0));
        error.explained = Some(Box::new(explanation(100)));
        let told = detail(&error).explained.unwrap();
        assert_eq!(told.messages.len() as u64 + told.messages_left_out, 100);
        assert!((5..12).contains(&told.messages.len()), "{}", told.messages.len());
    }

    /// Clients commonly take 8 KiB of headers.
    #[test]
    fn the_largest_error_fits_into_a_header() {
        let failure = || ReplicaFailure::new("n".repeat(64), "connection_broken", "x".repeat(1_000));
        let details = Details {
            failures: (0..crate::edge::FAILURES_MAX).map(|_| failure()).collect(),
            acknowledged_by: Some(vec!["n".repeat(64); 8]),
            ..Details::default()
        };
        let mut error = EdgeError::with(Code::WriteUnknown, "y".repeat(10_000), details);
        error.explained = Some(Box::new(explanation(40)));
        let status = Status::from(error);
        let base64_bytes = status.details().len().div_ceil(3) * 4;
        assert!(base64_bytes + status.message().len() < 8 << 10, "{base64_bytes}");
    }
}
