//! Owns the one door from bytes to trust: only [`Baseline::load`] makes a [`Baseline`]. Must not own comparing, or
//! deciding what happens when a manifest is refused.

#[cfg(test)]
mod bundles;
#[cfg(test)]
pub(crate) mod kit;
mod kept;
mod laid;
mod left_out;
mod origins;

use std::collections::BTreeSet;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use driftlock_common::digest::{Algorithm, Digest, OciDigest};
use driftlock_common::exit::Exit;
use driftlock_common::finding::ManifestView;
use driftlock_common::manifest::{Header, MAX_LINE, Manifest, ManifestError, Meaning, Problem, Reader, SealedIn};
use driftlock_common::path::{Escaped, TreePath};
use driftlock_common::tree::{EntryId, MAX_PARTS, Origin, Tree, TreeError};
use driftlock_common::trust::{Anchors, KeyId, Refusal, Role, Statement, StatementError, Timestamp};
use sha2::Digest as _;

use crate::assigned::Assigned;
use crate::bundle::{self, BundleError, Opened, Stream};
use crate::failure::Failure;
use crate::scan::Expected;
use laid::Laid;
use origins::{Origins, Places};

pub use kept::{Kept, KeptError, MAX_KEPT, remove_others};
pub use left_out::LeftOut;

/// Bytes read at a time: so much is held beside the tree, and what it means meanwhile, which is about as much again.
const BLOCK: usize = 2 * 1024 * 1024;
/// Bytes that are worth a thread.
const PART: usize = 512 * 1024;

/// A manifest that may be compared with, or what several are together.
#[derive(Debug)]
pub struct Baseline {
    /// Without origins, as far as they are in files.
    manifest: Manifest,
    /// Computed once: it takes a pass over the whole tree.
    tree: OciDigest,
    made: Made,
}

/// What a baseline was read from.
#[derive(Debug)]
enum Made {
    One(Box<Provenance>),
    Several(Laid),
}

/// What is known of the bytes of a manifest.
#[derive(Debug)]
struct Provenance {
    /// Of the manifest or its bundle, as it was given.
    path: PathBuf,
    /// `None` for what cannot be read twice, a pipe for example: then the tree has them.
    origins: Option<Origins>,
    tree: OciDigest,
    sha256: Digest,
    trust: Trust,
    voucher: Voucher,
}

/// Where the origins of entries are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OriginsIn {
    /// In the file, where it can be read again.
    File,
    /// In the tree.
    Tree,
}

/// Who vouches for a manifest; nobody, if it is not signed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Voucher {
    keys: BTreeSet<KeyId>,
    until: Option<Timestamp>,
}

/// How far a baseline is trusted, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// A bare manifest, or a bundle that nobody verified: whoever could write the file could write the truth.
    Unsigned,
    /// Signed by as many of the caller's keys as it takes.
    Signed,
}

/// What the caller accepts.
#[derive(Clone, Debug)]
pub enum Accept {
    /// Everything, signatures unseen: all of it is shown as `unsigned`.
    Unsigned,
    /// A bare manifest, shown as `unsigned`. A bundle is refused: there is no key to verify it with, and to pass over its
    /// signature must be somebody's wish.
    Bare,
    /// Only what is signed.
    Signed(Terms),
}

/// Whom the caller believes, and when.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Whom.
    pub anchors: Arc<Anchors>,
    /// What the clock says.
    pub now: Timestamp,
    /// Which manifest it must be, if an assignment says so.
    pub assigned: Option<Assigned>,
}

