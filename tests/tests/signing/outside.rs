//! Others verify what is signed here, and sign what is verified here: securesystemslib, in-toto-attestation, Sigstore's verifier
//! for Node.js, OpenSSL. None of them shares code with the product.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::require::Requirement::{AttestationNode, AttestationPython, Openssl};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::Value;

use super::bundles::{keygen, one_line, sealed, small_tree};
use super::keys::openssl;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("securesystemslib_verifies_our_envelopes", &[AttestationPython], securesystemslib_verifies),
        trial("an_envelope_of_securesystemslib_is_verified", &[AttestationPython], securesystemslib_signs),
        trial("in_toto_attestation_reads_our_statements", &[AttestationPython], in_toto_reads),
        trial("the_verifier_of_sigstore_verifies_our_bundles", &[AttestationNode], sigstore_verifies),
        trial("openssl_verifies_our_signatures", &[Openssl], openssl_verifies),
        trial("signatures_of_openssl_are_verified", &[Openssl], openssl_signs),
    ]
}

/// It takes a signature for a key's only if both are labelled alike, so its keys get our label.
const COMMON: &str = r"
import base64, hashlib, json, sys
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey
def key(name):
    public = load_pem_public_key(open(name, 'rb').read())
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SSlibKey.from_crypto(public, keyid=hashlib.sha256(der).hexdigest())
def envelope(name):
    bundle = json.load(open(name))
    return Envelope.from_dict(bundle.get('dsseEnvelope', bundle))
";

const VERIFY: &str = r"
try:
    envelope(sys.argv[1]).verify([key(name) for name in sys.argv[2:]], len(sys.argv) - 2)
except VerificationError as error:
    sys.exit(3)
";

const SIGN: &str = r"
made = Envelope(envelope(sys.argv[1]).payload, 'application/vnd.in-toto+json', {})
for name in sys.argv[3:]:
    made.sign(CryptoSigner(load_pem_private_key(open(name + '.key', 'rb').read(), None), key(name + '.pub')))
json.dump(made.to_dict(), open(sys.argv[2], 'w'))
";

const IN_TOTO: &str = r"
from google.protobuf.json_format import MessageToDict, Parse
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message
statement = Statement.copy_from_pb(Parse(envelope(sys.argv[1]).payload, Message()))
statement.validate()
json.dump(MessageToDict(statement.pb), sys.stdout)
";

