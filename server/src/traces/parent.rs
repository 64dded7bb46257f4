//! The header `traceparent`, by which a client says that a request is part of a trace (W3C Trace Context).

use cube_replication::trace::TraceContext;

/// The name of the header, over HTTP and gRPC alike.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`: version, trace, span, flags.
const LEN: usize = 55;
/// The lowest of the flags: the client has its own spans recorded.
const SAMPLED: u8 = 1;

/// The client's span, if it is one and recorded. Whatever else stands there is as if there were nothing.
pub(crate) fn parent_of(header: &str) -> Option<TraceContext> {
    let (version, rest) = (header.get(..2)?, header.get(LEN..)?);
    // Later versions may go on behind the flags.
    let is_one = match version {
        "00" => rest.is_empty(),
        "ff" => false,
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    if !is_one {
        return None;
    }
    let mut parts = header.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|digit| digit.is_ascii_digit() || matches!(digit, b'a'..=b'f'))
    };
    if !is_hex(version, 2) || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    let is_sampled = u8::from_str_radix(flags, 16).ok()? & SAMPLED == SAMPLED;
    (is_sampled && trace != 0 && span != 0).then_some(TraceContext { trace, span })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const MEANT: TraceContext =
        TraceContext { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad_6b71_6920_3331 };

    #[test]
    fn a_recorded_parent_is_taken_and_everything_else_is_none() {
        assert_eq!(parent_of(GIVEN), Some(MEANT));
        assert_eq!(parent_of(&GIVEN.replace("-01", "-03")), Some(MEANT), "other flags are passed over");
        assert_eq!(parent_of(&format!("{}-later", GIVEN.replacen("00", "01", 1))), Some(MEANT));
        for wrong in [
            "",
            "00",
            &GIVEN.replace("-01", "-00"),
            &GIVEN.to_uppercase(),
            &GIVEN.replacen("00", "ff", 1),
            &format!("{GIVEN}-more"),
            &GIVEN.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GIVEN.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GIVEN.replace("b7ad", "b7ag"),
            &GIVEN.replace("b7ad", "+7ad"),
        ] {
            assert_eq!(parent_of(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn no_header_is_a_panic(text in "\\PC{0,80}", at in 0usize..55, letter in any::<char>()) {
            let _any = parent_of(&text);
            let mutated: String = GIVEN.chars().enumerate().map(|(place, was)| if place == at { letter } else { was }).collect();
            let _any = parent_of(&mutated);
        }
    }
}
