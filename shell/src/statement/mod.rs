//! Statements: from text to what is asked, and back. Pure: nothing here knows a cluster or a terminal.
//!
//! Invariant: no input makes it panic, and what `Display` prints of a command is read as the same command.

mod ast;
pub mod commands;
mod cursor;
#[cfg(test)]
mod fuzz;
mod lexer;
mod literal;
mod parser;
mod suggest;
mod syntax;
mod terms;
#[cfg(test)]
mod tests;

pub use ast::{Command, Scan, TableName, Terms};
pub(crate) use ast::{keyspace_options, table_options};
pub(crate) use literal::page_token;
pub use literal::{bare_or_quoted, harmless, quote};
pub use parser::{Statement, Statements, is_unfinished};
pub use suggest::nearest;
pub use syntax::{Span, SyntaxError, line_of};
pub(crate) use terms::parse_duration;
