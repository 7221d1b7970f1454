//! Owns `serve`: arguments to a running collector, and its end. Must not own requests.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use driftlock_common::exit::Exit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::app::{AppState, app};
use crate::auth::{AllowedHosts, HostTokens, ReadAccess, ReadToken, TokenError};
use crate::cli::{ServeArgs, TlsWhen};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::fleet::file::{self, FleetFileError};
use crate::gate::GateLimits;
use crate::identity::authority::{Authority, AuthorityError};
use crate::identity::certificate::Naming;
use crate::identity::{Identities, Issuing};
use crate::listener::{self, Served};
use crate::shelf::{Shelf, ShelfError};
use crate::store::sqlite::SqliteStore;
use crate::store::{self, Keep, StoreError};
use crate::systemd;
use crate::tls::{ServerFiles, Sources, Tls, TlsError};

/// How long requests that are under way may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Connections that may wait to be accepted: all hosts come at once after a restart, and who finds no place tries again only
/// after one second, then three. The kernel may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// Between two looks for what is no longer kept.
const BETWEEN_LOOKS: Duration = Duration::from_mins(1);
/// Between two steps of forgetting it: batches come first.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// If something is refused at start, with its exit code; later errors are answers.
pub fn run(args: ServeArgs) -> Result<(), Failure> {
    let with_tls = with_tls(&args)?;
    let tokens = args.tokens.as_deref().map(HostTokens::load).transpose()?.unwrap_or_default();
    let read_token = args.read_token_file.as_deref().map(ReadToken::load).transpose()?;
    let fleet = args.fleet.as_deref().map(file::load).transpose()?.unwrap_or_default();
    // Beyond loopback nobody reads without a token; there may be one in the store, or will be.
    let read_access =
        if args.listen.ip().is_loopback() { ReadAccess::of(read_token) } else { ReadAccess::Token(read_token) };
    let store = Arc::new(SqliteStore::open(&args.data, store::sqlite::Limits::default())?);
    let shelf = Shelf::open(&args.data)?;
    let allowed_hosts = AllowedHosts::new(args.listen.ip(), &args.allow_host);
    let shutdown = CancellationToken::new();

    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new(Exit::Io, error))?;
    runtime.block_on(async {
        let io = |error: std::io::Error| Failure::new(Exit::Io, error);
        let identities = Arc::new(identities(&args, Arc::<SqliteStore>::clone(&store)).await?);
        let tls = if with_tls { Some(tls(&args, &identities, &allowed_hosts)?) } else { None };
        let listener = bind(args.listen)?;
        let address = listener.local_addr().map_err(io)?;
        end_on_signal(&shutdown).map_err(io)?;
        let state = AppState::with_identities(
            Arc::<SqliteStore>::clone(&store),
            Arc::clone(&identities),
            tokens,
            read_access,
            allowed_hosts,
            shutdown.clone(),
            GateLimits { rate: args.host_rate, ..GateLimits::default() },
        );
        state.keep_on(shelf);
        state.replace_fleet(fleet);
        reload_on_hangup(Arc::clone(&state), args.clone(), tls.clone(), &shutdown).map_err(io)?;
        let keep = Keep { days: args.keep_days, bytes: args.keep_bytes };
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(forget(Arc::clone(&state), keep)));
        let admin = Admin { store, identities, tls: tls.clone() };
        admin::listen(&args.data, admin::router(Arc::new(admin)), shutdown.clone()).map_err(|error| {
            Failure::new(Exit::CannotCreate, anyhow!(error).context(args.data.join("admin.sock").display().to_string()))
        })?;
        if let Some(tls) = &tls {
            tls.keep_up_always(shutdown.clone());
        }
        let url = format!("{}://{address}", if with_tls { "https" } else { "http" });
        // Whoever started it may wait for this line. Nothing can be said on a closed stream.
        let _closed = writeln!(std::io::stderr(), "driftlock-collector: listening on {url}");
        systemd::ready(&url);
        systemd::keep_watchdog(shutdown);
        let limits = listener::Limits {
            connections: connections(args.max_connections),
            strangers: args.max_strangers,
            ..listener::Limits::default()
        };
        serve_with(listener, state, tls, limits).await;
        Ok(())
    })
}

/// Whether to answer over TLS.
fn with_tls(args: &ServeArgs) -> Result<bool, Failure> {
    let is_loopback = args.listen.ip().is_loopback();
    let refuse = |why: &str| {
        let error = anyhow!("--listen {}: {why}", args.listen);
        Err(Failure::new(Exit::Configuration, error))
    };
    match args.tls {
        TlsWhen::On => Ok(true),
        TlsWhen::Auto => Ok(!is_loopback || args.tls_cert.is_some() || args.client_ca.is_some()),
        TlsWhen::Off if !is_loopback => refuse("beyond loopback it is always TLS: leave out --tls off"),
        TlsWhen::Off if args.tls_cert.is_some() || args.client_ca.is_some() => {
            refuse("--tls off and certificates say different things: leave one of them out")
        }
        TlsWhen::Off => Ok(false),
    }
}

async fn identities(args: &ServeArgs, store: Arc<SqliteStore>) -> Result<Identities, Failure> {
    let clock = Clock::system();
    let naming = Naming { trust_domain: args.trust_domain.clone(), rule: args.client_name };
    let issuing = if args.client_ca.is_some() {
        Issuing::External
    } else {
        Issuing::Own { authority: Authority::open(&args.data, clock.now())?, lifetime: args.certificate_lifetime }
    };
    Ok(Identities::load(store, clock, naming, issuing).await?)
}

