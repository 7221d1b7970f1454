//! The binary: parses, dispatches, exits.

use std::process::ExitCode;

use clap::Parser as _;
use driftlock_agent::cli::Cli;
use driftlock_agent::{command, sys};
use driftlock_common::exit::Exit;

#[global_allocator]
static MEMORY: sys::Memory = sys::Memory;

fn main() -> ExitCode {
    command::exit_70_on_panic();
    sys::Memory::give_back();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own code for usage errors is 2, which means `removed` here.
            let code = if error.use_stderr() { Exit::Usage.code() } else { 0 };
            // Nothing can be said on a closed stream.
            let _closed = error.print();
            return ExitCode::from(code);
        }
    };
    ExitCode::from(command::run(cli).code())
}
