//! Owns `dev`: collector and agent in one process on loopback, on a directory or a sample, and nothing left of it at
//! the end. Must not own anything that `serve` or the agent does.

mod sample;
mod tell;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use driftlock_agent::config::{Config, Endpoint, Target};
use driftlock_agent::pool::Pool;
use driftlock_agent::runtime::{self, StopReason};
use driftlock_agent::source::{self, Source, Terms};
use driftlock_common::exit::Exit;
use driftlock_common::host_name::HostNameError;
use driftlock_common::manifest::Totals;
use driftlock_common::path::plain_text;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use tokio_util::sync::CancellationToken;

use crate::app::AppState;
use crate::auth::{AllowedHosts, HostTokens};
use crate::cli::DevArgs;
use crate::failure::Failure;
use crate::gate::GateLimits;
use crate::serve::{bind, end_on_signal, serve};
use crate::store::Store;
use crate::store::sqlite::{Limits, SqliteStore};

/// What the one host is called.
const HOST: &str = "this-host";
/// The platform of the sample.
const PLATFORM: &str = "linux/amd64";
/// Somebody is watching.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What is watched.
struct Deployed {
    name: &'static str,
    root: PathBuf,
    manifest: PathBuf,
    totals: Totals,
    /// Whether its files may be played with.
    is_sample: bool,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// If the directory cannot be sealed, or the port is taken.
pub fn run(args: DevArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::new(Exit::Io, error))?;
    let shutdown = CancellationToken::new();
    // From here on a signal only asks, so that whatever was made is taken away again.
    runtime.block_on(async { end_on_signal(&shutdown) }).map_err(|error| Failure::new(Exit::Io, error))?;
    let work = tempfile::Builder::new()
        .prefix("driftlock-dev-")
        .tempdir()
        .map_err(|error| Failure::new(Exit::CannotCreate, anyhow!(error).context("a temporary directory")))?;
    let path = work.path().to_owned();
    let result = runtime.block_on(async {
        let deployed = {
            let path = path.clone();
            let task = tokio::task::spawn_blocking(move || deploy(args.directory.as_deref(), &path));
            tokio::select! {
                deployed = task => deployed.map_err(|error| Failure::new(Exit::Bug, error))??,
                () = shutdown.cancelled() => return Ok(()),
            }
        };
        show(&path, args.port, &deployed, &shutdown).await
    });
    // A seal that was interrupted goes on otherwise until it has read everything.
    runtime.shutdown_background();
    let left = work.close().map_err(|error| Failure::new(Exit::Io, anyhow!(error).context(path.display().to_string())));
    result.and(left)
}

/// Seals the directory, or makes and deploys the sample.
fn deploy(directory: Option<&Path>, work: &Path) -> Result<Deployed, Failure> {
    let mut terms = Terms {
        profile: Profile::Portable,
        excludes: Excludes::none(),
        exclude_sets: Vec::new(),
        platform: PLATFORM.to_owned(),
        sha256: true,
        strict: false,
        cache: None,
    };
    let (name, root, source) = match directory {
        Some(directory) => {
            let root = directory.canonicalize().map_err(|error| input(directory, error))?;
            terms.excludes = own_files(work, &root)?;
            ("directory", root.clone(), Source::Dir(root))
        }
        None => {
            let (layout, root) = (work.join("image"), work.join("root"));
            sample::make(&layout, &root).map_err(|error| Failure::new(Exit::CannotCreate, error))?;
            ("sample", root, Source::Oci { layout, digest: None })
        }
    };
    let pool = Pool::new(None).map_err(|error| Failure::new(Exit::Io, error))?;
    let sealed = source::read(&source, &terms, &pool).map_err(|error| {
        let driftlock_agent::failure::Failure { exit, error } = error.into();
        Failure { exit, error }
    })?;
    let manifest = work.join("sealed.manifest");
    std::fs::write(&manifest, sealed.manifest.encode())
        .map_err(|error| Failure::new(Exit::CannotCreate, anyhow!(error).context(manifest.display().to_string())))?;
    Ok(Deployed { name, root, manifest, totals: sealed.manifest.totals(), is_sample: directory.is_none() })
}

/// What `dev` itself writes is not drift, if the directory holds the temporary one.
fn own_files(work: &Path, root: &Path) -> Result<Excludes, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let work = work.canonicalize().map_err(|error| input(work, error))?;
    let Ok(inside) = work.strip_prefix(root) else { return Ok(Excludes::none()) };
    let refused = || anyhow!("{}: holds the temporary directory; set TMPDIR to another one", root.display());
    let text = plain_text(inside.as_os_str().as_bytes()).ok_or_else(|| Failure::new(Exit::Usage, refused()))?;
    Excludes::new([text], []).map_err(|_| Failure::new(Exit::Usage, refused()))
}

fn input(path: &Path, error: std::io::Error) -> Failure {
    let driftlock_agent::failure::Failure { exit, error } =
        driftlock_agent::failure::Failure::input(path.display(), error);
    Failure { exit, error }
}

/// Runs everything until `shutdown`, the agent ending first so that its last words arrive.
async fn show(work: &Path, port: u16, deployed: &Deployed, shutdown: &CancellationToken) -> Result<(), Failure> {
    let token = token()?;
    let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    let address = listener.local_addr().map_err(|error| Failure::new(Exit::Io, error))?;
    let store = Arc::new(SqliteStore::open(&work.join("collector"), Limits::default())?);
    let ended = CancellationToken::new();
    let state = AppState::new(
        Arc::<SqliteStore>::clone(&store),
        HostTokens::of(HOST.parse().map_err(|error: HostNameError| Failure::new(Exit::Bug, error))?, &token),
        None,
        AllowedHosts::new(address.ip(), &[]),
        ended.clone(),
        GateLimits::default(),
    );
    let changes = store.changes();
    let server = tokio::spawn(serve(listener, state));
    let config = config(work, deployed, address, &token)?;
    tell::welcome(&format!("http://{address}"), &deployed.root, &deployed.totals, deployed.is_sample);
    let telling = tokio::spawn(tell::changes(changes));
    let asked = async {
        shutdown.cancelled().await;
        StopReason::Asked
    };
    let agent = runtime::run(config, asked).await;
    ended.cancel();
    let served = server.await;
    telling.abort();
    agent.map_err(|error| {
        let driftlock_agent::failure::Failure { exit, error } = error.into();
        Failure { exit, error }
    })?;
    served.context("the collector").map_err(|error| Failure::new(Exit::Bug, error))
}

fn config(work: &Path, deployed: &Deployed, address: SocketAddr, token: &str) -> Result<Config, Failure> {
    let token_file = work.join("token");
    let written = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&token_file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, token.as_bytes()));
    written.map_err(|error| Failure::new(Exit::CannotCreate, anyhow!(error).context("the token's file")))?;
    let endpoint: Endpoint = format!("http://{address}")
        .parse()
        .map_err(|error: driftlock_agent::config::EndpointError| Failure::new(Exit::Bug, error))?;
    let mut config = Config::new(work.join("agent"));
    let target = Target::new(deployed.name, &deployed.root, &deployed.manifest);
    config.targets.push(Target { allow_unsigned: true, ..target });
    // Somebody sits before it and waits for the first look.
    config.limits.read = None;
    config.report.endpoint = Some(endpoint);
    config.report.token_file = Some(token_file);
    config.report.heartbeat = HEARTBEAT;
    Ok(config)
}

/// 128 random bits: other users of this machine reach the port too.
fn token() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure::new(Exit::Io, anyhow!("random bytes: {error}")))?;
    Ok(hex::encode(bytes))
}
