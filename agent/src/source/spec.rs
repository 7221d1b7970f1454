//! Owns how sources are written on the command line. Must not own reading them; what a tag leads to is asked for a hint.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use driftlock_common::digest::{Algorithm, OciDigest};
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;

use super::problem::place;
use super::registry::{self, Reference, ReferenceError};
use super::{Input, Source};
use crate::failure::Failure;
use crate::http::chain;

/// Kinds that are known words, but not read by this version.
const LATER: &[&str] = &["deb", "rpm", "dpkg"];

/// Why a text is not a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A kind of a later version.
    #[error("{0}: sources are not read yet; save the image as a file and use archive:FILE or oci:LAYOUT")]
    Later(String),
    /// Nothing behind the colon, or nothing at all.
    #[error("{0} names nothing: write a path behind it")]
    Empty(String),
    /// What is behind `@sha256:` is not a digest.
    #[error("{0}: what stands behind @sha256: is not 64 lower-case hexadecimal digits")]
    Digest(String),
    /// What is behind `registry:` is none.
    #[error("{0}: {1}")]
    Reference(String, ReferenceError),
    /// An image in a registry without its digest.
    #[error("{written}: a tag may lead elsewhere tomorrow, so only a digest is taken: {hint}")]
    Tag {
        /// What was written.
        written: String,
        /// What to write instead.
        hint: String,
    },
    /// A digest where none can be meant.
    #[error("{0}: only oci:, archive: and registry: can be asked for a digest")]
    DigestNotMeant(String),
    /// A path that is not there.
    #[error("{0}: there is no such file or directory, and it does not begin with a kind such as dir: or oci:")]
    NotThere(String),
}

impl Source {
    /// Reads `kind:rest`, or a path: a directory, or a manifest. `./oci:x` is a path.
    ///
    /// # Errors
    /// If the kind is not read by this version, or the rest cannot be meant.
    pub fn parse(text: impl Into<OsString>) -> Result<Self, SpecError> {
        let text = text.into();
        let bytes = text.as_bytes();
        let shown = || Escaped(bytes).to_string();
        let known = bytes.iter().position(|b| *b == b':').and_then(|colon| {
            let kind = std::str::from_utf8(&bytes[..colon]).ok()?;
            (matches!(kind, "dir" | "oci" | "archive" | "tar" | "mtree" | "registry") || LATER.contains(&kind))
                .then(|| (kind, &bytes[colon + 1..]))
        });
        let Some((kind, rest)) = known else { return Self::parse_path(Path::new(&text), bytes) };
        if LATER.contains(&kind) {
            return Err(SpecError::Later(kind.to_owned()));
        }
        if kind == "registry" {
            return Self::parse_registry(rest, shown());
        }
        let (path, digest) = split_digest(rest).ok_or_else(|| SpecError::Digest(shown()))?;
        if path.is_empty() {
            return Err(SpecError::Empty(shown()));
        }
        let file = PathBuf::from(OsString::from_vec(path.to_vec()));
        let input = || if path == b"-" { Input::Stdin } else { Input::File(file.clone()) };
        match kind {
            "oci" => Ok(Self::Oci { layout: file, digest }),
            "archive" => Ok(Self::Archive { input: input(), digest }),
            _ if digest.is_some() => Err(SpecError::DigestNotMeant(shown())),
            "dir" => Ok(Self::Dir(file)),
            "mtree" => Ok(Self::Mtree(input())),
            _ => Ok(Self::Tar(input())),
        }
    }

    fn parse_registry(rest: &[u8], written: String) -> Result<Self, SpecError> {
        let reference = std::str::from_utf8(rest).map_err(|_| ReferenceError::Name).and_then(Reference::parse);
        match reference.map_err(|error| SpecError::Reference(written.clone(), error))? {
            Reference::Pinned(repository, digest) => Ok(Self::Registry { repository, digest }),
            Reference::Tagged(repository, tag) => {
                let hint = match registry::digest_of_tag(&repository, &tag) {
                    Ok(digest) => format!("now it is registry:{repository}@sha256:{digest}"),
                    Err(error) => {
                        format!("write @sha256:DIGEST; which one that is now is not known: {}", chain(&error))
                    }
                };
                Err(SpecError::Tag { written, hint })
            }
        }
    }

