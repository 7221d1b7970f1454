//! Owns asking the collector what a target must match: the bundle, or the assignment and the bundle that it names, and the
//! manifest that a bundle is about. Must not own whether any of it is accepted: what is had is kept for the one door.
//!
//! The collector is not trusted with any of this. What is signed is verified before it is read, here too, to know which
//! manifest to ask for; that is bounded by what was signed and must have the digest that was signed. So a collector that lies
//! can withhold, and nothing else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use driftlock_common::digest::Digest;
use driftlock_common::shelf::{Kind, MAX_BODY, MAX_PLAIN, MAX_WINDOW_LOG, bundle_path, manifest_path, target_path};
use driftlock_common::trust::{MAX_ENVELOPE, Role, Statement};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, IF_NONE_MATCH};
use reqwest::{Response, StatusCode};
use sha2::Digest as _;
use tokio::sync::mpsc;

use crate::anchor_file;
use crate::assigned::{self, Assignee, Serials};
use crate::bundle;
use crate::config::{Manifests, Target};
use crate::deliver::Client;
use crate::failure::Failure;
use crate::http::{body, chain, explain};
use crate::known_time::KnownTime;
use crate::supply::kept::{Kept, NextSet, Set};

/// How long a manifest may take to come, all in all.
const WHOLE: Duration = Duration::from_hours(1);
/// How long nothing may come of it.
const IDLE: Duration = Duration::from_secs(30);
/// A manifest may have so many bytes for each entry that was signed, and [`MARGIN`] besides: paths are rarely a tenth of it.
const BYTES_AN_ENTRY: u64 = 4096;
/// See [`BYTES_AN_ENTRY`].
const MARGIN: u64 = 1024 * 1024;

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Had {
    /// What was accepted last, or nothing is known of anything else.
    Same,
    /// Something else, whole.
    Other(Set),
    /// Something that cannot be used whatever else is true; why, in one line.
    Refused(String),
}

/// Asks for one target.
#[derive(Debug)]
pub(crate) struct Fetch {
    client: Client,
    target: Target,
    labels: BTreeMap<String, String>,
    state_dir: PathBuf,
    kept: Kept,
    /// What was had last.
    last: Option<Set>,
}

/// Why nothing was had.
enum Not {
    /// The collector is not there, or has nothing.
    Known(String),
    /// It gave what cannot be used.
    Usable(String),
}

/// What a bundle that may be believed is about.
struct About {
    manifest: Digest,
    entries: u64,
}

impl Fetch {
    /// For a target whose manifest the collector has; `None` for any other.
    pub(crate) fn of(
        client: &Client,
        target: &Target,
        labels: &BTreeMap<String, String>,
        state_dir: &Path,
    ) -> Option<Self> {
        let Manifests::Collector { .. } = target.manifests else { return None };
        let kept = Kept::of(&target.name, state_dir);
        let last = kept.accepted();
        Some(Self {
            client: client.clone(),
            target: target.clone(),
            labels: labels.clone(),
            state_dir: state_dir.to_owned(),
            kept,
            last,
        })
    }

    /// The target's name.
    pub(crate) fn target(&self) -> &str {
        &self.target.name
    }

    /// Asks once; `None` if the collector is not there or has nothing, which is no news.
    pub(crate) async fn look(&mut self) -> Option<Had> {
        match self.get().await {
            Ok(None) => Some(match &self.last {
                Some(set) if self.kept.accepted().as_ref() != Some(set) => Had::Other(set.clone()),
                _ => Had::Same,
            }),
            Ok(Some(set)) => {
                self.last = Some(set.clone());
                let is_accepted = self.kept.accepted().as_ref() == Some(&set);
                Some(if is_accepted { Had::Same } else { Had::Other(set) })
            }
            Err(Not::Known(why)) => {
                tracing::debug!(target_name = self.target.name, why, "nothing had from the collector");
                None
            }
            Err(Not::Usable(why)) => Some(Had::Refused(format!("from the collector: {}", without_place(&why)))),
        }
    }