fn tls(args: &ServeArgs, identities: &Arc<Identities>, names: &AllowedHosts) -> Result<Arc<Tls>, Failure> {
    let server = args.tls_cert.clone().zip(args.tls_key.clone());
    let sources = Sources {
        server: server.map(|(certificate, key)| ServerFiles { certificate, key }),
        names: names.names(),
        client_ca: args.client_ca.clone(),
    };
    Ok(Arc::new(Tls::new(Arc::clone(identities), sources)?))
}

/// Raises the limit of descriptors for so many connections; gives how many connections fit into it.
fn connections(wanted: usize) -> usize {
    /// Files of the store, and what the runtime has.
    const OTHERS: u64 = 256;
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::try_from(wanted).unwrap_or(u64::MAX).saturating_add(OTHERS);
    let raised = limit.maximum.map_or(needed, |maximum| needed.min(maximum));
    let raised = limit.current.map_or(raised, |current| raised.max(current));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum }) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
    let fit = getrlimit(Resource::Nofile)
        .current
        .map_or(wanted, |current| wanted.min(usize::try_from(current.saturating_sub(OTHERS)).unwrap_or(usize::MAX)));
    if fit < wanted {
        tracing::warn!(wanted, fit, "fewer connections than allowed fit into the limit of descriptors: raise it");
    }
    fit
}

/// Binds a listener, within a runtime.
///
/// # Errors
/// 77 if not permitted, else 74.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Else no other could listen there for a minute after one that was killed.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error: std::io::Error| {
        let exit = if error.kind() == std::io::ErrorKind::PermissionDenied { Exit::Refused } else { Exit::Io };
        Failure::new(exit, anyhow::Error::new(error).context(format!("listen on {address}")))
    })
}

/// Answers requests over plain HTTP until the state's shutdown, then lets those under way end.
pub async fn serve(listener: TcpListener, state: Arc<AppState>) {
    serve_with(listener, state, None, listener::Limits::default()).await;
}

/// Answers requests until the state's shutdown, then lets those under way end.
pub async fn serve_with(listener: TcpListener, state: Arc<AppState>, tls: Option<Arc<Tls>>, limits: listener::Limits) {
    let shutdown = state.shutdown.clone();
    let served = Served { router: app(Arc::clone(&state)), state, tls, limits };
    let stopping = tokio::spawn(async move {
        shutdown.cancelled().await;
        systemd::stopping();
    });
    if !listener::serve(listener, served, GRACE).await {
        tracing::warn!("requests under way were cut off");
    }
    // It was said before the process ends, or nothing is left to be said.
    let _said = stopping.await;
}

/// Forgets what is no longer kept, a little at a time, as long as the collector runs.
async fn forget(state: Arc<AppState>, keep: Keep) {
    if keep == Keep::default() {
        return;
    }
    loop {
        let pause = match state.store.trim(keep, state.now()).await {
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

/// Reads tokens, fleet and certificates again on SIGHUP; what cannot be used changes nothing.
fn reload_on_hangup(
    state: Arc<AppState>,
    args: ServeArgs,
    tls: Option<Arc<Tls>>,
    shutdown: &CancellationToken,
) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = hangup.recv() => {}
            }
            systemd::reloading();
            let (state, args, tls) = (Arc::clone(&state), args.clone(), tls.clone());
            if tokio::task::spawn_blocking(move || reload(&state, &args, tls.as_deref())).await.is_err() {
                return;
            }
            systemd::reloaded();
        }
    });
    Ok(())
}

fn reload(state: &AppState, args: &ServeArgs, tls: Option<&Tls>) {
    match args.tokens.as_deref().map(HostTokens::load) {
        Some(Ok(tokens)) => {
            tracing::info!(tokens = tokens.len(), "tokens read again");
            state.replace_tokens(tokens);
        }
        Some(Err(error)) => {
            tracing::error!(error = %crate::failure::chain(&error), "tokens refused; the old ones stay");
        }
        None => {}
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
    match tls.map(Tls::refresh) {
        Some(Ok(())) => tracing::info!("certificates read again"),
        Some(Err(error)) => {
            tracing::error!(error = %crate::failure::chain(&error), "certificates refused; the old ones stay");
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

impl From<ShelfError> for Failure {
    fn from(error: ShelfError) -> Self {
        let exit = match &error {
            ShelfError::Io(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => Exit::Refused,
            ShelfError::Io(..) => Exit::CannotCreate,
            ShelfError::Damaged(..) => Exit::Malformed,
            ShelfError::Full(..) | ShelfError::Absent(..) => Exit::Io,
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

impl From<AuthorityError> for Failure {
    fn from(error: AuthorityError) -> Self {
        let exit = match &error {
            AuthorityError::File(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => Exit::Refused,
            AuthorityError::File(..) | AuthorityError::Random(_) => Exit::Io,
            AuthorityError::Exposed(_) | AuthorityError::Name(_) => Exit::Configuration,
            AuthorityError::Damaged(_) => Exit::Malformed,
            AuthorityError::Signing(_) => Exit::Bug,
            AuthorityError::TooMany | AuthorityError::Unknown | AuthorityError::Newest => Exit::Refused,
        };
        Self::new(exit, error)
    }
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        let error = match error {
            TlsError::Authority(error) => return error.into(),
            error => error,
        };
        let exit = match &error {
            TlsError::Read(_, error) if error.kind() == std::io::ErrorKind::NotFound => Exit::NoInput,
            TlsError::Read(_, error) if error.kind() == std::io::ErrorKind::PermissionDenied => Exit::Refused,
            TlsError::Read(..) => Exit::Io,
            TlsError::Content { .. } => Exit::Malformed,
            TlsError::Exposed(_) | TlsError::Pair(..) | TlsError::Clients(_) | TlsError::NoCertificate => {
                Exit::Configuration
            }
            TlsError::Refused(_) | TlsError::Authority(_) => Exit::Bug,
        };
        Self::new(exit, error)
    }
}
