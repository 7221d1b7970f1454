//! Owns reading a source (an image, a release archive, a directory, a manifest) into a sealed tree. Must not own
//! comparing, or where the manifest is written.

pub mod archive;
mod block;
mod cache;
pub mod budget;
mod dir;
mod docker;
mod entries;
mod image;
pub mod layer;
mod layout;
pub mod merge;
pub mod mtree;
pub mod notes;
mod problem;
pub mod registry;
mod sparse;
mod spec;
mod stream;
mod toc;

#[cfg(test)]
mod kit;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use driftlock_common::digest::{Algorithm, Digest, OciDigest};
use driftlock_common::manifest::{self, Header, Manifest, SourceKind};
use driftlock_common::node::Kind;
use driftlock_common::path::plain_text;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use driftlock_common::tree::Tree;

use self::budget::Budget;
use self::cache::Cache;
use self::layer::{Dialect, Layer, Options};
use self::layout::Layout;
use self::merge::Merge;
pub use self::notes::{Code, Note, Notes};
use self::problem::place;
pub use self::problem::{Fault, Format, Problem, SourceError};
use self::registry::{Registry, Repository};
pub use self::spec::SpecError;
use self::stream::{Decoded, Device};
use crate::pool::Pool;

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory as it is now.
    Dir(PathBuf),
    /// An OCI image layout.
    Oci {
        /// Its directory.
        layout: PathBuf,
        /// Which image or index in it; else the only one for the platform.
        digest: Option<OciDigest>,
    },
    /// An image archive: OCI or Docker.
    Archive {
        /// The archive.
        input: Input,
        /// Which image or index in it; else the only one for the platform.
        digest: Option<OciDigest>,
    },
    /// An image in a registry.
    Registry {
        /// Where.
        repository: Repository,
        /// Which image or index.
        digest: Digest,
    },
    /// A release archive: one layer, in which no name means anything special.
    Tar(Input),
    /// An mtree(5) file.
    Mtree(Input),
    /// A manifest, or a bundle, which says its own terms: it is sealed already.
    Manifest(PathBuf),
}

/// Where an archive's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

/// Under which terms a source is sealed.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How much of each path.
    pub profile: Profile,
    /// What is left out, named sets included.
    pub excludes: Excludes,
    /// The names of the sets in `excludes`.
    pub exclude_sets: Vec<String>,
    /// Which image of an index: `os/architecture[/variant]`.
    pub platform: String,
    /// Whether each file's SHA-256 is made beside its BLAKE3.
    pub sha256: bool,
    /// Whether an image of which container engines make different trees is refused.
    pub strict: bool,
    /// Where what layers say is kept, so that an image that has them is not read again.
    pub cache: Option<PathBuf>,
}

/// A sealed source.
#[derive(Debug)]
pub struct Sealed {
    /// The manifest.
    pub manifest: Manifest,
    /// What was odd about the source.
    pub notes: Notes,
}

impl Terms {
    /// The terms of a manifest, to read something else that is to be compared with it, found as was stated.
    pub fn of(header: &Header, stated: &Self) -> Self {
        Self {
            profile: header.profile,
            excludes: header.excludes.clone(),
            exclude_sets: header.exclude_sets.clone(),
            platform: stated.platform.clone(),
            sha256: true,
            strict: false,
            cache: stated.cache.clone(),
        }
    }
}

/// Reads a source. Images are verified on the way: every blob's digest and size, every layer's `diff_id`.
///
/// # Errors
/// If the source is not there, cannot be read to its end, is not what it claims to be, or cannot be sealed.
pub fn read(source: &Source, terms: &Terms, pool: &Pool) -> Result<Sealed, SourceError> {
    let (tree, notes, origin) = match source {
        Source::Manifest(path) => return Err(Problem::Sealed.at(place(path))),
        Source::Mtree(input) => return read_mtree(input, terms),
        Source::Dir(root) => dir::read(root, terms, pool)?,
        Source::Oci { layout, digest } => {
            let options = options(Dialect::Image, terms);
            let place = place(layout);
            let layout = Layout::open(layout)?;
            let image = layout.image(*digest, &terms.platform)?;
            let layers = layout.layers(&image, &options, cache(terms)?.as_ref(), pool)?;
            let unpacked = archive::Unpacked { manifest: Some(image.manifest), config: image.config, layers };
            merged_image(unpacked, &place, terms)?
        }
        Source::Archive { input, digest } => {
            let options = options(Dialect::Image, terms);
            let unpacked = archive::read(input.open()?, &input.place(), *digest, &terms.platform, &options)?;
            merged_image(unpacked, &input.place(), terms)?
        }
        Source::Registry { repository, digest } => {
            let options = options(Dialect::Image, terms);
            let registry = Registry::open(repository)?;
            let image = registry.image(*digest, &terms.platform)?;
            let layers = registry.layers(&image, &options, cache(terms)?.as_ref(), pool)?;
            let unpacked = archive::Unpacked { manifest: Some(image.manifest), config: image.config, layers };
            merged_image(unpacked, &registry.place(), terms)?
        }
        Source::Tar(input) => {
            let options = options(Dialect::Release, terms);
            let stream = Device(input.open()?);
            let layer = layer::index(stream, &options).map_err(|problem| problem.at(input.place()))?;
            let origin = manifest::Source {
                kind: SourceKind::Tar,
                manifest: None,
                config: None,
                platform: None,
                layers: layer.diff_id.into_iter().map(OciDigest::sha256).collect(),
            };
            let (tree, notes) = merge(vec![layer], terms, false).map_err(|problem| problem.at(input.place()))?;
            (tree, notes, Origin { source: origin, history: Vec::new() })
        }
    };
    Ok(sealed(tree, notes, origin, terms))
}

