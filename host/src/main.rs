//! The program `wardkey`. See [`wardkey::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    wardkey::cli::main()
}
