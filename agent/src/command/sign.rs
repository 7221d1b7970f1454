//! `driftlock sign`: a manifest becomes a bundle, a bundle or an assignment gets another signature; whole or not at all.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::anyhow;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Assignment, Envelope, PublicKey, Statement};

use crate::attestation::{self, ManifestDraft, SOURCE_DATE_EPOCH};
use crate::baseline::{Accept, Baseline, BaselineError};
use crate::bundle;
use crate::cli::{SealSignArgs, SignArgs, SignerArgs};
use crate::draft;
use crate::failure::{Failure, Outcome};
use crate::signer::Signer;

/// Runs the verb.
///
/// # Errors
/// If the file is neither, cannot be signed, or the bundle cannot be written.
pub fn run(args: SignArgs) -> Outcome {
    let signer = args.signer.signer()?;
    let created_at = created_at()?;
    let opened = bundle::open(&args.file)?;
    let (envelope, draft, output) = if opened.is_manifest() {
        let output = args.output.ok_or_else(|| no_output(&args.file))?;
        check_output(&output)?;
        let (manifest, draft) = attestation::copy_manifest(&args.file, opened.manifest()?, &output)?;
        let name = args.name.as_deref().unwrap_or_default();
        (attestation::about(&manifest, draft.sha256, name, created_at), Some(draft), output)
    } else {
        if let Some(name) = &args.name {
            let text = format!("--name {name:?}: a bundle says already what its image is called: leave it out");
            return Err(Failure::new(Exit::Usage, anyhow!(text)));
        }
        let envelope = opened.envelope()?;
        let output = args.output.unwrap_or_else(|| args.file.clone());
        check_output(&output)?;
        if Assignment::read(&envelope.verify([])).is_ok() {
            sign_and_write(&signer, envelope, None, &output)?;
            say(signer.public());
            return Ok(Exit::Found(0));
        }
        // Nobody signs for what is not there, or is not what is stated.
        let stated = Baseline::load(&args.file, &Accept::Unsigned)?.view().sha256;
        let beside = bundle::beside(&args.file, stated)?;
        let (_, draft) = attestation::copy_manifest(&args.file, beside, &output)?;
        let said = Statement::read(&envelope.verify([]))
            .map_err(|error| Failure::from(BaselineError::Statement(args.file.clone(), error)))?;
        if said.manifest != stated || draft.sha256 != stated {
            let file = Escaped(args.file.as_os_str().as_encoded_bytes());
            let text = format!("{file}: it was replaced while it was read: sign it again");
            return Err(Failure::new(Exit::Refused, anyhow!(text)));
        }
        (envelope, Some(draft), output)
    };
    sign_and_write(&signer, envelope, draft, &output)?;
    say(signer.public());
    Ok(Exit::Found(0))
}

impl SignerArgs {
    /// Who signs.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub(super) fn signer(&self) -> Result<Signer, Failure> {
        match &self.sign_command {
            Some(command) => Signer::of_command(command, &self.key),
            None => Signer::of_file(&self.key),
        }
    }
}

/// Who signs what is sealed, if anybody.
///
/// # Errors
/// If the key cannot be used.
pub(super) fn signer(args: &SealSignArgs) -> Result<Option<Signer>, Failure> {
    match (&args.sign, &args.sign_command, &args.key) {
        (Some(key), _, _) => Signer::of_file(key).map(Some),
        (None, Some(command), Some(key)) => Signer::of_command(command, key).map(Some),
        // clap lets no command through without its key.
        (None, _, _) => Ok(None),
    }
}

/// The time of a statement.
///
/// # Errors
/// If the environment has one that is none.
pub(super) fn created_at() -> Result<String, Failure> {
    Ok(attestation::created_at(std::env::var_os(SOURCE_DATE_EPOCH).as_deref())?)
}

/// Refuses a bundle on stdout.
///
/// # Errors
/// If it is one.
pub(super) fn check_output(output: &Path) -> Result<(), Failure> {
    if output.as_os_str() != "-" {
        return Ok(());
    }
    let text = "-o -: a bundle needs a file, because its manifest lies beside it: name one";
    Err(Failure::new(Exit::Usage, anyhow!(text)))
}

/// Signs, and writes the manifest, if there is one, and then what was signed; nothing at all if it cannot be signed.
///
/// # Errors
/// If it is not signed, no reader would take it, or it cannot be written.
pub(super) fn sign_and_write(
    signer: &Signer,
    mut envelope: Envelope,
    manifest: Option<ManifestDraft>,
    output: &Path,
) -> Result<(), Failure> {
    signer.sign(&mut envelope)?;
    let bytes = attestation::encode(&envelope)?;
    manifest.map_or(Ok(()), ManifestDraft::keep)?;
    draft::write(output, |file| file.write_all(&bytes)).map_err(|error| Failure::output(output.display(), error))
}

/// Says who signed.
pub(super) fn say(key: &PublicKey) {
    // Nothing can be said on a closed stream.
    let _closed = writeln!(io::stderr(), "signed by {key:?}");
}

fn no_output(manifest: &Path) -> Failure {
    let manifest = Escaped(manifest.as_os_str().as_encoded_bytes());
    Failure::new(
        Exit::Usage,
        anyhow!("{manifest} is a manifest, which is not replaced by its bundle: name one by -o BUNDLE"),
    )
}
