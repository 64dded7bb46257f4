//! What is wrong with a statement, and where.

use std::fmt;

/// A part of the source, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
}

/// A statement that cannot be understood: the wrong word, and if there is one the word that was probably meant.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct SyntaxError {
    /// Where the wrong word stands.
    pub span: Span,
    /// What is wrong with it.
    pub message: String,
    /// The nearest right word.
    pub suggestion: Option<String>,
    /// Whether more input could make it right: a quote or a bracket is open.
    pub is_unfinished: bool,
}

impl SyntaxError {
    pub(super) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), suggestion: None, is_unfinished: false }
    }

    pub(super) fn suggest(mut self, nearest: Option<&str>) -> Self {
        self.suggestion = nearest.map(str::to_owned);
        self
    }

    pub(super) fn unfinished(mut self) -> Self {
        self.is_unfinished = true;
        self
    }

    /// The line of the source that is wrong, and marks below the wrong word. `first_line` is the number of the source's
    /// first line.
    pub fn pointer(&self, source: &str, first_line: usize) -> String {
        let start = source.floor_char_boundary(self.span.start);
        let before = source.get(..start).unwrap_or_default();
        let number = line_of(source, start, first_line).to_string();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = source.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let indent = source.get(line_start..start).unwrap_or_default().chars().count();
        let end = source.floor_char_boundary(self.span.end);
        let wrong = source.get(start..end).and_then(|wrong| wrong.lines().next()).unwrap_or_default();
        let marks = wrong.chars().count().max(1);
        // A window of a long line around the wrong word, in letters.
        let from = indent.saturating_sub(MARGIN_LETTERS_MAX);
        let window: String = line.chars().skip(from).take(WINDOW_LETTERS_MAX).map(printable).collect();
        let cut = if from > 0 { "…" } else { "" };
        let gap = " ".repeat(number.len());
        let indent = " ".repeat(indent - from + cut.chars().count());
        let marks = "^".repeat(marks.min(WINDOW_LETTERS_MAX));
        format!("{number} | {cut}{window}\n{gap} | {indent}{marks}")
    }
}

/// Letters shown before the wrong word.
const MARGIN_LETTERS_MAX: usize = 60;
/// Letters shown in all.
const WINDOW_LETTERS_MAX: usize = 100;

fn printable(letter: char) -> char {
    if letter.is_control() { ' ' } else { letter }
}

/// The number of the line in which a byte of the source stands.
pub fn line_of(source: &str, at: usize, first_line: usize) -> usize {
    let before = source.get(..source.floor_char_boundary(at)).unwrap_or_default();
    first_line + before.matches('\n').count()
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}
