//! Owns what may be typed to make keys, sign and verify. Must not own what the commands do.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use driftlock_common::digest::Digest;
use driftlock_common::path::plain_text;
use driftlock_common::trust::{Scheme, Timestamp};

use super::AnswerFormatArg;

/// `driftlock keygen`.
#[derive(Debug, Args)]
#[command(after_help = "\
NAME.key signs: keep it where images are built, mode 0600, or in something that signs by a command
(sign --sign-command). NAME.pub verifies: put it on every host. Both are PEM as openssl genpkey
and openssl pkey -pubout write it, and keys of openssl are as good.")]
pub struct KeygenArgs {
    /// Where the key goes: NAME.key and NAME.pub, neither of which may be there already
    #[arg(short, long, value_name = "NAME")]
    pub output: PathBuf,
    /// How it signs
    #[arg(long, value_enum, default_value_t = SchemeArg::Ed25519)]
    pub scheme: SchemeArg,
}

/// The schemes of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemeArg {
    /// Ed25519: the same bytes give the same signature
    #[value(name = "ed25519")]
    Ed25519,
    /// ECDSA on P-256 with SHA-256, for security modules and key services
    #[value(name = "ecdsa-p256")]
    EcdsaP256,
}

/// Who must have signed a manifest that is read.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// A public key (PEM) that must have signed what is a manifest, given several times: any one of them. A manifest without a
    /// bundle is then refused
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Take a bundle without a key, as if nobody had signed it
    #[arg(long, conflicts_with = "keys")]
    pub allow_unsigned: bool,
}

/// `driftlock sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
A sign command gets the bytes to be signed on stdin (DSSE, \"PAE\") and writes the signature, and
nothing else, on stdout: 64 bytes of Ed25519, or ASN.1 DER of ECDSA on P-256 with SHA-256; either
may be in base64. What it writes is verified with its public key before anything is written. No
shell reads it, unless it is one:
  driftlock sign app.bundle --key build.pub --sign-command 'pkcs11-sign --slot 1'
  driftlock sign app.bundle --key build.pub --sign-command \"sh -c 'cat | kms-sign'\"

SOURCE_DATE_EPOCH, in seconds since 1970, stands for the time in the statement: then two bundles
of one manifest by one Ed25519 key are the same bytes.")]
pub struct SignArgs {
    /// A manifest, which gets a bundle; a bundle or an assignment, which gets another signature
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Who signs.
    #[command(flatten)]
    pub signer: SignerArgs,
    /// What the image of a manifest is called, for who trusts only some repositories: HOST/REPO
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Where the bundle goes, with its manifest beside it [default: over the file, if that is no manifest]
    #[arg(short, long, value_name = "BUNDLE")]
    pub output: Option<PathBuf>,
}

/// Who signs.
#[derive(Debug, Args)]
pub struct SignerArgs {
    /// The private key; with --sign-command the public one
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Sign by a command that has the private key
    #[arg(long, value_name = "COMMAND")]
    pub sign_command: Option<String>,
}

/// `driftlock assign`.
#[derive(Debug, Args)]
#[command(after_help = "\
An agent whose target has an assignment matches what the last one names. Serials only rise: going
back is a new assignment with a higher serial and the bundle of the old release. driftlock sign
adds another signature, for who takes several.")]
pub struct AssignArgs {
    /// The bundle whose manifest is to be matched
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// The target that is meant, by its name in the agent's configuration
    #[arg(long, value_name = "NAME", required_unless_present = "labels")]
    pub target: Option<String>,
    /// A label that the host must have, given several times: all of them
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Higher than that of every assignment before it
    #[arg(long, value_name = "N")]
    pub serial: u64,
    /// It does not count earlier
    #[arg(long, value_name = "TIME", value_parser = crate::command::assign::instant)]
    pub not_before: Option<Timestamp>,
    /// It does not count then or later
    #[arg(long, value_name = "TIME", value_parser = crate::command::assign::instant)]
    pub expires: Option<Timestamp>,
    /// Who signs.
    #[command(flatten)]
    pub signer: SignerArgs,
    /// Where the assignment goes
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// `driftlock verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Verified are the signatures, then what they are over, then the manifest beside the bundle, byte
for byte. Which key a signature says that it is by plays no part. Exit codes: 0 believed, 65
malformed, 66 not there, 77 refused.")]
pub struct VerifyArgs {
    /// The bundle; its manifest lies beside it
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// A public key (PEM) that must have signed it, given several times: any one of them, or as many as --threshold
    #[arg(long = "key", value_name = "FILE", required_unless_present = "trust")]
    pub keys: Vec<PathBuf>,
    /// How many different keys must have signed it
    #[arg(long, value_name = "K", requires = "keys")]
    pub threshold: Option<NonZeroUsize>,
    /// A trust file, in place of keys: who may sign, how many it takes, until when, and of which images
    #[arg(long, value_name = "FILE", conflicts_with = "keys")]
    pub trust: Option<PathBuf>,
    /// The image that it must be about, by the digest of its manifest
    #[arg(long, value_name = "sha256:DIGEST", value_parser = crate::command::verify::image)]
    pub image: Option<Digest>,
    /// Form of the answer on stdout
    #[arg(long, value_enum, default_value_t = AnswerFormatArg::Text)]
    pub format: AnswerFormatArg,
}

/// `driftlock attach`.
#[derive(Debug, Args)]
#[command(after_help = "\
The bundle and its manifest become an artifact that refers to the image, as cosign and oras attach
theirs, with what docker or podman logged in with, which must allow to push. driftlock scan
--image finds it. Attaching again changes nothing.

A registry that does not list referrers (OCI 1.1) gets the list under the tag sha256-DIGEST of the
image. Nothing keeps two writers of such a list apart: it is read again after it was written, and
written again if the entry is gone; who wrote meanwhile can still be the last. Attaching again
brings an entry back.")]
pub struct AttachArgs {
    /// The bundle; its manifest lies beside it
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// The image that it is about, or an index that has it, registry:HOST/REPO@sha256:DIGEST
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Which image of an index
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    pub platform: String,
}

/// Signing what is sealed.
#[derive(Debug, Args)]
pub struct SealSignArgs {
    /// Sign with this private key: the output is a bundle, and the manifest lies beside it, named by its SHA-256
    #[arg(long, value_name = "KEY", conflicts_with = "sign_command")]
    pub sign: Option<PathBuf>,
    /// Sign by a command that has the private key: see driftlock sign --help
    #[arg(long, value_name = "COMMAND", requires = "key")]
    pub sign_command: Option<String>,
    /// What the image is called in the statement, for who trusts only some repositories [default: HOST/REPO of registry:]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// The public key of --sign-command
    #[arg(long, value_name = "FILE", requires = "sign_command")]
    pub key: Option<PathBuf>,
}

/// The longest name of an image, in bytes.
const MAX_NAME: usize = 512;

fn name(text: &str) -> Result<String, &'static str> {
    let is_name = !text.is_empty() && text.len() <= MAX_NAME && plain_text(text.as_bytes()).is_some();
    if is_name { Ok(text.to_owned()) } else { Err("a name has 1 to 512 bytes, none of them a control character") }
}

impl From<SchemeArg> for Scheme {
    fn from(arg: SchemeArg) -> Self {
        match arg {
            SchemeArg::Ed25519 => Self::Ed25519,
            SchemeArg::EcdsaP256 => Self::EcdsaP256,
        }
    }
}
