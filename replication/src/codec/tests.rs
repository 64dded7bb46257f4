//! Every message reads back as it was written, and nothing that comes in can do harm.

mod arbitrary;

use cube_storage::model::{Hlc, Record, Version};
use proptest::prelude::*;

use self::arbitrary::{reply, request};
use super::*;
use crate::cases::cases;
use crate::messages::{Found, ReplyBody, RequestBody};
use crate::trace::TraceContext;

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_request_reads_back_as_it_was_written(request in request()) {
        let bytes = encode(&request).unwrap();
        prop_assert_eq!(decode::<Request>(&bytes), Ok(request));
    }

    #[test]
    fn every_reply_reads_back_as_it_was_written(reply in reply()) {
        let bytes = encode(&reply).unwrap();
        prop_assert_eq!(decode::<Reply>(&bytes), Ok(reply));
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_a_message_and_never_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode::<Request>(&bytes);
        let _ = decode::<Reply>(&bytes);
        // Past the head it goes deeper.
        for kind in [1, 2] {
            bytes.splice(..bytes.len().min(2), [FORMAT, kind]);
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }
    }

    #[test]
    fn a_message_that_lost_or_gained_bytes_is_refused(request in request(), cut in any::<prop::sample::Index>()) {
        let bytes = encode(&request).unwrap();
        let cut = cut.index(bytes.len());
        prop_assert!(decode::<Request>(&bytes[..cut]).is_err(), "{} of {} bytes", cut, bytes.len());
        let longer = [bytes.as_slice(), &[0]].concat();
        let is_garbled = matches!(decode::<Request>(&longer), Err(CodecError::Garbled { .. }));
        prop_assert!(is_garbled);
    }

    #[test]
    fn a_message_with_a_flipped_bit_never_panics(reply in reply(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encode(&reply).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = decode::<Reply>(&bytes);
    }
}

#[test]
fn what_is_not_meant_for_this_build_is_told_by_its_head() {
    assert_eq!(decode::<Request>(&[]), Err(CodecError::Short { bytes: 0 }));
    assert_eq!(decode::<Request>(&[FORMAT]), Err(CodecError::Short { bytes: 1 }));
    assert_eq!(decode::<Request>(&[9, 1, 0]), Err(CodecError::Format { found: 9 }));
    assert_eq!(decode::<Request>(&[FORMAT, 2, 0]), Err(CodecError::Kind { expected: 1, found: 2 }));
    let endless = vec![FORMAT; MESSAGE_BYTES_MAX + 1];
    assert_eq!(decode::<Reply>(&endless), Err(CodecError::TooLong { bytes: MESSAGE_BYTES_MAX + 1 }));
}

/// The bytes of a message, with what is put where its extensions stand: the body begins behind them.
fn extended(message: &impl Message, body_len: usize, extensions: &[u8]) -> Vec<u8> {
    let bytes = encode(message).unwrap();
    let (envelope, rest) = bytes.split_at(bytes.len() - body_len - 1);
    assert_eq!(rest[0], 0, "it has no extensions of its own");
    [envelope, extensions, &rest[1..]].concat()
}

/// Two of them: tag 1 with three bytes, tag 300 with none.
const EXTENSIONS: &[u8] = &[2, 1, 3, 0xaa, 0xbb, 0xcc, 0xac, 0x02, 0];

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn what_a_later_release_adds_to_an_envelope_is_passed_over(request in request(), reply in reply()) {
        let request = Request { trace: None, ..request };
        let body_len = postcard::to_allocvec(&request.body).unwrap().len();
        prop_assert_eq!(decode::<Request>(&extended(&request, body_len, EXTENSIONS)), Ok(request));
        let body_len = postcard::to_allocvec(&reply.body).unwrap().len();
        prop_assert_eq!(decode::<Reply>(&extended(&reply, body_len, EXTENSIONS)), Ok(reply));
    }
}

#[test]
fn a_trace_stands_among_the_extensions_where_an_older_release_passes_it_over() {
    let trace = TraceContext { trace: 0x0102, span: 0x0304 };
    let plain = arbitrary::example_request();
    let traced = encode(&Request { trace: Some(trace), ..plain.clone() }).unwrap();
    let body_len = postcard::to_allocvec(&plain.body).unwrap().len();
    let written = [&[1, 1, 24][..], &trace.to_bytes()].concat();
    assert_eq!(traced, extended(&plain, body_len, &written), "one extension, of tag 1");
    // Beside others it is found, and what is none is passed over.
    let beside = [&[2, 0xac, 0x02, 0, 1, 24][..], &trace.to_bytes()].concat();
    let read = decode::<Request>(&extended(&plain, body_len, &beside)).unwrap();
    assert_eq!(read.trace, Some(trace));
    let none = [&[1, 1, 24][..], &[0; 24]].concat();
    assert_eq!(decode::<Request>(&extended(&plain, body_len, &none)), Ok(plain));
}

#[test]
fn extensions_that_promise_more_than_there_is_are_refused_and_take_no_memory() {
    let (empty, endless) = (arbitrary::empty(), [0xff, 0xff, 0xff, 0xff, 0x0f]);
    let body_len = postcard::to_allocvec(&empty.body).unwrap().len();
    for extensions in [endless.to_vec(), [&[1, 1][..], &endless].concat()] {
        let told = decode::<Reply>(&extended(&empty, body_len, &extensions));
        assert!(matches!(told, Err(CodecError::Garbled { .. })), "{told:?}");
    }
}

