//! Calls of the gRPC port that send exactly what they are told to, which generated clients would not.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Body as _;
use hyper::client::conn::http2;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// Longer than anything takes: past it, a call hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const PROTOBUF: (&str, &str) = ("content-type", "application/grpc");

/// A message as it travels: not compressed, and its length.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), bytes.as_slice()].concat()
}

/// How a call with these headers ends.
pub(crate) async fn call(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Status {
    let exchange = async {
        let stream = TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::post(format!("http://{to}{path}"));
        for (name, value) in [PROTOBUF].iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(body.into()).unwrap()).await.unwrap();
        let mut said: HeaderMap = answer.headers().clone();
        let mut body = answer.into_body();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            if let Ok(trailers) = frame.unwrap().into_trailers() {
                said.extend(trailers);
            }
        }
        Status::from_header_map(&said).expect("a call ends with a status")
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("no call hangs")
}
