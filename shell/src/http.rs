//! Questions over HTTP, for what nodes tell there alone: a request, its status and its body. No more of the protocol than
//! that takes.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// An answer that is longer is not that of a node.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What a node answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Unanswered {
    /// Whether the node may have done what it was asked.
    pub(crate) was_reached: bool,
    reason: String,
}

/// Asks the node that serves HTTP at this address, within this time.
pub(crate) async fn ask(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
    time: Duration,
) -> Result<Answer, Unanswered> {
    let deadline = Instant::now() + time;
    let failed = |was_reached, error: Option<io::Error>| Unanswered {
        was_reached,
        reason: error.map_or_else(|| "no answer in time".to_owned(), |error| error.to_string()),
    };
    let stream = match timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|error| failed(false, Some(error)))?,
        Err(_) => return Err(failed(false, None)),
    };
    match timeout_at(deadline, exchange(stream, address, method, path, body)).await {
        Ok(answer) => answer.map_err(|error| failed(true, Some(error))),
        Err(_) => Err(failed(true, None)),
    }
}

/// Of the older protocol, whose answers are not sent in pieces.
async fn exchange(mut stream: TcpStream, address: &str, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n\
         {body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    read(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers there speaks no HTTP"))
}

fn read(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let told = read("HTTP/1.0 404 Not Found\r\ncontent-length: 2\r\n\r\n{}");
        assert_eq!(told, Some(Answer { status: 404, body: "{}".into() }));
        for wrong in ["", "HTTP/1.1 \r\n\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
