//! Messages as bytes: what every transport between nodes puts into its frames.
//!
//! ```text
//! format u8 = 1 | kind u8 (1 request, 2 reply) | envelope | extensions | body
//! ```
//!
//! Envelope and body are as postcard writes them: of a request all its fields but the body, of a reply who answers and its
//! clock. **Extensions** are what a later release adds to an envelope: a number of them, and of each its tag, its length
//! and its bytes. Tag 1 of a request is the trace that it is part of. Who does not know a tag passes it over, so nothing may
//! stand there that the receiver must understand;
//! that takes a new kind of request, which who does not know it refuses ([`RequestBody::Unknown`]), or a newer protocol.
//!
//! Whatever comes in, reading ends with a message or a [`CodecError`]: bytes from the network are nobody's promise. The
//! format byte is for a change of the encoding itself; what two releases may say to each other is negotiated inside
//! (`messages.rs`: protocol and features).

mod extensions;

use cube_storage::model::Limits;
use thiserror::Error;

use self::extensions::Extensions;
use crate::messages::{Refusal, Reply, Request, RequestBody};

/// The encoding that this build writes, and the only one it reads.
pub const FORMAT: u8 = 1;

/// The longest message: the largest batch or page that a request may ask for, and room for what stands around it.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

const HEAD_LEN: usize = 2;

/// What messages are begun with: most fit, and a value that does not makes it grow once and not four times.
const TYPICAL_BYTES: usize = 128;

/// More than what stands around a row in a message: lengths, table, epoch, version, checksum, floor.
const ROW_OVERHEAD_BYTES: usize = 96;

/// What is sent between nodes.
pub trait Message: Sized {
    /// What tells it from the other ones.
    const KIND: u8;

    /// Adds the message to the bytes before it.
    fn write(&self, head: Vec<u8>) -> postcard::Result<Vec<u8>>;

    /// Reads a message, and what follows it.
    fn read(bytes: &[u8]) -> postcard::Result<(Self, &[u8])>;
}

impl Message for Request {
    const KIND: u8 = 1;

    fn write(&self, head: Vec<u8>) -> postcard::Result<Vec<u8>> {
        let Self { protocol, features, from, clock, time_left_ms, explain, trace, body } = self;
        let envelope = (protocol, features, from, clock, time_left_ms, explain);
        postcard::to_extend(&(envelope, Extensions { trace: *trace }, body), head)
    }

    fn read(bytes: &[u8]) -> postcard::Result<(Self, &[u8])> {
        let ((envelope, Extensions { trace }), rest) = postcard::take_from_bytes(bytes)?;
        let (protocol, features, from, clock, time_left_ms, explain) = envelope;
        let (body, rest) = match postcard::take_from_bytes::<u32>(rest)? {
            // How it goes on is not known.
            (kind, _) if kind >= RequestBody::KINDS => (RequestBody::Unknown { kind }, &[][..]),
            _ => postcard::take_from_bytes(rest)?,
        };
        Ok((Self { protocol, features, from, clock, time_left_ms, explain, trace, body }, rest))
    }
}

impl Message for Reply {
    const KIND: u8 = 2;

    fn write(&self, head: Vec<u8>) -> postcard::Result<Vec<u8>> {
        let Self { from, clock, body } = self;
        postcard::to_extend(&((from, clock), Extensions::default(), body), head)
    }

    fn read(bytes: &[u8]) -> postcard::Result<(Self, &[u8])> {
        let (((from, clock), Extensions { .. }, body), rest) = postcard::take_from_bytes(bytes)?;
        Ok((Self { from, clock, body }, rest))
    }
}

/// Why bytes are no message, or a message does not become bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Not even a head.
    #[error("{bytes} bytes are too few for a message")]
    Short {
        /// Bytes given.
        bytes: usize,
    },
    /// Written by a release with another encoding.
    #[error("message format {found} is not known to this build (it reads format {FORMAT})")]
    Format {
        /// The format byte.
        found: u8,
    },
    /// A reply where a request was expected, or the other way around.
    #[error("a message of kind {expected} was expected, not of kind {found}")]
    Kind {
        /// The kind that was expected.
        expected: u8,
        /// The kind byte.
        found: u8,
    },
    /// Past [`MESSAGE_BYTES_MAX`].
    #[error("a message of {bytes} bytes is longer than the limit of {MESSAGE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The bytes behind the head are no message of this kind.
    #[error("the message does not read back: {detail}")]
    Garbled {
        /// What stood in the way.
        detail: String,
    },
}