const SIGSTORE: &str = r"
const fs = require('fs'), crypto = require('crypto');
const { bundleFromJSON } = require('@sigstore/bundle');
const { VerificationError, Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify');
const [file, key] = process.argv.slice(-2);
const publicKey = crypto.createPublicKey(fs.readFileSync(key));
const root = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const material = toTrustMaterial(root, (hint) => ({ publicKey, validFor: () => true }));
const none = { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0, tsaThreshold: 0 };
const bundle = bundleFromJSON(JSON.parse(fs.readFileSync(file)));
try {
    new Verifier(material, none).verify(toSignedEntity(bundle));
} catch (error) {
    process.exit(error instanceof VerificationError ? 3 : 1);
}
process.stdout.write(bundle.content.dsseEnvelope.payload);
";

fn python(sandbox: &Sandbox, script: &str, arguments: &[&str]) -> Result<Finished> {
    let script = format!("{COMMON}{script}");
    let arguments = ["-c", &script].into_iter().chain(arguments.iter().copied());
    sandbox.command(&AttestationPython.program().context("attestation-python")?, arguments).run()
}

fn sigstore(sandbox: &Sandbox, bundle: &str, key: &str) -> Result<Finished> {
    let arguments = ["-e", SIGSTORE, "--", bundle, key];
    sandbox.command(&AttestationNode.program().context("attestation-node")?, arguments).run()
}

/// Keys `a` and `b`, and a tree.
fn prepared() -> Result<Sandbox> {
    let sandbox = Sandbox::new()?;
    small_tree(&sandbox)?;
    keygen(&sandbox, "a", "ed25519")?;
    keygen(&sandbox, "b", "ecdsa-p256")?;
    Ok(sandbox)
}

fn securesystemslib_verifies() -> Result<()> {
    let sandbox = prepared()?;
    for (mine, other) in [("a", "b"), ("b", "a")] {
        sealed(&sandbox, &format!("{mine}.key"), "app.bundle")?;
        python(&sandbox, VERIFY, &["app.bundle", &format!("{mine}.pub")])?.expect(0)?;
        python(&sandbox, VERIFY, &["app.bundle", &format!("{other}.pub")])?.expect(3)?;
    }
    sandbox.driftlock(["sign", "app.bundle", "--key", "a.key"]).run()?.expect(0)?;
    python(&sandbox, VERIFY, &["app.bundle", "a.pub", "b.pub"])?.expect(0)?;
    Ok(())
}

fn securesystemslib_signs() -> Result<()> {
    let sandbox = prepared()?;
    sealed(&sandbox, "a.key", "app.bundle")?;
    for (key, other) in [("a", "b"), ("b", "a")] {
        python(&sandbox, SIGN, &["app.bundle", "theirs.json", key])?.expect(0)?;
        let verify = |key: &str| sandbox.driftlock(["verify", "theirs.json", "--key", &format!("{key}.pub")]).run();
        verify(key)?.expect(0)?;
        one_line(&verify(other)?, 77, &["signed by 0 of"])?;
    }
    python(&sandbox, SIGN, &["app.bundle", "theirs.json", "a", "b"])?.expect(0)?;
    let both = ["verify", "theirs.json", "--key", "a.pub", "--key", "b.pub", "--threshold", "2"];
    sandbox.driftlock(both).run()?.expect(0)?;
    Ok(())
}

fn in_toto_reads() -> Result<()> {
    let sandbox = prepared()?;
    let seal = ["seal", "dir:tree", "--sign", "a.key", "--name", "registry.example/app", "-o", "app.bundle"];
    sandbox.driftlock(seal).run()?.expect(0)?;
    let finished = python(&sandbox, IN_TOTO, &["app.bundle"])?.expect(0)?;
    let read: Value = serde_json::from_slice(&finished.stdout)?;
    let ours = sandbox.driftlock(["verify", "app.bundle", "--key", "a.pub", "--format", "json"]).run()?.expect(0)?;
    let ours: Value = serde_json::from_slice(&ours.stdout)?;
    // Numbers come back as floating point: the rest of a statement is text.
    ensure!(read["_type"] == "https://in-toto.io/Statement/v1", "{read}");
    ensure!(read["subject"] == ours["statement"]["subject"], "{read} {ours}");
    for key in ["tree", "profile", "content", "createdAt", "manifest"] {
        let (theirs, stated) = (&read["predicate"][key], &ours["statement"]["predicate"][key]);
        ensure!(theirs == stated && !stated.is_null(), "{key}: {theirs} {stated}");
    }
    Ok(())
}

fn sigstore_verifies() -> Result<()> {
    let sandbox = prepared()?;
    for (mine, other) in [("a", "b"), ("b", "a")] {
        sealed(&sandbox, &format!("{mine}.key"), "app.bundle")?;
        let verified = sigstore(&sandbox, "app.bundle", &format!("{mine}.pub"))?.expect(0)?;
        ensure!(verified.text()?.starts_with("{\"_type\":\"https://in-toto.io/Statement/v1\""), "{verified:?}");
        sigstore(&sandbox, "app.bundle", &format!("{other}.pub"))?.expect(3)?;
    }
    Ok(())
}

fn openssl_verifies() -> Result<()> {
    let sandbox = prepared()?;
    for (key, verify) in [
        ("a", "pkeyutl -verify -rawin -in message -sigfile signature -pubin -inkey"),
        ("b", "dgst -sha256 -signature signature -verify"),
    ] {
        sealed(&sandbox, &format!("{key}.key"), "app.bundle")?;
        split(&sandbox, "app.bundle")?;
        let tail = if key == "b" { " message" } else { "" };
        openssl(&sandbox, &format!("{verify} {key}.pub{tail}"))?;
        // Of another message it is not.
        let mut message = fs::read(sandbox.path("message"))?;
        message.push(b'\n');
        sandbox.write("message", message)?;
        let forged = format!("{verify} {key}.pub{tail}");
        let forged = sandbox.command(Path::new("openssl"), forged.split(' ')).run()?;
        ensure!(forged.code == Some(1), "{forged:?}");
    }
    Ok(())
}

fn openssl_signs() -> Result<()> {
    let sandbox = prepared()?;
    for (key, sign) in [
        ("a", "pkeyutl -sign -rawin -in message -out signature -inkey a.key"),
        ("b", "dgst -sha256 -sign b.key -out signature message"),
    ] {
        sealed(&sandbox, &format!("{key}.key"), "app.bundle")?;
        split(&sandbox, "app.bundle")?;
        openssl(&sandbox, sign)?;
        openssl(&sandbox, "base64 -A -in signature -out text")?;
        let mut bundle: Value = serde_json::from_slice(&fs::read(sandbox.path("app.bundle"))?)?;
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = fs::read_to_string(sandbox.path("text"))?.into();
        sandbox.write("app.bundle", bundle.to_string())?;
        sandbox.driftlock(["verify", "app.bundle", "--key", &format!("{key}.pub")]).run()?.expect(0)?;
    }
    Ok(())
}

/// What is signed (DSSE, "PAE": written down again here) and the signature, as files.
fn split(sandbox: &Sandbox, bundle: &str) -> Result<()> {
    let bundle: Value = serde_json::from_slice(&fs::read(sandbox.path(bundle))?)?;
    let decoded = |name: &str, value: &Value| -> Result<Vec<u8>> {
        sandbox.write("text", value.as_str().context("base64")?)?;
        openssl(sandbox, &format!("base64 -d -A -in text -out {name}"))?;
        Ok(fs::read(sandbox.path(name))?)
    };
    let envelope = &bundle["dsseEnvelope"];
    let payload = decoded("payload", &envelope["payload"])?;
    decoded("signature", &envelope["signatures"][0]["sig"])?;
    let kind = envelope["payloadType"].as_str().context("a type")?;
    let mut message = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    message.extend_from_slice(&payload);
    sandbox.write("message", message).map(drop)
}
