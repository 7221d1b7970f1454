//! Owns the documents of an image: index, manifest, configuration (OCI image-spec v1.1 and the Docker forms of them),
//! and choosing one image among several. Must not own where blobs lie, or layers' contents.

use driftlock_common::digest::{Algorithm, Digest, OciDigest};
use driftlock_common::path::Escaped;
use serde::Deserialize;

use super::problem::{Named, Problem, SourceError};

/// The largest index or manifest, in bytes.
pub(super) const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
/// The largest image configuration, in bytes.
pub(super) const MAX_CONFIG: u64 = 8 * 1024 * 1024;
/// The most layers.
pub(super) const MAX_LAYERS: usize = 512;
/// How deep indexes may stand in indexes.
pub(super) const MAX_NESTING: usize = 3;
/// How much of a build step is kept: 512 of them still fit a manifest's header line.
const MAX_HISTORY: usize = 512;

/// A reference to a blob (OCI image-spec, descriptor.md). Unknown keys do not concern us.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// An index, or a manifest: which one is said by the keys it has.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    rootfs: RootFs,
    #[serde(default)]
    history: Option<Vec<HistoryLine>>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct HistoryLine {
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    empty_layer: bool,
}

/// What an image configuration says about the layers.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) digest: Digest,
    /// `os/architecture[/variant]`.
    pub(super) platform: String,
    pub(super) diff_ids: Vec<Digest>,
    /// A line for each layer; empty if the configuration does not say.
    pub(super) history: Vec<String>,
}

/// An image: its manifest and configuration, verified.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) manifest: Digest,
    pub(super) config: Config,
    pub(super) layers: Vec<Descriptor>,
}

/// Where blobs come from. Bytes are verified against the digest before they are given.
pub(super) trait Blobs {
    /// The blob, at most `limit` bytes; of `size` bytes, if that is known.
    fn document(&self, digest: Digest, size: Option<u64>, limit: u64) -> Result<Vec<u8>, SourceError>;

    /// An index or an image manifest: not every place keeps them where it keeps other blobs.
    fn manifest(&self, digest: Digest, size: Option<u64>) -> Result<Vec<u8>, SourceError> {
        self.document(digest, size, MAX_MANIFEST)
    }
}

/// Finds the image that is meant: by digest, or the only one for the platform.
pub(super) fn resolve(
    index: &[u8],
    place: &str,
    wanted: Option<OciDigest>,
    platform: &str,
    blobs: &impl Blobs,
) -> Result<Image, SourceError> {
    let start = match wanted {
        Some(wanted) => {
            let digest = sha256_of(wanted).map_err(|problem| problem.at(place))?;
            let bytes = blobs.manifest(digest, None).map_err(|error| match error.problem {
                // Nothing refers to it but whoever asked.
                Problem::Missing => Problem::NoImage(format!("there is no image sha256:{digest} in it")).at(place),
                problem => SourceError { problem, ..error },
            })?;
            let document: Document = parse(&bytes, &blob_place(digest))?;
            match document.manifests {
                Some(manifests) => manifests,
                None => return image(digest, document, blobs),
            }
        }
        None => {
            let document: Document = parse(index, place)?;
            document.manifests.ok_or_else(|| Problem::Json("there is no \"manifests\"".into()).at(place))?
        }
    };
    let (digest, size) = chosen(start, place, platform, blobs)?;
    let bytes = blobs.manifest(digest, Some(size))?;
    image(digest, parse(&bytes, &blob_place(digest))?, blobs)
}

/// Which image is meant by the document with this digest: it, or of an index the one for the platform.
pub(super) fn meant(
    digest: Digest,
    document: &[u8],
    place: &str,
    platform: &str,
    blobs: &impl Blobs,
) -> Result<Digest, SourceError> {
    let document: Document = parse(document, &blob_place(digest))?;
    match document.manifests {
        Some(manifests) => chosen(manifests, place, platform, blobs).map(|(image, _)| image),
        None => Ok(digest),
    }
}

