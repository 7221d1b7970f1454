//! Owns the baseline of a target that was accepted last, in the state directory: a copy of its manifests, and a record of
//! what they were and who vouched for them, so that a restart has it too when the files are refused by then. Must not own
//! when it is taken.
//!
//! The record is not signed. Who can write it can write all that the agent knows.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use driftlock_common::digest::Digest;
use driftlock_common::tree::MAX_PARTS;
use driftlock_common::trust::{KeyId, Timestamp};
use sha2::Digest as _;

use super::{Baseline, BaselineError, Made, OriginsIn, Provenance, Trust, Voucher};
use crate::bundle::{self, BundleError, Stream};
use crate::{draft, state_file};

const HEAD: &str = "driftlock accepted 1";
/// More is no record, in bytes: 16 parts of 64 keys, each with a path of 4096 bytes.
const MAX_RECORD: u64 = 256 * 1024;
/// The manifests of a target together, in bytes. What is larger, a million files and more, is not kept.
pub const MAX_KEPT: u64 = 256 * 1024 * 1024;
const BLOCK: usize = 256 * 1024;

/// Where the last accepted baseline of a target is.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Empty if nothing is kept.
    directory: PathBuf,
    record: PathBuf,
    /// Of the copies' names.
    prefix: String,
    /// What is on disk, as this process wrote it or found it whole.
    known: Option<Record>,
}

/// Why a baseline could not be kept, or is not there.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file of the target.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A copy is no manifest.
    #[error(transparent)]
    Baseline(#[from] BaselineError),
    /// More than is kept.
    #[error("its manifests are larger than {MAX_KEPT} bytes")]
    TooLarge,
    /// The file is not what was accepted.
    #[error("{}: not what was accepted", super::shown(.0))]
    Another(PathBuf),
}

/// What was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    /// Of the root that it was accepted for.
    root: Digest,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    path: PathBuf,
    sha256: Digest,
    trust: Trust,
    voucher: Voucher,
}

impl Kept {
    /// That of the target of that name.
    pub fn of(target: &str, state_dir: &Path) -> Self {
        Self {
            directory: state_dir.to_owned(),
            record: state_file::of_target("accepted", target, state_dir),
            prefix: format!("accepted-{}-", state_file::token(target)),
            known: None,
        }
    }

    /// Nothing is kept, because a restart would not find it.
    pub fn nowhere() -> Self {
        Self { directory: PathBuf::new(), record: PathBuf::new(), prefix: String::new(), known: None }
    }

    /// Keeps a baseline that was accepted for `root`, in place of the one before. If it cannot be kept, none is: the one
    /// before is not the last.
    ///
    /// # Errors
    /// If it is too large, its files are others by now, or something cannot be written.
    pub fn keep(&mut self, baseline: &Baseline, root: &str) -> Result<(), KeptError> {
        if self.directory.as_os_str().is_empty() {
            return Ok(());
        }
        let record = Record::of(baseline, root);
        if self.known.as_ref() == Some(&record) {
            return Ok(());
        }
        self.known = None;
        let mut left = MAX_KEPT;
        let copied = record.parts.iter().try_for_each(|part| self.copy(part, &mut left));
        let written = copied.and_then(|()| Ok(state_file::write(&self.record, &record.encode())?));
        if let Err(error) = written {
            self.forget();
            return Err(error);
        }
        self.remove_copies(|name| record.parts.iter().any(|part| self.name(part.sha256) == name));
        self.known = Some(record);
        Ok(())
    }

    /// What was accepted last for `root`; `None` if nothing is kept of it.
    ///
    /// # Errors
    /// If what is kept is not what was accepted.
    pub fn recall(&self, root: &str) -> Result<Option<Baseline>, KeptError> {
        if self.directory.as_os_str().is_empty() {
            return Ok(None);
        }
        let Some(lines) = state_file::read(&self.record, MAX_RECORD)? else { return Ok(None) };
        let record = Record::parse(&lines).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        if record.root != digest_of(root) {
            return Ok(None);
        }
        let mut left = MAX_KEPT;
        let mut read = Vec::new();
        for Part { path, sha256, trust, voucher } in record.parts {
            let copy = self.directory.join(self.name(sha256));
            let file = File::open(&copy)?;
            left = left.checked_sub(file.metadata()?.len()).ok_or(KeptError::TooLarge)?;
            let stream = Stream::plain(file)?;
            let (manifest, found) = Provenance::read_stream(&copy, stream, OriginsIn::File, BaselineError::Manifest)?;
            if found.sha256 != sha256 {
                return Err(KeptError::Another(copy));
            }
            read.push((path.clone(), manifest, Provenance { path, trust, voucher, ..found }));
        }
        Ok(Some(Baseline::made_of(read)?))
    }

