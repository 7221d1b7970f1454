//! Owns what may be typed to make keys, sign and verify. Must not own what the commands do.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use driftlock_common::trust::Scheme;

/// `driftlock keygen`.
#[derive(Debug, Args)]
#[command(after_help = "\
NAME.key signs: keep it where images are built, mode 0600, or refuse it a file at all (sign --sign-command). NAME.pub verifies:
put it on every host. Both are PEM as openssl genpkey and openssl pkey -pubout write it, and keys of openssl are as good.")]
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

/// `driftlock sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
A sign command gets the bytes to be signed on stdin (DSSE, \"PAE\") and writes the signature, and nothing else, on stdout: 64
bytes of Ed25519, or ASN.1 DER of ECDSA on P-256 with SHA-256; either may be in base64. What it writes is verified with
its public key before anything is written. No shell reads it, unless it is one:
  driftlock sign app.bundle --key build.pub --sign-command 'pkcs11-sign --slot 1'
  driftlock sign app.bundle --key build.pub --sign-command \"sh -c 'kms-sign --key release | base64 -d'\"

SOURCE_DATE_EPOCH, in seconds since 1970, stands for the time in the statement: then two bundles of one manifest by one Ed25519
key are the same bytes.")]
pub struct SignArgs {
    /// A manifest, which gets a bundle, or a bundle, which gets another signature
    #[arg(value_name = "MANIFEST|BUNDLE")]
    pub file: PathBuf,
    /// The private key; with --sign-command the public one
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Sign by a command that has the private key
    #[arg(long, value_name = "COMMAND")]
    pub sign_command: Option<String>,
    /// Where the bundle goes, with its manifest beside it [default: over a bundle that was given]
    #[arg(short, long, value_name = "BUNDLE")]
    pub output: Option<PathBuf>,
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
    /// The public key of --sign-command
    #[arg(long, value_name = "FILE", requires = "sign_command")]
    pub key: Option<PathBuf>,
}

impl From<SchemeArg> for Scheme {
    fn from(arg: SchemeArg) -> Self {
        match arg {
            SchemeArg::Ed25519 => Self::Ed25519,
            SchemeArg::EcdsaP256 => Self::EcdsaP256,
        }
    }
}
