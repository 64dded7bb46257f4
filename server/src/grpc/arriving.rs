//! The bytes of a call on their way in: each message bounded in size and time, and its memory counted from the moment
//! that its length is known.
//!
//! On the wire five bytes stand before each message: a flag, and the length of what follows. Invariants: what is no such
//! frame, or longer than the configured limits let a request be, is refused before it is taken; nobody holds a call by
//! sending a message slowly; and a node that has as much to do as it may takes nothing large on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use crate::edge::{Arrival, Code, Details, Edge, EdgeError};

/// A flag and a length stand before each message, together of so many bytes.
const HEAD_BYTES: u8 = 5;

/// A message of a stream up to this length is taken also where there is no room: to refuse it would end the stream, and of
/// all that is under way there nobody would know what came of it. What it asks for is refused request by request.
const STREAMED_BYTES: usize = 1 << 20;

/// What messages of a call may be.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// The longest one.
    pub(super) bytes_max: usize,
    /// Within this a message must be here, from the first wait for it.
    pub(super) within: Duration,
    /// Whether the call is of one message, and over with it.
    pub(super) is_one: bool,
}

/// The body of a call.
pub(super) struct Arriving {
    body: Incoming,
    edge: Arc<Edge>,
    bounds: Bounds,
    head: Head,
    /// Of the message that is coming.
    bytes_left: usize,
    is_any_here: bool,
    held: Option<Arrival>,
    /// Made only where there is something to wait for: most messages are here at once.
    until: Option<Pin<Box<Sleep>>>,
    is_refused: bool,
}

impl Arriving {
    pub(super) fn new(body: Incoming, edge: Arc<Edge>, bounds: Bounds) -> Self {
        Self {
            body,
            edge,
            bounds,
            head: Head::default(),
            bytes_left: 0,
            is_any_here: false,
            held: None,
            until: None,
            is_refused: false,
        }
    }

    /// Looks at bytes as they pass.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), EdgeError> {
        while !bytes.is_empty() {
            if self.bytes_left > 0 {
                let taken = self.bytes_left.min(bytes.len());
                bytes.advance(taken);
                self.bytes_left -= taken;
                self.end_message();
                continue;
            }
            if let Some((flag, length)) = self.head.take(bytes.get_u8()) {
                self.bytes_left = self.begin_message(flag, length, bytes.len())?;
                self.end_message();
            }
        }
        Ok(())
    }

    fn begin_message(&mut self, flag: u8, length: u32, here: usize) -> Result<usize, EdgeError> {
        if flag != 0 {
            let reason =
                if flag == 1 { "it is compressed, and no encoding is said" } else { "its first byte is no flag" };
            return Err(malformed(reason));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.bounds.bytes_max {
            return Err(too_large(length, self.bounds.bytes_max));
        }
        if length > here {
            self.held = Some(match self.bounds.is_one || length > STREAMED_BYTES {
                true => self.edge.arriving(length)?,
                false => self.edge.arriving_anyway(length),
            });
        }
        Ok(length)
    }

    fn end_message(&mut self) {
        if self.bytes_left > 0 {
            return;
        }
        self.is_any_here = true;
        // The one message of a call is decoded when the call is here to its end.
        if !self.bounds.is_one {
            self.held = None;
            self.until = None;
        }
    }

    /// Whether something has to come: between the messages of a stream a client may be silent.
    fn is_awaited(&self) -> bool {
        self.bounds.is_one || self.bytes_left > 0 || self.head.is_begun()
    }

    fn end(&self) -> Result<(), EdgeError> {
        if self.bytes_left > 0 || self.head.is_begun() {
            return Err(malformed("it broke off"));
        }
        if self.bounds.is_one && !self.is_any_here { Err(malformed("there is none")) } else { Ok(()) }
    }

    fn is_too_slow(&mut self, context: &mut Context<'_>) -> bool {
        let within = self.bounds.within;
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(within)));
        until.as_mut().poll(context).is_ready()
    }

    fn refuse(&mut self, error: EdgeError) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.is_refused = true;
        self.held = None;
        Poll::Ready(Some(Err(error.into())))
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.is_refused {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref().map_or(Ok(()), |bytes| this.follow(bytes)) {
                Ok(()) => Poll::Ready(Some(Ok(frame))),
                Err(error) => this.refuse(error),
            },
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(Box::new(error))))),
            Poll::Ready(None) => match this.end() {
                Ok(()) => Poll::Ready(None),
                Err(error) => this.refuse(error),
            },
            Poll::Pending if this.is_awaited() && this.is_too_slow(context) => {
                let message = format!("the message was not complete after {} ms", this.bounds.within.as_millis());
                this.refuse(EdgeError::new(Code::BodyTooSlow, message))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The bytes before a message, as far as they are here.
#[derive(Default)]
struct Head {
    bytes: u8,
    flag: u8,
    length: u32,
}

impl Head {
    /// The flag and the length, with the last byte.
    fn take(&mut self, byte: u8) -> Option<(u8, u32)> {
        match self.bytes {
            0 => self.flag = byte,
            _ => self.length = self.length << u8::BITS | u32::from(byte),
        }
        self.bytes += 1;
        (self.bytes == HEAD_BYTES).then(|| {
            let Self { flag, length, .. } = std::mem::take(self);
            (flag, length)
        })
    }

    fn is_begun(&self) -> bool {
        self.bytes > 0
    }
}

/// What a client is told whose message is none.
pub(super) fn malformed(reason: &str) -> EdgeError {
    EdgeError::new(Code::MalformedMessage, format!("the message cannot be read: {reason}"))
}

fn too_large(bytes: usize, bytes_max: usize) -> EdgeError {
    let message = format!("the message is of {bytes} bytes, and {bytes_max} are the most by the configured limits");
    let details = Details { limit: u64::try_from(bytes_max).ok(), ..Details::default() };
    EdgeError::with(Code::MessageTooLarge, message, details)
}