    fn name(&self, sha256: Digest) -> String {
        format!("{}{}", self.prefix, bundle::file_name(sha256))
    }

    /// Copies a manifest, as far as the bound allows, if it is not there already.
    fn copy(&self, part: &Part, left: &mut u64) -> Result<(), KeptError> {
        let copy = self.directory.join(self.name(part.sha256));
        if let Ok(mut file) = File::open(&copy)
            && let Some(length) = hash(&mut file, &mut io::sink(), *left)?.length_of(part.sha256)
        {
            *left -= length;
            return Ok(());
        }
        let opened = bundle::open(&part.path)?;
        let mut from = if opened.is_manifest() { opened.manifest()? } else { bundle::beside(&part.path, part.sha256)? };
        let next = copy.with_extension("next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        let written = hash(&mut from, &mut file, *left).map_err(KeptError::from).and_then(|hashed| match hashed {
            Hashed::TooLong => Err(KeptError::TooLarge),
            hashed => hashed.length_of(part.sha256).ok_or_else(|| KeptError::Another(part.path.clone())),
        });
        let kept = written.and_then(|length| {
            file.sync_all()?;
            fs::rename(&next, &copy)?;
            draft::sync(&self.directory)?;
            Ok(length)
        });
        *left -= kept.inspect_err(|_| {
            // What is left of it is removed with the next copy, at the latest.
            let _left = fs::remove_file(&next);
        })?;
        Ok(())
    }

    fn forget(&self) {
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(file = %super::shown(&self.record), %error, "remove it: it is not what was accepted last");
            }
            _ => self.remove_copies(|_| false),
        }
    }

    fn remove_copies(&self, stays: impl Fn(&str) -> bool) {
        remove(&self.directory, |name| name.starts_with(&self.prefix) && !stays(name));
    }
}

/// Removes what is kept of targets that are no longer configured.
pub fn remove_others(targets: &[String], state_dir: &Path) {
    let tokens: BTreeSet<String> = targets.iter().map(|target| state_file::token(target)).collect();
    remove(state_dir, |name| {
        let token = name.strip_prefix("accepted-").and_then(|name| name.get(..16));
        token.is_some_and(|token| !tokens.contains(token))
    });
}

fn remove(directory: &Path, is_over: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(&is_over)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(file = %super::shown(&entry.path()), %error, "cannot be removed");
        }
    }
}

enum Hashed {
    Whole(Digest, u64),
    TooLong,
}

impl Hashed {
    /// How long it is, if it is what it must be.
    fn length_of(&self, sha256: Digest) -> Option<u64> {
        match self {
            Self::Whole(found, length) if *found == sha256 => Some(*length),
            Self::Whole(..) | Self::TooLong => None,
        }
    }
}

/// Passes on what is read, at most so many bytes.
fn hash(from: &mut dyn io::Read, to: &mut dyn io::Write, most: u64) -> io::Result<Hashed> {
    let mut sha256 = sha2::Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut length = 0;
    let mut from = from.take(most.saturating_add(1));
    loop {
        let read = match from.read(&mut block) {
            Ok(0) => break,
            Ok(read) => block.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        length += read.len() as u64;
        sha256.update(read);
        to.write_all(read)?;
    }
    Ok(if length > most {
        Hashed::TooLong
    } else {
        Hashed::Whole(Digest::from_bytes(sha256.finalize().into()), length)
    })
}

// === impl Record ===

impl Record {
    fn of(baseline: &Baseline, root: &str) -> Self {
        let part = |Provenance { path, sha256, trust, voucher, .. }: &Provenance| Part {
            path: path.clone(),
            sha256: *sha256,
            trust: *trust,
            voucher: voucher.clone(),
        };
        let parts = match &baseline.made {
            Made::One(provenance) => vec![part(provenance)],
            Made::Several(laid) => laid.provenances().iter().map(part).collect(),
        };
        Self { root: digest_of(root), parts }
    }

    /// A head, a line for the root, and one for each manifest: its SHA-256, how far it is trusted, until when, by which
    /// keys, and its path in hexadecimal digits.
    fn encode(&self) -> String {
        let mut lines = format!("{HEAD}\nroot {}\n", self.root);
        for Part { path, sha256, trust, voucher } in &self.parts {
            let until = voucher.until.map_or_else(|| "-".to_owned(), |until| until.to_string());
            let keys = voucher.shown().map_or_else(|| "-".to_owned(), |keys| keys.replace(' ', ","));
            let path = hex::encode(path.as_os_str().as_encoded_bytes());
            // Writing to a string cannot fail.
            let _infallible = writeln!(lines, "manifest {sha256} {} {until} {keys} {path}", trust.name());
        }
        lines
    }

    fn parse(lines: &str) -> Option<Self> {
        let mut rest = lines.strip_prefix(HEAD)?.strip_prefix("\nroot ")?.lines();
        let root = rest.next()?.parse().ok()?;
        let parts = rest.map(Part::parse).collect::<Option<Vec<_>>>()?;
        let record = Self { root, parts };
        ((1..=MAX_PARTS).contains(&record.parts.len()) && record.encode() == lines).then_some(record)
    }
}

impl Part {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("manifest ")?.split(' ');
        let sha256 = words.next()?.parse().ok()?;
        let trust = words.next()?;
        let trust = [Trust::Unsigned, Trust::Signed].into_iter().find(|known| known.name() == trust)?;
        let until = match words.next()? {
            "-" => None,
            until => Some(Timestamp::parse(until)?),
        };
        let keys = match words.next()? {
            "-" => BTreeSet::new(),
            keys => keys.split(',').map(|key| Some(KeyId::from(key.parse::<Digest>().ok()?))).collect::<Option<_>>()?,
        };
        let path = OsString::from_vec(hex::decode(words.next()?).ok()?).into();
        Some(Self { path, sha256, trust, voucher: Voucher { keys, until } })
    }
}

