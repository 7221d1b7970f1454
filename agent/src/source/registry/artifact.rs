//! Owns the documents that tie a bundle to its image: the artifact manifest (OCI image-spec v1.1, "Guidelines for Artifact
//! Usage"; as cosign's BUNDLE_SPEC has it) and the list of them (distribution-spec v1.1, "Listing Referrers", "Referrers Tag
//! Schema"). Must not own asking a registry, or believing what a document says.

use std::collections::BTreeMap;

use driftlock_common::digest::Digest;
use driftlock_common::trust::{Form, MANIFEST_MEDIA_TYPE, MAX_ENVELOPE, PREDICATE_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::image::{self, MAX_MANIFEST};
use super::super::problem::Problem;

/// Media type of an image manifest, which an artifact's manifest is too.
pub(super) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of a list of them.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a bundle of one signature.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Media type of an envelope of several.
const DSSE: &str = "application/vnd.dsse.envelope.v1+json";
/// Media type of a manifest that is compressed: a tenth of its size on its way to every host.
const MANIFEST_ZSTD: &str = "application/vnd.driftlock.manifest.v1+ndjson+zstd";
/// The configuration of what has none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Its bytes.
pub(super) const EMPTY_BYTES: &[u8] = b"{}";
/// The name of a layer as a file, for who pulls an artifact without driftlock.
const TITLE: &str = "org.opencontainers.image.title";
const CREATED: &str = "org.opencontainers.image.created";
const CONTENT: &str = "dev.sigstore.bundle.content";
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

/// The most referrers that an image may have to be looked through.
pub const MAX_REFERRERS: usize = 1000;
/// The most of them that may say to hold a statement about a manifest: each is fetched and verified.
pub const MAX_BUNDLES: usize = 64;
/// The largest manifest of a tree, in bytes as a registry has it.
pub(super) const MAX_STORED: u64 = 1024 * 1024 * 1024;

/// A blob, as one that refers to it has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Blob {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What is attached to an image.
#[derive(Debug)]
pub(super) struct Attached<'a> {
    pub(super) image: Blob,
    pub(super) bundle: &'a [u8],
    pub(super) form: Form,
    /// Compressed.
    pub(super) manifest: &'a [u8],
    /// Of the bytes that are not compressed.
    pub(super) sha256: Digest,
    pub(super) created_at: &'a str,
}

/// An artifact, ready to be written.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) bytes: Vec<u8>,
    /// As a list of referrers has it.
    entry: Value,
}

/// Where the parts of a signed manifest lie.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) bundle: Digest,
    pub(super) bundle_size: u64,
    pub(super) manifest: Digest,
    pub(super) manifest_size: u64,
    pub(super) is_compressed: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ArtifactJson<'a> {
    schema_version: u8,
    media_type: &'static str,
    artifact_type: &'static str,
    config: Blob,
    layers: [Blob; 2],
    subject: &'a Blob,
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    #[serde(default)]
    subject: Option<Blob>,
    #[serde(default)]
    layers: Vec<Blob>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    manifests: Vec<Listed>,
}

/// One of a list of referrers. Nothing of it is signed: it only says where to look.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Blob {
    /// One of these bytes.
    pub(super) fn of(media_type: &str, bytes: &[u8], title: Option<String>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", Digest::sha256(bytes)),
            size: bytes.len() as u64,
            annotations: title.map(|title| (TITLE.to_owned(), title)).into_iter().collect(),
        }
    }
}

