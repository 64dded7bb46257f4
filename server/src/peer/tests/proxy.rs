//! A TCP proxy that can stop forwarding: to those behind it, the other side then looks like a process that stands still
//! or a cable that was pulled.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::*;

pub(super) struct Proxy {
    pub(super) address: String,
    flows: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

impl Proxy {
    pub(super) fn to(target: &str) -> Self {
        let runtime = runtime(1);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (flows, watched) = watch::channel(true);
        let target = target.to_owned();
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(forward(near_read, far_write, watched.clone()));
                tokio::spawn(forward(far_read, near_write, watched.clone()));
            }
        });
        Self { address, flows, runtime: Some(runtime) }
    }

    /// Forwards nothing, and keeps all connections open.
    pub(super) fn stop(&self) {
        self.flows.send_replace(false);
    }

    pub(super) fn go_on(&self) {
        self.flows.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut flows: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        if flows.wait_for(|flows| *flows).await.is_err() {
            return;
        }
        let count = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        // What was read while it stopped waits, too.
        if flows.wait_for(|flows| *flows).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
