//! Names of nodes as names of files.
//!
//! Invariant: two names never share a file name, not even on a file system that folds case, and no name leads out of
//! its folder. Lower case letters, digits, `-`, `_` and a dot that is not the first stand for themselves; every other
//! byte is written `%` and two lower case hex digits. A name whose escaped form is too long for a file name is
//! refused: shortening it could make two names one.

use thiserror::Error;

/// The longest escaped name: what file systems allow (255 bytes) less room for the suffixes that are put to it.
pub const ESCAPED_BYTES_MAX: usize = 240;

/// The name cannot be a file name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// A node has a name.
    #[error("the node name is empty")]
    Empty,
    /// The escaped name is too long.
    #[error("the node name {name:?} takes {bytes} bytes as a file name, the limit is {ESCAPED_BYTES_MAX}")]
    TooLong {
        /// The name.
        name: String,
        /// Its length when escaped.
        bytes: usize,
    },
}

/// The file name that stands for `name`.
pub fn escape_name(name: &str) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    let mut out = String::with_capacity(name.len());
    for (place, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(byte)),
            b'.' if place > 0 => out.push('.'),
            other => out.push_str(&format!("%{other:02x}")),
        }
    }
    if out.len() > ESCAPED_BYTES_MAX {
        return Err(NameError::TooLong { name: name.to_owned(), bytes: out.len() });
    }
    Ok(out)
}

/// The name that a file name stands for; `None` for a file name that [`escape_name`] never gives.
pub fn unescape_name(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (escape_name(&name).as_deref() == Ok(escaped)).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn every_name_reads_back_from_its_file_name(name in "\\PC{1,20}") {
            let escaped = escape_name(&name).unwrap();
            prop_assert_eq!(unescape_name(&escaped), Some(name));
            prop_assert!(!escaped.contains('/') && !escaped.starts_with('.'));
            prop_assert_eq!(escaped.to_lowercase(), escaped.clone(), "folding case changes nothing");
        }

        #[test]
        fn no_other_file_name_stands_for_a_name(escaped in "[%a-zA-Z0-9._/:-]{1,12}") {
            if let Some(name) = unescape_name(&escaped) {
                prop_assert_eq!(escape_name(&name).unwrap(), escaped);
            }
        }
    }

    #[test]
    fn names_that_look_alike_never_share_a_file_name() {
        let long = "n".repeat(ESCAPED_BYTES_MAX);
        let names = [
            "user:alice",
            "user_alice",
            "user%3aalice",
            "USER:alice",
            "user/alice",
            "user\\alice",
            "user alice",
            "..",
            ".",
            "...",
            "a/../b",
            "a..b",
            "n",
            "N",
            "n.",
            "n ",
            "\0",
            "%00",
            "%",
            &long,
            &long[1..],
        ];
        let mut seen = BTreeMap::new();
        for name in names {
            let other = seen.insert(escape_name(name).unwrap().to_lowercase(), name);
            assert_eq!(other, None, "{name:?} shares its file name");
        }
    }

    #[test]
    fn empty_and_overlong_names_are_refused() {
        assert_eq!(escape_name(""), Err(NameError::Empty));
        let error = escape_name(&"N".repeat(81)).unwrap_err();
        assert_eq!(error, NameError::TooLong { name: "N".repeat(81), bytes: 243 });
        assert!(error.to_string().contains("243") && error.to_string().contains("240"), "{error}");
    }
}
