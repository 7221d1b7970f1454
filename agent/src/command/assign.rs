//! `driftlock assign`: which manifest a target must match, signed.

use std::collections::BTreeMap;

use anyhow::anyhow;
use driftlock_common::digest::Digest;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Assignment, Envelope, PAYLOAD_TYPE, Statement, Timestamp};

use super::sign;
use crate::baseline::{Accept, Baseline, BaselineError};
use crate::bundle;
use crate::cli::AssignArgs;
use crate::failure::{Failure, Outcome};

/// Runs the verb.
///
/// # Errors
/// If the bundle is none, what is assigned makes no sense, or it cannot be signed or written.
pub fn run(args: AssignArgs) -> Outcome {
    let signer = args.signer.signer()?;
    let assignment = Assignment {
        manifest: manifest(&args)?,
        labels: labels(&args.labels)?,
        target: args.target,
        serial: args.serial,
        not_before: args.not_before,
        expires: args.expires,
    };
    if let (Some(begin), Some(end)) = (assignment.not_before, assignment.expires)
        && begin >= end
    {
        return Err(usage(anyhow!("--expires {end}: not after --not-before {begin}, so it would never count")));
    }
    let envelope = Envelope::new(PAYLOAD_TYPE, assignment.encode());
    // What an agent would refuse is not signed.
    Assignment::read(&envelope.verify([])).map_err(usage)?;
    sign::sign_and_write(&signer, envelope, None, &args.output)?;
    sign::say(signer.public());
    Ok(Exit::Found(0))
}

/// Of a bundle, what it states of the manifest beside it; nothing of it is verified.
fn manifest(args: &AssignArgs) -> Result<Digest, Failure> {
    let baseline = Baseline::load(&args.bundle, &Accept::Unsigned)?;
    let opened = bundle::open(&args.bundle)?;
    if opened.is_manifest() {
        let text = format!(
            "{}: a manifest, which no agent with an assignment takes: assign its bundle",
            Escaped(args.bundle.as_os_str().as_encoded_bytes())
        );
        return Err(usage(anyhow!(text)));
    }
    let envelope = opened.envelope()?;
    let stated = Statement::read(&envelope.verify([]))
        .map_err(|error| Failure::from(BaselineError::Statement(args.bundle.clone(), error)))?;
    if stated.manifest == baseline.view().sha256 {
        Ok(stated.manifest)
    } else {
        Err(Failure::new(Exit::Refused, anyhow!("{}: it was replaced while it was read", args.bundle.display())))
    }
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| usage(anyhow!("--label {text:?}: write NAME=VALUE")))?;
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(usage(anyhow!("--label {text:?}: the label was given before")));
        }
    }
    Ok(labels)
}

/// Reads RFC 3339, for the command line.
pub fn instant(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse(text).ok_or("write a time as RFC 3339 has it, such as 2027-01-31T00:00:00Z")
}

fn usage(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::Usage, error)
}
