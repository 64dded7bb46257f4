//! Bytes as people write and read them: `"text\n"`, `"\x00\xff"`, `b64"AP8="`.
//!
//! Invariant: what `quote` prints is one line, harmless to a terminal, and read back as the same bytes.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;

/// Bytes in quotes.
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|letter| escape(letter, &mut text));
        chunk.invalid().iter().for_each(|byte| hex(*byte, &mut text));
    }
    text.push('"');
    text
}

/// Bytes without quotes where they can stand so, as keys and words mostly can.
pub fn bare_or_quoted(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_bare(text) => text.to_owned(),
        _ => quote(bytes),
    }
}

fn is_bare(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(|letter: char| {
            super::lexer::ends_word(letter) || letter == '\\' || letter.is_control() || turns_direction(letter)
        })
        && !text.starts_with("//")
}

fn escape(letter: char, text: &mut String) {
    match letter {
        '"' | '\\' => {
            text.push('\\');
            text.push(letter);
        }
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\0' => text.push_str("\\0"),
        _ if letter.is_ascii_control() => hex(u8::try_from(letter).unwrap_or_default(), text),
        _ if letter.is_control() || turns_direction(letter) => {
            // Writing to a string does not fail.
            write!(text, "\\u{{{:x}}}", u32::from(letter)).unwrap_or_default();
        }
        _ => text.push(letter),
    }
}

/// Letters that reorder what stands around them, and could make a screen say what is not there.
fn turns_direction(letter: char) -> bool {
    matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fn hex(byte: u8, text: &mut String) {
    write!(text, "\\x{byte:02x}").unwrap_or_default();
}

/// Text without what a terminal would obey: for messages that contain what somebody else wrote.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if (letter.is_control() && letter != '\n') || turns_direction(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// What stands behind a backslash: appends its bytes and tells how long it is. Or what is wrong, and how long that is.
pub(super) fn unescape(rest: &str, bytes: &mut Vec<u8>) -> Result<usize, (&'static str, usize)> {
    let Some(letter) = rest.chars().next() else { return Err(("nothing follows the backslash", 0)) };
    let byte = match letter {
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        '0' => 0,
        '\\' => b'\\',
        '"' => b'"',
        '\'' => b'\'',
        'x' => {
            let digits = rest.get(1..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or(("\\x is followed by two hexadecimal digits, as in \\x00", 1))?);
            return Ok(3);
        }
        'u' => {
            let wrong = ("\\u is followed by a letter's number, as in \\u{1f600}", 1);
            let digits = rest.get(1..).and_then(|rest| rest.strip_prefix('{')).and_then(|rest| rest.split_once('}'));
            let (digits, _) = digits.ok_or(wrong)?;
            let letter = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).ok_or(wrong)?;
            bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(3 + digits.len());
        }
        _ => {
            let wrong = "there is no such escape: it is one of \\n \\r \\t \\0 \\\\ \\\" \\' \\xNN \\u{...}";
            return Err((wrong, letter.len_utf8()));
        }
    };
    bytes.push(byte);
    Ok(1)
}

/// Where a page ended, in letters that need no quotes: those of REST.
pub(crate) fn page_token(token: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

pub(super) fn read_page_token(text: &[u8]) -> Option<Bytes> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|token| !token.is_empty()).map(Bytes::from)
}

pub(super) fn base64(text: &[u8]) -> Result<Bytes, String> {
    STANDARD.decode(text).map(Bytes::from).map_err(|error| format!("this is not base64: {error}"))
}
