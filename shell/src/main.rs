//! `cube`, the shell of Cube KV: interactive for operators, scriptable for programs.
//!
//! It talks to a cluster through `cube-client` alone; whatever it can do, a program can do with the same crate.
//! For now it has nothing but `--help` and `--version`; anything else is an error.

use std::process::ExitCode;

use clap::Parser;

/// What the command line may say.
#[derive(Parser)]
#[command(name = "cube", version, about = "The shell of Cube KV")]
struct Arguments {}

/// The exit code of a wrong call, the same that clap uses for a command line it cannot read.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    eprintln!("error: the shell has no commands yet: use the REST API (docs/rest-api.md)");
    ExitCode::from(EXIT_USAGE)
}
