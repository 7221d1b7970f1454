//! `driftlock policy simulate`: what another policy would have said of what was found.

mod report;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::anyhow;
use driftlock_common::exit::Exit;
use driftlock_common::policy::Severity;
use driftlock_common::policy::simulate::{Found, Simulation};

use super::{load, shown};
use crate::cli::{AnswerFormatArg, PolicySimulateArgs};
use crate::failure::{Failure, Outcome};
use crate::history::{self, Collector, Each, Gone};
use report::Report;

/// How much of a history is read at once, in bytes.
const BUFFER: usize = 256 * 1024;

pub(super) fn run(args: &PolicySimulateArgs) -> Outcome {
    let after = load(&args.policy)?;
    let before = args.against.as_deref().map(load).transpose()?;
    let mut simulation = Simulation::new(before.as_ref(), &after);
    let gone = read(args, &mut |found: Found<'_>| simulation.replay(found))?;
    let fails = args.fail_on.is_some_and(|least| {
        let silent = Severity::ALL.into_iter().filter(|severity| *severity >= least.0);
        silent.map(|severity| simulation.silent().count_of(severity)).sum::<u64>() > 0
    });
    let report = Report { before: before.as_ref(), after: &after, simulation: &simulation, gone: &gone, fails };
    match args.format {
        AnswerFormatArg::Text => report.text()?,
        AnswerFormatArg::Json => report.json()?,
    }
    if gone.unreadable > 0 {
        let count = gone.unreadable;
        let what = anyhow!("{count} of what was found could not be read: what it would say is not known");
        return Err(Failure::new(Exit::Malformed, what));
    }
    Ok(Exit::Found(u8::from(fails)))
}

fn read(args: &PolicySimulateArgs, each: &mut Each<'_>) -> Result<Gone, Failure> {
    if let Some(endpoint) = args.server.clone() {
        let collector = Collector { endpoint, token_file: args.token_file.clone(), ca_file: args.ca_file.clone() };
        return Ok(collector.replay(each)?);
    }
    // One of both is required.
    let path = args.history.as_deref().unwrap_or_else(|| Path::new("-"));
    let stdin = path == Path::new("-");
    let name = if stdin { "stdin".to_owned() } else { shown(path) };
    let input = |error: io::Error| Failure::input(&name, error);
    let mut source: Box<dyn BufRead> = if stdin {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(BUFFER, File::open(path).map_err(input)?))
    };
    history::replay(&mut *source, each).map_err(input)
}
