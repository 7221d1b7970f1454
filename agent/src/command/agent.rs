//! `driftlock agent`.

use std::path::PathBuf;

use driftlock_common::exit::Exit;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::AgentArgs;
use crate::config::{self, ConfigError, Origin};
use crate::failure::{Failure, Outcome};
use crate::logging;
use crate::output;
use crate::runtime::{self, Reload, StopReason};
use crate::watch::Files;

/// Runs the verb.
pub fn run(args: AgentArgs) -> Outcome {
    logging::init();
    let origin = Origin::of_process(args.config);
    let config = match config::load(&origin) {
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
        // Before the manifests are read, so that none is replaced unseen.
        let files = Watched::these(config.files(&origin));
        let reloading = tokio::spawn(reload(origin, files, hangup, sender));
        let outcome = runtime::run_reloading(config, shutdown, reloads).await;
        reloading.abort();
        outcome.map_err(Failure::from)
    })?;
    // Watching threads end with the process; nothing waits for them.
    tokio.shutdown_background();
    Ok(Exit::Found(0))
}

/// The files of a configuration, watched if that can be.
struct Watched {
    paths: Vec<PathBuf>,
    files: Option<Files>,
}

impl Watched {
    fn these(paths: Vec<PathBuf>) -> Self {
        let files = Files::watch(paths.iter().cloned())
            .inspect_err(|error| tracing::warn!(%error, "the configuration is read again at SIGHUP only"));
        Self { paths, files: files.ok() }
    }

    async fn changed(&mut self) {
        match &mut self.files {
            Some(files) => files.changed().await,
            None => std::future::pending().await,
        }
    }
}

/// Reads the configuration at every SIGHUP, and when one of its files became another.
async fn reload(origin: Origin, mut watched: Watched, mut hangup: Signal, reloads: mpsc::Sender<Reload>) {
    loop {
        tokio::select! {
            signal = hangup.recv() => if signal.is_none() { return },
            () = watched.changed() => tracing::info!("a file of the configuration changed"),
        }
        loop {
            let from = origin.clone();
            let loaded = tokio::task::spawn_blocking(move || config::load(&from)).await;
            let reload = match loaded {
                Ok(Ok(config)) => Ok(config),
                Ok(Err(error)) => Err(one_line(&error)),
                Err(error) => Err(error.to_string()),
            };
            let paths = reload.as_ref().ok().map(|config| config.files(&origin));
            if reloads.send(reload).await.is_err() {
                return;
            }
            match paths {
                // What changed before it was watched is seen by reading once more.
                Some(paths) if paths != watched.paths => watched = Watched::these(paths),
                _ => break,
            }
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
pub(super) fn load(named: Option<PathBuf>) -> Result<config::Config, Exit> {
    config::load(&Origin::of_process(named)).map_err(refuse)
}
