//! `driftlock keygen`: a key, in two files.

use std::io::{self, Write as _};

use driftlock_common::exit::Exit;

use crate::cli::KeygenArgs;
use crate::failure::{Failure, Outcome};
use crate::key_file;

/// Runs the verb.
///
/// # Errors
/// If the files are there already, or cannot be written.
pub fn run(args: KeygenArgs) -> Outcome {
    let pair = key_file::make(&args.output, args.scheme.into())?;
    writeln!(io::stdout(), "{}", pair.key.id()).map_err(|error| Failure::output("stdout", error))?;
    Ok(Exit::Found(0))
}
