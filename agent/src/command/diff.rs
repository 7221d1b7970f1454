//! `driftlock diff`.

use crate::cli::DiffArgs;
use crate::failure::Outcome;

/// Runs the verb.
pub fn run(_args: DiffArgs) -> Outcome {
    todo!()
}
