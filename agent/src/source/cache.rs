//! Owns keeping what layers say, so that a layer that was read once is not read again. Must not own reading layers, or
//! what they mean.
//!
//! A file stands for one blob: it is named by the `diff_id` and by the digest of the blob, which were both checked before it
//! was written, and both of which the digest of the image covers. The `diff_id` alone would not do: a table of contents
//! that contradicts its archive is the blob's. The blob is not looked at again, so whoever can write to the directory says
//! what a layer holds; it has to be nobody else's. Of the files in it only whole ones of this version count, whatever
//! happened to the others; it can be removed at any time.

use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::manifest::{Header, Meaning, entry_line};
use driftlock_common::node::Node;
use driftlock_common::path::{TreePath, from_base64, to_base64};
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::Origin;
use rustix::fs::{Mode, OFlags, fstat, open, openat, renameat};
use rustix::process::geteuid;

use super::layer::{Item, Layer, Options, What};
use super::notes::Notes;
use super::problem::{Problem, SourceError, place};

/// Changes whenever the same layer would be written or read in another way.
const FORMAT: u32 = 1;

/// A directory of layers as they were read.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
    /// What was checked, whatever comes into its place.
    directory: OwnedFd,
}

/// A layer by what an image says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// SHA-256 of the blob.
    pub(super) blob: Digest,
    /// SHA-256 of what it unpacks to.
    pub(super) diff_id: Digest,
}

/// Finds a layer in the cache, if there is one, or reads it and keeps what it says.
///
/// # Errors
/// Those of `read`; if the cache cannot be written; if the layer goes beyond the budget.
pub(super) fn through(
    cache: Option<&Cache>,
    key: Key,
    options: &Options,
    read: impl FnOnce() -> Result<Layer, SourceError>,
) -> Result<Layer, SourceError> {
    let Some(cache) = cache else { return read() };
    let name = format!("{}-{}", key.diff_id, key.blob);
    if let Some(layer) = cache.find(&name, key, options) {
        layer.spend(&options.budget).map_err(|problem| problem.at(format!("layer sha256:{}", key.diff_id)))?;
        return Ok(layer);
    }
    let layer = read()?;
    cache
        .keep(&name, &layer, key, options)
        .map_err(|error| Problem::Cache(error).at(place(&cache.root.join(&name))))?;
    Ok(layer)
}

// === impl Cache ===

impl Cache {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or another user could write to it.
    pub(super) fn open(root: &Path) -> Result<Self, SourceError> {
        let at = |problem: Problem| problem.at(place(root));
        let fail = |error: rustix::io::Errno| at(Problem::Cache(error.into()));
        match DirBuilder::new().mode(0o700).create(root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(Problem::Cache(error))),
            Ok(()) | Err(_) => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open(root, flags, Mode::empty()).map_err(fail)?;
        let stat = fstat(&directory).map_err(fail)?;
        let writable = Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH);
        if stat.st_uid != geteuid().as_raw() || writable {
            return Err(at(Problem::ForeignCache));
        }
        Ok(Self { root: root.to_owned(), directory })
    }

    /// `None` for a file that is not there, is not whole, or was written otherwise.
    fn find(&self, name: &str, key: Key, options: &Options) -> Option<Layer> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        decode(BufReader::with_capacity(super::stream::CHUNK, file), key, options)
    }

    /// Whoever reads meanwhile, and after a crash at any time, finds the old file, the new one, or one that is not whole.
    fn keep(&self, name: &str, layer: &Layer, key: Key, options: &Options) -> io::Result<()> {
        // Two that write the same layer at once write the same bytes.
        let next = format!(".{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, &next, flags, Mode::RUSR | Mode::WUSR)?);
        let mut output = BufWriter::with_capacity(super::stream::CHUNK, file);
        encode(layer, key, options, &mut output)?;
        output.flush()?;
        renameat(&self.directory, &next, &self.directory, name)?;
        Ok(())
    }
}

// === the form of a file ===
//
// A head, then a line for each thing that the layer says, each with a first byte that tells what it is, then BLAKE3 of all
// that stands before it.

const NODE: u8 = b'{';
const LINK: u8 = b'>';
const WHITEOUT: u8 = b'-';
const OPAQUE: u8 = b'*';
const NOTES: u8 = b'!';
const END: u8 = b'=';

fn head(key: Key, options: &Options) -> String {
    let (version, profile) = (env!("CARGO_PKG_VERSION"), options.profile.name());
    let Key { blob, diff_id } = key;
    format!(
        "driftlock layer {FORMAT} {version} {:?} {profile} sha256={} {diff_id} {blob}\n",
        options.dialect, options.sha256
    )
}

