//! `cubed`, one node of Cube KV: the command line over the library `cube_server`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
