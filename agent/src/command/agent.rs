//! `driftlock agent`.

use crate::cli::AgentArgs;
use crate::failure::Outcome;

/// Runs the verb.
pub fn run(_args: AgentArgs) -> Outcome {
    todo!()
}