/// Why a file is not a baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// A file of a bundle, or of a manifest, cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The file cannot be read.
    #[error("{}", shown(.0))]
    Read(PathBuf, #[source] io::Error),
    /// The file is not a manifest.
    #[error("{}: not a manifest that can be used", shown(.0))]
    Manifest(PathBuf, #[source] ManifestError),
    /// A bare manifest, where only what is signed is accepted.
    #[error("{}: refused, because nobody signed it: name a bundle, which driftlock seal --sign or driftlock sign makes", shown(.0))]
    NotSigned(PathBuf),
    /// A bundle, and nothing to verify it with.
    #[error("{}: refused, because it is signed and no key was given that must have signed it: --key FILE, or --allow-unsigned to take it as if nobody had signed it", shown(.0))]
    NoKey(PathBuf),
    /// A bundle whose signatures are not enough, or are about something else.
    #[error("{}: refused: {}", shown(.0), .1)]
    Refused(PathBuf, Refusal),
    /// What was signed is no statement about a manifest.
    #[error("{}: {}", shown(.0), .1)]
    Statement(PathBuf, StatementError),
    /// The manifest beside the bundle cannot be used.
    #[error("{}: the manifest beside it cannot be used", shown(.0))]
    Beside(PathBuf, #[source] ManifestError),
    /// The manifest beside the bundle is not the one that was signed.
    #[error("{}: refused, because the manifest beside it is not the one that was signed: its SHA-256 is {found}", shown(.path))]
    Swapped {
        /// The bundle.
        path: PathBuf,
        /// SHA-256 of what lies there.
        found: Digest,
    },
    /// What was signed of the manifest is not what it says itself.
    #[error("{}: refused, because what was signed is not what the manifest says: another {}", shown(.0), .1)]
    Unlike(PathBuf, &'static str),
    /// The assignment names another one.
    #[error("{}: refused, because the assignment names another manifest: {assigned}, not {found}", shown(.path))]
    NotAssigned {
        /// The bundle.
        path: PathBuf,
        /// What the assignment names.
        assigned: Digest,
        /// What the bundle is about.
        found: Digest,
    },
    /// No file was named.
    #[error("no manifest was named")]
    None,
    /// More files than can be laid over each other.
    #[error("{0} manifests: at most {MAX_PARTS} are laid over each other")]
    TooMany(usize),
    /// One file under two names, or named twice.
    #[error("{} and {} are the same file: a manifest is laid over others once, leave one of them out", .0.display(), .1.display())]
    Same(PathBuf, PathBuf),
    /// What is compared together is hashed with one algorithm.
    #[error("{} is sealed with {}, and {} with {}: seal them with the same content digest to lay one over the other", .0.display(), .1.name(), .2.display(), .3.name())]
    Algorithms(PathBuf, Algorithm, PathBuf, Algorithm),
    /// Together they are no tree.
    #[error("the manifests, laid over each other")]
    TooLarge(#[source] TreeError),
}

impl Baseline {
    /// Reads, checks and accepts the manifest in `path`.
    ///
    /// # Errors
    /// If the file cannot be read, is not a manifest, or `accept` does not allow it.
    pub fn load(path: &Path, accept: &Accept) -> Result<Self, BaselineError> {
        let (manifest, provenance) = Provenance::read(path, bundle::open(path)?, accept, OriginsIn::File)?;
        Self::made_of(vec![(path.to_owned(), manifest, provenance)])
    }

    /// As [`Baseline::load`], for whom needs the origin of every entry: they are in the tree.
    ///
    /// # Errors
    /// As [`Baseline::load`].
    pub fn load_with_origins(path: &Path, accept: &Accept) -> Result<(Manifest, ManifestView), BaselineError> {
        let (manifest, provenance) = Provenance::read(path, bundle::open(path)?, accept, OriginsIn::Tree)?;
        let view = provenance.view(provenance.tree, &manifest.header);
        Ok((manifest, view))
    }

    /// Reads, checks and accepts the manifests in `paths`, and lays them over each other, the last on top: a path is
    /// compared with the last manifest that seals it, and what none of them seals may be there if any of them leaves it out.
    /// Of one manifest it is the same as [`Baseline::load`].
    ///
    /// # Errors
    /// If any of the files cannot be read, is not a manifest, or `accept` does not allow it; if they cannot be laid over each
    /// other: a file named twice, different content digests, none, or more than [`MAX_PARTS`].
    pub fn load_all(paths: &[PathBuf], accept: &Accept) -> Result<Self, BaselineError> {
        match paths {
            [] => return Err(BaselineError::None),
            [path] => return Self::load(path, accept),
            _ if paths.len() > MAX_PARTS => return Err(BaselineError::TooMany(paths.len())),
            _ => {}
        }
        let opened = paths.iter().map(|path| bundle::open(path)).collect::<Result<Vec<_>, _>>()?;
        for (index, one) in opened.iter().enumerate() {
            if let Some(first) = opened[..index].iter().position(|other| other.identity() == one.identity()) {
                return Err(BaselineError::Same(paths[first].clone(), paths[index].clone()));
            }
        }
        let read = paths.iter().zip(opened).map(|(path, opened)| {
            let (manifest, provenance) = Provenance::read(path, opened, accept, OriginsIn::File)?;
            Ok((path.clone(), manifest, provenance))
        });
        Self::made_of(read.collect::<Result<_, BaselineError>>()?)
    }

    /// What one manifest is, or what several are together.
    fn made_of(mut read: Vec<(PathBuf, Manifest, Provenance)>) -> Result<Self, BaselineError> {
        if read.len() == 1
            && let Some((_, manifest, provenance)) = read.pop()
        {
            return Ok(Self { manifest, tree: provenance.tree, made: Made::One(Box::new(provenance)) });
        }
        let (manifest, laid) = laid::lay(read)?;
        Ok(Self { tree: manifest.name(), manifest, made: Made::Several(laid) })
    }

    /// The manifest, or what several are together. Where its entries came from only [`Baseline::origin`] knows.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The headers that findings are shown with.
    pub fn sealed_in(&self) -> SealedIn<'_> {
        let parts = match &self.made {
            Made::One(_) => &[],
            Made::Several(laid) => laid.parts(),
        };
        SealedIn { whole: &self.manifest.header, parts }
    }

    /// Where an entry came from, for showing it; nothing, if the file was changed since.
    pub fn origin(&self, id: EntryId) -> Origin {
        match &self.made {
            Made::One(provenance) => provenance.origin(&self.manifest.header, id, &self.manifest.tree, id),
            Made::Several(laid) => laid.origin(&self.manifest.tree, id),
        }
    }

    /// Whether something may be at `path` that was not sealed.
    pub fn leaves_out(&self, path: &TreePath) -> bool {
        self.manifest.leaves_out(path)
    }

    /// When it can no longer be trusted, as far as is known now; `None`: never, or it is not trusted anyway.
    pub fn until(&self) -> Option<Timestamp> {
        match &self.made {
            Made::One(provenance) => provenance.voucher.until,
            Made::Several(laid) => laid.until(),
        }
    }

    /// Which manifest this is, for reports.
    pub fn view(&self) -> ManifestView {
        match &self.made {
            Made::One(provenance) => provenance.view(self.tree, &self.manifest.header),
            Made::Several(laid) => laid.view(self.tree),
        }
    }
}

/// What a statement says otherwise than the manifest that it is about.
fn unlike(statement: &Statement, manifest: &Manifest, tree: OciDigest) -> Option<&'static str> {
    let header = &manifest.header;
    let totals = manifest.totals();
    [
        (statement.tree == tree, "tree"),
        (statement.profile == header.profile, "profile"),
        (statement.content == header.content, "content digest"),
        (statement.excludes.iter().map(String::as_str).eq(header.excludes.iter()), "list of excludes"),
        (statement.counts.entries == totals.entries, "number of entries"),
        (statement.counts.bytes == totals.bytes, "number of bytes"),
        (statement.source == header.source, "source"),
    ]
    .into_iter()
    .find_map(|(same, what)| (!same).then_some(what))
}

fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}

/// The word for what was sealed.
fn origin(header: &Header) -> &'static str {
    header.source.as_ref().map_or("other", |source| source.kind.origin())
}