    /// What the collector has, if it is not what was had last.
    async fn get(&self) -> Result<Option<Set>, Not> {
        let next = self.kept.begin().map_err(|error| Not::Usable(error.to_string()))?;
        let assigned = matches!(self.target.manifests, Manifests::Collector { assigned: true });
        let mut is_news = false;
        let mut wanted = None;
        if assigned {
            is_news |= self.envelope(Kind::Assignment, None, &next.assignment(), Set::assignment).await?;
            wanted = Some(self.assigned_manifest(next.assignment()).await?);
        }
        is_news |= self.envelope(Kind::Bundle, wanted, &next.bundle(), Set::bundle).await?;
        if !is_news {
            return Ok(None);
        }
        let about = self.about(next.bundle()).await?;
        if wanted.is_some_and(|wanted| wanted != about.manifest) {
            return Err(Not::Usable(format!("a bundle about {}, not about what is assigned", about.manifest)));
        }
        self.manifest(&about, &next).await?;
        self.kept.finish(next).map(Some).map_err(|error| Not::Usable(error.to_string()))
    }

    /// Puts a bundle or an assignment into a file: what was had last, if it is still that. Whether it is another.
    async fn envelope(
        &self,
        kind: Kind,
        manifest: Option<Digest>,
        to: &Path,
        of: fn(&Set) -> PathBuf,
    ) -> Result<bool, Not> {
        let last = self.last.as_ref().map(of).filter(|path| path.is_file());
        let held = last.as_ref().and_then(|path| std::fs::read(path).ok()).map(|bytes| Digest::sha256(&bytes));
        let path = manifest.map_or_else(|| target_path(&self.target.name, kind), bundle_path);
        let mut request = self.client.get(&path).header(ACCEPT_ENCODING, "identity");
        if let Some(held) = held {
            request = request.header(IF_NONE_MATCH, format!("\"{held}\""));
        }
        let response = request.send().await.map_err(|error| Not::Known(chain(&error.without_url())))?;
        let same = |path: &PathBuf| std::fs::hard_link(path, to).map_err(|error| Not::Usable(error.to_string()));
        match (response.status(), last) {
            (StatusCode::NOT_MODIFIED, Some(path)) => same(&path).map(|()| false),
            (StatusCode::OK, last) => {
                if let Some(coding) = response.headers().get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
                    return Err(Not::Usable(format!("a {kind} in an encoding that was not asked for: {coding:?}")));
                }
                let bytes = body(response, MAX_ENVELOPE).await.map_err(Not::Known)?;
                let bytes = bytes.ok_or_else(|| Not::Usable(format!("a {kind} of more than {MAX_ENVELOPE} bytes")))?;
                match last {
                    Some(path) if held == Some(Digest::sha256(&bytes)) => same(&path).map(|()| false),
                    _ => write(to, &bytes).map(|()| true).map_err(|error| Not::Usable(error.to_string())),
                }
            }
            _ => Err(refused(response).await),
        }
    }

    /// The manifest that an assignment names which would count. It is taken when it is accepted, not here.
    async fn assigned_manifest(&self, path: PathBuf) -> Result<Digest, Not> {
        let (trust, name) = (self.target.trust.clone(), self.target.name.clone());
        let (labels, mut serials) = (self.labels.clone(), Serials::of(&self.target.name, &self.state_dir));
        let state_dir = self.state_dir.clone();
        blocking(move || {
            let anchors = anchor_file::load(&trust)?.unwrap_or_default();
            let to = Assignee { target: &name, labels: &labels };
            Ok(assigned::take(&path, to, &anchors, &mut serials, KnownTime::peek(&state_dir))?.manifest())
        })
        .await
    }

    /// What a bundle is about that whom the target trusts signed.
    async fn about(&self, path: PathBuf) -> Result<About, Not> {
        let (trust, state_dir) = (self.target.trust.clone(), self.state_dir.clone());
        blocking(move || {
            let anchors = anchor_file::load(&trust)?.unwrap_or_default();
            let envelope = bundle::read_envelope(&path)?;
            let refused = |why| crate::baseline::BaselineError::Refused("the bundle".into(), why);
            let trusted = anchors.judge(Role::Manifest, &envelope, KnownTime::peek(&state_dir)).map_err(refused)?;
            let statement = Statement::read(&trusted.claim)
                .map_err(|error| crate::baseline::BaselineError::Statement("the bundle".into(), error))?;
            Ok(About { manifest: statement.manifest, entries: statement.counts.entries })
        })
        .await
    }

    /// Puts the manifest beside the bundle: the one that is there already, or the collector's.
    async fn manifest(&self, about: &About, next: &NextSet) -> Result<(), Not> {
        let names = [bundle::file_name(about.manifest), format!("{}.zst", bundle::file_name(about.manifest))];
        for name in &names {
            let held = self.last.iter().chain(&self.kept.accepted()).any(|set| {
                let there = set.file(name);
                there.is_file() && std::fs::hard_link(there, next.file(name)).is_ok()
            });
            if held {
                return Ok(());
            }
        }
        let request = self.client.get(&manifest_path(about.manifest)).header(ACCEPT_ENCODING, "zstd").timeout(WHOLE);
        let mut response = request.send().await.map_err(|error| Not::Known(chain(&error.without_url())))?;
        if response.status() != StatusCode::OK {
            return Err(refused(response).await);
        }
        let is_compressed = match response.headers().get(CONTENT_ENCODING).map(|coding| coding.as_bytes()) {
            None | Some(b"identity") => false,
            Some(b"zstd") => true,
            Some(_) => return Err(Not::Usable("a manifest in an encoding that was not asked for".to_owned())),
        };
        let most = about.entries.saturating_mul(BYTES_AN_ENTRY).saturating_add(MARGIN).min(MAX_PLAIN);
        let path = next.file(if is_compressed { &names[1] } else { &names[0] });
        let (sender, mut blocks) = mpsc::channel(4);
        let taking = tokio::task::spawn_blocking(move || take(&path, is_compressed, most, &mut blocks));
        let sent = loop {
            match tokio::time::timeout(IDLE, response.chunk()).await {
                Ok(Ok(None)) => break Ok(()),
                // Nobody takes it any more: why is said there.
                Ok(Ok(Some(block))) => {
                    if sender.send(block).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(Err(error)) => break Err(chain(&error.without_url())),
                Err(_) => break Err("nothing came of the manifest for too long".to_owned()),
            }
        };
        drop(sender);
        let taken = taking.await.map_err(|error| Not::Known(error.to_string()))?;
        match (taken, sent) {
            (Ok(_) | Err(_), Err(why)) => Err(Not::Known(why)),
            (Err(why), Ok(())) => Err(Not::Usable(format!("the manifest {}: {why}", about.manifest))),
            (Ok(found), Ok(())) if found == about.manifest => Ok(()),
            (Ok(found), Ok(())) => {
                let wanted = about.manifest;
                Err(Not::Usable(format!("the manifest is not the one that was signed: {found}, not {wanted}")))
            }
        }
    }
}

