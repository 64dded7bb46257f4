//! Before the services and behind them: what is no call of gRPC is refused here, and what the library refuses gets a code.
//!
//! Invariant: whoever sends what cannot be read is told so as any other client is told of a mistake: by a documented
//! status with its code and details, and never by one that means a fault of the node.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response, header};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code as GrpcCode, Status};
use tower::ServiceExt;

use super::arriving::{Arriving, Bounds, malformed};
use super::status::CODE_TRAILER;
use crate::edge::{Code, Details, Edge, EdgeError};

/// A message must be here after that long: whoever sends it slower holds a call and asks nothing.
const MESSAGE_TIME: Duration = Duration::from_secs(30);
/// The one kind of messages there is, with and without its name.
const MEDIA_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];
/// Calls with a stream of messages from the client; all others take one.
const STREAMS: [&str; 3] = [
    "/cube.v1.Kv/Session",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// How the library begins to tell of a message that is none.
const UNDECODABLE: &str = "failed to decode Protobuf message";
/// More of what a client gave is not told back.
const GIVEN_CHARS_MAX: usize = 64;

/// All services for clients, as connections find them.
#[derive(Clone)]
pub struct Door {
    routes: Routes,
    edge: Arc<Edge>,
    bytes_max: usize,
    message_time: Duration,
}

impl Door {
    pub(super) fn new(routes: Routes, edge: Arc<Edge>, bytes_max: usize) -> Self {
        Self { routes: routes.prepare(), edge, bytes_max, message_time: MESSAGE_TIME }
    }

    /// The same with another time for messages.
    pub fn with_message_time(self, message_time: Duration) -> Self {
        Self { message_time, ..self }
    }

    /// Answers a call.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if let Err(refused) = check_media_type(&request) {
            let http = refused.code.http();
            let mut response = Status::from(refused).into_http();
            *response.status_mut() = http;
            return response;
        }
        let is_one = !STREAMS.contains(&request.uri().path());
        let bounds = Bounds { bytes_max: self.bytes_max, within: self.message_time, is_one };
        let edge = self.edge;
        let request = request.map(|body| Arriving::new(body, edge, bounds));
        let Ok(response) = self.routes.oneshot(request).await;
        with_code(response)
    }
}

fn check_media_type(request: &Request<Incoming>) -> Result<(), EdgeError> {
    let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if MEDIA_TYPES.iter().any(|known| media_type.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    let message = "this port speaks gRPC with Protobuf messages: the content type of its calls is application/grpc";
    let given = Some(given.chars().take(GIVEN_CHARS_MAX).collect());
    Err(EdgeError::with(Code::UnsupportedMediaType, message, Details { given, ..Details::default() }))
}

/// A call that ended before its handler began has the status of the library, which takes the client's mistake for ours.
fn with_code(response: Response<Body>) -> Response<Body> {
    if !response.headers().contains_key(Status::GRPC_STATUS) || response.headers().contains_key(CODE_TRAILER) {
        return response;
    }
    match Status::from_header_map(response.headers()) {
        Some(status) => told(status).map_or_else(|_| response, Status::into_http),
        None => response,
    }
}

/// The status that a client is told instead of one of the library.
pub(super) fn told(status: Status) -> Result<Status, Status> {
    match status.code() {
        GrpcCode::Internal if status.message().starts_with(UNDECODABLE) => Ok(malformed(status.message()).into()),
        _ => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn all_calls_but_the_streams_take_one_message() {
        let sets = [
            cube_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut streams = Vec::new();
        for file in sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file) {
            for service in &file.service {
                let calls = service.method.iter().filter(|call| call.client_streaming());
                streams.extend(calls.map(|call| format!("/{}.{}/{}", file.package(), service.name(), call.name())));
            }
        }
        streams.retain(|call| !call.starts_with("/cube.peer."));
        streams.sort_unstable();
        assert_eq!(streams, STREAMS);
    }
}
