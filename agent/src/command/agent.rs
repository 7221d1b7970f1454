//! `driftlock agent`.

use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::AgentArgs;
use crate::config::{self, ConfigError};
use crate::failure::{Failure, Outcome};
use crate::logging;
use crate::output;
use crate::runtime::{self, Reload, StopReason};

/// Runs the verb.
pub fn run(args: AgentArgs) -> Outcome {
    logging::init();
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(error) => return Ok(refuse(error)),
    };
    let signals = |error| Failure::new(Exit::Io, anyhow::Error::new(error).context("signals"));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(signals)?;
    tokio.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let hangup = signal(SignalKind::hangup()).map_err(signals)?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => StopReason::Terminate,
                _ = interrupt.recv() => StopReason::Interrupt,
            }
        };
        let (sender, reloads) = mpsc::channel(1);
        let reloading = tokio::spawn(reload(args.config.clone(), hangup, sender));
        let outcome = runtime::run_reloading(config, shutdown, reloads).await;
        reloading.abort();
        outcome.map_err(Failure::from)
    })?;
    // Watching threads end with the process; nothing waits for them.
    tokio.shutdown_background();
    Ok(Exit::Found(0))
}

/// Reads the configuration at every SIGHUP.
async fn reload(path: PathBuf, mut hangup: Signal, reloads: mpsc::Sender<Reload>) {
    while hangup.recv().await.is_some() {
        let path = path.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let reload = match loaded {
            Ok(Ok(config)) => Ok(config),
            Ok(Err(error)) => Err(one_line(&error)),
            Err(error) => Err(error.to_string()),
        };
        if reloads.send(reload).await.is_err() {
            return;
        }
    }
}

fn one_line(error: &ConfigError) -> String {
    let lines: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// Says everything that is wrong, one line each.
pub(super) fn refuse(error: ConfigError) -> Exit {
    for problem in error.problems {
        output::complain(&Failure::new(Exit::Configuration, problem));
    }
    Exit::Configuration
}

/// For the commands that read a configuration without running it.
pub(super) fn load(path: &Path) -> Result<config::Config, Exit> {
    config::load(path).map_err(refuse)
}
