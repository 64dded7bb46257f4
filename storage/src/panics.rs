//! Work that may panic, on a thread that others wait for.
//!
//! Invariant: a panic ends the work it came from, and not the thread that does the work of all.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `work`; the words that it panicked with, if it did. Whoever calls this says what becomes of what the work left
/// half done.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_panic_are_told_and_what_ends_well_is_given_back() {
        assert_eq!(caught(|| 7), Ok(7));
        assert_eq!(caught(|| -> u8 { panic!("as it is") }), Err("as it is".into()));
        assert_eq!(caught(|| -> u8 { panic!("put {}", "together") }), Err("put together".into()));
        assert_eq!(caught(|| -> u8 { std::panic::panic_any(7) }), Err("without a message".into()));
    }
}
