//! Reading a JSON body: bounded in size and time, counted among the bytes in flight while it arrives, and refused with
//! what is wrong with it and where.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use cube_storage::model::Limits;
use futures::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::edge::{Arrival, Code, Details, Edge, EdgeError};

/// How much longer keys and values may be as JSON text: what JSON libraries write as `\uXXXX` triples. Base64 needs less.
const JSON_GROWTH: usize = 3;
/// What a batch holds beside keys and values, for each of its rows: the names of fields, a time to live.
const ROW_FIELDS_BYTES: usize = 128;
/// The other fields of a document, and its spaces.
const FIELDS_BYTES: usize = 4 << 10;
/// The whole body must be here after that long: whoever sends it slower holds a connection and sends nothing.
const BODY_TIME: Duration = Duration::from_secs(30);
/// A body as small as what a connection reads ahead is not counted while it arrives.
const SMALL_BYTES: usize = 64 << 10;
/// A body of unknown length is counted in such steps.
const COUNTED_AT_ONCE_BYTES: usize = 1 << 20;
/// More of what a client gave is not told back.
const GIVEN_CHARS_MAX: usize = 64;
/// A body that is too long is read to this much, so that the client sees the answer instead of a broken connection.
const OVERREAD_BYTES_MAX: usize = 64 << 20;

/// Another time for bodies than [`BODY_TIME`], as requests carry it.
#[derive(Clone, Copy)]
pub(super) struct BodyTime(pub(super) Duration);

/// The longest body of a request for one row.
pub(crate) fn body_bytes_max(limits: &Limits) -> usize {
    limits.key_bytes_max.saturating_add(limits.value_bytes_max).saturating_mul(JSON_GROWTH).saturating_add(FIELDS_BYTES)
}

/// The longest body of a request for many rows.
pub(crate) fn batch_body_bytes_max(limits: &Limits) -> usize {
    let rows = limits.batch_bytes_max.saturating_mul(JSON_GROWTH);
    let fields = limits.batch_rows_max.saturating_mul(ROW_FIELDS_BYTES);
    rows.saturating_add(fields).saturating_add(FIELDS_BYTES)
}

/// Reads a document.
pub(crate) async fn read_json<T: DeserializeOwned>(
    edge: &Edge,
    request: Request,
    bytes_max: usize,
) -> Result<T, EdgeError> {
    check_media_type(request.headers())?;
    let (body, _held) = read(edge, request, bytes_max).await?;
    parse(&body)
}

/// Reads a document whose fields all go without saying: then the body may be left out.
pub(crate) async fn read_json_or_default<T: DeserializeOwned + Default>(
    edge: &Edge,
    request: Request,
    bytes_max: usize,
) -> Result<T, EdgeError> {
    let media_type = check_media_type(request.headers());
    let (body, _held) = read(edge, request, bytes_max).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    media_type?;
    parse(&body)
}

/// A page in a browser can send other media types to a node of the reader's own network, but not JSON.
fn check_media_type(headers: &HeaderMap) -> Result<(), EdgeError> {
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let given = String::from_utf8_lossy(encoding.as_bytes()).chars().take(GIVEN_CHARS_MAX).collect();
        let details = Details { given: Some(given), ..Details::default() };
        let message = "the body must be sent as it is, without a Content-Encoding";
        return Err(EdgeError::with(Code::UnsupportedMediaType, message, details));
    }
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json")) {
        return Ok(());
    }
    let message = "the body must be JSON and say so: send the header Content-Type: application/json";
    let details = Details { given: Some(given.chars().take(GIVEN_CHARS_MAX).collect()), ..Details::default() };
    Err(EdgeError::with(Code::UnsupportedMediaType, message, details))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, EdgeError> {
    // A list would be taken for the fields of a document in their order.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => EdgeError::invalid("the body is JSON, but not an object: send {...}"),
            Err(error) => refuse(&error, body),
        });
    }
    serde_json::from_slice(body).map_err(|error| refuse(&error, body))
}

