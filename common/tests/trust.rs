//! Keys, envelopes and statements: keys as OpenSSL wrote them (`trust/`), its signatures, golden bytes, and every attack by
//! name.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driftlock_common::digest::Digest;
use driftlock_common::manifest::Manifest;
use driftlock_common::trust::{
    Envelope, KeyId, MAX_ENVELOPE, PAYLOAD_TYPE, PrivateKey, PublicKey, Scheme, Statement, pae,
};
use proptest::prelude::*;

const HELLO: &[u8] = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
/// `openssl pkeyutl -sign -rawin` of [`HELLO`] with `ed25519.pem`, and `openssl dgst -sha256 -sign` with `p256.pem`.
const OPENSSL: [(&str, &str, &str); 2] = [
    (
        "ed25519",
        "66f4303a3615252f46500a9460610c714a3a312204d90fe7df11536c9ec9f8ab",
        "y6IaGjGYqnri67RF7zp1XCO+tQ+MwstPJrTv8qzM9RY35zpnMMCM1u5Ev/+Wiarm++Fw0OFjylJA0Z6cLGmUDA==",
    ),
    (
        "p256",
        "236b2a65a2ced8cffaa664fe745e2b5cc0f1446409f40ecb7433468abd68f2ae",
        "MEYCIQDggMcjA+iDNvIAsniW1qsR1EtctULH7EyuVmnsK8W1dQIhAJKT/8tBHIuaYGlVb5meUFTVjvRLLWZAO6it5Qg/pO7H",
    ),
];

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trust").join(name)).unwrap()
}

fn public(name: &str) -> PublicKey {
    PublicKey::from_pem(&text(&format!("{name}.pub"))).unwrap()
}

fn private(name: &str) -> PrivateKey {
    PrivateKey::from_pem(&text(&format!("{name}.pem"))).unwrap()
}

/// The statement about a small manifest.
fn statement() -> Statement {
    let bytes = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/parents.ndjson")).unwrap();
    let manifest = Manifest::decode(&bytes).unwrap();
    Statement::of(&manifest, Digest::sha256(&bytes), "registry.example/app", "2026-11-30T00:00:00Z".to_owned())
}

fn signed(names: &[&str]) -> Envelope {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, statement().encode());
    names.iter().for_each(|name| envelope.sign(&private(name)));
    envelope
}

#[test]
fn keys_and_signatures_of_openssl_are_ours() {
    assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), HELLO);
    for (name, id, signature) in OPENSSL {
        let key = public(name);
        assert_eq!(key.id().to_string(), id);
        assert_eq!(private(name).public(), &key);
        assert_eq!(key.to_pem(), text(&format!("{name}.pub")));
        let signature = STANDARD.decode(signature).unwrap();
        assert!(key.verifies(HELLO, &signature));
        assert!(!key.verifies(&HELLO[1..], &signature));
        assert!(key.verifies(HELLO, &private(name).sign(HELLO)));
        for byte in 0..signature.len() {
            let mut flipped = signature.clone();
            flipped[byte] ^= 1;
            assert!(!key.verifies(HELLO, &flipped), "byte {byte} of {name}");
        }
    }
    // Deterministic, as RFC 8032 wants it.
    assert_eq!(STANDARD.encode(private("ed25519").sign(HELLO)), OPENSSL[0].2);
    assert_eq!(private("ed25519").to_pem().as_ref(), text("ed25519.pem"));
}

#[test]
fn one_key_has_one_name_however_it_is_written() {
    let compressed = PublicKey::from_pem(&text("p256-compressed.pub")).unwrap();
    assert_eq!(compressed.id(), public("p256").id());
    let claim = signed(&["p256"]);
    let by = claim.verify([&compressed, &public("p256")]);
    assert_eq!(by.by().len(), 1);
}