impl Trust {
    /// The word of reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signed => "signed",
        }
    }
}

impl Voucher {
    /// The names of the keys.
    fn shown(&self) -> Option<String> {
        let names: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| names.join(" "))
    }
}

impl Provenance {
    fn read(
        path: &Path,
        opened: Opened,
        accept: &Accept,
        origins: OriginsIn,
    ) -> Result<(Manifest, Self), BaselineError> {
        if !opened.is_manifest() {
            return Self::read_bundle(path, opened, accept, origins);
        }
        let read = Self::read_stream(path, opened.manifest()?, origins, BaselineError::Manifest)?;
        match accept {
            Accept::Unsigned | Accept::Bare => Ok(read),
            // Last: a file that is no manifest is that first.
            Accept::Signed(_) => Err(BaselineError::NotSigned(path.to_owned())),
        }
    }

    /// Signatures first, then what they are over, then the manifest that this names.
    fn read_bundle(
        path: &Path,
        opened: Opened,
        accept: &Accept,
        origins: OriginsIn,
    ) -> Result<(Manifest, Self), BaselineError> {
        let named = || path.to_owned();
        let refused = |refusal| BaselineError::Refused(named(), refusal);
        let envelope = opened.envelope()?;
        let (claim, trust, mut voucher) = match accept {
            Accept::Bare => return Err(BaselineError::NoKey(named())),
            Accept::Unsigned => (envelope.verify([]), Trust::Unsigned, Voucher::default()),
            Accept::Signed(terms) => {
                let trusted = terms.anchors.judge(Role::Manifest, &envelope, terms.now).map_err(refused)?;
                (trusted.claim, Trust::Signed, Voucher { keys: trusted.by, until: trusted.until })
            }
        };
        let statement = Statement::read(&claim).map_err(|error| BaselineError::Statement(named(), error))?;
        if let Accept::Signed(Terms { anchors, assigned, .. }) = accept {
            anchors.check_source(&statement).map_err(refused)?;
            if let Some(assigned) = assigned {
                if assigned.manifest() != statement.manifest {
                    let (assigned, found) = (assigned.manifest(), statement.manifest);
                    return Err(BaselineError::NotAssigned { path: named(), assigned, found });
                }
                voucher.until = voucher.until.into_iter().chain(assigned.until()).min();
            }
        }
        let stream = bundle::beside(path, statement.manifest)?;
        let (manifest, read) = Self::read_stream(path, stream, origins, BaselineError::Beside)?;
        if read.sha256 != statement.manifest {
            return Err(BaselineError::Swapped { path: named(), found: read.sha256 });
        }
        match unlike(&statement, &manifest, read.tree) {
            Some(what) => Err(BaselineError::Unlike(named(), what)),
            None => Ok((manifest, Self { trust, voucher, ..read })),
        }
    }

