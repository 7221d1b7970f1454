//! `driftlock check-config`.

use crate::cli::CheckConfigArgs;
use crate::failure::Outcome;

/// Runs the verb.
pub fn run(_args: CheckConfigArgs) -> Outcome {
    todo!()
}
