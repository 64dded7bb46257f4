//! A node's HTTP side: answers each request by a function, and keeps what was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where it is, and what it was asked: method, path and body.
pub(crate) struct FakeHttp {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeHttp {
    pub(crate) async fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&asked), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move { serve(stream, &kept, answer.as_ref()).await });
            }
        });
        Self { address, asked }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, kept: &Mutex<Vec<String>>, answer: &(dyn Fn(&str) -> (u16, String) + Sync)) {
    let mut request = String::new();
    let (head, body) = loop {
        let mut bytes = [0; 4_096];
        let read = stream.read(&mut bytes).await.unwrap_or_default();
        if read == 0 {
            return;
        }
        request.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if body.len() >= length.parse().unwrap() {
            break (head, body);
        }
    };
    let asked = format!("{} {body}", head.lines().next().unwrap().trim_end_matches(" HTTP/1.0"));
    let (status, body) = answer(asked.trim_end());
    kept.lock().unwrap().push(asked.trim_end().to_owned());
    let length = body.len();
    let answer = format!("HTTP/1.0 {status} so\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap_or_default();
}