    /// Nobody vouches for it yet.
    fn read_stream(
        path: &Path,
        mut stream: Stream,
        origins: OriginsIn,
        malformed: fn(PathBuf, ManifestError) -> BaselineError,
    ) -> Result<(Manifest, Self), BaselineError> {
        let again = stream.again().filter(|_| origins == OriginsIn::File);
        let mut places = again.is_some().then(Places::new);
        let (manifest, tree, sha256) = read_named(stream, places.as_mut()).map_err(|error| match error {
            ReadError::Io(error) => BaselineError::Read(path.to_owned(), error),
            ReadError::Manifest(error) => malformed(path.to_owned(), error),
        })?;
        let entries = manifest.tree.iter().len();
        let origins = places.zip(again).map(|(places, file)| places.of(file, entries));
        Ok((
            manifest,
            Self { path: path.to_owned(), origins, tree, sha256, trust: Trust::Unsigned, voucher: Voucher::default() },
        ))
    }

    fn view(&self, tree: OciDigest, header: &Header) -> ManifestView {
        ManifestView {
            tree,
            sha256: self.sha256,
            trust: self.trust.name().into(),
            key: self.voucher.shown(),
            origin: origin(header).into(),
            parts: Vec::new(),
        }
    }

    /// Where `own`, an entry of the file with this header, came from; `id` is what it is in `tree`.
    fn origin(&self, header: &Header, own: EntryId, tree: &Tree, id: EntryId) -> Origin {
        self.origins.as_ref().map_or_else(|| tree.origin(id), |origins| origins.get(header, own))
    }
}

impl Expected for Baseline {
    fn manifest(&self) -> &Manifest {
        self.manifest()
    }

    fn origin(&self, id: EntryId) -> Origin {
        self.origin(id)
    }

    fn part(&self, id: EntryId) -> usize {
        match &self.made {
            Made::One(_) => 0,
            Made::Several(laid) => laid.part(id),
        }
    }

    fn is_narrowed(&self) -> bool {
        self.sealed_in().parts.iter().any(|part| part.header.profile != self.manifest.header.profile)
    }
}

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Reads a manifest from a stream, with the SHA-256 of its bytes. No line is held beyond its allowed length.
///
/// # Errors
/// If reading fails or the bytes are not a manifest.
pub fn read_manifest(input: impl BufRead) -> Result<(Manifest, Digest), ReadError> {
    read_named(input, None).map(|(manifest, _, sha256)| (manifest, sha256))
}

