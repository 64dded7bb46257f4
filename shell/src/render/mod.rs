//! Output: one model (`outcome`), three forms. People get lines and tables, with colours and cut to width only on a
//! terminal; programs get JSON or CSV, which lose nothing of any bytes.

mod csv;
mod json;
mod table;
#[cfg(test)]
mod tests;
mod words;

use crate::error::ShellError;
use crate::outcome::Outcome;

pub(crate) use json::object;
pub(crate) use words::{moment, paint};

/// How results are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// For people. `width` is that of the terminal, if there is one; `colour` whether it may be coloured.
    People {
        /// Letters in a line of the terminal.
        width: Option<u16>,
        /// Whether to colour.
        colour: bool,
    },
    /// One compact document for each statement, one on each line.
    Json,
    /// A header and rows.
    Csv,
}

impl Form {
    /// A result, with the end of its last line.
    pub(crate) fn outcome(self, outcome: &Outcome) -> String {
        match self {
            Self::People { width, colour } => table::outcome(outcome, width, colour),
            Self::Json => json::outcome(outcome) + "\n",
            Self::Csv => csv::outcome(outcome),
        }
    }

    /// What standard output gets of a failure: JSON has a document for it, and people who asked for it are told what was
    /// done.
    pub(crate) fn failure(self, statement: &str, error: &ShellError) -> Option<String> {
        match self {
            Self::Json => Some(json::failure(statement, error) + "\n"),
            Self::People { width, colour } => Some(table::account(&error.account()?, width, colour)),
            Self::Csv => None,
        }
    }
}
