//! `driftlock verify`: who signed a bundle, and what they state of the manifest beside it.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use anyhow::anyhow;
use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Anchors, KeyId, Role, Statement, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::anchor_file;
use crate::baseline::{Accept, Baseline, BaselineError, Terms};
use crate::bundle;
use crate::cli::{AnswerFormatArg, VerifyArgs};
use crate::config::Trust;
use crate::failure::{Failure, Outcome};
use crate::known_time;

/// Runs the verb.
///
/// # Errors
/// If the bundle is not what it must be, or not believed; if stdout cannot be written.
pub fn run(args: VerifyArgs) -> Outcome {
    let anchors = Arc::new(anchors(&args)?);
    let now = known_time::now();
    let refused = |refusal| Failure::from(BaselineError::Refused(args.bundle.clone(), refusal));
    let opened = bundle::open(&args.bundle)?;
    if opened.is_manifest() {
        return Err(BaselineError::NotSigned(args.bundle).into());
    }
    let envelope = opened.envelope()?;
    let trusted = anchors.judge(Role::Manifest, &envelope, now).map_err(refused)?;
    let statement = Statement::read(&trusted.claim)
        .map_err(|error| Failure::from(BaselineError::Statement(args.bundle.clone(), error)))?;
    let terms = Terms { anchors: Arc::clone(&anchors), now, assigned: None };
    let baseline = Baseline::load(&args.bundle, &Accept::Signed(terms))?;
    if baseline.view().sha256 != statement.manifest {
        return Err(refuse(&args, "it was replaced while it was verified: verify it again"));
    }
    if let Some(image) = args.image
        && !statement.is_about(image)
    {
        return Err(refuse(&args, &format!("the statement is not about the image sha256:{image}")));
    }
    let signers = anchors.keys().iter().filter(|anchor| trusted.by.contains(&anchor.key.id()));
    let signers =
        signers.map(|anchor| Signer { key: anchor.key.id(), scheme: anchor.key.scheme().name(), name: &anchor.name });
    let mut verified = Verified { statement, signers: signers.collect(), until: trusted.until };
    // A key that was given twice signed once.
    verified.signers.dedup_by_key(|signer| signer.key);
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match args.format {
        AnswerFormatArg::Text => verified.text(&mut out),
        AnswerFormatArg::Json => verified.json(&mut out),
    };
    match written.and_then(|()| out.flush()) {
        // `verify … | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Found(0)),
        Err(error) => Err(Failure::output("stdout", error)),
        Ok(()) => Ok(Exit::Found(0)),
    }
}

fn anchors(args: &VerifyArgs) -> Result<Anchors, Failure> {
    if let Some(file) = &args.trust {
        return Ok(anchor_file::load(&Trust::File(file.clone()))?.unwrap_or_default());
    }
    let anchors = anchor_file::any_of(&args.keys)?;
    let Some(threshold) = args.threshold else { return Ok(anchors) };
    let keys = anchors.quorum(Role::Manifest).map_or(0, |(_, keys)| keys);
    anchors.with_threshold(threshold.get()).ok_or_else(|| {
        let text = format!("--threshold {threshold}: only {keys} different key(s) were given, so it can never be met");
        Failure::new(Exit::Usage, anyhow!(text))
    })
}

fn refuse(args: &VerifyArgs, why: &str) -> Failure {
    let bundle = Escaped(args.bundle.as_os_str().as_encoded_bytes());
    Failure::new(Exit::Refused, anyhow!("{bundle}: refused: {why}"))
}

/// What is shown.
struct Verified<'a> {
    statement: Statement,
    signers: Vec<Signer<'a>>,
    until: Option<Timestamp>,
}

#[derive(Serialize)]
struct Signer<'a> {
    #[serde(serialize_with = "shown")]
    key: KeyId,
    scheme: &'static str,
    name: &'a str,
}

fn shown<S: serde::Serializer>(key: &KeyId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

impl Verified<'_> {
    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Whole<'a> {
            verified: bool,
            signed_by: &'a [Signer<'a>],
            #[serde(skip_serializing_if = "Option::is_none")]
            until: Option<Timestamp>,
            statement: &'a RawValue,
        }
        let statement = String::from_utf8(self.statement.encode()).map_err(io::Error::other)?;
        let statement = RawValue::from_string(statement)?;
        let whole = Whole { verified: true, signed_by: &self.signers, until: self.until, statement: &statement };
        serde_json::to_writer(&mut *out, &whole)?;
        out.write_all(b"\n")
    }

    fn text(&self, out: &mut impl Write) -> io::Result<()> {
        let statement = &self.statement;
        let shown = |text: &str| Escaped(text.as_bytes()).to_string();
        for Signer { key, scheme, name } in &self.signers {
            writeln!(out, "signed    by {name}: {scheme}:{key}")?;
        }
        if let Some(until) = self.until {
            writeln!(out, "until     {until}")?;
        }
        for subject in statement.subjects.iter().filter(|subject| subject.sha256 != statement.manifest) {
            let name = if subject.name.is_empty() { String::new() } else { format!(", {}", shown(&subject.name)) };
            writeln!(out, "image     sha256:{}{name}", subject.sha256)?;
        }
        writeln!(out, "manifest  sha256:{}", statement.manifest)?;
        writeln!(out, "tree      {}", statement.tree)?;
        writeln!(out, "profile   {}, content digests {}", statement.profile.name(), statement.content.name())?;
        writeln!(out, "entries   {}, {} bytes in files", statement.counts.entries, statement.counts.bytes)?;
        for pattern in &statement.excludes {
            writeln!(out, "excludes  {}", shown(pattern))?;
        }
        for diagnostic in &statement.diagnostics {
            writeln!(out, "noted     {} × {}", diagnostic.count, shown(&diagnostic.code))?;
        }
        writeln!(out, "stated    {}, by the clock of who signed", shown(&statement.created_at))
    }
}

/// Reads `sha256:DIGEST`, for the command line.
pub fn image(text: &str) -> Result<Digest, &'static str> {
    const SHOULD: &str = "write sha256: and 64 lower-case hexadecimal digits";
    let digest: driftlock_common::digest::OciDigest = text.parse().map_err(|_| SHOULD)?;
    if digest.algorithm == Algorithm::Sha256 { Ok(digest.digest) } else { Err(SHOULD) }
}
