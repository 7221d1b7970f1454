//! `driftlock scan`.

use crate::cli::ScanArgs;
use crate::failure::Outcome;

/// Runs the verb.
pub fn run(_args: ScanArgs) -> Outcome {
    todo!()
}