#[test]
fn what_is_no_key_says_what_it_is() {
    let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    // The point of order 1 (RFC 8032): every signature of a certain form verifies under it.
    let weak = block("PUBLIC KEY", "MCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let twice = text("ed25519.pub") + &text("p256.pub");
    for (key, says) in [
        ("".to_owned(), "begins with -----BEGIN"),
        ("ssh-ed25519 AAAA root@host".to_owned(), "begins with -----BEGIN"),
        ("x".repeat(20_000), "longer than any key"),
        (text("ed25519.pem"), "a private key where a public one is needed"),
        (text("p256-sec1.pem"), "openssl pkcs8 -topk8"),
        (text("encrypted.pem"), "an encrypted key"),
        (text("certificate.pem"), "a certificate, not a key"),
        (text("rsa.pub"), "neither Ed25519 nor P-256"),
        (text("p384.pub"), "neither Ed25519 nor P-256"),
        (twice, "one key in a file"),
        (text("ed25519.pub").replace('M', "!"), "damaged"),
        (text("ed25519.pub").replace("-----END", "----END"), "damaged"),
        (weak, "weak"),
    ] {
        let error = PublicKey::from_pem(&key).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}");
    }
    assert!(PrivateKey::from_pem(&text("ed25519.pub")).unwrap_err().to_string().contains("a public key where"));
    // Nothing of a key is shown.
    assert!(!format!("{:?}", private("ed25519")).contains("SigningKey"));
}

#[test]
fn golden_bytes() {
    let golden = text("bundle.json");
    let envelope = signed(&["ed25519"]);
    assert_eq!(String::from_utf8(envelope.encode()).unwrap(), golden);
    assert_eq!(Envelope::parse(golden.as_bytes()).unwrap(), envelope);
    let several = signed(&["ed25519", "p256"]);
    assert_eq!(Envelope::parse(&several.encode()).unwrap(), several);
    let keys = [public("ed25519"), public("p256")];
    assert_eq!(several.verify(&keys).by(), &keys.iter().map(PublicKey::id).collect());
    assert_eq!(Statement::read(&envelope.verify(&keys)).unwrap(), statement());
}

/// Which keys signed what these bytes say; why they say nothing.
fn door(bytes: &[u8]) -> Result<(BTreeSet<KeyId>, Statement), String> {
    let envelope = Envelope::parse(bytes).map_err(|error| error.to_string())?;
    let keys = [public("ed25519")];
    let claim = envelope.verify(&keys);
    let statement = Statement::read(&claim).map_err(|error| error.to_string())?;
    Ok((claim.by().clone(), statement))
}

fn repacked(change: impl Fn(&str) -> String) -> Vec<u8> {
    let mut envelope = Envelope::new(PAYLOAD_TYPE, change(&String::from_utf8(statement().encode()).unwrap()).into());
    envelope.sign(&private("ed25519"));
    envelope.encode()
}

