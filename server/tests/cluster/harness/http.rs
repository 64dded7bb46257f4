//! A small HTTP/1.1 client: one connection that is kept, one request at a time, a deadline for everything.
//!
//! It tells a request that was never sent from one that was not answered: the second may have taken effect.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::time::now;

/// Far more than any answer of these tests.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body, `null` if it is no JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody took the request.
    NotSent(String),
    /// The request may have been read and done.
    NoAnswer(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) => write!(f, "not sent: {why}"),
            Self::NoAnswer(why) => write!(f, "no answer: {why}"),
        }
    }
}

/// A connection to one server.
#[derive(Debug)]
pub(crate) struct Http {
    to: SocketAddr,
    timeout: Duration,
    kept: Option<TcpStream>,
}

impl Http {
    pub(crate) fn new(to: SocketAddr, timeout: Duration) -> Self {
        Self { to, timeout, kept: None }
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.to,
            body.len()
        );
        let until = now() + self.timeout;
        let mut stream = self.connection().map_err(|error| Failure::NotSent(error.to_string()))?;
        let exchange = || {
            stream.set_write_timeout(Some(self.timeout)).map_err(|error| error.to_string())?;
            stream.write_all(format!("{head}{body}").as_bytes()).map_err(|error| error.to_string())?;
            let (answer, keep) = read_answer(&mut stream, until)?;
            Ok((answer, keep.then_some(stream)))
        };
        let (answer, kept) = exchange().map_err(|why: String| Failure::NoAnswer(why))?;
        self.kept = kept;
        Ok(answer)
    }

    /// The kept connection if the server has not closed it, else a new one.
    fn connection(&mut self) -> std::io::Result<TcpStream> {
        if let Some(stream) = self.kept.take().filter(is_open) {
            return Ok(stream);
        }
        let stream = TcpStream::connect_timeout(&self.to, self.timeout)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Whether a connection on which nothing is expected is still open.
fn is_open(stream: &TcpStream) -> bool {
    let silent = || {
        stream.set_nonblocking(true)?;
        let silent = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        stream.set_nonblocking(false)?;
        Ok::<bool, std::io::Error>(silent)
    };
    silent().unwrap_or(false)
}

/// Reads one answer, and tells whether the server keeps the connection.
fn read_answer(stream: &mut TcpStream, until: Instant) -> Result<(Answer, bool), String> {
    let mut bytes = Vec::new();
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(stream, &mut bytes, until)?;
    };
    let head = String::from_utf8_lossy(&bytes[..head_len]).to_lowercase();
    let header = |name: &str| {
        head.lines().filter_map(|line| line.split_once(':')).find_map(|(n, value)| (n == name).then(|| value.trim()))
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status: u16 = status.ok_or_else(|| format!("no status in {head:?}"))?;
    let body_len = header("content-length").and_then(|len| len.parse().ok());
    let body_len: usize = body_len.ok_or_else(|| format!("no content-length in {head:?}"))?;
    while bytes.len() < head_len + body_len {
        read_more(stream, &mut bytes, until)?;
    }
    let text = String::from_utf8_lossy(&bytes[head_len..head_len + body_len]).into_owned();
    Ok((Answer { status, text }, header("connection") != Some("close")))
}

fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>, until: Instant) -> Result<(), String> {
    let left = until.saturating_duration_since(now());
    if left.is_zero() {
        return Err("the client's deadline passed".to_owned());
    }
    stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
    let mut part = [0; 8192];
    match stream.read(&mut part) {
        Ok(0) => Err("the server closed the connection".to_owned()),
        Ok(len) if bytes.len() + len > ANSWER_BYTES_MAX => Err("the answer is too long".to_owned()),
        Ok(len) => {
            bytes.extend_from_slice(&part[..len]);
            Ok(())
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err("the client's deadline passed".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::harness::address::Block;
    use crate::harness::time::PATIENCE;

    /// A server that answers the connections it gets with what it is given, in pieces.
    fn server(answers: Vec<Vec<&'static [u8]>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                for piece in answer {
                    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                    stream.write_all(piece).unwrap();
                }
            }
        };
        std::thread::Builder::new().spawn(serve).unwrap();
        address
    }

    #[test]
    fn an_answer_is_read_and_the_connection_kept() {
        let address = server(vec![vec![
            b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}",
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        ]]);
        let mut http = Http::new(address, PATIENCE);
        let first = http.request("GET", "/", None).unwrap();
        assert_eq!((first.status, first.json()["a"].as_u64()), (200, Some(1)));
        assert_eq!(http.request("PUT", "/", Some(&Value::from(1))).unwrap().status, 503);
    }

    #[test]
    fn a_connection_that_the_server_closed_is_not_used_again() {
        let answer: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let mut http = Http::new(server(vec![vec![answer], vec![answer]]), PATIENCE);
        for _ in 0..2 {
            assert!(http.request("GET", "/", None).unwrap().is_success());
            while http.kept.as_ref().is_some_and(is_open) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn what_was_not_answered_is_told_from_what_was_not_sent() {
        // An address where nobody else listens, also when this one does not any more.
        let block = Block::claim();
        let address = block.node(1).http;
        let silent = TcpListener::bind(address).unwrap();
        let unanswered = Http::new(address, Duration::from_millis(50)).request("GET", "/", None);
        assert!(matches!(unanswered, Err(Failure::NoAnswer(_))), "{unanswered:?}");
        drop(silent);
        let unsent = Http::new(address, PATIENCE).request("GET", "/", None);
        assert!(matches!(unsent, Err(Failure::NotSent(_))), "{unsent:?}");
        let cut_short = Http::new(server(vec![vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]]), PATIENCE)
            .request("GET", "/", None);
        assert!(matches!(cut_short, Err(Failure::NoAnswer(_))), "{cut_short:?}");
    }
}
