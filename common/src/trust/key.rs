//! Owns keys: Ed25519 (RFC 8032) and ECDSA on P-256 with SHA-256 (FIPS 186-5), their PEM as OpenSSL writes it, their names,
//! signing and verifying. Must not own files, randomness, or what a key may be trusted with.

use std::fmt;

use ed25519_dalek::pkcs8 as pkcs8_ed;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _};

use crate::digest::Digest;

/// The longest text of a key, in bytes: an EC key with everything that OpenSSL adds takes less than a tenth of it.
pub const MAX_KEY: usize = 16 * 1024;

/// How something is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Ed25519 (RFC 8032): deterministic.
    Ed25519,
    /// ECDSA on P-256 with SHA-256, the signature as ASN.1 DER. Deterministic where it is made here (RFC 6979); hardware and
    /// cloud services make others.
    EcdsaP256,
}

/// The name of a public key: the SHA-256 of its DER (`SubjectPublicKeyInfo`, RFC 5280), a point of a curve uncompressed, so
/// that one key has one name however it was written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Digest);

/// A key that verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    verifier: Verifier,
    id: KeyId,
}

/// A key that signs. It shows itself to nobody, and is wiped from memory when it is dropped.
pub struct PrivateKey {
    signer: Signer,
    public: PublicKey,
}

#[derive(Clone, PartialEq, Eq)]
enum Verifier {
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    EcdsaP256(Box<p256::ecdsa::VerifyingKey>),
}

enum Signer {
    Ed25519(Box<ed25519_dalek::SigningKey>),
    EcdsaP256(Box<p256::ecdsa::SigningKey>),
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// More than [`MAX_KEY`] bytes.
    #[error("longer than any key")]
    TooLong,
    /// No PEM block.
    #[error("not a key: a PEM file begins with -----BEGIN")]
    NotPem,
    /// Another kind of block.
    #[error("{0}")]
    Other(&'static str),
    /// More than one block.
    #[error("more than one PEM block: one key in a file")]
    Several,
    /// The block is not what its first line says.
    #[error("damaged, or neither Ed25519 nor P-256")]
    Damaged,
    /// A public key under which anything can be signed.
    #[error("a weak key, under which a signature proves nothing: make another")]
    Weak,
}

const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";

/// The one block of a PEM text, if it has the wanted label.
fn block<'a>(text: &'a str, wanted: &str) -> Result<&'a str, KeyError> {
    const BEGIN: &str = "-----BEGIN ";
    if text.len() > MAX_KEY {
        return Err(KeyError::TooLong);
    }
    let text = text.trim_ascii();
    let label = text.strip_prefix(BEGIN).and_then(|rest| rest.split_once("-----")).ok_or(KeyError::NotPem)?.0;
    if label != wanted {
        return Err(KeyError::Other(match label {
            PUBLIC => "a public key where a private one is needed",
            PRIVATE => "a private key where a public one is needed: keep it where it was made, and give its public key",
            "EC PRIVATE KEY" => {
                "an EC key in an older form: openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW converts it"
            }
            "EC PARAMETERS" => "EC parameters before a key: openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW converts it",
            "ENCRYPTED PRIVATE KEY" => "an encrypted key, which is not supported: sign by a command that decrypts it",
            "OPENSSH PRIVATE KEY" => "a key of OpenSSH: make one by driftlock keygen or openssl genpkey",
            "CERTIFICATE" => "a certificate, not a key: openssl x509 -pubkey -noout takes its key out",
            _ => "a PEM block that is no key",
        }));
    }
    if text.matches(BEGIN).count() > 1 {
        return Err(KeyError::Several);
    }
    Ok(text)
}

// === impl PublicKey ===