/// Where `places` are wanted, the tree is without origins.
fn read_named(
    mut input: impl Read,
    mut places: Option<&mut Places>,
) -> Result<(Manifest, OciDigest, Digest), ReadError> {
    let mut reader = Reader::new();
    let mut sha256 = sha2::Sha256::new();
    // Whole lines are taken out of it as soon as there are any.
    let mut block = Vec::with_capacity(2 * BLOCK);
    loop {
        let known = block.len();
        let filled = input.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        sha256.update(&block[known..]);
        if let Some(places) = &mut places {
            places.take(&block[known..]);
        }
        match block.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => {
                take_lines(&mut reader, &block[..last], places.is_some())?;
                block.drain(..=last);
            }
            // Too long is for the reader to say; anything shorter ends without a line feed.
            None if block.len() > MAX_LINE => reader.line(&block[..=MAX_LINE])?,
            None if filled > 0 => {}
            None if block.is_empty() => break,
            None => return Err(reader.unterminated(block.len()).into()),
        }
    }
    let (manifest, tree) = reader.finish_named()?;
    Ok((manifest, tree, Digest::from_bytes(sha256.finalize().into())))
}

/// Takes lines with a line feed between each two, reading them on as many threads as are of use: it is the reading that
/// takes time, not the putting in order.
fn take_lines(reader: &mut Reader, mut lines: &[u8], forget_origins: bool) -> Result<(), ManifestError> {
    let Some(header) = reader.header().cloned() else {
        let end = lines.iter().position(|byte| *byte == b'\n');
        reader.line(&lines[..end.unwrap_or(lines.len())])?;
        return end.map_or(Ok(()), |end| take_lines(reader, &lines[end + 1..], forget_origins));
    };
    let mut parts = Vec::new();
    while lines.len() > PART {
        let Some(end) = lines[PART..].iter().position(|byte| *byte == b'\n').map(|end| PART + end) else { break };
        parts.push(&lines[..end]);
        lines = &lines[end + 1..];
    }
    let meanings = |part| meanings(&header, part);
    thread::scope(|scope| {
        let spawn = |part| (part, thread::Builder::new().spawn_scoped(scope, move || meanings(part)));
        let started: Vec<_> = parts.into_iter().map(spawn).collect();
        let last = meanings(lines);
        let read = started.into_iter().map(|(part, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // No thread to be had: then here.
            Err(_) => meanings(part),
        });
        read.chain([last]).flatten().try_for_each(|meaning| {
            reader.put(if forget_origins { meaning.map(Meaning::without_origin) } else { meaning })
        })
    })
}

/// What lines mean, up to the first that is wrong.
fn meanings(header: &Header, lines: &[u8]) -> Vec<Result<Meaning, Problem>> {
    let mut meanings = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let meaning = Meaning::of(header, line);
        let wrong = meaning.is_err();
        meanings.push(meaning);
        if wrong {
            break;
        }
    }
    meanings
}

impl BaselineError {
    /// Whether only time made it so.
    pub const fn is_expiry(&self) -> bool {
        matches!(self, Self::Refused(_, refusal) if refusal.is_expiry())
    }
}

