//! The binary: parses, dispatches, exits.

use std::process::ExitCode;

use clap::Parser as _;
use driftlock_collector::cli::{Cli, Verb};
use driftlock_collector::{failure, serve};
use driftlock_common::exit::Exit;

fn main() -> ExitCode {
    failure::exit_70_on_panic();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::Usage.code() } else { 0 };
            // Nothing can be said on a closed stream.
            let _closed = error.print();
            return ExitCode::from(code);
        }
    };
    driftlock_agent::logging::init();
    let outcome = match cli.verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Dev(_) => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.complain();
            ExitCode::from(failure.exit.code())
        }
    }
}