/// The one image for the platform in an index, and the size of its manifest.
fn chosen(
    start: Vec<Descriptor>,
    place: &str,
    platform: &str,
    blobs: &impl Blobs,
) -> Result<(Digest, u64), SourceError> {
    let mut candidates = Vec::new();
    collect(start, blobs, 1, &mut candidates)?;
    let chosen = choose(&candidates, platform).map_err(|problem| problem.at(place))?;
    Ok((chosen.sha256().map_err(|problem| problem.at(place))?, chosen.size))
}

/// What an image configuration says.
pub(super) fn config(bytes: &[u8], digest: Digest, layers: usize) -> Result<Config, SourceError> {
    let place = || format!("configuration sha256:{digest}");
    let raw: RawConfig = parse(bytes, &place())?;
    let diff_ids: Vec<Digest> =
        raw.rootfs.diff_ids.iter().map(|text| sha256(text)).collect::<Result<_, _>>().map_err(|p| p.at(place()))?;
    if diff_ids.len() != layers {
        let text = format!("it has {} diff_ids, the manifest {layers} layers", diff_ids.len());
        return Err(Problem::Unusable(text).at(place()));
    }
    let mut history: Vec<String> =
        raw.history.iter().flatten().filter(|line| !line.empty_layer).map(|line| one_line(&line.created_by)).collect();
    // Some builders write a line for every layer, some for none: only then it is known which is whose.
    if history.len() != layers {
        history.clear();
    }
    let mut platform = format!("{}/{}", raw.os, raw.architecture);
    if let Some(variant) = raw.variant.filter(|variant| !variant.is_empty()) {
        platform = format!("{platform}/{variant}");
    }
    Ok(Config { digest, platform: one_line(&platform), diff_ids, history })
}

/// How a blob is named in errors.
pub(super) fn blob_place(digest: Digest) -> String {
    format!("blob sha256:{digest}")
}

/// Parses a digest of which only SHA-256 is understood.
pub(super) fn sha256(text: &str) -> Result<Digest, Problem> {
    sha256_of(text.parse().map_err(|_| unsupported(text))?)
}

fn sha256_of(digest: OciDigest) -> Result<Digest, Problem> {
    match digest.algorithm {
        Algorithm::Sha256 => Ok(digest.digest),
        Algorithm::Blake3 => Err(unsupported(&digest.to_string())),
    }
}

fn unsupported(text: &str) -> Problem {
    let shown: String = text.chars().take(80).collect();
    Problem::Unusable(format!("the digest {} cannot be used: only sha256 is supported", Escaped(shown.as_bytes())))
}

/// Reads JSON; the error says what was expected, on one line.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], place: &str) -> Result<T, SourceError> {
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::Json(Escaped(error.to_string().as_bytes()).to_string()).at(place))
}

/// Adds all images below an index, attestations left out.
fn collect(
    descriptors: Vec<Descriptor>,
    blobs: &impl Blobs,
    depth: usize,
    found: &mut Vec<Descriptor>,
) -> Result<(), SourceError> {
    for descriptor in descriptors {
        if descriptor.is_attestation() {
            continue;
        }
        if descriptor.is_index() {
            let digest = descriptor.sha256().map_err(|problem| problem.at("index"))?;
            if depth >= MAX_NESTING {
                return Err(Problem::TooMuch("indexes stand in indexes more than 3 deep").at(blob_place(digest)));
            }
            let bytes = blobs.manifest(digest, Some(descriptor.size))?;
            let document: Document = parse(&bytes, &blob_place(digest))?;
            collect(document.manifests.unwrap_or_default(), blobs, depth + 1, found)?;
        } else if !found.iter().any(|other| other.digest == descriptor.digest) {
            found.push(descriptor);
        }
    }
    Ok(())
}

