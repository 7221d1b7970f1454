//! `driftlock status`: what the agent on this host knows of itself.

use driftlock_common::exit::Exit;
use time::OffsetDateTime;

use super::ask;
use crate::cli::{AnswerFormatArg, StatusArgs};
use crate::control::Client;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};

/// Runs the verb.
pub fn run(args: StatusArgs) -> Outcome {
    ask::with(args.ask, async |client: Client| {
        let status = client.status().await?;
        let text = match args.format {
            AnswerFormatArg::Text => output::status(&status, OffsetDateTime::now_utc(), output::colour()),
            AnswerFormatArg::Json => {
                serde_json::to_string(&status).map_err(|error| Failure::new(Exit::Bug, error))? + "\n"
            }
        };
        let mut stdout = Output::stdout();
        stdout.write(text.as_bytes())?;
        stdout.finish()?;
        Ok(Exit::Found(0))
    })
}
