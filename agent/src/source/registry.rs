//! Owns reading an image from a registry by its digest (OCI distribution-spec v1.1, "Pulling manifests" and "Pulling
//! blobs"), and the signed manifests beside it. Must not own the documents' meaning, or layers' contents.
//!
//! A registry is believed in nothing: every document and layer has to have the digest and size that was stated before it
//! was asked for, and the first digest comes from the command line.

pub mod challenge;
pub mod credentials;
pub mod range;
pub mod reference;
mod artifact;
mod attach;
mod body;
mod client;
mod download;
mod error;
mod helper;
pub mod limits;
mod media;
mod referrers;
mod route;
mod token;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use driftlock_common::digest::{Digest, OciDigest};
use rayon::prelude::*;
use reqwest::header::CONTENT_TYPE;

pub use self::artifact::{MAX_BUNDLES, MAX_REFERRERS};
pub use self::attach::{Attachment, Listing, attach};
use self::body::Body;
use self::client::{Access, Client, Request, Tries};
use self::download::Download;
pub use self::error::RegistryError;
use self::limits::Limits;
pub use self::reference::{Reference, ReferenceError, Repository};
pub use self::referrers::{Found, find};
use super::cache::{self, Cache, Key};
use super::image::{self, Blobs, Descriptor, Image, MAX_MANIFEST, blob_place};
use super::layer::{self, Layer, Options};
use super::layout::check_diff_id;
use super::problem::{Problem, SourceError};
use crate::pool::Pool;

/// How many layers are downloaded at a time.
pub const LAYERS_AT_ONCE: usize = 2;
/// The largest layer, in bytes as it is stored.
pub const MAX_LAYER: u64 = 128 * 1024 * 1024 * 1024;

/// A repository of a registry.
#[derive(Debug)]
pub(super) struct Registry {
    client: Client,
}

/// The digest that a tag leads to now: of the document as the registry sends it.
///
/// # Errors
/// If it cannot be learned.
pub fn digest_of_tag(repository: &Repository, tag: &str) -> Result<Digest, SourceError> {
    let at = |problem: Problem| problem.at(format!("registry:{repository}:{tag}"));
    let client = Client::new(repository, Limits::once(), Access::Pull).map_err(|error| at(error.into()))?;
    let registry = Registry { client };
    let bytes = registry.manifest_named(tag, None).map_err(at)?;
    Ok(Digest::sha256(&bytes))
}

impl Registry {
    pub(super) fn open(repository: &Repository) -> Result<Self, SourceError> {
        Self::with(repository, Limits::default(), Access::Pull)
    }

    fn open_to_write(repository: &Repository) -> Result<Self, SourceError> {
        Self::with(repository, Limits::default(), Access::Push)
    }

    fn with(repository: &Repository, limits: Limits, access: Access) -> Result<Self, SourceError> {
        let client = Client::new(repository, limits, access);
        let client = client.map_err(|error| Problem::from(error).at(format!("registry:{repository}")))?;
        Ok(Self { client })
    }

    /// How it is named in errors.
    pub(super) fn place(&self) -> String {
        format!("registry:{}", self.client.repository)
    }

    /// The image with this digest, or the one for the platform out of the index with it.
    pub(super) fn image(&self, digest: Digest, platform: &str) -> Result<Image, SourceError> {
        image::resolve(&[], &self.place(), Some(OciDigest::sha256(digest)), platform, self)
    }