    fn parse_path(path: &Path, bytes: &[u8]) -> Result<Self, SpecError> {
        if bytes.is_empty() {
            return Err(SpecError::Empty("an empty SOURCE".into()));
        }
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self::Dir(path.to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(SpecError::NotThere(place(path))),
            // Whatever else is wrong with it is said when it is opened.
            Ok(_) | Err(_) => Ok(Self::Manifest(path.to_owned())),
        }
    }
}

/// Splits at the last `@sha256:`; `None` if what follows is not a digest.
fn split_digest(rest: &[u8]) -> Option<(&[u8], Option<OciDigest>)> {
    const MARK: &[u8] = b"@sha256:";
    let Some(at) = rest.windows(MARK.len()).rposition(|window| window == MARK) else { return Some((rest, None)) };
    let digest = std::str::from_utf8(&rest[at + MARK.len()..]).ok()?.parse().ok()?;
    Some((&rest[..at], Some(OciDigest { algorithm: Algorithm::Sha256, digest })))
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        let exit = if matches!(error, SpecError::NotThere(_)) { Exit::NoInput } else { Exit::Usage };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_as_they_are_written() {
        let hex = "ab".repeat(32);
        let digest = Some(OciDigest::sha256(hex.parse().unwrap()));
        let oci = |layout: &str, digest| Source::Oci { layout: layout.into(), digest };
        let archive = |input, digest| Source::Archive { input, digest };
        for (text, source) in [
            ("dir:/srv/app".to_owned(), Source::Dir("/srv/app".into())),
            ("dir:a:b".to_owned(), Source::Dir("a:b".into())),
            ("oci:x".to_owned(), oci("x", None)),
            (format!("oci:x@sha256:{hex}"), oci("x", digest)),
            (format!("oci:x@sha256:y@sha256:{hex}"), oci("x@sha256:y", digest)),
            ("archive:-".to_owned(), archive(Input::Stdin, None)),
            (format!("archive:-@sha256:{hex}"), archive(Input::Stdin, digest)),
            ("archive:./-".to_owned(), archive(Input::File("./-".into()), None)),
            ("tar:r.tgz".to_owned(), Source::Tar(Input::File("r.tgz".into()))),
            ("mtree:-".to_owned(), Source::Mtree(Input::Stdin)),
            ("mtree:m:n".to_owned(), Source::Mtree(Input::File("m:n".into()))),
            ("/".to_owned(), Source::Dir("/".into())),
            ("/proc/self/status".to_owned(), Source::Manifest("/proc/self/status".into())),
        ] {
            assert_eq!(Source::parse(&text).unwrap(), source, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_source() {
        for (text, error, exit) in [
            ("registry:h/r", SpecError::Reference("registry:h/r".into(), ReferenceError::NoHost), 64),
            (
                "registry:a.example/r@sha256:12",
                SpecError::Reference("registry:a.example/r@sha256:12".into(), ReferenceError::Digest),
                64,
            ),
            ("rpm:x", SpecError::Later("rpm".into()), 64),
            ("dir:", SpecError::Empty("dir:".into()), 64),
            ("", SpecError::Empty("an empty SOURCE".into()), 64),
            ("oci:x@sha256:12", SpecError::Digest("oci:x@sha256:12".into()), 64),
            ("./oci:x", SpecError::NotThere("./oci:x".into()), 66),
            ("docker:x", SpecError::NotThere("docker:x".into()), 66),
        ] {
            assert_eq!(Source::parse(text).unwrap_err(), error);
            assert_eq!(Failure::from(error).exit.code(), exit, "{text}");
        }
        let dir = format!("dir:/@sha256:{}", "ab".repeat(32));
        assert_eq!(Source::parse(&dir).unwrap_err(), SpecError::DigestNotMeant(dir));
    }
}
