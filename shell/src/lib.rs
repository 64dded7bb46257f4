//! `cube`, the shell of Cube KV: interactive for operators, scriptable for programs.
//!
//! It talks to a cluster through `cube-client` alone. A statement is read (`statement`), done (`run`) with what lasts
//! between statements (`session`), and its outcome is shown in one of three forms (`render`). Who types statements
//! (`interactive`) or has them in a file (`script`) makes no other difference.

mod app;
mod args;
#[cfg(test)]
#[path = "../../storage/tests/common/cases.rs"]
mod cases;
mod clock;
mod error;
mod interactive;
mod outcome;
mod render;
mod run;
mod script;
mod session;
pub mod statement;
mod top;
mod transfer;

pub use app::main;