impl PublicKey {
    /// Reads a PEM text of one `PUBLIC KEY`, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// If it is none, or none of a scheme that is known.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let pem = block(text, PUBLIC)?;
        if let Ok(key) = <ed25519_dalek::VerifyingKey as pkcs8_ed::DecodePublicKey>::from_public_key_pem(pem) {
            return if key.is_weak() { Err(KeyError::Weak) } else { Self::new(Verifier::Ed25519(Box::new(key))) };
        }
        let key = p256::ecdsa::VerifyingKey::from_public_key_pem(pem).map_err(|_| KeyError::Damaged)?;
        Self::new(Verifier::EcdsaP256(Box::new(key)))
    }

    fn new(verifier: Verifier) -> Result<Self, KeyError> {
        let id = KeyId(Digest::sha256(&verifier.der().ok_or(KeyError::Damaged)?));
        Ok(Self { verifier, id })
    }

    /// Its name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// How it verifies.
    pub const fn scheme(&self) -> Scheme {
        match self.verifier {
            Verifier::Ed25519(_) => Scheme::Ed25519,
            Verifier::EcdsaP256(_) => Scheme::EcdsaP256,
        }
    }

    /// As PEM, for OpenSSL and everybody else.
    pub fn to_pem(&self) -> String {
        let pem = match &self.verifier {
            Verifier::Ed25519(key) => pkcs8_ed::EncodePublicKey::to_public_key_pem(&**key, LineEnding::LF).ok(),
            Verifier::EcdsaP256(key) => key.to_public_key_pem(LineEnding::LF).ok(),
        };
        // A key that was read or made can be written.
        pem.unwrap_or_default()
    }

    /// As DER of SubjectPublicKeyInfo (RFC 5280), as it stands in a certificate.
    pub fn to_der(&self) -> Vec<u8> {
        // A key that was read or made can be written.
        self.verifier.der().unwrap_or_default()
    }

    /// Whether `signature` is this key's over exactly `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            // Strict: signatures that some implementations take and others do not are none.
            Verifier::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            Verifier::EcdsaP256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

impl Verifier {
    fn der(&self) -> Option<Vec<u8>> {
        match self {
            Self::Ed25519(key) => pkcs8_ed::EncodePublicKey::to_public_key_der(&**key).ok().map(|der| der.into_vec()),
            Self::EcdsaP256(key) => key.to_public_key_der().ok().map(|der| der.into_vec()),
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme().name(), self.id)
    }
}

// === impl PrivateKey ===

impl PrivateKey {
    /// Makes one of 32 random bytes; `None` for the few that are no key of the scheme: take others.
    pub fn from_random(scheme: Scheme, bytes: &[u8; 32]) -> Option<Self> {
        Self::new(match scheme {
            Scheme::Ed25519 => Signer::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(bytes))),
            Scheme::EcdsaP256 => Signer::EcdsaP256(Box::new(p256::ecdsa::SigningKey::from_slice(bytes).ok()?)),
        })
        .ok()
    }

    /// Reads a PEM text of one `PRIVATE KEY` (PKCS#8, RFC 5958), as `openssl genpkey` writes it.
    ///
    /// # Errors
    /// If it is none, or none of a scheme that is known.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let pem = block(text, PRIVATE)?;
        if let Ok(key) = <ed25519_dalek::SigningKey as pkcs8_ed::DecodePrivateKey>::from_pkcs8_pem(pem) {
            return Self::new(Signer::Ed25519(Box::new(key)));
        }
        let key = p256::ecdsa::SigningKey::from_pkcs8_pem(pem).map_err(|_| KeyError::Damaged)?;
        Self::new(Signer::EcdsaP256(Box::new(key)))
    }

    fn new(signer: Signer) -> Result<Self, KeyError> {
        let verifier = match &signer {
            Signer::Ed25519(key) => Verifier::Ed25519(Box::new(key.verifying_key())),
            Signer::EcdsaP256(key) => Verifier::EcdsaP256(Box::new(*key.verifying_key())),
        };
        Ok(Self { signer, public: PublicKey::new(verifier)? })
    }

    /// The key that verifies what this one signs.
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// As PEM of PKCS#8, for OpenSSL and everybody else. Wiped when it is dropped.
    pub fn to_pem(&self) -> impl AsRef<str> + use<> {
        let pem = match &self.signer {
            // Without the public key in it: OpenSSL before 3.2 takes only version 1.
            Signer::Ed25519(key) => {
                let pair = pkcs8_ed::KeypairBytes { secret_key: key.to_bytes(), public_key: None };
                pkcs8_ed::EncodePrivateKey::to_pkcs8_pem(&pair, LineEnding::LF).ok()
            }
            Signer::EcdsaP256(key) => key.to_pkcs8_pem(LineEnding::LF).ok(),
        };
        pem.unwrap_or_default()
    }

    /// The signature over `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.signer {
            Signer::Ed25519(key) => ed25519_dalek::Signer::sign(&**key, message).to_bytes().to_vec(),
            Signer::EcdsaP256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key of {:?}", self.public)
    }
}

// === impl Scheme ===

impl Scheme {
    /// The word of the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
        }
    }
}

// === impl KeyId ===

impl KeyId {
    /// The value.
    pub const fn digest(self) -> Digest {
        self.0
    }
}

impl From<Digest> for KeyId {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for KeyId {
    /// 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
