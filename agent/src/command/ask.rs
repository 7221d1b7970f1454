//! Owns what the verbs have in common that ask a running agent: which one, and how. Must not own what is asked.

use std::future::Future;

use driftlock_common::exit::Exit;

use super::agent;
use crate::cli::AskArgs;
use crate::config::{self, Asked, Origin, Socket, State};
use crate::control::{AskError, Client, find};
use crate::failure::{Failure, Outcome};

/// Asks the agent that the arguments name, and ends as `ask` does.
pub(super) fn with<F: Future<Output = Outcome>>(args: AskArgs, ask: impl FnOnce(Client) -> F) -> Outcome {
    let path = match (args.socket, args.config) {
        (Some(path), _) => path,
        (None, named) => {
            let asked = match asked(&Origin::of_process(named.clone()), named.is_some()) {
                Ok(asked) => asked,
                Err(exit) => return Ok(exit),
            };
            find(&asked).map_err(AskError::from)?
        }
    };
    let client = Client::new(&path)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    tokio.map_err(|error| Failure::new(Exit::Io, error))?.block_on(ask(client))
}

/// Without a file that anybody named there may be none: then everything is as it is unless set.
fn asked(origin: &Origin, named: bool) -> Result<Asked, Exit> {
    match origin {
        Origin::File(path) if !named && !path.exists() => {
            let state = State::Directory(config::DEFAULT_STATE_DIR.into());
            Ok(Asked { state, socket: Socket::Auto })
        }
        origin => config::asked(origin).map_err(agent::refuse),
    }
}
