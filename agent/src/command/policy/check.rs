//! `driftlock policy check`: whether a policy can be used, and what a reviewer would miss.

use std::fmt::Write as _;

use driftlock_common::exit::Exit;

use super::{answer, load, shown};
use crate::baseline::{Accept, Baseline};
use crate::cli::PolicyCheckArgs;
use crate::failure::Outcome;

pub(super) fn run(args: &PolicyCheckArgs) -> Outcome {
    let policy = load(&args.file)?;
    let baseline = args.manifest.as_ref().map(|path| Baseline::load(path, &Accept::Unsigned)).transpose()?;
    let warnings = policy.check(baseline.as_ref().map(|baseline| &baseline.manifest().tree));
    let mut text = String::new();
    let file = shown(&args.file);
    for warning in &warnings {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{file}:{warning}");
    }
    let tolerating = policy.rules().iter().filter(|rule| rule.tolerates()).count();
    let (rules, found) = (policy.rules().len(), warnings.len());
    let name = policy.name();
    let _infallible = writeln!(
        text,
        "policy {name}, {}: {rules} rules, {tolerating} of them tolerate; {found} warnings",
        policy.digest()
    );
    answer(&text)?;
    Ok(Exit::Found(u8::from(args.strict && !warnings.is_empty())))
}
