//! A storm over a tree that a test watches, as a program of its own. Owns its command line; must not own what happens.

use std::process::ExitCode;

use clap::Parser as _;
use driftlock_tests::storm::{Order, run_order};

fn main() -> ExitCode {
    match run_order(&Order::parse()) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