#[test]
fn a_kind_of_request_that_is_not_known_reads_back_as_such_with_its_envelope() {
    let request = arbitrary::example_request();
    let body_len = postcard::to_allocvec(&request.body).unwrap().len();
    let bytes = encode(&request).unwrap();
    for kind in [RequestBody::KINDS, 1_000] {
        let body = [postcard::to_allocvec(&kind).unwrap().as_slice(), b"of a later release"].concat();
        let newer = [&bytes[..bytes.len() - body_len], &body].concat();
        let read = Request { body: RequestBody::Unknown { kind }, ..request.clone() };
        assert_eq!(decode::<Request>(&newer), Ok(read.clone()));
        assert!(encode(&read).is_err(), "nobody sends what nobody understands");
    }
    assert!(decode::<Request>(&bytes[..bytes.len() - body_len]).is_err(), "it asks nothing");
}

#[test]
fn every_kind_of_request_is_known_by_its_place() {
    let places = arbitrary::one_of_each();
    for (place, body) in places.iter().enumerate() {
        assert_eq!(postcard::to_allocvec(body).unwrap()[0], place as u8);
    }
    assert_eq!(places.len() as u32, RequestBody::KINDS);
}

#[test]
fn a_length_that_promises_more_than_there_is_takes_no_memory() {
    // A reply whose list of outcomes claims to have 2^63 entries.
    let head = encode(&arbitrary::empty()).unwrap();
    let mut bytes = head[..head.len() - 1].to_vec();
    bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert!(matches!(decode::<Reply>(&bytes), Err(CodecError::Garbled { .. })));
}

#[test]
fn limits_are_refused_with_which_nodes_could_not_send_each_other_what_is_within_them() {
    let usual = Limits::default();
    assert_eq!(check_limits(&usual), Ok(()));
    let too_long = |message| move |error| matches!(error, Err(BadLimits::TooLong { message: m, .. }) if m == message);
    let no_batch = |what| move |error| error == Err(BadLimits::NoBatch { what });
    assert!(too_long("a batch")(check_limits(&Limits { batch_bytes_max: MESSAGE_BYTES_MAX, ..usual })));
    assert!(too_long("a batch")(check_limits(&Limits { batch_rows_max: usize::MAX, ..usual })));
    assert!(too_long("a page")(check_limits(&Limits { page_rows_max: 1_000_000, ..usual })));
    assert!(too_long("an answer to a read")(check_limits(&Limits { page_bytes_max: MESSAGE_BYTES_MAX, ..usual })));
    assert!(no_batch("a row")(check_limits(&Limits { value_bytes_max: 32 << 20, ..usual })));
    assert!(no_batch("a page")(check_limits(&Limits { page_bytes_max: 32 << 20, ..usual })));
    assert!(no_batch("a page")(check_limits(&Limits { page_rows_max: 10_001, ..usual })));
}

#[test]
fn what_stands_around_a_row_is_less_than_what_is_reckoned_for_it() {
    let empty =
        encode(&Request { body: RequestBody::Write(arbitrary::rows(0)), ..arbitrary::example_request() }).unwrap();
    let many =
        encode(&Request { body: RequestBody::Write(arbitrary::rows(1_000)), ..arbitrary::example_request() }).unwrap();
    assert!(many.len() - empty.len() <= 1_000 * ROW_OVERHEAD_BYTES);
    let reply =
        |rows| Reply { body: Ok(ReplyBody::Rows(vec![Ok(arbitrary::longest_found()); rows])), ..arbitrary::empty() };
    let (empty, many) = (encode(&reply(0)).unwrap(), encode(&reply(1_000)).unwrap());
    assert!(many.len() - empty.len() <= 1_000 * ROW_OVERHEAD_BYTES);
}

#[test]
fn a_reply_that_is_too_long_becomes_a_refusal_that_says_so() {
    let record = Record::value(Version::ZERO, vec![0; MESSAGE_BYTES_MAX]);
    let found = Found { header: None, record: Some(record), floor: Hlc(0) };
    let reply = Reply { body: Ok(ReplyBody::Rows(vec![Ok(found)])), ..arbitrary::empty() };
    assert!(matches!(encode(&reply), Err(CodecError::TooLong { .. })));
    let told = decode::<Reply>(&encode_reply(reply).unwrap()).unwrap();
    assert!(matches!(told.body, Err(Refusal::Invalid(detail)) if detail.contains("longer than the limit")));
}

/// Written down once: if this test fails, nodes of two releases no longer understand each other, and `FORMAT` or
/// `PROTOCOL` has to say so.
#[test]
fn the_bytes_of_format_1_stay_as_they_are() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let request = arbitrary::example_request();
    assert_eq!(hex(&encode(&request).unwrap()), include_str!("tests/request.hex").trim());
    let reply = arbitrary::example_reply();
    assert_eq!(hex(&encode(&reply).unwrap()), include_str!("tests/reply.hex").trim());
}