impl From<BaselineError> for Failure {
    fn from(error: BaselineError) -> Self {
        match error {
            BaselineError::Bundle(error) => error.into(),
            BaselineError::Read(path, error) => Self::input(shown(&path), error),
            BaselineError::Manifest(..)
            | BaselineError::Statement(..)
            | BaselineError::Beside(..)
            | BaselineError::Algorithms(..)
            | BaselineError::TooLarge(_) => Self::new(Exit::Malformed, error),
            BaselineError::None | BaselineError::TooMany(_) | BaselineError::Same(..) => Self::new(Exit::Usage, error),
            BaselineError::NotSigned(_)
            | BaselineError::NoKey(_)
            | BaselineError::Refused(..)
            | BaselineError::Swapped { .. }
            | BaselineError::Unlike(..)
            | BaselineError::NotAssigned { .. } => Self::new(Exit::Refused, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::digest::Algorithm;
    use driftlock_common::node::{Kind, Node};
    use driftlock_common::path::TreePath;
    use driftlock_common::pattern::Excludes;
    use driftlock_common::profile::Profile;

    use super::*;

    /// Of several blocks, each of several parts.
    fn large() -> Vec<u8> {
        let entry = |i: u32| {
            let path = TreePath::new(format!("{i:08}-{}", "n".repeat(200))).unwrap();
            let content = Some(Digest::blake3(&i.to_le_bytes()));
            (path, Node::bare(Kind::File { size: Some(4), content }), Origin::default())
        };
        let tree = Tree::from_sorted((0..20_000).map(entry)).unwrap();
        Manifest { header: Header::new(Profile::Content, Algorithm::Blake3, Excludes::none()), tree }.encode()
    }

    fn problem(bytes: &[u8]) -> String {
        read_manifest(bytes).unwrap_err().to_string()
    }

    #[test]
    fn a_large_manifest_is_read_as_a_whole_one_is() {
        let bytes = large();
        assert!(bytes.len() > 2 * BLOCK);
        let (manifest, sha256) = read_manifest(bytes.as_slice()).unwrap();
        assert_eq!(manifest, Manifest::decode(&bytes).unwrap());
        assert_eq!(sha256, Digest::sha256(&bytes));
    }

    #[test]
    fn origins_come_from_the_file_until_it_is_changed() {
        let entry = |i: u32| {
            let path = TreePath::new(format!("{i:04}")).unwrap();
            let content = Some(Digest::blake3(&i.to_le_bytes()));
            let origin = Origin {
                sha256: Some(Digest::sha256(&i.to_le_bytes())),
                layer: u16::try_from(i % 7).ok(),
                meta_layer: i.is_multiple_of(3).then_some(9),
            };
            (path, Node::bare(Kind::File { size: Some(4), content }), origin)
        };
        let root = || {
            let node = Node { mode: Some(0o755), ..Node::implicit_directory() };
            (TreePath::root(), node, Origin { layer: Some(3), ..Origin::default() })
        };
        // One line, groups that are just full and just not, and what the root's own line shifts.
        for (count, with_root) in [(0, false), (0, true), (1, false), (63, true), (64, false), (64, true), (1000, true)]
        {
            let entries = with_root.then(root).into_iter().chain((0..count).map(entry));
            let tree = Tree::from_sorted(entries).unwrap();
            let manifest =
                Manifest { header: Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none()), tree };
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), manifest.encode()).unwrap();
            let baseline = Baseline::load(file.path(), &Accept::Unsigned).unwrap();
            let forwards: Vec<EntryId> = manifest.tree.iter().collect();
            for id in forwards.iter().chain(forwards.iter().rev()) {
                assert_eq!(baseline.manifest().tree.origin(*id), Origin::default(), "held in memory");
                assert_eq!(baseline.origin(*id), manifest.tree.origin(*id), "{count} {with_root} {}", id.index());
            }
            if count == 1000 {
                let changed = manifest.encode().iter().map(|b| if *b == b'9' { b'8' } else { *b }).collect::<Vec<_>>();
                std::fs::write(file.path(), changed).unwrap();
                assert_eq!(baseline.origin(forwards[500]), Origin::default());
                std::fs::write(file.path(), b"").unwrap();
                assert_eq!(baseline.origin(forwards[5]), Origin::default());
            }
        }
    }

    #[test]
    fn the_first_wrong_line_is_named_wherever_it_stands() {
        let bytes = large();
        let starts: Vec<usize> =
            bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        for line in [1, 2, 1800, 1900, 7000, 7500, 19_998, 20_000] {
            // The line before ends at `starts[line - 2]`; two in a row are made wrong.
            let mut broken = bytes.clone();
            for line in [line, line + 1] {
                broken[if line == 1 { 0 } else { starts[line - 2] }] = b'x';
            }
            let found = Manifest::decode(&broken).unwrap_err();
            assert_eq!(found.line, line as u64);
            assert_eq!(problem(&broken), found.to_string());
        }
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused_as_by_the_reader() {
        let bytes = large();
        for end in [0, 1, 100, BLOCK, BLOCK + 1, bytes.len() - 1] {
            let cut = &bytes[..end];
            assert_eq!(problem(cut), Manifest::decode(cut).unwrap_err().to_string(), "{end}");
        }
        let header = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap();
        for len in [MAX_LINE + 1, 3 * BLOCK] {
            for end in [&b"\n"[..], b""] {
                let long = [header, &vec![b'x'; len], end].concat();
                assert!(problem(&long).starts_with("line 2: "), "{}", problem(&long));
                assert!(problem(&long).contains("longer than"), "{}", problem(&long));
            }
        }
        // Very many wrong lines cost no more than the first.
        let blank = [header, &vec![b'\n'; 2 * BLOCK]].concat();
        assert!(problem(&blank).starts_with("line 2: "));
    }
}
