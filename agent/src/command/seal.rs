//! `driftlock seal`.

use crate::cli::SealArgs;
use crate::failure::Outcome;

/// Runs the verb.
pub fn run(_args: SealArgs) -> Outcome {
    todo!()
}
