//! `driftlock attach`: a bundle and its manifest are put beside the image that they are about, in its registry.

use std::io::{self, Read, Write};

use anyhow::anyhow;
use driftlock_common::digest::Digest;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::Statement;
use sha2::Digest as _;

use super::seal;
use crate::baseline::{Accept, Baseline, BaselineError};
use crate::bundle;
use crate::cli::AttachArgs;
use crate::failure::{Failure, Outcome};
use crate::source::Source;
use crate::source::registry::{self, Attachment, Listing, Repository};

/// How much smaller it gets: more takes many times as long.
const LEVEL: i32 = 3;

/// Runs the verb.
///
/// # Errors
/// If the bundle is none, is about something else, or the registry does not take it.
pub fn run(args: AttachArgs) -> Outcome {
    let (repository, image) = pinned(&args.image)?;
    seal::check_platform(&args.platform)?;
    let at = Escaped(args.bundle.as_os_str().as_encoded_bytes());
    let envelope = bundle::read_envelope(&args.bundle)?;
    let statement = Statement::read(&envelope.verify([]))
        .map_err(|error| Failure::from(BaselineError::Statement(args.bundle.clone(), error)))?;
    // What nobody could use is not put there.
    Baseline::load(&args.bundle, &Accept::Unsigned)?;
    let manifest = compressed(bundle::beside(&args.bundle, statement.manifest)?, statement.manifest)
        .map_err(|error| Failure::input(format_args!("the manifest beside {at}"), error))?;
    let attachment = Attachment { envelope: &envelope, manifest, statement: &statement };
    let (artifact, listing) = registry::attach(&repository, image, &args.platform, &attachment)?;
    let how = match listing {
        Listing::Referrers => "listed by the registry",
        Listing::Tag => "listed under the tag of the image's referrers",
    };
    // Nothing can be said on a closed stream.
    let _closed = writeln!(io::stderr(), "attached as {repository}@sha256:{artifact}, {how}");
    Ok(Exit::Found(0))
}

/// The repository and digest of `registry:HOST/REPO@sha256:DIGEST`.
///
/// # Errors
/// If it is something else.
pub(super) fn pinned(text: &str) -> Result<(Repository, Digest), Failure> {
    match Source::parse(text)? {
        Source::Registry { repository, digest } => Ok((repository, digest)),
        _ => {
            let text = format!(
                "{}: not an image in a registry: write registry:HOST/REPO@sha256:DIGEST",
                Escaped(text.as_bytes())
            );
            Err(Failure::new(Exit::Usage, anyhow!(text)))
        }
    }
}

/// The bytes of a manifest, compressed.
///
/// # Errors
/// If it cannot be read, or is another one.
pub(super) fn compressed(mut manifest: impl Read, sha256: Digest) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
    let mut hasher = sha2::Sha256::new();
    let mut block = vec![0; 256 * 1024];
    loop {
        let read = match manifest.read(&mut block) {
            Ok(0) => break,
            Ok(read) => block.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(read);
        encoder.write_all(read)?;
    }
    if Digest::from_bytes(hasher.finalize().into()) != sha256 {
        return Err(io::Error::other("it was replaced while it was read: try again"));
    }
    encoder.finish()
}
