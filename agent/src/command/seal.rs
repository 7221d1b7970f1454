//! `driftlock seal`: a source becomes a manifest file, or a bundle with the manifest beside it, whole or not at all.

use std::io::{self, Write};
use std::path::Path;

use driftlock_common::exit::Exit;
use driftlock_common::manifest::Manifest;
use driftlock_common::pattern::Excludes;

use super::sign;
use crate::attestation::{self, write_lines};
use crate::cli::{SealArgs, TermsArgs};
use crate::draft;
use crate::failure::{Failure, Outcome};
use crate::pool::Pool;
use crate::source::{self, Code, Source, Terms};

/// Runs the verb.
///
/// # Errors
/// If the source cannot be sealed or the manifest cannot be written.
pub fn run(args: SealArgs) -> Outcome {
    let source = Source::parse(args.source.as_str())?;
    let terms = terms(&args.terms, !args.no_sha256, args.strict)?;
    // What is wrong with a key is said before the work is done.
    let signer = sign::signer(&args.sign)?;
    let created_at = signer.is_some().then(sign::created_at).transpose()?;
    if signer.is_some() {
        sign::check_output(&args.output)?;
    }
    let pool = Pool::new(args.threads).map_err(|error| Failure::new(Exit::Io, error))?;
    let sealed = source::read(&source, &terms, &pool)?;
    match (&signer, created_at) {
        (Some(signer), Some(created_at)) => {
            let name = match (args.sign.name, &source) {
                (Some(name), _) => name,
                (None, Source::Registry { repository, .. }) => repository.to_string(),
                (None, _) => String::new(),
            };
            let draft = attestation::write_manifest(&sealed.manifest, &args.output)?;
            let envelope = attestation::about(&sealed.manifest, draft.sha256, &name, created_at);
            sign::sign_and_write(signer, envelope, Some(draft), &args.output)?;
        }
        _ => write(&sealed.manifest, &args.output)?,
    }
    let totals = sealed.manifest.totals();
    let mut stderr = io::stderr().lock();
    // Nothing can be said on a closed stream.
    let _closed = (|| {
        if args.verbose {
            for note in sealed.notes.listed() {
                writeln!(stderr, "{note}")?;
            }
            let unlisted = sealed.notes.total() - sealed.notes.listed().len() as u64;
            if unlisted > 0 {
                writeln!(stderr, "and {unlisted} more")?;
            }
        }
        let left_out = sealed.notes.listed().iter().filter(|note| note.code == Code::VirtualMount);
        let left_out: Vec<String> = left_out.map(|note| note.path.escaped().to_string()).collect();
        if !left_out.is_empty() {
            writeln!(stderr, "left out as the kernel's: {}", left_out.join(" "))?;
        }
        writeln!(stderr, "sealed {} entries, {} bytes, tree blake3:{}", totals.entries, totals.bytes, totals.tree)
    })();
    drop(stderr);
    if let Some(signer) = &signer {
        sign::say(signer.public());
    }
    Ok(Exit::Found(0))
}

/// The terms that the command line states.
///
/// # Errors
/// If an exclude is not a pattern, a set is not known, or the platform is not `os/architecture[/variant]`.
pub fn terms(args: &TermsArgs, sha256: bool, strict: bool) -> Result<Terms, Failure> {
    let excludes = Excludes::new(args.exclude.iter().map(String::as_str), args.exclude_set.iter().map(String::as_str))
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    check_platform(&args.platform)?;
    let mut exclude_sets = args.exclude_set.clone();
    exclude_sets.sort();
    exclude_sets.dedup();
    Ok(Terms {
        profile: args.profile.into(),
        excludes,
        exclude_sets,
        platform: args.platform.clone(),
        sha256,
        strict,
        cache: args.cache.clone(),
    })
}

/// Whether it is one of `os/architecture[/variant]`.
///
/// # Errors
/// If it is not.
pub(super) fn check_platform(platform: &str) -> Result<(), Failure> {
    let parts: Vec<&str> = platform.split('/').collect();
    if (2..=3).contains(&parts.len()) && parts.iter().all(|part| !part.is_empty()) {
        return Ok(());
    }
    let text = format!("--platform {platform:?} is not OS/ARCH or OS/ARCH/VARIANT");
    Err(Failure::new(Exit::Usage, anyhow::Error::msg(text)))
}

fn write(manifest: &Manifest, output: &Path) -> Result<(), Failure> {
    write_whole(output, |output| write_lines(manifest, output))
}

/// Writes to a file, or to stdout if it is `-`; the file appears, or is replaced, only when it is complete and on disk.
///
/// # Errors
/// If `fill` fails, or the file cannot be written.
pub(super) fn write_whole(output: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let name = if output.as_os_str() == "-" { "stdout".to_owned() } else { output.display().to_string() };
    draft::write(output, fill).map_err(|error| Failure::output(name, error))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use driftlock_common::digest::Algorithm;
    use driftlock_common::manifest::{Header, MAX_LINE};
    use driftlock_common::profile::Profile;
    use driftlock_common::tree::Tree;

    use super::*;

    fn manifest(history: &str) -> Manifest {
        let mut header = Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none());
        header.history = vec![history.to_owned()];
        Manifest { header, tree: Tree::from_sorted([]).unwrap() }
    }

    #[test]
    fn a_manifest_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("m");
        let names = || fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        write(&manifest("one"), &output).unwrap();
        write(&manifest("two"), &output).unwrap();
        assert_eq!(fs::read(&output).unwrap(), manifest("two").encode());
        // A line that no reader takes: what was there stays, and nothing is left beside it.
        let failure = write(&manifest(&"x".repeat(MAX_LINE)), &output).unwrap_err();
        assert_eq!(failure.exit.code(), 73);
        assert_eq!(fs::read(&output).unwrap(), manifest("two").encode());
        assert_eq!(names(), ["m"]);
        assert_eq!(write(&manifest("x"), &dir.path().join("none/m")).unwrap_err().exit.code(), 73);
        fs::create_dir(dir.path().join("d")).unwrap();
        assert_eq!(write(&manifest("x"), &dir.path().join("d")).unwrap_err().exit.code(), 73);
    }
}
