//! Owns `serve`: arguments to a running collector, and its end. Must not own requests.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use driftlock_common::exit::Exit;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::{AppState, app};
use crate::auth::{AllowedHosts, HostTokens, ReadToken, TokenError};
use crate::cli::ServeArgs;
use crate::clock::Timestamp;
use crate::failure::Failure;
use crate::fleet::file::{self, FleetFileError};
use crate::gate::GateLimits;
use crate::store::sqlite::{Limits, SqliteStore};
use crate::store::{Keep, StoreError};
use crate::systemd;

/// How long requests that are under way may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Between two looks for what is no longer kept.
const BETWEEN_LOOKS: Duration = Duration::from_mins(1);
/// Between two steps of forgetting it: batches come first.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// If something is refused at start, with its exit code; later errors are answers.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let tokens = HostTokens::load(&args.tokens)?;
    let read_token = args.read_token_file.as_deref().map(ReadToken::load).transpose()?;
    if !args.listen.ip().is_loopback() && read_token.is_none() {
        let error = anyhow!("--listen {}: beyond loopback reading needs a token: give --read-token-file", args.listen);
        return Err(Failure::new(Exit::Configuration, error));
    }
    let fleet = args.fleet.as_deref().map(file::load).transpose()?.unwrap_or_default();
    if tokens.is_empty() {
        tracing::warn!(file = %args.tokens.display(), "no token: no host can report yet");
    }
    let store = SqliteStore::open(&args.data, Limits::default())?;
    let allowed_hosts = AllowedHosts::new(args.listen.ip(), &args.allow_host);
    let shutdown = CancellationToken::new();
    let limits = GateLimits { rate: args.host_rate, ..GateLimits::default() };
    let state = AppState::new(Arc::new(store), tokens, read_token, allowed_hosts, shutdown.clone(), limits);

    state.replace_fleet(fleet);

    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new(Exit::Io, error))?;
    runtime.block_on(async {
        let listener = bind(args.listen).await?;
        let address = listener.local_addr().map_err(|error| Failure::new(Exit::Io, error))?;
        end_on_signal(&shutdown).map_err(|error| Failure::new(Exit::Io, error))?;
        reload_on_hangup(Arc::clone(&state), args.clone(), &shutdown).map_err(|error| Failure::new(Exit::Io, error))?;
        let keep = Keep { days: args.keep_days, bytes: args.keep_bytes };
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(forget(Arc::clone(&state), keep)));
        // Whoever started it may wait for this line. Nothing can be said on a closed stream.
        let _closed = writeln!(std::io::stderr(), "driftlock-collector: listening on http://{address}");
        systemd::ready(address);
        systemd::keep_watchdog(shutdown);
        serve(listener, state).await.map_err(|error| Failure::new(Exit::Io, error))
    })
}

/// Binds a listener.
///
/// # Errors
/// 77 if not permitted, else 74.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::PermissionDenied { Exit::Refused } else { Exit::Io };
        Failure::new(exit, anyhow::Error::new(error).context(format!("listen on {address}")))
    })
}

/// Answers requests until the state's shutdown, then lets those under way end.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, state: Arc<AppState>) -> Result<(), anyhow::Error> {
    let shutdown = state.shutdown.clone();
    let ended = shutdown.clone();
    let server = axum::serve(listener, app(state)).with_graceful_shutdown(async move {
        ended.cancelled().await;
        // Here, because without a request under way the server may end before anything else notices the shutdown.
        systemd::stopping();
    });
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server => result.context("serve"),
        () = late => {
            tracing::warn!("requests under way were cut off");
            Ok(())
        }
    }
}

/// Forgets what is no longer kept, a little at a time, as long as the collector runs.
async fn forget(state: Arc<AppState>, keep: Keep) {
    if keep == Keep::default() {
        return;
    }
    loop {
        let pause = match state.store.trim(keep, Timestamp::now()).await {
            Ok(trimmed) if trimmed.more => BETWEEN_STEPS,
            Ok(_) => BETWEEN_LOOKS,
            Err(error) => {
                tracing::error!(error = %crate::failure::chain(&error), "what is no longer kept cannot be forgotten");
                BETWEEN_LOOKS
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Cancels `shutdown` on SIGINT or SIGTERM.
///
/// # Errors
/// If the signals cannot be caught.
pub fn end_on_signal(shutdown: &CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Reads tokens and fleet again on SIGHUP; what cannot be used changes nothing.
fn reload_on_hangup(state: Arc<AppState>, args: ServeArgs, shutdown: &CancellationToken) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = hangup.recv() => {}
            }
            let (state, args) = (Arc::clone(&state), args.clone());
            systemd::reloading();
            if tokio::task::spawn_blocking(move || reload(&state, &args)).await.is_err() {
                return;
            }
            systemd::reloaded();
        }
    });
    Ok(())
}

fn reload(state: &AppState, args: &ServeArgs) {
    match HostTokens::load(&args.tokens) {
        Ok(tokens) => {
            tracing::info!(tokens = tokens.len(), "tokens read again");
            state.replace_tokens(tokens);
        }
        Err(error) => tracing::error!(error = %crate::failure::chain(&error), "tokens refused; the old ones stay"),
    }
    match args.fleet.as_deref().map(file::load) {
        Some(Ok(fleet)) => {
            tracing::info!(expected = fleet.expected.len(), "fleet read again");
            state.replace_fleet(fleet);
        }
        Some(Err(error)) => {
            tracing::error!(error = %crate::failure::chain(&error), "fleet refused; what it said before stays");
        }
        None => {}
    }
}

impl From<FleetFileError> for Failure {
    fn from(error: FleetFileError) -> Self {
        let exit = match &error {
            FleetFileError::Read(_, error) if error.kind() == std::io::ErrorKind::NotFound => Exit::NoInput,
            FleetFileError::Read(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => Exit::Refused,
            FleetFileError::Read(..) => Exit::Io,
            FleetFileError::Malformed { .. } => Exit::Configuration,
        };
        Self::new(exit, error)
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let exit = match &error {
            TokenError::Read(_, error) if error.kind() == std::io::ErrorKind::NotFound => Exit::NoInput,
            TokenError::Read(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => Exit::Refused,
            TokenError::Read(..) => Exit::Io,
            TokenError::Exposed(_) | TokenError::Line { .. } => Exit::Configuration,
        };
        Self::new(exit, error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Exit::Refused,
            StoreError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NoInput,
            StoreError::Open { .. } => Exit::CannotCreate,
            StoreError::InUse(_) | StoreError::Newer { .. } => Exit::Configuration,
            StoreError::NoStore { .. } | StoreError::Damaged { .. } => Exit::Malformed,
            StoreError::Exists(_) => Exit::CannotCreate,
            StoreError::Engine(_) | StoreError::Commit(_) | StoreError::Closed => Exit::Io,
        };
        Self::new(exit, error)
    }
}
