//! The progress bar: on a terminal, for people, on standard error.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use crate::render::Form;

/// A bar over so many bytes; hidden where nobody watches. Without a length it only counts.
pub(super) fn bar(length: Option<u64>, form: Form) -> ProgressBar {
    if !matches!(form, Form::People { .. }) || !io::stderr().is_terminal() {
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