#[test]
fn attacks_on_the_envelope_and_the_statement_are_refused() {
    let golden = text("bundle.json");
    let plain = {
        let mut json: serde_json::Value = serde_json::from_str(&golden).unwrap();
        json["dsseEnvelope"].take()
    };
    let with = |key: &str, value: serde_json::Value| {
        let mut json = plain.clone();
        json[key] = value;
        json.to_string().into_bytes()
    };
    let other = golden.replace("\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3", "\"mediaType\":\"x");
    let signature = plain["signatures"][0].clone();
    let payload = plain["payload"].as_str().unwrap().to_owned();
    // The last digit of an unpadded group has bits that no byte has.
    let loose = payload.replace("==", "").trim_end_matches('=').to_owned();
    let mut critical: serde_json::Value = serde_json::from_str(&golden).unwrap();
    critical["!must"] = true.into();
    let mut two = serde_json::from_str::<serde_json::Value>(&golden).unwrap();
    two["payload"] = payload.clone().into();
    let mut message = serde_json::from_str::<serde_json::Value>(&golden).unwrap();
    message["messageSignature"] = serde_json::json!({});
    let duplicate = plain.to_string().replacen('{', &format!("{{\"payload\":{payload:?},"), 1);
    for (name, bytes, says) in [
        ("empty", Vec::new(), "EOF"),
        ("truncated", golden.as_bytes()[..golden.len() / 2].to_vec(), "EOF"),
        ("huge", vec![b' '; MAX_ENVELOPE + 1], "longer than"),
        ("deep", vec![b'['; 100_000], "recursion"),
        ("not an object", b"[]".to_vec(), "expected"),
        ("another bundle", other.into_bytes(), "not that of a Sigstore bundle v0.3"),
        ("signature stripped", with("signatures", serde_json::json!([])), "without a signature"),
        ("signatures missing", with("signatures", serde_json::Value::Null), "without a signature"),
        ("too many signatures", with("signatures", vec![signature.clone(); 33].into()), "more than 32"),
        ("two payloads", two.to_string().into_bytes(), "two payloads"),
        ("a message too", message.to_string().into_bytes(), "two payloads"),
        ("payload twice", duplicate.into_bytes(), "duplicate key"),
        ("critical key", critical.to_string().into_bytes(), "unknown critical key"),
        ("base64 unpadded", with("payload", loose.into()), "not canonical base64"),
        ("base64 with a line feed", with("payload", format!("{payload}\n").into()), "not canonical base64"),
        ("base64 mixed", with("payload", "-/==".into()), "not canonical base64"),
        ("payload type", with("payloadType", "text/plain".into()), "not a statement"),
        (
            "critical key in the statement",
            repacked(|json| json.replacen('{', "{\"!must\":1,", 1)),
            "unknown critical key",
        ),
        ("key twice in the statement", repacked(|json| json.replacen('{', "{\"subject\":[],", 1)), "duplicate key"),
        ("another version", repacked(|json| json.replace("Statement/v1", "Statement/v2")), "a statement of type"),
        ("another predicate", repacked(|json| json.replace("fs-manifest/v1", "provenance/v1")), "about something else"),
        (
            "none of its subjects",
            repacked(|json| {
                let at = json.rfind("sha256\":\"").unwrap() + 9;
                let manifest = json.find("\"predicateType\"").unwrap();
                let digest = "0".repeat(64);
                // The one in the subject alone.
                let subject = json[..manifest].rfind("sha256\":\"").unwrap() + 9;
                assert!(subject < at);
                format!("{}{digest}{}", &json[..subject], &json[subject + 64..])
            }),
            "none of its subjects",
        ),
    ] {
        let error = door(&bytes).map(|_| "nothing").unwrap_err();
        assert!(error.contains(says) && !error.contains('\n'), "{name}: {error}");
    }
    // What is only no signature of a key that is asked for leaves nobody who signed.
    let mut swapped = signature.clone();
    swapped["keyid"] = public("p256").id().to_string().into();
    let flip = |text: &str| text.replacen(['A', 'b'], "c", 1);
    for (name, bytes, signers) in [
        ("as it is", golden.clone().into_bytes(), 1),
        ("key id swapped", with("signatures", vec![swapped].into()), 1),
        ("the same signature twice", with("signatures", vec![signature.clone(); 2].into()), 1),
        (
            "signature flipped",
            with("signatures", serde_json::json!([{"sig": flip(signature["sig"].as_str().unwrap())}])),
            0,
        ),
        ("signed by another", signed(&["p256"]).encode(), 0),
    ] {
        assert_eq!(door(&bytes).unwrap().0.len(), signers, "{name}");
    }
}

#[test]
fn a_signature_from_outside_is_taken_only_if_it_is_the_keys() {
    let mut envelope = signed(&[]);
    let made = private("p256").sign(&envelope.to_sign());
    assert!(!envelope.add(&public("ed25519"), made.clone()));
    assert!(envelope.signatures().is_empty());
    assert!(envelope.add(&public("p256"), made.clone()) && envelope.add(&public("p256"), made));
    assert_eq!(envelope.signatures().len(), 1);
}

#[test]
fn a_key_is_made_of_random_bytes() {
    for scheme in [Scheme::Ed25519, Scheme::EcdsaP256] {
        let key = PrivateKey::from_random(scheme, &[7; 32]).unwrap();
        let again = PrivateKey::from_pem(key.to_pem().as_ref()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!((again.public().scheme(), again.sign(b"x")), (scheme, key.sign(b"x")));
    }
    // Beyond the order of the curve.
    assert!(PrivateKey::from_random(Scheme::EcdsaP256, &[0xff; 32]).is_none());
    assert!(PrivateKey::from_random(Scheme::EcdsaP256, &[0; 32]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_change_of_a_byte_leaves_another_statement_signed(at in 0usize..4096, with in 1u8..=255) {
        let mut bytes = text("bundle.json").into_bytes();
        let at = at % bytes.len();
        bytes[at] ^= with;
        if let Ok((by, read)) = door(&bytes) {
            prop_assert!(by.is_empty() || read == statement());
        }
    }
}
