//! `driftlock push`: manifests, bundles and assignments are given to a collector, which keeps them for agents.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use driftlock_common::digest::Digest;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::shelf::{self, For, Kind, Point, manifest_path, target_path};
use driftlock_common::trust::MAX_ENVELOPE;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{RequestBuilder, StatusCode};

use super::attach::compressed;
use crate::baseline::{Accept, Baseline};
use crate::bundle;
use crate::cli::PushArgs;
use crate::config::{DEFAULT_HEARTBEAT, DEFAULT_SPOOL, Report};
use crate::deliver::{Client, Timeouts};
use crate::failure::{Failure, Outcome};
use crate::http;
use crate::output;

/// How long one body may take.
const WHOLE: Duration = Duration::from_mins(10);

/// What is pushed.
struct Pushed {
    sha256: Digest,
    kind: Kind,
    /// Compressed.
    bytes: Vec<u8>,
}

/// Runs the verb.
///
/// # Errors
/// If a file is nothing that is kept, or the collector does not take it. What was pushed before stays.
pub fn run(args: PushArgs) -> Outcome {
    // Everything is looked at before anything is sent.
    let read = args.files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let bare = read.iter().zip(&args.files).find(|(of_file, _)| of_file.iter().all(|one| one.kind == Kind::Manifest));
    if let Some((_, file)) = bare.filter(|_| !args.for_targets.is_empty()) {
        let text = format!("{}: a manifest that nobody signed is for no target: push its bundle", shown(file));
        return Err(Failure::new(Exit::Usage, anyhow!(text)));
    }
    let report = Report {
        endpoint: Some(args.to),
        token_file: Some(args.token_file),
        ca_file: args.ca_file,
        heartbeat: DEFAULT_HEARTBEAT,
        spool: DEFAULT_SPOOL,
    };
    let client =
        Client::new(&report, None, Timeouts::default()).map_err(|error| Failure::new(Exit::Configuration, error))?;
    let client = client.ok_or_else(|| Failure::new(Exit::Usage, anyhow!("--to is missing")))?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(|error| Failure::new(Exit::Io, error))?;
    tokio.block_on(push(&client, read.into_iter().flatten().collect(), &args.for_targets))?;
    Ok(Exit::Found(0))
}

async fn push(client: &Client, all: Vec<Pushed>, for_targets: &[For]) -> Result<(), Failure> {
    let mut points = Vec::new();
    for Pushed { sha256, kind, bytes } in all {
        let request = client.put(&manifest_path(sha256)).header(CONTENT_ENCODING, "zstd").timeout(WHOLE).body(bytes);
        let is_new = send(request, client).await? == StatusCode::CREATED;
        output::say(&format!("{} {kind} {sha256}", if is_new { "pushed" } else { "there already:" }));
        if kind != Kind::Manifest {
            points.push((kind, sha256));
        }
    }
    // Once everything that they lead to is there.
    for (kind, sha256) in points {
        for For { hosts, target } in for_targets {
            let point = Point { hosts: hosts.clone(), sha256 };
            let body = serde_json::to_vec(&point).map_err(|error| Failure::new(Exit::Bug, error))?;
            let request = client.put(&target_path(target, kind)).header(CONTENT_TYPE, "application/json").body(body);
            send(request, client).await?;
            output::say(&format!("the {kind} of {target} on {hosts} is {sha256}"));
        }
    }
    Ok(())
}

async fn send(request: RequestBuilder, client: &Client) -> Result<StatusCode, Failure> {
    const MOST: usize = 64 * 1024;
    let at = client.endpoint();
    let unavailable = |why: String| Failure::new(Exit::Unavailable, anyhow!("{at}: {why}"));
    let response = request.send().await.map_err(|error| unavailable(http::chain(&error.without_url())))?;
    let status = response.status();
    if status.is_success() {
        return Ok(status);
    }
    let said = http::body(response, MOST).await.map_err(unavailable)?.unwrap_or_default();
    let why = http::explain(status, &said);
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::new(Exit::Refused, anyhow!("{at}: {why}")),
        status if status.is_client_error() => Failure::new(Exit::Malformed, anyhow!("{at}: {why}")),
        _ => unavailable(why),
    })
}

/// A file, and before it what it needs.
fn read(file: &Path) -> Result<Vec<Pushed>, Failure> {
    let opened = bundle::open(file)?;
    if opened.is_manifest() {
        // What nobody could use is not put there.
        let baseline = Baseline::load(file, &Accept::Unsigned)?;
        return Ok(vec![manifest(file, baseline.view().sha256, opened.manifest()?)?]);
    }
    let most = u64::try_from(MAX_ENVELOPE).unwrap_or(u64::MAX).saturating_add(1);
    let mut envelope = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(opened.manifest()?, most), &mut envelope)
        .map_err(|error| Failure::input(shown(file), error))?;
    let (kind, about) = shelf::look(&envelope)
        .map_err(|error| Failure::new(Exit::Malformed, anyhow!(error).context(shown(file).to_string())))?;
    let mut all = Vec::new();
    if kind == Kind::Bundle {
        Baseline::load(file, &Accept::Unsigned)?;
        all.push(manifest(file, about, bundle::beside(file, about)?)?);
    }
    let sha256 = Digest::sha256(&envelope);
    let bytes = zstd::bulk::compress(&envelope, 3).map_err(|error| Failure::new(Exit::Io, error))?;
    all.push(Pushed { sha256, kind, bytes });
    Ok(all)
}

fn manifest(file: &Path, sha256: Digest, stream: impl io::Read) -> Result<Pushed, Failure> {
    let bytes = compressed(stream, sha256)
        .map_err(|error| Failure::input(format_args!("the manifest of {}", shown(file)), error))?;
    Ok(Pushed { sha256, kind: Kind::Manifest, bytes })
}

fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}