impl Artifact {
    /// The same for the same parts: attaching twice is attaching once.
    pub(super) fn of(attached: &Attached<'_>) -> Self {
        let sha256 = attached.sha256;
        let kind = match attached.form {
            Form::SigstoreBundle => BUNDLE,
            Form::Dsse => DSSE,
        };
        let annotations = [(CONTENT, "dsse-envelope"), (PREDICATE, PREDICATE_TYPE), (CREATED, attached.created_at)];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let json = ArtifactJson {
            schema_version: 2,
            media_type: IMAGE,
            artifact_type: kind,
            config: Blob::of(EMPTY, EMPTY_BYTES, None),
            layers: [
                Blob::of(kind, attached.bundle, Some(format!("{sha256}.bundle"))),
                Blob::of(MANIFEST_ZSTD, attached.manifest, Some(format!("{sha256}.manifest.zst"))),
            ],
            subject: &attached.image,
            annotations: &annotations,
        };
        // Strings, numbers and maps of them always have a JSON form.
        let bytes = serde_json::to_vec(&json).unwrap_or_default();
        let entry = json!({
            "mediaType": IMAGE, "digest": format!("sha256:{}", Digest::sha256(&bytes)), "size": bytes.len(),
            "artifactType": kind, "annotations": annotations,
        });
        Self { bytes, entry }
    }

    /// Adds it to a list, of which nothing else changes; `None` if it is there already.
    pub(super) fn added_to(&self, list: Option<&[u8]>) -> Result<Option<Vec<u8>>, Problem> {
        let mut list: Value = match list {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| Problem::Json(error.to_string()))?,
            None => json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
        };
        let Some(manifests) = list.get_mut("manifests").and_then(Value::as_array_mut) else {
            return Err(Problem::Unusable("the tag of its referrers leads to something that is no list".into()));
        };
        if manifests.iter().any(|entry| entry.get("digest") == self.entry.get("digest")) {
            return Ok(None);
        }
        manifests.push(self.entry.clone());
        let bytes = serde_json::to_vec(&list).unwrap_or_default();
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(Problem::TooLarge { limit: MAX_MANIFEST });
        }
        Ok(Some(bytes))
    }
}

/// Reads a list of referrers.
pub(super) fn list(bytes: &[u8]) -> Result<Vec<Listed>, Problem> {
    let list: List = serde_json::from_slice(bytes).map_err(|error| Problem::Json(error.to_string()))?;
    Ok(list.manifests)
}

impl Listed {
    /// Whether it may hold a bundle about a manifest, by what the list says.
    pub(super) fn may_be_ours(&self) -> bool {
        let kind = self.artifact_type.as_deref();
        let predicate = self.annotations.as_ref().and_then(|annotations| annotations.get(PREDICATE));
        self.media_type == IMAGE
            && kind.is_none_or(|kind| matches!(kind, BUNDLE | DSSE))
            && predicate.is_none_or(|predicate| predicate == PREDICATE_TYPE)
    }

    pub(super) fn sha256(&self) -> Result<Digest, Problem> {
        image::sha256(&self.digest)
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }
}

/// Where the parts of an artifact lie; `None` if it is about another image, or holds no signed manifest.
pub(super) fn parts(artifact: &[u8], image: Digest) -> Result<Option<Parts>, Problem> {
    let read: Read = serde_json::from_slice(artifact).map_err(|error| Problem::Json(error.to_string()))?;
    let is_about = read.subject.is_some_and(|subject| subject.digest == format!("sha256:{image}"));
    let find = |kinds: &[&str]| read.layers.iter().find(|layer| kinds.contains(&layer.media_type.as_str()));
    let found = find(&[BUNDLE, DSSE]).zip(find(&[MANIFEST_ZSTD, MANIFEST_MEDIA_TYPE]));
    let Some((bundle, manifest)) = found.filter(|_| is_about) else { return Ok(None) };
    let longest = u64::try_from(MAX_ENVELOPE).unwrap_or(u64::MAX);
    for (blob, limit) in [(bundle, longest), (manifest, MAX_STORED)] {
        if blob.size > limit {
            return Err(Problem::TooLarge { limit });
        }
    }
    Ok(Some(Parts {
        bundle: image::sha256(&bundle.digest)?,
        bundle_size: bundle.size,
        manifest: image::sha256(&manifest.digest)?,
        manifest_size: manifest.size,
        is_compressed: manifest.media_type == MANIFEST_ZSTD,
    }))
}