fn encode(layer: &Layer, key: Key, options: &Options, output: &mut impl Write) -> io::Result<()> {
    let mut hash = blake3::Hasher::new();
    let mut put = |line: &[u8]| {
        hash.update(line);
        output.write_all(line)
    };
    put(head(key, options).as_bytes())?;
    for (first, paths) in [(WHITEOUT, &layer.whiteouts), (OPAQUE, &layer.opaques)] {
        for path in paths {
            put(&[&[first], to_base64(path.as_bytes()).as_bytes(), b"\n"].concat())?;
        }
    }
    for Item { path, what } in &layer.items {
        let line = |node: &Node, sha256: Option<Digest>| {
            let origin = Origin { sha256, ..Origin::default() };
            entry_line(path.as_bytes(), node, &origin, Algorithm::Blake3)
        };
        match what {
            What::Node { node, sha256 } => put(&line(node, *sha256))?,
            What::Link { target, claim } => {
                put(&[&[LINK], to_base64(target.as_bytes()).as_bytes(), b" ", &line(claim, None)].concat())?;
            }
        }
    }
    put(&[&[NOTES], serde_json::to_vec(&layer.notes)?.as_slice(), b"\n"].concat())?;
    let end = hash.finalize().to_hex();
    output.write_all(&[&[END], end.as_bytes(), b"\n"].concat())
}

fn decode(mut input: impl BufRead, key: Key, options: &Options) -> Option<Layer> {
    let terms = Header::new(options.profile, Algorithm::Blake3, Excludes::none());
    let mut hash = blake3::Hasher::new();
    let mut layer = Layer::default();
    layer.diff_id = Some(key.diff_id);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        input.read_until(b'\n', line).ok()
    };
    next(&mut line)?;
    if line != head(key, options).as_bytes() {
        return None;
    }
    loop {
        hash.update(&line);
        next(&mut line)?;
        let text = line.strip_suffix(b"\n")?;
        let (first, rest) = text.split_first()?;
        match *first {
            NODE => {
                let (path, node, Origin { sha256, .. }) = Meaning::of(&terms, text).ok()?.into_entry()?;
                layer.items.push(Item { path, what: What::Node { node, sha256 } });
            }
            LINK => {
                let space = rest.iter().position(|byte| *byte == b' ')?;
                let target = path(&rest[..space])?;
                let (path, claim, _) = Meaning::of(&terms, &rest[space + 1..]).ok()?.into_entry()?;
                layer.items.push(Item { path, what: What::Link { target, claim: Box::new(claim) } });
            }
            WHITEOUT => layer.whiteouts.push(path(rest)?),
            OPAQUE => layer.opaques.push(path(rest)?),
            NOTES => layer.notes = serde_json::from_slice::<Notes>(rest).ok()?,
            END if rest == hash.finalize().to_hex().as_bytes() => break,
            _ => return None,
        }
    }
    (next(&mut line)? == 0).then_some(layer)
}

