//! Owns reading an OCI image layout on disk (OCI image-spec, image-layout.md). Must not own the documents' meaning.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use driftlock_common::digest::{Digest, OciDigest};
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};

use super::cache::{self, Cache, Key};
use super::image::{self, Blobs, Descriptor, Image, MAX_MANIFEST, blob_place};
use super::layer::{self, Layer, Options};
use super::problem::{Problem, SourceError, place};
use super::stream::{Device, Hashing};
use crate::pool::Pool;

/// An image layout.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Checks that `root` is one.
    pub(super) fn open(root: &Path) -> Result<Self, SourceError> {
        let layout = Self { root: root.to_owned() };
        std::fs::metadata(root).map_err(|error| Problem::Open(error).at(place(root)))?;
        let marker = layout.root.join("oci-layout");
        if !marker.is_file() {
            return Err(Problem::NotThis("not an OCI image layout: there is no file oci-layout in it").at(place(root)));
        }
        Ok(layout)
    }

    /// The image that is meant.
    pub(super) fn image(&self, wanted: Option<OciDigest>, platform: &str) -> Result<Image, SourceError> {
        let path = self.root.join("index.json");
        let file = self.open_within(&path).map_err(|problem| problem.at(place(&path)))?;
        let bytes = read_to_limit(file, MAX_MANIFEST).map_err(|problem| problem.at(place(&path)))?;
        image::resolve(&bytes, &place(&path), wanted, platform, self)
    }

    /// The layers of an image in order, read on the pool, verified.
    pub(super) fn layers(
        &self,
        image: &Image,
        options: &Options,
        cache: Option<&Cache>,
        pool: &Pool,
    ) -> Result<Vec<Layer>, SourceError> {
        pool.run(|| {
            image
                .layers
                .par_iter()
                .zip(&image.config.diff_ids)
                .map(|(descriptor, diff_id)| self.layer(descriptor, *diff_id, options, cache))
                // The first in order, so that the same image always gives the same error.
                .collect::<Vec<_>>()
        })
        .into_iter()
        .collect()
    }

    fn layer(
        &self,
        descriptor: &Descriptor,
        diff_id: Digest,
        options: &Options,
        cache: Option<&Cache>,
    ) -> Result<Layer, SourceError> {
        let blob = descriptor.sha256().map_err(|problem| problem.at("layer"))?;
        descriptor.check_layer_type().map_err(|problem| problem.at(self.place_of(blob)))?;
        let key = Key { blob, diff_id };
        cache::through(cache, key, options, || self.read_layer(key, descriptor.size, options))
    }

    fn read_layer(
        &self,
        Key { blob: digest, diff_id }: Key,
        size: u64,
        options: &Options,
    ) -> Result<Layer, SourceError> {
        let at = || self.place_of(digest);
        let file = self.blob(digest, Some(size))?;
        let mut bytes = Hashing::new(Device(file));
        let layer = layer::index(&mut bytes, options);
        let (found, _) = bytes.finish().map_err(|error| Problem::of_stream(error).at(at()))?;
        // Whatever went wrong with a blob that is not the one meant, that is the reason.
        if found != digest {
            return Err(Problem::WrongDigest { found }.at(at()));
        }
        let layer = layer.map_err(|problem| problem.at(at()))?;
        check_diff_id(&layer, diff_id).map_err(|problem| problem.at(at()))?;
        Ok(layer)
    }

    fn place_of(&self, digest: Digest) -> String {
        format!("{}: {}", place(&self.root), blob_place(digest))
    }

    fn blob(&self, digest: Digest, size: Option<u64>) -> Result<File, SourceError> {
        let at = || self.place_of(digest);
        let path = self.root.join("blobs/sha256").join(digest.to_hex());
        let file = self.open_within(&path).map_err(|problem| match problem {
            Problem::Open(error) if error.kind() == ErrorKind::NotFound => Problem::Missing.at(at()),
            problem => problem.at(at()),
        })?;
        let found = file.metadata().map_err(|error| Problem::Device(error).at(at()))?.len();
        match size {
            Some(expected) if expected != found => Err(Problem::WrongSize { expected, found }.at(at())),
            _ => Ok(file),
        }
    }

    /// Opens a file of the layout. A FIFO would be waited for, a device have no end, and what a link has elsewhere is not
    /// part of the layout.
    fn open_within(&self, path: &Path) -> Result<File, Problem> {
        let real = path.canonicalize().map_err(Problem::Open)?;
        if !real.starts_with(self.root.canonicalize().map_err(Problem::Open)?) {
            return Err(Problem::NotThis("a link that leads out of the layout: copy the layout with cp -rL"));
        }
        let special = || Problem::NotThis("not a regular file");
        // A device may do something when it is opened.
        if !real.metadata().map_err(Problem::Open)?.is_file() {
            return Err(special());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file =
            File::from(rustix::fs::open(&real, flags, Mode::empty()).map_err(|error| Problem::Open(error.into()))?);
        // Another may have come into its place.
        if file.metadata().map_err(Problem::Device)?.is_file() { Ok(file) } else { Err(special()) }
    }
}

impl Blobs for Layout {
    fn document(&self, digest: Digest, size: Option<u64>, limit: u64) -> Result<Vec<u8>, SourceError> {
        let at = || self.place_of(digest);
        let file = self.blob(digest, size)?;
        let bytes = read_to_limit(file, limit).map_err(|problem| problem.at(at()))?;
        let found = Digest::sha256(&bytes);
        if found != digest {
            return Err(Problem::WrongDigest { found }.at(at()));
        }
        Ok(bytes)
    }
}

/// The uncompressed bytes must be those that the configuration names.
pub(super) fn check_diff_id(layer: &Layer, expected: Digest) -> Result<(), Problem> {
    match layer.diff_id {
        Some(found) if found != expected => Err(Problem::WrongDiffId { expected, found }),
        _ => Ok(()),
    }
}

/// Reads a document that may not be larger than `limit`.
pub(super) fn read_to_limit(input: impl Read, limit: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    input.take(limit + 1).read_to_end(&mut bytes).map_err(Problem::Device)?;
    if bytes.len() as u64 > limit {
        return Err(Problem::TooLarge { limit });
    }
    Ok(bytes)
}