/// What is wrong, without where the file was that is gone by now: said again, it is the same.
fn without_place(why: &str) -> String {
    match why.split_once("/.next-") {
        Some((_, rest)) => rest.split_once('/').map_or(rest, |(_, rest)| rest).to_owned(),
        None => why.to_owned(),
    }
}

/// Off the loop's thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Not> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|failure| Not::Usable(failure.to_string())),
        Err(error) => Err(Not::Known(error.to_string())),
    }
}

async fn refused(response: Response) -> Not {
    const MOST: usize = 4096;
    let status = response.status();
    let said = body(response, MOST).await.ok().flatten().unwrap_or_default();
    Not::Known(explain(status, &said))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes what comes into a file; the SHA-256 of it, uncompressed. Blocks.
fn take(path: &Path, is_compressed: bool, most: u64, blocks: &mut mpsc::Receiver<Bytes>) -> io::Result<Digest> {
    let mut file = File::create_new(path)?;
    let mut hash = Hash { sha256: sha2::Sha256::new(), left: most };
    let mut received = 0_u64;
    {
        let mut to: Box<dyn Write + '_> = if is_compressed {
            let mut decoder = zstd::stream::write::Decoder::new(&mut hash)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Box::new(decoder)
        } else {
            Box::new(&mut hash)
        };
        while let Some(block) = blocks.blocking_recv() {
            received = received.saturating_add(block.len() as u64);
            if received > most.min(MAX_BODY) {
                return Err(too_large(most));
            }
            file.write_all(&block)?;
            to.write_all(&block)?;
        }
        to.flush()?;
    }
    file.sync_all()?;
    Ok(Digest::from_bytes(hash.sha256.finalize().into()))
}

struct Hash {
    sha256: sha2::Sha256,
    left: u64,
}

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| too_large(0))?;
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large(most: u64) -> io::Error {
    match most {
        0 => io::Error::other("larger than so many entries can be"),
        most => io::Error::other(format!("larger than {most} bytes, which is more than so many entries can be")),
    }
}
