//! Owns reading an image archive in one pass, whatever the order inside: every file is indexed or kept as it streams
//! by, and what it is for is found out at the end. Must not own what the documents say.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::path::{Escaped, TreePath};
use driftlock_common::tree::archive_path;
use tar_core::Header;

use super::block::BLOCK;
use super::docker;
use super::entries::{Entries, EntryKind, Readers};
use super::image::{self, Blobs, Config, MAX_CONFIG, blob_place};
use super::layer::{self, Layer, Options};
use super::layout::{check_diff_id, read_to_limit};
use super::problem::{Fault, Problem, SourceError};
use super::stream::{CHUNK, Counted, Decoded, Device, Guarded, Hashing, Stored, peek, sniff};

/// The most bytes of documents that are kept together.
const MAX_DOCUMENTS: u64 = 64 * 1024 * 1024;
/// The most files in an archive: far more than layers and documents of any image.
const MAX_FILES: usize = 100_000;
/// The most links that lead from one name in an archive to another.
const MAX_LINKS: usize = 8;

/// An image out of an archive.
#[derive(Debug)]
pub struct Unpacked {
    /// Digest of the OCI manifest; a Docker archive has none.
    pub manifest: Option<Digest>,
    /// The configuration.
    pub(super) config: Config,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

/// What an archive holds.
#[derive(Debug, Default)]
pub(super) struct Archive {
    files: BTreeMap<TreePath, Blob>,
    links: BTreeMap<TreePath, Vec<u8>>,
    documents: u64,
}

/// A file of an archive.
#[derive(Debug)]
struct Blob {
    digest: Digest,
    size: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Document(Vec<u8>),
    Layer(Box<Layer>),
    /// Something that looks like a layer but is none; only an error if it is needed.
    Broken(Problem),
    /// Too large for a document and not a layer.
    Other,
}

/// Reads an image archive: OCI (`skopeo copy … oci-archive:`), `docker save` of any age, plain, gzip or zstd.
///
/// # Errors
/// If the archive cannot be read, is damaged, or does not hold exactly one image that fits.
pub fn read(
    input: impl Read + Send,
    place: &str,
    wanted: Option<OciDigest>,
    platform: &str,
    options: &Options,
) -> Result<Unpacked, SourceError> {
    let archive = Archive::read(input, options).map_err(|problem| problem.at(place))?;
    let index = TreePath::new("index.json").ok().filter(|path| archive.files.contains_key(path));
    let oci = TreePath::new("oci-layout").is_ok_and(|path| archive.files.contains_key(&path));
    match index {
        // Docker 25 and later write both forms; the OCI one names the manifest.
        Some(index) if oci => archive.oci(&index, place, wanted, platform),
        _ if wanted.is_some() => Err(Problem::Choice("only an OCI archive can be asked for a digest".into()).at(place)),
        _ => archive.docker(place),
    }
}

impl Archive {
    fn read(input: impl Read + Send, options: &Options) -> Result<Self, Problem> {
        let mut archive = Self::default();
        let (input, stored) = Counted::new(Device(input));
        let input = Decoded::new(BufReader::with_capacity(CHUNK, input))?;
        let input = Guarded::new(input, &options.budget, &stored, 0);
        let mut entries = Entries::new(BufReader::with_capacity(CHUNK, input), Readers::Any);
        while let Some(entry) = entries.next()? {
            let path = archive_path(&entry.path)
                .map_err(|error| Problem::Entry { path: entry.path.clone(), fault: error.into() })?;
            if archive.files.len() + archive.links.len() >= MAX_FILES {
                return Err(Problem::TooMuch("more than 100,000 files in an image archive"));
            }
            match entry.kind {
                EntryKind::File => {
                    options.budget.inflate(entry.holes.unwrap_or_default())?;
                    let blob = Blob::read(entries.body(), entry.size, &stored, options, &mut archive.documents)?;
                    archive.links.remove(&path);
                    archive.files.insert(path, blob);
                }
                EntryKind::Symlink(target) => {
                    let beside = path.parent().unwrap_or_default();
                    archive.links.insert(path, [beside.as_bytes(), b"/", &target].concat());
                }
                EntryKind::Hardlink(target) => {
                    archive.links.insert(path, target);
                }
                EntryKind::Directory => {}
                EntryKind::Char(_) | EntryKind::Block(_) | EntryKind::Fifo => {
                    return Err(Problem::NotThis(
                        "not an image archive: there are devices in it; a release is tar:FILE",
                    ));
                }
            }
        }
        entries.finish()?;
        Ok(archive)
    }

