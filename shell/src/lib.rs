//! `cube`, the shell of Cube KV: interactive for operators, scriptable for programs.
//!
//! It talks to a cluster through `cube-client` alone; whatever it can do, a program can do with the same crate.

#[cfg(test)]
#[path = "../../storage/tests/common/cases.rs"]
mod cases;
pub mod statement;