fn path(base64: &[u8]) -> Option<TreePath> {
    TreePath::new(from_base64(std::str::from_utf8(base64).ok()?)?).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use driftlock_common::profile::Profile;

    use super::super::budget::Budget;
    use super::super::kit::{Tar, pax, raw};
    use super::super::layer::{Dialect, index};
    use super::*;
    use crate::failure::Failure;

    const KEY: Key = Key { blob: Digest::from_bytes([1; 32]), diff_id: Digest::from_bytes([2; 32]) };

    fn options(profile: Profile, sha256: bool) -> Options {
        Options { dialect: Dialect::Image, profile, sha256, budget: Budget::default() }
    }

    /// Everything that a layer can say.
    fn layer(options: &Options) -> Layer {
        let mut global = raw(b'g', "g");
        global.body = pax(&[(b"comment", b"x")]);
        let mut device = raw(b'3', "dev");
        device.device = (8, 1);
        let tar = Tar::default()
            .add(global)
            .dir("etc")
            .file("etc/.wh.hosts", "")
            .file("usr/.wh..wh..opq", "")
            .file(".wh..wh..opq", "")
            .pax(&[(b"path", b"od\xffd\n"), (b"SCHILY.xattr.user.x", b"\0\n"), (b"SCHILY.xattr.trusted.y", b"1")])
            .file("x", "content")
            .add(raw(b'0', "bin").mode(0o4755).owner(1, 2))
            .symlink("l", "../\u{1b}")
            .hardlink("h", "bin")
            .add(device)
            .add(raw(b'6', "p"))
            .end();
        let mut layer = index(tar.as_slice(), options).unwrap();
        layer.diff_id = Some(KEY.diff_id);
        layer
    }

    fn bytes(layer: &Layer, options: &Options) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(layer, KEY, options, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_kept_is_what_was_read() {
        for profile in [Profile::Content, Profile::Portable, Profile::Full] {
            for sha256 in [true, false] {
                let options = options(profile, sha256);
                let layer = layer(&options);
                let found = decode(bytes(&layer, &options).as_slice(), KEY, &options).unwrap();
                assert_eq!(format!("{found:?}"), format!("{layer:?}"));
            }
        }
    }

    #[test]
    fn only_a_whole_file_of_the_same_layer_and_terms_counts() {
        let terms = options(Profile::Portable, true);
        let whole = bytes(&layer(&terms), &terms);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length], KEY, &terms).is_none(), "cut at {length}");
            for bit in [1, 0x80] {
                let mut flipped = whole.clone();
                flipped[length] ^= bit;
                assert!(decode(flipped.as_slice(), KEY, &terms).is_none(), "bit {bit} of byte {length}");
            }
        }
        let other = Digest::from_bytes([3; 32]);
        for (key, options) in [
            (Key { blob: other, ..KEY }, options(Profile::Portable, true)),
            (Key { diff_id: other, ..KEY }, options(Profile::Portable, true)),
            (KEY, options(Profile::Full, true)),
            (KEY, options(Profile::Portable, false)),
            (KEY, Options { dialect: Dialect::Release, ..options(Profile::Portable, true) }),
        ] {
            assert!(decode(whole.as_slice(), key, &options).is_none(), "{key:?} {options:?}");
        }
        for more in [&b"\n"[..], b"=", &whole] {
            assert!(decode([&whole, more].concat().as_slice(), KEY, &terms).is_none());
        }
    }

    #[test]
    fn a_file_that_does_not_count_is_written_again_and_a_good_one_is_not_read_around() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cache");
        let options = options(Profile::Portable, true);
        let cache = Cache::open(&root).unwrap();
        let read = || Ok(layer(&options));
        let never = || -> Result<Layer, SourceError> { panic!("it is in the cache") };
        through(Some(&cache), KEY, &options, read).unwrap();
        let only = || std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        let [file] = &only()[..] else { panic!("{:?}", only()) };
        let whole = std::fs::read(file).unwrap();
        for damage in ["nothing", "cut", "empty", "link", "fifo", "directory below it stays"] {
            match damage {
                "nothing" => {}
                "cut" => std::fs::write(file, &whole[..whole.len() - 1]).unwrap(),
                "empty" => std::fs::write(file, "").unwrap(),
                "link" => {
                    let away = dir.path().join("away");
                    std::fs::rename(file, &away).unwrap();
                    symlink(&away, file).unwrap();
                }
                "fifo" => {
                    std::fs::remove_file(file).unwrap();
                    rustix::fs::mkfifoat(rustix::fs::CWD, file, Mode::RUSR | Mode::WUSR).unwrap();
                }
                _ => {
                    std::fs::remove_file(file).unwrap();
                    std::fs::create_dir(file).unwrap();
                    let failure = Failure::from(through(Some(&cache), KEY, &options, read).unwrap_err());
                    assert_eq!(failure.exit.code(), 73, "{failure}");
                    continue;
                }
            }
            let mut reads = 0;
            let counted = || {
                reads += 1;
                read()
            };
            through(Some(&cache), KEY, &options, counted).unwrap();
            assert_eq!(reads, usize::from(damage != "nothing"), "{damage}");
            let found = through(Some(&cache), KEY, &options, never).unwrap();
            assert_eq!(format!("{found:?}"), format!("{:?}", layer(&options)), "{damage}");
            assert!(std::fs::symlink_metadata(file).unwrap().is_file(), "{damage}");
        }
    }

    #[test]
    fn a_cached_layer_is_within_the_same_limits() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let options = options(Profile::Portable, true);
        through(Some(&cache), KEY, &options, || Ok(layer(&options))).unwrap();
        let used = Options { budget: Budget::default(), ..options };
        while used.budget.spend(1 << 20).is_ok() {}
        let error = through(Some(&cache), KEY, &used, || panic!("it is in the cache")).unwrap_err();
        assert!(matches!(error.problem, Problem::TooMuch(_)));
    }

    #[test]
    fn a_directory_where_another_could_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| Failure::from(Cache::open(path).unwrap_err()).exit.code();
        let root = dir.path().join("cache");
        Cache::open(&root).unwrap();
        assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o700);
        for mode in [0o720, 0o702, 0o1777] {
            std::fs::set_permissions(&root, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(refused(&root), 77, "{mode:o}");
        }
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        Cache::open(&root).unwrap();
        symlink(&root, dir.path().join("link")).unwrap();
        assert_eq!(refused(&dir.path().join("link")), 73);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(refused(&dir.path().join("file")), 73);
        assert_eq!(refused(&dir.path().join("none/cache")), 73);
        if geteuid().is_root() {
            std::os::unix::fs::chown(&root, Some(1), None).unwrap();
            assert_eq!(refused(&root), 77);
        }
    }
}
