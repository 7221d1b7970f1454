//! `driftlock agent`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use driftlock_common::digest::OciDigest;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cli::AgentArgs;
use crate::config::{self, Config, ConfigError, Origin};
use crate::failure::{Failure, Outcome};
use crate::logging;
use crate::output;
use crate::runtime::binary::{self, digest};
use crate::runtime::{self, News, StopReason};
use crate::watch::Files;

/// Files that are named one by one when they were replaced; the others are counted.
const MAX_NAMED: usize = 8;

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
    let refused = tokio.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let hangup = signal(SignalKind::hangup()).map_err(signals)?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => StopReason::Terminate,
                _ = interrupt.recv() => StopReason::Interrupt,
            }
        };
        let (sender, news) = mpsc::channel(1);
        let watched = Watched::these(&config, &origin).await;
        // What changed before it was watched is seen by reading once more.
        let config = match config::load(&origin) {
            Ok(config) => config,
            Err(error) => return Ok(Err(refuse(error))),
        };
        let telling =
            [tokio::spawn(reload(origin, watched, hangup, sender.clone())), tokio::spawn(watch_binary(sender))];
        let outcome = runtime::run_with_news(config, shutdown, news).await;
        telling.iter().for_each(JoinHandle::abort);
        outcome.map(Ok).map_err(Failure::from)
    })?;
    // Watching threads end with the process; nothing waits for them.
    tokio.shutdown_background();
    Ok(refused.err().unwrap_or(Exit::Found(0)))
}

/// The files that the agent is told by, watched if that can be.
struct Watched {
    paths: Vec<PathBuf>,
    /// What nobody is to learn the digest of.
    secret: Option<PathBuf>,
    /// What they held when last looked at; `None` for what is no file, or not to be read.
    held: BTreeMap<PathBuf, Option<OciDigest>>,
    files: Option<Files>,
}

impl Watched {
    async fn these(config: &Config, origin: &Origin) -> Self {
        let paths = config.files(origin);
        let files = Files::watch(paths.iter().cloned())
            .inspect_err(|error| tracing::warn!(%error, "the configuration is read again at SIGHUP only"));
        let held = digests(paths.clone()).await;
        Self { held, paths, secret: config.report.token_file.clone(), files: files.ok() }
    }

    async fn changed(&mut self) {
        match &mut self.files {
            Some(files) => drop(files.changed().await),
            None => std::future::pending().await,
        }
    }

    /// Which files hold something else by now, and from what to what, in one line; `None` if they all are as they were.
    async fn replaced(&mut self) -> Option<String> {
        let before = std::mem::replace(&mut self.held, digests(self.paths.clone()).await);
        self.differs_from(&before)
    }

    fn differs_from(&self, before: &BTreeMap<PathBuf, Option<OciDigest>>) -> Option<String> {
        let paths: BTreeSet<&PathBuf> = before.keys().chain(self.held.keys()).collect();
        let held = |of: &BTreeMap<PathBuf, Option<OciDigest>>, path| of.get(path).copied().flatten();
        let lines = paths.into_iter().filter_map(|path| {
            let (old, new) = (held(before, path), held(&self.held, path));
            let shown = Escaped(path.as_os_str().as_bytes());
            let word = |digest: Option<OciDigest>| digest.map_or_else(|| "nothing".to_owned(), |one| one.to_string());
            match self.secret.as_ref() == Some(path) {
                _ if old == new => None,
                true => Some(format!("{shown}: another content")),
                false => Some(format!("{shown}: {} became {}", word(old), word(new))),
            }
        });
        let lines: Vec<String> = lines.collect();
        let more = lines.len().saturating_sub(MAX_NAMED);
        let more = (more > 0).then(|| format!("and {more} more"));
        let named = lines.into_iter().take(MAX_NAMED).chain(more).collect::<Vec<_>>().join("; ");
        (!named.is_empty()).then_some(named)
    }
}

/// What the files hold; manifests are large.
async fn digests(paths: Vec<PathBuf>) -> BTreeMap<PathBuf, Option<OciDigest>> {
    let read = move || {
        let digest = |path: &PathBuf| Some(path).filter(|path| path.is_file()).and_then(|path| digest(path).ok());
        paths.into_iter().map(|path| (path.clone(), digest(&path))).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Reads the configuration at every SIGHUP, and when one of its files became another.
async fn reload(origin: Origin, mut watched: Watched, mut hangup: Signal, news: mpsc::Sender<News>) {
    loop {
        tokio::select! {
            signal = hangup.recv() => if signal.is_none() { return },
            () = watched.changed() => tracing::info!("a file of the configuration changed"),
        }
        let mut replaced = watched.replaced().await;
        loop {
            if let Some(detail) = replaced.take()
                && news.send(News::Replaced(detail)).await.is_err()
            {
                return;
            }
            let from = origin.clone();
            let loaded = tokio::task::spawn_blocking(move || config::load(&from)).await;
            let reload = match loaded {
                Ok(Ok(config)) => Ok(config),
                Ok(Err(error)) => Err(one_line(&error)),
                Err(error) => Err(error.to_string()),
            };
            let others = reload.as_ref().ok().filter(|config| config.files(&origin) != watched.paths).cloned();
            if news.send(News::Reload(reload)).await.is_err() {
                return;
            }
            // What changed before it was watched is seen by reading once more.
            let Some(config) = others else { break };
            let before = std::mem::replace(&mut watched, Watched::these(&config, &origin).await);
            replaced = watched.differs_from(&before.held);
        }
    }
}

/// Says when another binary is where this one was started from, and when it is this one again.
async fn watch_binary(news: mpsc::Sender<News>) {
    let Some(path) = binary::path() else { return };
    let Ok(mut files) = Files::watch([path.clone()]) else {
        tracing::warn!("nobody says when the binary is replaced");
        return;
    };
    loop {
        let there = path.clone();
        let Ok(replaced) = tokio::task::spawn_blocking(move || binary::replaced(&there)).await else { return };
        if news.send(News::Binary(replaced)).await.is_err() {
            return;
        }
        drop(files.changed().await);
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
