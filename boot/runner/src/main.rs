//! The host tool `ferry`; see the library of the same name.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ferry::cli::main(std::env::args_os())
}
