//! The progress bar: on a terminal, for people, on standard error.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use crate::render::Form;

fn is_watched(form: Form) -> bool {
    matches!(form, Form::People { .. }) && io::stderr().is_terminal()
}

/// A bar over so many parts of a table; hidden where nobody watches.
pub(super) fn parts(count: usize, form: Form) -> ProgressBar {
    if !is_watched(form) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX));
    match ProgressStyle::with_template("{bar:20} {pos} of {len} parts, {msg}, {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A bar over so many bytes; hidden where nobody watches. Without a length it only counts.
pub(super) fn bar(length: Option<u64>, form: Form) -> ProgressBar {
    if !is_watched(form) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{bar:20} {percent}% {msg}, {bytes} of {total_bytes}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}, {bytes}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
