//! The program `wardkey`. See [`wardkey::cli`].

use std::process::ExitCode;

/// Of the program and not of the library: who embeds that has chosen one. A request
/// runs 5 % fewer instructions by it than by that of glibc, which is slow where one
/// thread frees what another has taken, as with entries of the request log.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    wardkey::cli::main()
}