    /// The layers of an image in order, read on the pool as they come in, verified.
    pub(super) fn layers(
        &self,
        image: &Image,
        options: &Options,
        cache: Option<&Cache>,
        pool: &Pool,
    ) -> Result<Vec<Layer>, SourceError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done = Mutex::new(BTreeMap::new());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((descriptor, diff_id)) = image.layers.get(number).zip(image.config.diff_ids.get(number))
                else {
                    return;
                };
                let layer = self.layer(descriptor, *diff_id, options, cache);
                // Those before it were begun and are finished, so the same image always gives the same error.
                stop.fetch_or(layer.is_err(), Ordering::Relaxed);
                done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, layer);
            }
        };
        pool.run(|| (0..LAYERS_AT_ONCE).into_par_iter().with_max_len(1).for_each(|_| work()));
        done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
    }

    fn layer(
        &self,
        descriptor: &Descriptor,
        diff_id: Digest,
        options: &Options,
        cache: Option<&Cache>,
    ) -> Result<Layer, SourceError> {
        let digest = descriptor.sha256().map_err(|problem| problem.at(self.place()))?;
        let at = |problem: Problem| problem.at(self.place_of(digest));
        descriptor.check_layer_type().map_err(at)?;
        if descriptor.size > MAX_LAYER {
            return Err(at(Problem::TooLarge { limit: MAX_LAYER }));
        }
        cache::through(cache, Key { blob: digest, diff_id }, options, || {
            let mut bytes = Download::new(&self.client, digest, descriptor.size);
            let layer = layer::index(&mut bytes, options);
            // Whatever went wrong with a blob that is not the one meant, that is the reason.
            bytes.finish().map_err(at)?;
            let layer = layer.map_err(at)?;
            check_diff_id(&layer, diff_id).map_err(at)?;
            Ok(layer)
        })
    }

    /// An index or manifest by digest or tag, whose head does not contradict it.
    fn manifest_named(&self, name: &str, size: Option<u64>) -> Result<Vec<u8>, Problem> {
        let rest = format!("manifests/{name}");
        let request = Request { rest: &rest, accept: Some(media::ACCEPT), from: 0 };
        let (content_type, bytes) = self.whole(request, size, MAX_MANIFEST)?;
        // A page of words is no reason to call the digest wrong, so this comes first.
        media::check(content_type.as_deref(), &bytes)?;
        Ok(bytes)
    }

    /// A document, and what its head says that it is. One that is cut short is asked for again.
    fn whole(&self, request: Request<'_>, size: Option<u64>, limit: u64) -> Result<(Option<String>, Vec<u8>), Problem> {
        if size.is_some_and(|size| size > limit) {
            return Err(Problem::TooLarge { limit });
        }
        let mut tries = Tries::default();
        self.client.wait(async {
            loop {
                let response = self.client.ask(request, &mut tries).await?.ok_or(Problem::Missing)?;
                if let (Some(expected), Some(found)) = (size, response.content_length())
                    && expected != found
                {
                    return Err(Problem::WrongSize { expected, found });
                }
                let content_type = response.headers().get(CONTENT_TYPE);
                let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                let host = route::host(response.url());
                let body = Body::new(response, host.clone()).read_up_to(size.unwrap_or(limit), &self.client.limits);
                match (body.await, size) {
                    (Err(stop), _) => self.client.pause(stop, &mut tries).await?,
                    (Ok(None), None) => return Err(Problem::TooLarge { limit }),
                    (Ok(None), Some(size)) => return Err(RegistryError::TooLong { host, size }.into()),
                    (Ok(Some(bytes)), Some(expected)) if bytes.len() as u64 != expected => {
                        return Err(Problem::WrongSize { expected, found: bytes.len() as u64 });
                    }
                    (Ok(Some(bytes)), _) => return Ok((content_type, bytes)),
                }
            }
        })
    }

    fn place_of(&self, digest: Digest) -> String {
        format!("{}: {}", self.place(), blob_place(digest))
    }
}

impl Blobs for Registry {
    fn document(&self, digest: Digest, size: Option<u64>, limit: u64) -> Result<Vec<u8>, SourceError> {
        let rest = format!("blobs/sha256:{digest}");
        let request = Request { rest: &rest, accept: None, from: 0 };
        let bytes = self.whole(request, size, limit).map(|(_, bytes)| bytes);
        bytes.and_then(|bytes| checked(bytes, digest)).map_err(|problem| problem.at(self.place_of(digest)))
    }

    fn manifest(&self, digest: Digest, size: Option<u64>) -> Result<Vec<u8>, SourceError> {
        let bytes = self.manifest_named(&format!("sha256:{digest}"), size);
        bytes.and_then(|bytes| checked(bytes, digest)).map_err(|problem| problem.at(self.place_of(digest)))
    }
}

fn checked(bytes: Vec<u8>, digest: Digest) -> Result<Vec<u8>, Problem> {
    let found = Digest::sha256(&bytes);
    if found == digest { Ok(bytes) } else { Err(Problem::WrongDigest { found }) }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}
