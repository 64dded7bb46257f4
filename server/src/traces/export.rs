//! Brings spans to the collector, many at a time. What it does not take is counted and gone; while it takes nothing it is
//! asked less and less often.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use cube_replication::trace::Span;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Counts, otlp};
use crate::config::Endpoint;

/// Spans of one document: some hundred KiB.
const BATCH_SPANS_MAX: usize = 512;
/// Between two documents, unless one is full: then a document holds more than the spans of one request.
const GATHER_TIME: Duration = Duration::from_millis(500);
/// The collector has so long for one document.
const POST_TIME: Duration = Duration::from_secs(5);
/// The first and the longest wait for a collector that took nothing.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why the collector took nothing.
#[derive(Debug, Error)]
enum ExportError {
    #[error("it cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    #[error("it does not answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it does not answer within {} s", POST_TIME.as_secs())]
    Slow,
}

/// Goes on until nobody tells spans any more.
pub(super) async fn run(endpoint: Endpoint, node: String, mut spans: mpsc::Receiver<Span>, counts: Arc<Counts>) {
    let mut batch = Vec::with_capacity(BATCH_SPANS_MAX);
    let mut wait: Option<Duration> = None;
    while spans.recv_many(&mut batch, BATCH_SPANS_MAX).await > 0 {
        gather(&mut batch, &mut spans).await;
        let told = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let body = otlp::document(&node, &batch).to_string();
        batch.clear();
        let posted = timeout(POST_TIME, post(&endpoint, body)).await.unwrap_or(Err(ExportError::Slow));
        match posted {
            Ok(()) => {
                counts.exported.fetch_add(told, Ordering::Relaxed);
                if wait.take().is_some() {
                    tracing::info!(%endpoint, "the collector of traces takes spans again");
                }
            }
            Err(error) => {
                counts.failed.fetch_add(told, Ordering::Relaxed);
                let (first, longest) = BACKOFF;
                if wait.is_none() {
                    tracing::warn!(%endpoint, "the collector of traces takes no spans, they are dropped: {error}");
                }
                let next = wait.map_or(first, |wait| wait.saturating_mul(2).min(longest));
                wait = Some(next);
                sleep(next).await;
            }
        }
    }
}

/// Waits a moment for more spans, as long as there is room for them.
async fn gather(batch: &mut Vec<Span>, spans: &mut mpsc::Receiver<Span>) {
    let more = async {
        while batch.len() < BATCH_SPANS_MAX {
            if spans.recv_many(batch, BATCH_SPANS_MAX - batch.len()).await == 0 {
                return;
            }
        }
    };
    // Either way what came is in the batch.
    let _full_or_late = timeout(GATHER_TIME, more).await;
}

async fn post(endpoint: &Endpoint, body: String) -> Result<(), ExportError> {
    let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with this call, whatever the collector does.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::post(endpoint.path())
        .header(HOST, endpoint.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Body::from(body))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(ExportError::Status(status)) }
}