/// Limits with which a request within them would be one that nodes cannot send each other.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadLimits {
    /// A message could be longer than one may be.
    #[error(
        "with these limits {message} could take {bytes} bytes, and a message between nodes holds {MESSAGE_BYTES_MAX}"
    )]
    TooLong {
        /// Which message.
        message: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// What was read together is brought to replicas that lack it together, as a batch.
    #[error("{what} may hold more than a batch, so a replica that lacks all of it could not be brought up to date")]
    NoBatch {
        /// What is read together.
        what: &'static str,
    },
}

/// Whether everything within these limits can be sent from node to node. Whoever takes limits from a configuration asks
/// before it starts.
pub fn check_limits(limits: &Limits) -> Result<(), BadLimits> {
    let row_bytes_max = limits.key_bytes_max.saturating_add(limits.value_bytes_max);
    let around = |rows: usize| rows.saturating_mul(ROW_OVERHEAD_BYTES);
    // Keys of a read are bounded like a batch; a reply holds the records of a page, and a header of every row asked for.
    let page_bytes = limits.page_bytes_max.max(row_bytes_max);
    let messages = [
        ("a batch", limits.batch_bytes_max.saturating_add(around(limits.batch_rows_max))),
        ("an answer to a read", page_bytes.saturating_add(around(limits.batch_rows_max))),
        ("a page", page_bytes.saturating_add(around(limits.page_rows_max))),
    ];
    if let Some((message, bytes)) = messages.into_iter().find(|(_, bytes)| *bytes > MESSAGE_BYTES_MAX) {
        return Err(BadLimits::TooLong { message, bytes });
    }
    let within_batch = [
        ("a row", row_bytes_max <= limits.batch_bytes_max),
        ("a page", limits.page_bytes_max <= limits.batch_bytes_max && limits.page_rows_max <= limits.batch_rows_max),
    ];
    match within_batch.into_iter().find(|(_, fits)| !fits) {
        Some((what, _)) => Err(BadLimits::NoBatch { what }),
        None => Ok(()),
    }
}

impl From<postcard::Error> for CodecError {
    fn from(error: postcard::Error) -> Self {
        Self::Garbled { detail: error.to_string() }
    }
}

/// The bytes of a message.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    let mut head = Vec::with_capacity(TYPICAL_BYTES);
    head.extend([FORMAT, M::KIND]);
    let bytes = message.write(head)?;
    check_len(bytes.len())?;
    Ok(bytes)
}

/// The bytes of a reply; where it cannot be sent, those of a refusal that says why, so that who asked is told.
pub fn encode_reply(reply: Reply) -> Result<Vec<u8>, CodecError> {
    encode(&reply).or_else(|error| {
        let refusal = Refusal::Invalid(format!("its answer could not be sent: {error}"));
        encode(&Reply { body: Err(refusal), ..reply })
    })
}

/// The message that these are the bytes of, all of them.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, CodecError> {
    check_len(bytes.len())?;
    let Some((&[format, kind], body)) = bytes.split_first_chunk::<HEAD_LEN>() else {
        return Err(CodecError::Short { bytes: bytes.len() });
    };
    if format != FORMAT {
        return Err(CodecError::Format { found: format });
    }
    if kind != M::KIND {
        return Err(CodecError::Kind { expected: M::KIND, found: kind });
    }
    match M::read(body)? {
        (message, []) => Ok(message),
        (_, rest) => Err(CodecError::Garbled { detail: format!("{} bytes follow its end", rest.len()) }),
    }
}

fn check_len(bytes: usize) -> Result<(), CodecError> {
    if bytes > MESSAGE_BYTES_MAX { Err(CodecError::TooLong { bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
