//! `driftlock rescan`: makes the agent on this host look at everything now.

use std::fmt::Write as _;

use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;

use super::ask;
use crate::cli::RescanArgs;
use crate::control::Client;
use crate::failure::Outcome;
use crate::output::Output;

/// Runs the verb.
pub fn run(args: RescanArgs) -> Outcome {
    ask::with(args.ask, async |client: Client| {
        let tickets = client.rescan(args.target.as_deref()).await?;
        let mut text = String::new();
        for name in tickets.after.keys() {
            let _infallible = writeln!(text, "{}: everything is looked at", Escaped(name.as_bytes()));
        }
        let mut stdout = Output::stdout();
        stdout.write(text.as_bytes())?;
        stdout.finish()?;
        Ok(Exit::Found(0))
    })
}