/// The only image for the platform. An image that does not say its platform is for any.
fn choose<'a>(candidates: &'a [Descriptor], platform: &str) -> Result<&'a Descriptor, Problem> {
    let named: Vec<&Descriptor> = candidates.iter().filter(|c| c.is_for(platform)).collect();
    let unnamed: Vec<&Descriptor> = candidates.iter().filter(|c| c.platform.is_none()).collect();
    let fitting = if named.is_empty() { unnamed } else { named };
    let list = |all: &[&Descriptor]| {
        let shown: Vec<String> = all.iter().take(10).map(|c| c.described()).collect();
        shown.join(", ") + if all.len() > 10 { ", …" } else { "" }
    };
    match fitting.as_slice() {
        [one] => Ok(one),
        [] if candidates.is_empty() => Err(Problem::NoImage("there is no image in it".into())),
        [] => {
            let all: Vec<&Descriptor> = candidates.iter().collect();
            Err(Problem::NoImage(format!("no image is for {platform}; there are: {}", list(&all))))
        }
        several => Err(Problem::Choice(format!("several images fit; use @sha256:… to say which: {}", list(several)))),
    }
}

fn image(digest: Digest, document: Document, blobs: &impl Blobs) -> Result<Image, SourceError> {
    let place = format!("manifest sha256:{digest}");
    let (Some(config_descriptor), Some(layers)) = (document.config, document.layers) else {
        return Err(Problem::Unusable("not an image manifest: it has no configuration and layers".into()).at(place));
    };
    if !config_descriptor.is_image_config() {
        let text = format!("not an image, but {}", Named(config_descriptor.media_type.as_bytes()));
        return Err(Problem::Unusable(text).at(place));
    }
    if layers.len() > MAX_LAYERS {
        return Err(Problem::TooMuch("more than 512 layers").at(place));
    }
    let config_digest = config_descriptor.sha256().map_err(|problem| problem.at(&place))?;
    let bytes = blobs.document(config_digest, Some(config_descriptor.size), MAX_CONFIG)?;
    let config = config(&bytes, config_digest, layers.len())?;
    Ok(Image { manifest: digest, config, layers })
}

/// A build step for people: one line, bounded, without control characters.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for ch in text.trim().chars().map(|ch| if ch.is_control() { ' ' } else { ch }) {
        if line.len() + ch.len_utf8() > MAX_HISTORY {
            line.push('…');
            break;
        }
        line.push(ch);
    }
    line
}

// === impl Descriptor ===

impl Descriptor {
    pub(super) fn sha256(&self) -> Result<Digest, Problem> {
        sha256(&self.digest)
    }

    fn is_index(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json"
        )
    }

    fn is_image_config(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
        )
    }

    /// What `docker buildx` puts beside an image: provenance, not a tree.
    fn is_attestation(&self) -> bool {
        let unknown = self.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown");
        let marked = self.annotations.as_ref().and_then(|all| all.get("vnd.docker.reference.type"));
        unknown || marked.is_some_and(|value| value == "attestation-manifest")
    }

    fn is_for(&self, wanted: &str) -> bool {
        let mut parts = wanted.splitn(3, '/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        self.platform.as_ref().is_some_and(|p| {
            os == Some(p.os.as_str())
                && architecture == Some(p.architecture.as_str())
                && (variant.is_none() || variant == p.variant.as_deref())
        })
    }

    fn described(&self) -> String {
        let digest: String = self.digest.chars().take(80).collect();
        let platform = self.platform.as_ref().map_or_else(String::new, |p| {
            let variant = p.variant.as_ref().map_or_else(String::new, |v| format!("/{v}"));
            format!(" ({}/{}{variant})", p.os, p.architecture)
        });
        Escaped(format!("{digest}{platform}").as_bytes()).to_string()
    }

    /// Whether a blob with this media type can be a layer of files.
    pub(super) fn check_layer_type(&self) -> Result<(), Problem> {
        const LAYERS: &[&str] = &[
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ];
        let media_type = self.media_type.as_str();
        if LAYERS.contains(&media_type) {
            return Ok(());
        }
        Err(Problem::Unusable(match media_type {
            "" => "a layer that does not say its media type".to_owned(),
            other => format!("a layer of the type {}, which is not a tree of files", Named(other.as_bytes())),
        }))
    }
}
