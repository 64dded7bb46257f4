//! The HTTP port: takes connections, each for as long as it is of use, and no more of them than there are places.
//!
//! Invariant: nobody holds a place by saying nothing or by saying it slowly. The head of a request has its time, from the
//! moment that the connection is there or the answer before it was sent (so this is also how long a connection may be
//! idle); bodies have theirs (`body.rs`), and so have requests.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use futures::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ErrorDocument;
use crate::edge::{Code, Details, EdgeError};
use crate::places::{Places, Seat};

/// The head of a request must be here after that long, and so must the next request of a connection that is kept.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of what is read ahead of a body.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// After an error that concerns all connections, such as no file being left: others may close meanwhile.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long the port, when it closes, waits for requests that are on their way on connections that are there. A client on a
/// busy machine may take a while between connecting and asking, and a write whose connection is reset is one of which
/// nobody knows.
const LAST_REQUEST_WITHIN: Duration = Duration::from_secs(1);
/// How long somebody who is refused may take to hear it.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);
/// When somebody for whom there was no place may try again.
const RETRY_AFTER_MS: u32 = 1_000;

/// Serves until `stop` is done and the requests under way have been answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    places: Places,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let mut stop = pin!(stop);
    let (open, closing) = (TaskTracker::new(), CancellationToken::new());
    let refusal: Arc<str> = refusal(&places).into();
    let take = |stream: TcpStream| match places.seat() {
        Seat::Taken(place) => drop(open.spawn(talk(stream, router.clone(), closing.clone(), place))),
        Seat::Refused(turn) => drop(tokio::spawn(refuse(stream, Arc::clone(&refusal), turn))),
        Seat::Ignored => drop(stream),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) => take(stream),
            Err(error) if concerns_one(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken");
                sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    // Those in the system's queue are connected as far as they know, and may have asked already: the port closing over
    // them would reset them, and a write whose connection is reset is one of which nobody knows.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        take(stream);
    }
    drop(listener);
    closing.cancel();
    open.close();
    open.wait().await;
    Ok(())
}

/// The client went away before it was taken.
fn concerns_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn talk(stream: TcpStream, router: Router, closing: CancellationToken, _place: OwnedSemaphorePermit) {
    // Answers are small and waited for.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection cannot be told to send at once");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            // A request that is just coming is answered, and its connection ends with that.
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = sleep(LAST_REQUEST_WITHIN) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// What somebody is told for whom there is no place.
fn refusal(places: &Places) -> String {
    let message = format!(
        "this node holds as many connections as it may ({}): use fewer, keep them, or ask another node",
        places.most()
    );
    let details = Details { retry_after_ms: Some(RETRY_AFTER_MS), ..Details::default() };
    let error = EdgeError::with(Code::Overloaded, message, details);
    let body = serde_json::to_string(&ErrorDocument::from(&error)).unwrap_or_default();
    let (status, seconds) = (StatusCode::TOO_MANY_REQUESTS, RETRY_AFTER_MS.div_ceil(1_000));
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nretry-after: {seconds}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn refuse(mut stream: TcpStream, refusal: Arc<str>, _turn: OwnedSemaphorePermit) {
    let told = async {
        stream.write_all(refusal.as_bytes()).await?;
        stream.shutdown().await?;
        // With bytes unread the system would reset the connection, and the client might not see the answer.
        let mut rest = [0; 4 << 10];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Whoever does not listen is hung up on.
    let _unheard = timeout(REFUSE_WITHIN, told).await;
}
