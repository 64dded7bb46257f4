//! The program `cube`; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cube_shell::main()
}
