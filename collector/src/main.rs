//! The binary: parses, dispatches, exits.

use std::process::ExitCode;

use clap::Parser as _;
use driftlock_collector::admin::verb;
use driftlock_collector::cli::{Cli, Verb};
use driftlock_collector::{archive, dev, failure, logging, serve};
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
    // What `dev` finds is told on stdout; the same in the words of two logs is for who asks for it.
    if matches!(cli.verb, Verb::Serve(_)) || std::env::var_os(logging::VARIABLE).is_some() {
        logging::init();
    }
    let outcome = match cli.verb {
        Verb::Serve(args) => serve::run(*args),
        Verb::EnrollToken(args) => verb::enroll_token(args),
        Verb::Token(args) => verb::token(args),
        Verb::Revoke(args) => verb::revoke(args),
        Verb::Ca(args) => verb::ca(args),
        Verb::Backup(args) => archive::backup(&args),
        Verb::Restore(args) => archive::restore(&args),
        Verb::Dev(args) => dev::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.complain();
            ExitCode::from(failure.exit.code())
        }
    }
}
