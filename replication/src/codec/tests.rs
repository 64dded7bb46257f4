//! Every message reads back as it was written, and nothing that comes in can do harm.

mod arbitrary;

use cube_storage::model::{Hlc, Record, Version};
use proptest::prelude::*;

use self::arbitrary::{reply, request};
use super::*;
use crate::cases::cases;
use crate::messages::{Found, ReplyBody, RequestBody};

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

#[test]
fn a_length_that_promises_more_than_there_is_takes_no_memory() {
    // A reply whose list of outcomes claims to have 2^63 entries.
    let head = encode(&Reply { body: Ok(ReplyBody::Wrote(Vec::new())), ..arbitrary::fenced() }).unwrap();
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
        |rows| Reply { body: Ok(ReplyBody::Rows(vec![Ok(arbitrary::longest_found()); rows])), ..arbitrary::fenced() };
    let (empty, many) = (encode(&reply(0)).unwrap(), encode(&reply(1_000)).unwrap());
    assert!(many.len() - empty.len() <= 1_000 * ROW_OVERHEAD_BYTES);
}

#[test]
fn a_reply_that_is_too_long_becomes_a_refusal_that_says_so() {
    let record = Record::value(Version::ZERO, vec![0; MESSAGE_BYTES_MAX]);
    let found = Found { header: None, record: Some(record), floor: Hlc(0) };
    let reply = Reply { body: Ok(ReplyBody::Rows(vec![Ok(found)])), ..arbitrary::fenced() };
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