/// Reads an mtree file. SHA-256 is what there is, and what it says is not to be compared is left out.
fn read_mtree(input: &Input, terms: &Terms) -> Result<Sealed, SourceError> {
    let at = |problem: Problem| problem.at(input.place());
    let stream = Decoded::new(BufReader::with_capacity(stream::CHUNK, Device(input.open()?))).map_err(at)?;
    let mtree::Described { tree, excludes, notes } =
        mtree::read(BufReader::with_capacity(stream::CHUNK, stream), terms).map_err(at)?;
    let source =
        manifest::Source { kind: SourceKind::Mtree, manifest: None, config: None, platform: None, layers: Vec::new() };
    let mut sealed = sealed(tree, notes, Origin { source, history: Vec::new() }, terms);
    sealed.manifest.header.content = Algorithm::Sha256;
    sealed.manifest.header.excludes = excludes;
    Ok(sealed)
}

/// What the header says about the source.
struct Origin {
    source: manifest::Source,
    history: Vec<String>,
}

fn cache(terms: &Terms) -> Result<Option<Cache>, SourceError> {
    terms.cache.as_deref().map(Cache::open).transpose()
}

fn options(dialect: Dialect, terms: &Terms) -> Options {
    Options { dialect, profile: terms.profile, sha256: terms.sha256, budget: Budget::default() }
}

fn merged_image(unpacked: archive::Unpacked, place: &str, terms: &Terms) -> Result<(Tree, Notes, Origin), SourceError> {
    let archive::Unpacked { manifest, config, layers } = unpacked;
    let source = manifest::Source {
        kind: if manifest.is_some() { SourceKind::Oci } else { SourceKind::Docker },
        manifest: manifest.map(OciDigest::sha256),
        config: Some(OciDigest::sha256(config.digest)),
        platform: Some(config.platform),
        layers: config.diff_ids.into_iter().map(OciDigest::sha256).collect(),
    };
    let (tree, notes) = merge(layers, terms, true).map_err(|problem| problem.at(place))?;
    Ok((tree, notes, Origin { source, history: config.history }))
}

fn merge(layers: Vec<Layer>, terms: &Terms, attribute: bool) -> Result<(Tree, Notes), Problem> {
    let mut merge = Merge::default();
    for layer in layers {
        merge.push(layer)?;
    }
    let (tree, notes) = merge.finish(&terms.excludes, attribute)?;
    if terms.strict
        && let Some(note) = notes.first_ambiguous()
    {
        return Err(Problem::Strict { code: note.code, path: note.path.clone() });
    }
    Ok((tree, notes))
}

fn sealed(tree: Tree, mut notes: Notes, origin: Origin, terms: &Terms) -> Sealed {
    note_nodes(&tree, &mut notes);
    let mut header = Header::new(terms.profile, Algorithm::Blake3, terms.excludes.clone());
    header.exclude_sets = terms.exclude_sets.clone();
    header.history = origin.history;
    header.source = Some(origin.source);
    header.diagnostics = notes.diagnostics();
    Sealed { manifest: Manifest { header, tree }, notes }
}

/// What a reviewer of any tree wants to see.
fn note_nodes(tree: &Tree, notes: &mut Notes) {
    for id in tree.iter() {
        let node = tree.node(id);
        let layer = tree.origin(id).layer;
        let setid = matches!(node.kind, Kind::File { .. }) && node.mode.is_some_and(|mode| mode & 0o6000 != 0);
        let device = matches!(node.kind, Kind::Char(_) | Kind::Block(_));
        let name = tree.name(id);
        let odd_name = plain_text(name).is_none() && std::str::from_utf8(name).is_err();
        for (is, code) in [(setid, Code::Setid), (device, Code::DeviceNode), (odd_name, Code::NonUtf8Path)] {
            if is {
                notes.add(code, &tree.path(id), layer);
            }
        }
    }
}

// === impl Input ===

impl Input {
    fn open(&self) -> Result<Box<dyn Read + Send>, SourceError> {
        match self {
            Self::Stdin => Ok(Box::new(io::stdin())),
            Self::File(path) => {
                let file = File::open(path).map_err(|error| Problem::Open(error).at(place(path)))?;
                Ok(Box::new(file))
            }
        }
    }

    fn place(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => place(path),
        }
    }
}
