//! Owns what a build and an operator sign: keys, bundles beside their manifests, assignments. Must not own whom a host
//! believes, or what it makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use driftlock_common::digest::Digest;
use driftlock_common::manifest::Manifest;
use driftlock_common::trust::{Assignment, Envelope, PAYLOAD_TYPE, PrivateKey, Scheme, Statement, Timestamp};

use crate::sandbox::Sandbox;

/// A key, the same for the same number.
///
/// # Errors
/// If the number makes none.
pub fn key(number: u8) -> Result<PrivateKey> {
    PrivateKey::from_random(Scheme::Ed25519, &[number; 32]).context("no key")
}

/// What reports call it.
///
/// # Errors
/// As [`key`].
pub fn key_id(number: u8) -> Result<String> {
    Ok(key(number)?.public().id().to_string())
}

/// Its public half as a file in `sandbox`.
///
/// # Errors
/// If it cannot be written.
pub fn public_key(sandbox: &Sandbox, number: u8) -> Result<PathBuf> {
    sandbox.write(format!("k{number}.pub"), key(number)?.public().to_pem())
}

/// Signs a manifest, writes it beside `bundle`, and puts the bundle there by renaming, as a deployment does. SHA-256 of the
/// manifest.
///
/// # Errors
/// If the manifest is none, or something cannot be written.
pub fn bundle(manifest: &Path, bundle: &Path, by: &[u8]) -> Result<Digest> {
    let bytes = fs::read(manifest)?;
    let sha256 = Digest::sha256(&bytes);
    let statement =
        Statement::of(&Manifest::decode(&bytes)?, sha256, "registry.example/app:1", "2026-11-30T00:00:00Z".to_owned());
    fs::write(bundle.with_file_name(format!("{sha256}.manifest")), bytes)?;
    put(bundle, &envelope(statement.encode(), by)?)?;
    Ok(sha256)
}

/// Signs an assignment of `manifest` to the target `app`, and puts it at `file` by renaming. Its bytes.
///
/// # Errors
/// If it cannot be written.
pub fn assign(file: &Path, by: u8, serial: u64, manifest: Digest, expires: Option<Timestamp>) -> Result<Vec<u8>> {
    let assignment = Assignment {
        target: Some("app".to_owned()),
        labels: BTreeMap::new(),
        manifest,
        serial,
        not_before: None,
        expires,
    };
    let bytes = envelope(assignment.encode(), &[by])?;
    put(file, &bytes)?;
    Ok(bytes)
}

/// Replaces a file by renaming another to it.
///
/// # Errors
/// If it cannot be written.
pub fn put(file: &Path, bytes: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, bytes)?;
    Ok(fs::rename(new, file)?)
}

fn envelope(payload: Vec<u8>, by: &[u8]) -> Result<Vec<u8>> {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, payload);
    for number in by {
        envelope.sign(&key(*number)?);
    }
    Ok(envelope.encode())
}