fn digest_of(root: &str) -> Digest {
    Digest::blake3(root.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use driftlock_common::profile::Profile;
    use driftlock_common::trust::{Anchors, Envelope, PAYLOAD_TYPE, PrivateKey, Scheme, Statement};

    use super::super::kit::{manifest, write};
    use super::super::{Accept, Terms};
    use super::*;

    const ROOT: &str = "/srv/app";
    const NOW: Timestamp = Timestamp::EARLIEST;

    /// A state directory, and files beside it.
    struct Host {
        files: tempfile::TempDir,
        state: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Self {
            Self { files: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() }
        }

        fn kept(&self) -> Kept {
            Kept::of("app", self.state.path())
        }

        fn load(&self, paths: &[&[&str]]) -> Baseline {
            let parts: Vec<_> = paths.iter().map(|paths| manifest(Profile::Portable, &["tmp/**"], paths)).collect();
            Baseline::load_all(&write(self.files.path(), &parts), &Accept::Unsigned).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = fs::read_dir(self.state.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn only_copy(&self) -> PathBuf {
            let names = self.names();
            let copies: Vec<_> = names.iter().filter(|name| name.ends_with(".manifest")).collect();
            let [copy] = &copies[..] else { panic!("{names:?}") };
            self.state.path().join(copy)
        }
    }

    #[test]
    fn what_was_accepted_outlives_the_agent_and_its_files() {
        let host = Host::new();
        for paths in [vec![&["a", "b/", "b/c"][..]], vec![&["a"][..], &["a", "d"], &["e/"]]] {
            let baseline = host.load(&paths);
            host.kept().keep(&baseline, ROOT).unwrap();
            for entry in fs::read_dir(host.files.path()).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            let again = host.kept().recall(ROOT).unwrap().unwrap();
            assert_eq!(again.view(), baseline.view());
            assert_eq!(again.manifest(), baseline.manifest());
            // One file for each manifest, and the record.
            assert_eq!(host.names().len(), paths.len() + 1);
        }
        // Of another root it says nothing.
        assert!(host.kept().recall("/srv/other").unwrap().is_none());
        assert!(Kept::of("other", host.state.path()).recall(ROOT).unwrap().is_none());
        remove_others(&["app".to_owned()], host.state.path());
        assert!(host.kept().recall(ROOT).unwrap().is_some());
        remove_others(&["other".to_owned()], host.state.path());
        assert_eq!(host.names(), [""; 0]);
        let mut nowhere = Kept::nowhere();
        nowhere.keep(&host.load(&[&["a"]]), ROOT).unwrap();
        assert!(nowhere.recall(ROOT).unwrap().is_none());
    }

    #[test]
    fn who_vouched_for_it_and_until_when_is_kept_too() {
        let host = Host::new();
        let key = PrivateKey::from_random(Scheme::Ed25519, &[1; 32]).unwrap();
        let sealed = manifest(Profile::Portable, &[], &["a"]);
        let bytes = sealed.encode();
        let sha256 = Digest::sha256(&bytes);
        fs::write(
            host.files.path().join(format!("{}.zst", bundle::file_name(sha256))),
            zstd::encode_all(&bytes[..], 3).unwrap(),
        )
        .unwrap();
        let mut envelope =
            Envelope::new(PAYLOAD_TYPE, Statement::of(&sealed, sha256, "", "2026-11-30T00:00:00Z".to_owned()).encode());
        envelope.sign(&key);
        let path = host.files.path().join("app.bundle");
        fs::write(&path, envelope.encode()).unwrap();
        let anchors = Arc::new(Anchors::any_of([("key".to_owned(), key.public().clone())]));
        let accept = Accept::Signed(Terms { anchors, now: NOW, assigned: None });
        let mut baseline = Baseline::load(&path, &accept).unwrap();
        if let Made::One(provenance) = &mut baseline.made {
            provenance.voucher.until = Some(NOW);
        }
        host.kept().keep(&baseline, ROOT).unwrap();
        assert_eq!(fs::read(host.only_copy()).unwrap(), bytes, "not compressed");
        let again = host.kept().recall(ROOT).unwrap().unwrap();
        assert_eq!((again.view(), again.until()), (baseline.view(), Some(NOW)));
        assert_eq!(again.view().key, Some(key.public().id().to_string()));
        let record = state_file::read(&host.kept().record, MAX_RECORD).unwrap().unwrap();
        assert_eq!(
            record,
            format!(
                "driftlock accepted 1\nroot {}\nmanifest {sha256} signed 2026-01-01T00:00:00Z {} {}\n",
                Digest::blake3(b"/srv/app"),
                key.public().id(),
                hex::encode(path.as_os_str().as_encoded_bytes())
            )
        );
    }

    #[test]
    fn what_is_not_what_was_accepted_is_refused() {
        let host = Host::new();
        host.kept().keep(&host.load(&[&["a", "b"]]), ROOT).unwrap();
        let (copy, record) = (host.only_copy(), host.kept().record);
        let (good, lines) = (fs::read(&copy).unwrap(), fs::read(&record).unwrap());
        let other = manifest(Profile::Portable, &[], &["a"]).encode();
        let refused = || host.kept().recall(ROOT).unwrap_err().to_string();
        for (attack, bytes, says) in [
            ("another manifest", &other[..], "not what was accepted"),
            ("a line more", &[&good[..], b"\n"].concat(), "not a manifest"),
            ("cut", &good[..good.len() - 1], "not a manifest"),
            ("empty", b"", "not a manifest"),
        ] {
            fs::write(&copy, bytes).unwrap();
            assert!(refused().contains(says), "{attack}: {}", refused());
        }
        File::options().write(true).open(&copy).unwrap().set_len(MAX_KEPT + 1).unwrap();
        assert!(matches!(host.kept().recall(ROOT), Err(KeptError::TooLarge)), "a huge file");
        fs::remove_file(&copy).unwrap();
        assert!(host.kept().recall(ROOT).is_err(), "no copy");
        fs::write(&copy, &good).unwrap();
        for at in 0..lines.len() {
            let mut flipped = lines.clone();
            flipped[at] ^= 1;
            fs::write(&record, flipped).unwrap();
            assert!(host.kept().recall(ROOT).is_err(), "byte {at} of the record");
        }
        for lines in ["driftlock accepted 1\nroot x\n", "driftlock accepted 2\n", "driftlock accepted 1\n"] {
            state_file::write(&record, lines).unwrap();
            assert!(host.kept().recall(ROOT).is_err(), "{lines}");
        }
    }

    #[test]
    fn a_copy_that_was_damaged_is_made_anew_and_what_cannot_be_kept_leaves_nothing() {
        let host = Host::new();
        let baseline = host.load(&[&["a", "b"]]);
        let mut kept = host.kept();
        kept.keep(&baseline, ROOT).unwrap();
        let good = fs::read(host.only_copy()).unwrap();
        fs::write(host.only_copy(), &good[1..]).unwrap();
        host.kept().keep(&baseline, ROOT).unwrap();
        assert_eq!(fs::read(host.only_copy()).unwrap(), good);
        // The file became another one after it was accepted.
        let next = host.load(&[&["c"]]);
        fs::write(host.files.path().join("0"), &good).unwrap();
        assert!(matches!(kept.keep(&next, ROOT), Err(KeptError::Another(_))));
        assert_eq!(host.names(), [""; 0], "the one before is not the last");
        assert!(host.kept().recall(ROOT).unwrap().is_none());
        kept.keep(&baseline, ROOT).unwrap();
        assert!(host.kept().recall(ROOT).unwrap().is_some());
    }

    #[test]
    fn no_more_is_copied_than_is_kept() {
        for (most, is_whole) in [(3, false), (4, true), (5, true)] {
            let mut to = Vec::new();
            let hashed = hash(&mut &b"abcd"[..], &mut to, most).unwrap();
            assert_eq!(hashed.length_of(Digest::sha256(b"abcd")), is_whole.then_some(4));
            assert_eq!(hashed.length_of(Digest::sha256(b"abc")), None);
        }
    }
}