fn refuse(error: &serde_json::Error, body: &[u8]) -> EdgeError {
    match error.classify() {
        Category::Data => EdgeError::invalid(error.to_string()),
        Category::Eof if body.is_empty() => {
            EdgeError::new(Code::MalformedJson, "the body is empty: send a JSON object")
        }
        Category::Syntax | Category::Eof | Category::Io => {
            EdgeError::new(Code::MalformedJson, format!("the body is not valid JSON: {error}"))
        }
    }
}

async fn read(edge: &Edge, request: Request, bytes_max: usize) -> Result<(Bytes, Counted<'_>), EdgeError> {
    let within = request.extensions().get::<BodyTime>().map_or(BODY_TIME, |time| time.0);
    let too_slow = || {
        let message = format!("the body was not complete after {} s", within.as_secs_f32());
        EdgeError::new(Code::BodyTooSlow, message)
    };
    tokio::time::timeout(within, read_all(edge, request, bytes_max)).await.map_err(|_| too_slow())?
}

/// The body, and its bytes among those in flight: from the beginning where its length is said, else as they come.
async fn read_all(edge: &Edge, request: Request, bytes_max: usize) -> Result<(Bytes, Counted<'_>), EdgeError> {
    let too_large = || {
        let message = format!("the body is longer than {bytes_max} bytes, the most by the configured limits");
        let limit = u64::try_from(bytes_max).ok();
        EdgeError::with(Code::BodyTooLarge, message, Details { limit, ..Details::default() })
    };
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let said: usize = said.unwrap_or(0);
    let waits_for_answer = request.headers().contains_key(header::EXPECT);
    let overread_bytes_max = OVERREAD_BYTES_MAX.max(bytes_max);
    if said > overread_bytes_max || (said > bytes_max && waits_for_answer) {
        return Err(too_large());
    }
    let mut counted = Counted { edge, bytes: 0, held: Vec::new() };
    let mut refused = if said > bytes_max { None } else { counted.whole(said).err() };
    if let Some(error) = refused.take_if(|_| waits_for_answer) {
        return Err(error);
    }
    let mut body = BytesMut::with_capacity(if refused.is_none() { said.min(bytes_max) } else { 0 });
    let mut bytes = 0usize;
    let mut chunks = request.into_body().into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| EdgeError::invalid(format!("the body broke off: {error}")))?;
        bytes = bytes.saturating_add(chunk.len());
        if bytes <= bytes_max && refused.is_none() {
            refused = counted.up_to(bytes).err();
            body.extend_from_slice(&chunk);
        } else {
            // What is read on is read for the client to see the answer.
            body = BytesMut::new();
        }
        if bytes > overread_bytes_max {
            break;
        }
    }
    if bytes > bytes_max {
        return Err(too_large());
    }
    refused.map_or_else(|| Ok((body.freeze(), counted)), Err)
}

/// What of a body is counted, for as long as it is kept.
struct Counted<'a> {
    edge: &'a Edge,
    bytes: usize,
    held: Vec<Arrival>,
}

impl Counted<'_> {
    /// A body of this length is about to come.
    fn whole(&mut self, bytes: usize) -> Result<(), EdgeError> {
        if bytes <= SMALL_BYTES { Ok(()) } else { self.hold(bytes) }
    }

    /// So many bytes of it are here.
    fn up_to(&mut self, bytes: usize) -> Result<(), EdgeError> {
        if bytes <= self.bytes.saturating_add(SMALL_BYTES) {
            return Ok(());
        }
        self.hold(bytes.saturating_sub(self.bytes).max(COUNTED_AT_ONCE_BYTES))
    }

    fn hold(&mut self, bytes: usize) -> Result<(), EdgeError> {
        self.held.push(self.edge.arriving(bytes)?);
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }
}
