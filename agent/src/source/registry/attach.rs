//! Owns putting a bundle and its manifest beside an image in a registry. Must not own signatures, or how a registry is
//! written to.
//!
//! A registry that lists referrers says so when it takes the artifact. For another one the list is kept by its clients, as
//! an index under a tag: it is read, added to and written back, and nothing keeps two writers apart. So it is read once more
//! afterwards, and added to again if another writer has written over it; who writes later still, having read before, can
//! drop an entry all the same. Attaching again brings it back.

use bytes::Bytes;
use driftlock_common::digest::Digest;
use driftlock_common::trust::{Envelope, Statement};

use super::super::image::{self, Blobs as _};
use super::super::problem::{Problem, SourceError};
use super::artifact::{Artifact, Attached, Blob, EMPTY_BYTES, IMAGE, INDEX};
use super::{Registry, Repository, write};

/// How often a list is written before it is given up.
const TRIES: usize = 5;

/// How an attached bundle is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// The registry lists it.
    Referrers,
    /// Under the tag of the image's referrers.
    Tag,
}

/// What is attached.
#[derive(Debug)]
pub struct Attachment<'a> {
    /// The bundle.
    pub envelope: &'a Envelope,
    /// Its manifest, compressed with zstd.
    pub manifest: Vec<u8>,
    /// Its statement.
    pub statement: &'a Statement,
}

/// Attaches a bundle to an image that it is about, of an index to the one for the platform; the digest of the artifact that
/// holds it.
///
/// # Errors
/// If the image is not there, it is about another one, or the registry does not take it.
pub fn attach(
    repository: &Repository,
    named: Digest,
    platform: &str,
    attachment: &Attachment<'_>,
) -> Result<(Digest, Listing), SourceError> {
    let registry = Registry::open_to_write(repository)?;
    let at = |problem: Problem| problem.at(registry.place());
    let document = |digest: Digest| match registry.manifest(digest, None) {
        Err(SourceError { place, problem: Problem::Missing }) => {
            Err(Problem::NoImage(format!("there is no image sha256:{digest} in it")).at(place))
        }
        there => there,
    };
    let mut there = document(named)?;
    let image = image::meant(named, &there, &registry.place(), platform, &registry)?;
    if !attachment.statement.is_about(image) {
        let text = format!("the bundle's statement is not about the image sha256:{image}");
        return Err(at(Problem::Untrusted(text)));
    }
    if image != named {
        there = document(image)?;
    }
    let bundle = attachment.envelope.encode();
    let artifact = Artifact::of(&Attached {
        image: Blob::of(media_type(&there), &there, None),
        bundle: &bundle,
        form: attachment.envelope.form(),
        manifest: &attachment.manifest,
        sha256: attachment.statement.manifest,
        created_at: &attachment.statement.created_at,
    });
    let digest = Digest::sha256(&artifact.bytes);
    let client = &registry.client;
    let written = client.wait(async {
        for bytes in [EMPTY_BYTES.to_vec(), bundle, attachment.manifest.clone()] {
            write::blob(client, bytes.into()).await?;
        }
        write::manifest(client, &format!("sha256:{digest}"), IMAGE, artifact.bytes.clone().into()).await
    });
    if written.map_err(|error| at(error.into()))? {
        return Ok((digest, Listing::Referrers));
    }
    // A registry that lists referrers lists it, whatever it said.
    if registry.referrers(image).map_err(at)?.is_some() {
        return Ok((digest, Listing::Referrers));
    }
    list(&registry, image, &artifact).map_err(at)?;
    Ok((digest, Listing::Tag))
}

fn list(registry: &Registry, image: Digest, artifact: &Artifact) -> Result<(), Problem> {
    let tag = fallback_tag(image);
    for _ in 0..TRIES {
        let before = registry.tagged(&tag)?;
        let Some(after) = artifact.added_to(before.as_deref())? else { return Ok(()) };
        let client = &registry.client;
        client.wait(write::manifest(client, &tag, INDEX, Bytes::from(after)))?;
    }
    match artifact.added_to(registry.tagged(&tag)?.as_deref())? {
        None => Ok(()),
        Some(_) => Err(Problem::Unusable(format!(
            "the list under the tag {tag} was written {TRIES} times, and others wrote over it each time: attach again"
        ))),
    }
}

/// The tag under which clients keep the list of an image's referrers.
pub(super) fn fallback_tag(image: Digest) -> String {
    format!("sha256-{image}")
}

/// What a document says that it is.
fn media_type(document: &[u8]) -> &'static str {
    #[derive(serde::Deserialize)]
    struct Said {
        #[serde(rename = "mediaType", default)]
        media_type: String,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    match serde_json::from_slice::<Said>(document) {
        Ok(Said { media_type, .. }) if media_type == DOCKER => DOCKER,
        Ok(Said { media_type, .. }) if media_type == DOCKER_LIST => DOCKER_LIST,
        Ok(Said { manifests: Some(_), .. }) => INDEX,
        _ => IMAGE,
    }
}
