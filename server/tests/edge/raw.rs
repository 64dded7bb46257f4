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

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) http: u16,
    pub(crate) status: Status,
}

/// A message as it travels: not compressed, and its length.
pub(crate) fn framed(message: &impl Message) -> Vec<u8> {
    frame(0, &message.encode_to_vec())
}

/// Bytes as a message travels, whether they are one or not.
pub(crate) fn frame(flag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[flag], length.as_slice(), bytes].concat()
}

/// How a call with these headers ends, and the content type of calls.
pub(crate) async fn call(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Ended {
    send(to, path, &[&[PROTOBUF], headers].concat(), body).await
}

/// How a call with these headers alone ends.
pub(crate) async fn send(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Ended {
    let exchange = async {
        let stream = TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::post(format!("http://{to}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(body.into()).unwrap()).await.unwrap();
        let http = answer.status().as_u16();
        let mut said: HeaderMap = answer.headers().clone();
        let mut body = answer.into_body();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            if let Ok(trailers) = frame.unwrap().into_trailers() {
                said.extend(trailers);
            }
        }
        Ended { http, status: Status::from_header_map(&said).expect("a call ends with a status") }
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("no call hangs")
}