    fn oci(
        mut self,
        index: &TreePath,
        place: &str,
        wanted: Option<OciDigest>,
        platform: &str,
    ) -> Result<Unpacked, SourceError> {
        let documents = Documents { archive: &self, place };
        let bytes = self.document(index).map_err(|problem| problem.at(format!("{place}: index.json")))?;
        let image = image::resolve(bytes, &format!("{place}: index.json"), wanted, platform, &documents)?;
        let mut layers = Vec::new();
        for (descriptor, diff_id) in image.layers.iter().zip(&image.config.diff_ids) {
            let digest = descriptor.sha256().map_err(|problem| problem.at(place))?;
            let at = |problem: Problem| problem.at(format!("{place}: {}", blob_place(digest)));
            descriptor.check_layer_type().map_err(at)?;
            let path = blob_path(digest).map_err(at)?;
            self.check(&path, Some(digest), Some(descriptor.size)).map_err(at)?;
            layers.push(self.layer(&path, *diff_id).map_err(at)?);
        }
        Ok(Unpacked { manifest: Some(image.manifest), config: image.config, layers })
    }

    fn docker(mut self, place: &str) -> Result<Unpacked, SourceError> {
        let index = format!("{place}: manifest.json");
        let path = TreePath::new("manifest.json").unwrap_or_default();
        if !self.files.contains_key(&path) {
            let text = "not an image archive: it has neither oci-layout and index.json nor manifest.json; \
                        a release is tar:FILE";
            return Err(Problem::NotThis(text).at(place));
        }
        let bytes = self.document(&path).map_err(|problem| problem.at(&index))?;
        let saved = docker::only_image(bytes, &index)?;
        let at_config = |problem: Problem| problem.at(format!("{place}: {}", Escaped(saved.config.as_bytes())));
        let path = self.resolve(saved.config.as_bytes()).map_err(at_config)?;
        // The file's name is the digest where it looks like one.
        self.check(&path, docker::digest_in_name(&saved.config), None).map_err(at_config)?;
        let bytes = self.document(&path).map_err(at_config)?;
        let config = image::config(bytes, Digest::sha256(bytes), saved.layers.len())?;
        let mut layers = Vec::new();
        for (name, diff_id) in saved.layers.iter().zip(&config.diff_ids) {
            let at = |problem: Problem| problem.at(format!("{place}: {}", Escaped(name.as_bytes())));
            let path = self.resolve(name.as_bytes()).map_err(at)?;
            layers.push(self.layer(&path, *diff_id).map_err(at)?);
        }
        Ok(Unpacked { manifest: None, config, layers })
    }

    /// Follows the links of the archive from a name to a file.
    fn resolve(&self, name: &[u8]) -> Result<TreePath, Problem> {
        let mut raw = name.to_vec();
        for _ in 0..MAX_LINKS {
            let path = within_archive(&raw)?;
            if self.files.contains_key(&path) {
                return Ok(path);
            }
            raw = self.links.get(&path).ok_or(Problem::Missing)?.clone();
        }
        Err(Problem::Unusable("links lead around in a circle".into()))
    }

    fn check(&self, path: &TreePath, digest: Option<Digest>, size: Option<u64>) -> Result<(), Problem> {
        let blob = self.files.get(path).ok_or(Problem::Missing)?;
        if size.is_some_and(|size| size != blob.size) {
            return Err(Problem::WrongSize { expected: size.unwrap_or_default(), found: blob.size });
        }
        if digest.is_some_and(|digest| digest != blob.digest) {
            return Err(Problem::WrongDigest { found: blob.digest });
        }
        Ok(())
    }

