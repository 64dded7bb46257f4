//! Asks a node whether it serves, and whether it holds what it is to hold: `GET /api/v1/health`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node that answers later than this is asked again.
const TIMEOUT: Duration = Duration::from_secs(2);
/// More of an answer is not read.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// Whether the node serves, or what it says instead. `Ok` tells whether it also holds its replicas.
pub(super) async fn ask(http: SocketAddr) -> Result<bool, String> {
    match tokio::time::timeout(TIMEOUT, exchange(http)).await {
        Ok(Ok(answer)) => judge(&answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

async fn exchange(http: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(http).await?;
    let request = format!("GET /api/v1/health HTTP/1.1\r\nhost: {http}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER_BYTES_MAX as u64);
    limited.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str) -> Result<bool, String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or("nothing");
    match (status, body.trim()) {
        ("200", body) => Ok(!is_arriving(body)),
        (status, "") => Err(format!("it answers {status}")),
        (status, body) => Err(match reasons(body) {
            Some(reasons) => reasons,
            None => format!("it answers {status}: {body}"),
        }),
    }
}

/// What a node says that does not serve.
fn reasons(body: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(body).ok()?;
    let reasons: Vec<&str> = document.get("reasons")?.as_array()?.iter().filter_map(|reason| reason.as_str()).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Whether replicas are still being brought to it.
fn is_arriving(body: &str) -> bool {
    let document: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let state = document.as_ref().and_then(|document| document.get("state")?.as_str());
    matches!(state, Some("JOINING" | "WARMING"))
}
