//! The gRPC port: HTTP/2 connections, each for as long as its client is there, and the calls on them.
//!
//! Invariant: a call ends by what the node did for it, and never by a timer beside that. A server that heeds `grpc-timeout`
//! on its own drops the call while its write goes on, and tells the client nothing of it; here the requests read the
//! header (`convert.rs`), and the coordinator ends in time, with what it knows.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::door::Door;
use crate::incoming::{Placed, incoming};
use crate::places::Places;

/// What a client begins with must be here after that long.
const PREFACE_TIME: Duration = Duration::from_secs(10);
/// Calls at once on one connection: whoever needs more opens another one, or sends batches.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
/// A client that is silent for so long is asked whether it is still there ...
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
/// ... and hung up on when it does not answer: a half-open connection is not kept.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Serves until `stop` is done and the calls under way have been answered.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    places: Places,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let (open, closing) = (TaskTracker::new(), CancellationToken::new());
    let mut stop = pin!(stop);
    let mut connections = Box::pin(incoming(listener, places, PREFACE_TIME));
    loop {
        let next = tokio::select! {
            next = connections.next() => next,
            () = &mut stop => break,
        };
        match next {
            Some(connection) => drop(open.spawn(talk(connection?, door.clone(), closing.clone()))),
            None => break,
        }
    }
    // Whoever comes now is refused by the system, instead of waiting for nobody.
    drop(connections);
    closing.cancel();
    open.close();
    open.wait().await;
    Ok(())
}

async fn talk(connection: Placed, door: Door, closing: CancellationToken) {
    let answer = service_fn(move |request| {
        let answer = door.clone().answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .serve_connection(TokioIo::new(connection), answer);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