    fn document(&self, path: &TreePath) -> Result<&[u8], Problem> {
        match &self.files.get(path).ok_or(Problem::Missing)?.what {
            What::Document(bytes) => Ok(bytes),
            What::Layer(_) | What::Broken(_) => Err(Problem::Json("it is not text".into())),
            What::Other => Err(Problem::TooLarge { limit: MAX_CONFIG }),
        }
    }

    /// The layer at `path`, verified. An image may have the same layer twice.
    fn layer(&mut self, path: &TreePath, diff_id: Digest) -> Result<Layer, Problem> {
        let blob = self.files.get_mut(path).ok_or(Problem::Missing)?;
        match &mut blob.what {
            What::Layer(layer) => {
                check_diff_id(layer, diff_id)?;
                Ok(Layer::clone(layer))
            }
            What::Broken(problem) => Err(std::mem::replace(problem, Problem::Missing)),
            What::Document(_) | What::Other => {
                Err(Problem::Unusable("a layer is expected here, but this is not a tar archive".into()))
            }
        }
    }
}

impl Blob {
    fn read(
        body: impl BufRead + Send,
        size: u64,
        stored: &Stored,
        options: &Options,
        documents: &mut u64,
    ) -> Result<Self, Problem> {
        let mut bytes = Hashing::new(body);
        let (first, mut stream) = peek(&mut bytes, BLOCK).map_err(Problem::of_stream)?;
        let what = if looks_like_layer(&first) {
            match layer::index_within(&mut stream, stored, options) {
                Ok(layer) => What::Layer(Box::new(layer)),
                Err(problem) => What::Broken(problem),
            }
        } else if size <= MAX_CONFIG {
            *documents += size;
            if *documents > MAX_DOCUMENTS {
                return Err(Problem::TooMuch("more than 64 MiB of documents in an image archive"));
            }
            What::Document(read_to_limit(stream, MAX_CONFIG)?)
        } else {
            What::Other
        };
        // If the archive around the blob is at fault, this meets the same problem and ends the whole.
        let (digest, size) = bytes.finish().map_err(Problem::of_stream)?;
        Ok(Self { digest, size, what })
    }
}

/// By compression, or by a tar header.
fn looks_like_layer(first: &[u8]) -> bool {
    if sniff(first).is_some() {
        return true;
    }
    let Some(block) = first.first_chunk::<BLOCK>() else { return false };
    block.iter().all(|b| *b == 0) || Header::from_bytes(block).verify_checksum().is_ok()
}

/// Resolves `..` as the links of Docker archives use it (`../<id>.tar`), never above the archive's root.
fn within_archive(raw: &[u8]) -> Result<TreePath, Problem> {
    let refuse = |fault: Fault| Problem::Entry { path: raw.to_vec(), fault };
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in raw.split(|b| *b == b'/') {
        if component == b".." {
            kept.pop().ok_or_else(|| refuse(driftlock_common::path::PathError::DotComponent.into()))?;
        } else if !component.is_empty() && component != b"." {
            kept.push(component);
        }
    }
    TreePath::new(kept.join(&b'/')).map_err(|error| refuse(error.into()))
}

fn blob_path(digest: Digest) -> Result<TreePath, Problem> {
    TreePath::new(format!("blobs/sha256/{digest}")).map_err(|_| Problem::Missing)
}

/// The documents of an archive by their digests.
struct Documents<'a> {
    archive: &'a Archive,
    place: &'a str,
}

impl Blobs for Documents<'_> {
    fn document(&self, digest: Digest, size: Option<u64>, limit: u64) -> Result<Vec<u8>, SourceError> {
        let at = |problem: Problem| problem.at(format!("{}: {}", self.place, blob_place(digest)));
        let path = blob_path(digest).map_err(at)?;
        self.archive.check(&path, Some(digest), size).map_err(at)?;
        let bytes = self.archive.document(&path).map_err(at)?;
        if bytes.len() as u64 > limit {
            return Err(at(Problem::TooLarge { limit }));
        }
        Ok(bytes.to_vec())
    }
}
