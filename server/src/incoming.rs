//! The connections of a port that speaks HTTP/2, no more of them than there are places.
//!
//! HTTP/2 asks silent clients for a sign of life once it has begun; until then this file does: whoever does not begin
//! in time is hung up on. Whoever comes past the places is told so the way HTTP/2 does, by a GOAWAY with the reason.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep, timeout};
use tonic::transport::server::Connected;

use crate::places::{Places, Seat};

/// What every HTTP/2 client begins with has this length.
const PREFACE_BYTES: usize = 24;
/// After an error that concerns all connections, such as no file being left: others may close meanwhile.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long somebody who is refused may take to hear it.
const REFUSE_WITHIN: Duration = Duration::from_secs(1);
/// The server's settings, none, and the end of the connection: no stream was begun, code 11 (ENHANCE_YOUR_CALM).
const GO_AWAY: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x28\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0bno place is left for connections";

/// A connection that has a place.
pub(crate) struct Placed {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    beginning: Option<Beginning>,
}

/// What is awaited of a client before HTTP/2 takes care of it.
struct Beginning {
    bytes_left: usize,
    until: Pin<Box<Sleep>>,
}

/// All connections that have a place, as they come. What a client begins with must be here within a time.
pub(crate) fn incoming(
    listener: TcpListener,
    places: Places,
    begin_within: Duration,
) -> impl Stream<Item = io::Result<Placed>> {
    futures::stream::unfold((listener, places), move |(listener, places)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection cannot be taken");
                    sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            };
            match places.seat() {
                Seat::Taken(place) => return Some((Ok(Placed::new(stream, place, begin_within)), (listener, places))),
                Seat::Refused(turn) => drop(tokio::spawn(refuse(stream, turn))),
                Seat::Ignored => drop(stream),
            }
        }
    })
}

async fn refuse(mut stream: TcpStream, _turn: OwnedSemaphorePermit) {
    let told = async {
        stream.write_all(GO_AWAY).await?;
        stream.shutdown().await?;
        // With bytes unread the system would reset the connection, and the client might not see the reason.
        let mut rest = [0; 4 << 10];
        while stream.read(&mut rest).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // Whoever does not listen is hung up on.
    let _unheard = timeout(REFUSE_WITHIN, told).await;
}

impl Placed {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, begin_within: Duration) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection cannot be told to send at once");
        }
        let beginning = Beginning { bytes_left: PREFACE_BYTES, until: Box::pin(sleep(begin_within)) };
        Self { stream, _place: place, beginning: Some(beginning) }
    }
}

impl Connected for Placed {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Placed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        // What is here counts first: a node that stood still itself would else hang up on those who were in time.
        let read = Pin::new(&mut this.stream).poll_read(context, into);
        if read.is_pending()
            && let Some(beginning) = &mut this.beginning
            && beginning.until.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        ready!(read)?;
        let read = into.filled().len().saturating_sub(before);
        this.beginning = this.beginning.take().and_then(|beginning| {
            let bytes_left = beginning.bytes_left.saturating_sub(read);
            (bytes_left > 0).then_some(Beginning { bytes_left, ..beginning })
        });
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Placed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
