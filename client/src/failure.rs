//! What a gRPC status says about the request: whether it was ever sent, and whether it may have taken effect.

use std::error::Error as _;

use bytes::Bytes;
use cube_proto::v1::ErrorDetail;
use prost::Message;
use tonic::{Code, ConnectError, Status};

use crate::error::Refusal;
use crate::retry::Failure;

/// `google.rpc.Status`, which no crate of the graph has.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RichStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AnyMessage {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// The status of a call that failed.
pub(crate) fn of_status(status: &Status) -> Failure {
    if let Some(refusal) = refusal(status) {
        return Failure::Refused(Box::new(refusal));
    }
    let reason = || format!("{}: {}", status.code(), status.message());
    if never_sent(status) {
        return Failure::Unsent(innermost(status));
    }
    match status.code() {
        // gRPC itself refused before any handler saw the request: the node does not know the call.
        Code::Unimplemented => Failure::Refused(Box::new(Refusal {
            status: Code::Unimplemented as u32,
            ..Refusal::plain("unsupported", format!("the node does not know this call: {}", status.message()))
        })),
        // What nodes say for themselves has a detail: this is the answer past the size that this client takes. A write of
        // which it would have told may be done.
        Code::OutOfRange => Failure::Refused(Box::new(Refusal {
            may_take_effect: true,
            status: Code::OutOfRange as u32,
            ..Refusal::plain(
                "answer_too_large",
                format!("the answer is longer than this client takes: {}", status.message()),
            )
        })),
        // Bytes that are none of the protocol.
        Code::ResourceExhausted | Code::Internal | Code::DataLoss => Failure::Misunderstood(reason()),
        _ => Failure::Lost(reason()),
    }
}

/// What the node itself says of it, if it does.
pub(crate) fn refusal(status: &Status) -> Option<Refusal> {
    let rich = RichStatus::decode(status.details()).ok()?;
    let any = rich.details.into_iter().find(|any| any.type_url.ends_with("cube.v1.ErrorDetail"))?;
    let mut detail = ErrorDetail::decode(any.value).ok()?;
    // The message is the status's own, and is not sent twice.
    if detail.message.is_empty() {
        status.message().clone_into(&mut detail.message);
    }
    Some(Refusal { status: status.code() as u32, ..Refusal::of(detail) })
}

/// Whether the connection could not even be opened.
fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn innermost(status: &Status) -> String {
    let mut told = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        told = error.to_string();
        cause = error.source();
    }
    told
}
