//! Keys: made here and by OpenSSL, in files and behind a command.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Result, ensure};
use driftlock_tests::require::Requirement::Openssl;
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;

use super::bundles::{keygen, one_line, sealed, small_tree};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a_key_is_two_files_and_its_name", &[Openssl], a_key_is_two_files),
        trial("a_key_is_never_written_over", &[], never_written_over),
        trial("openssl_keys_sign_here_and_ours_sign_there", &[Openssl], openssl_both_ways),
        trial("a_private_key_that_others_can_read_is_refused", &[], loose_permissions),
        trial("a_command_signs_in_place_of_a_key", &[Openssl], a_command_signs),
        trial("a_command_that_does_not_sign_ends_with_a_line_and_no_bundle", &[], a_command_that_does_not_sign),
    ]
}

pub(super) fn openssl(sandbox: &Sandbox, arguments: &str) -> Result<Finished> {
    sandbox.command(Path::new("openssl"), arguments.split(' ')).run()?.expect(0)
}

fn a_key_is_two_files() -> Result<()> {
    let sandbox = Sandbox::new()?;
    for scheme in ["ed25519", "ecdsa-p256"] {
        let id = keygen(&sandbox, scheme, scheme)?;
        let (private, public) = (sandbox.path(format!("{scheme}.key")), sandbox.path(format!("{scheme}.pub")));
        ensure!(fs::metadata(&private)?.mode() & 0o7777 == 0o600, "{scheme}");
        // OpenSSL reads both, and derives the one from the other.
        let derived = openssl(&sandbox, &format!("pkey -in {scheme}.key -pubout"))?;
        ensure!(derived.stdout == fs::read(&public)?, "{scheme}: {derived:?}");
        // The name is what anybody can compute.
        let der = openssl(&sandbox, &format!("pkey -pubin -in {scheme}.pub -outform DER"))?.stdout;
        ensure!(driftlock_tests::image::sha256(&der) == id, "{scheme}: {id}");
    }
    Ok(())
}

fn never_written_over() -> Result<()> {
    let sandbox = Sandbox::new()?;
    keygen(&sandbox, "k", "ed25519")?;
    let before = fs::read(sandbox.path("k.key"))?;
    let again = sandbox.driftlock(["keygen", "-o", "k"]).run()?;
    one_line(&again, 73, &["k.key: there is such a file already"])?;
    // A link that leads nowhere is a file too: nothing is written through it.
    std::os::unix::fs::symlink(sandbox.path("elsewhere"), sandbox.path("l.key"))?;
    one_line(&sandbox.driftlock(["keygen", "-o", "l"]).run()?, 73, &["l.key: there is such a file already"])?;
    ensure!(!sandbox.path("elsewhere").exists() && !sandbox.path("l.pub").exists(), "something was written");
    one_line(&sandbox.driftlock(["keygen", "-o", "none/k"]).run()?, 73, &["none/k.key: "])?;
    ensure!(fs::read(sandbox.path("k.key"))? == before, "the key is another one");
    Ok(())
}

fn openssl_both_ways() -> Result<()> {
    for (scheme, generate) in [
        ("ed25519", "genpkey -algorithm ED25519"),
        ("ecdsa-p256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
    ] {
        let sandbox = Sandbox::new()?;
        small_tree(&sandbox)?;
        openssl(&sandbox, &format!("{generate} -out theirs.key"))?;
        fs::set_permissions(sandbox.path("theirs.key"), Permissions::from_mode(0o600))?;
        openssl(&sandbox, "pkey -in theirs.key -pubout -out theirs.pub")?;
        sealed(&sandbox, "theirs.key", "app.bundle")?;
        let verify = ["verify", "app.bundle", "--key", "theirs.pub"];
        let shown = sandbox.driftlock(verify).run()?.expect(0)?;
        ensure!(shown.text()?.contains(&format!("signed    by theirs.pub: {scheme}:")), "{shown:?}");
    }
    Ok(())
}

fn loose_permissions() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "k", "ed25519")?;
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(sandbox.path("k.key"), Permissions::from_mode(mode))?;
        let says = format!("k.key: a private key that others can read (mode {mode:04o}): chmod 600 k.key");
        let seal = sandbox.driftlock(["seal", "dir:tree", "--sign", "k.key", "-o", "app.bundle"]).run()?;
        one_line(&seal, 77, &[&says])?;
    }
    ensure!(!sandbox.path("app.bundle").exists(), "a bundle was written");
    Ok(())
}

/// OpenSSL stands for a security module: it alone reads the private key.
fn a_command_signs() -> Result<()> {
    for (scheme, sign) in [
        ("ed25519", "sh -c 'cat >m && openssl pkeyutl -sign -rawin -in m -inkey k.key'"),
        ("ecdsa-p256", "openssl dgst -sha256 -sign k.key"),
        ("ecdsa-p256", "sh -c 'openssl dgst -sha256 -sign k.key | base64 -w0'"),
    ] {
        let sandbox = Sandbox::new()?;
        small_tree(&sandbox)?;
        keygen(&sandbox, "k", scheme)?;
        let seal = ["seal", "dir:tree", "--sign-command", sign, "--key", "k.pub", "-o", "app.bundle"];
        sandbox.driftlock(seal).run()?.expect(0)?;
        sandbox.driftlock(["verify", "app.bundle", "--key", "k.pub"]).run()?.expect(0)?;
        // And as a second signature.
        keygen(&sandbox, "other", "ed25519")?;
        sealed(&sandbox, "other.key", "two.bundle")?;
        let more = ["sign", "two.bundle", "--sign-command", sign, "--key", "k.pub"];
        sandbox.driftlock(more).run()?.expect(0)?;
        let both = ["verify", "two.bundle", "--key", "k.pub", "--key", "other.pub", "--threshold", "2"];
        sandbox.driftlock(both).run()?.expect(0)?;
    }
    Ok(())
}

fn a_command_that_does_not_sign() -> Result<()> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "k", "ed25519")?;
    for (command, code, says) in [
        ("false", 69, "the sign command \"false\" failed: exit status: 1"),
        ("true", 65, "wrote no signature"),
        ("yes", 65, "wrote more than 4096 bytes"),
        ("echo signature", 77, "not a signature by the key ed25519:"),
        ("cat k.key", 77, "not a signature by the key"),
        ("no-such-program", 66, "the sign command \"no-such-program\""),
        ("sh -c 'kill -9 $$'", 69, "failed: signal: 9"),
        ("sign 'it", 64, "a quote is open"),
        ("", 64, "or there is none"),
    ] {
        let seal = ["seal", "dir:tree", "--sign-command", command, "--key", "k.pub", "-o", "app.bundle"];
        one_line(&sandbox.driftlock(seal).run()?, code, &[says])?;
    }
    let names: Vec<_> = fs::read_dir(sandbox.path(""))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    ensure!(names.len() == 4, "something is left: {names:?}");
    Ok(())
}
