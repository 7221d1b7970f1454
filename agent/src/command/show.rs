//! `driftlock show`.

use crate::cli::ShowArgs;
use crate::failure::Outcome;

/// Runs the verb.
pub fn run(_args: ShowArgs) -> Outcome {
    todo!()
}
