//! Owns signed bytes: DSSE envelopes (secure-systems-lab/dsse v1.0.2, envelope.md and protocol.md), plain or in a Sigstore
//! bundle (sigstore/protobuf-specs, bundle v0.3), and which keys signed them. Must not own what the bytes say, or how many
//! signatures are enough.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use super::key::{KeyId, PrivateKey, PublicKey};
use crate::json::{Checked, Object, present_object};
use crate::path::Escaped;

/// The longest envelope, in bytes. A manifest's header has at most a quarter of it, and no statement says much more.
pub const MAX_ENVELOPE: usize = 4 * 1024 * 1024;
/// The most signatures of an envelope: each is tried with each key that may have made it.
pub const MAX_SIGNATURES: usize = 32;

const BUNDLE_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Bytes with the signatures over them. Nothing was verified yet, so that nothing of it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

/// A signature, and who is said to have made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// A hint that anybody could have written; it is shown, and never decides anything.
    pub key_id: String,
    /// The signature's bytes.
    pub bytes: Vec<u8>,
}

/// How an envelope is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A Sigstore bundle, which has one signature.
    SigstoreBundle,
    /// DSSE, which may have several.
    Dsse,
}

/// What an envelope says, and which keys say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Media type of the payload.
    pub(super) payload_type: &'a str,
    /// The bytes that were signed.
    pub(super) payload: &'a [u8],
    by: BTreeSet<KeyId>,
}

/// Why bytes are no envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// More than [`MAX_ENVELOPE`] bytes.
    #[error("longer than {MAX_ENVELOPE} bytes, so no bundle")]
    TooLong,
    /// Not the JSON of an envelope.
    #[error("not a bundle: {0}")]
    Json(String),
    /// Neither a Sigstore bundle v0.3 nor a DSSE envelope, or both at once.
    #[error("not a bundle: {0}")]
    Shape(&'static str),
    /// Base64 that is none, or that another text stands for too.
    #[error("not a bundle: {0} is not canonical base64")]
    Base64(&'static str),
    /// Nobody signed it.
    #[error("a bundle without a signature")]
    NoSignature,
    /// More than [`MAX_SIGNATURES`].
    #[error("a bundle with more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
}

/// What is signed in place of a payload: its type too, so that bytes of one type are never taken for those of another
/// (DSSE, "PAE").
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

// === impl Envelope ===

impl Envelope {
    /// An envelope that nobody signed yet.
    pub fn new(payload_type: &str, payload: Vec<u8>) -> Self {
        Self { payload_type: payload_type.to_owned(), payload, signatures: Vec::new() }
    }

    /// What a signer outside signs.
    pub fn to_sign(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }

    /// Signs it.
    pub fn sign(&mut self, key: &PrivateKey) {
        let bytes = key.sign(&self.to_sign());
        self.add(key.public(), bytes);
    }

    /// Adds a signature that was made outside, if it is the key's; whether it is. One by the same key takes the place of
    /// the last.
    pub fn add(&mut self, key: &PublicKey, bytes: Vec<u8>) -> bool {
        let is_its = key.verifies(&self.to_sign(), &bytes);
        if is_its {
            let key_id = key.id().to_string();
            self.signatures.retain(|signature| signature.key_id != key_id);
            self.signatures.push(Signature { key_id, bytes });
        }
        is_its
    }

    /// The signatures, unverified.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// What it says and which of `keys` signed it, each counted once; the hints of signatures play no part.
    pub fn verify<'a>(&self, keys: impl IntoIterator<Item = &'a PublicKey>) -> Claim<'_> {
        let message = self.to_sign();
        let signed = |key: &&PublicKey| self.signatures.iter().any(|made| key.verifies(&message, &made.bytes));
        let by = keys.into_iter().filter(signed).map(PublicKey::id).collect();
        Claim { payload_type: &self.payload_type, payload: &self.payload, by }
    }

    /// Reads a Sigstore bundle or a plain DSSE envelope, strictly: what two readers could read in two ways is refused.
    ///
    /// # Errors
    /// If it is neither, nobody signed it, or it is beyond a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(EnvelopeError::TooLong);
        }
        let json = |error: serde_json::Error| EnvelopeError::Json(Escaped(error.to_string().as_bytes()).to_string());
        serde_json::from_slice::<Checked>(bytes).map_err(json)?;
        let Object(outer) = serde_json::from_slice::<Object<Outer<'_>>>(bytes).map_err(json)?;
        let bundle = match outer.media_type.as_deref() {
            None => false,
            Some(BUNDLE_MEDIA_TYPE) => true,
            Some(_) => return Err(EnvelopeError::Shape("its mediaType is not that of a Sigstore bundle v0.3")),
        };
        let plain = Dsse { payload: outer.payload, payload_type: outer.payload_type, signatures: outer.signatures };
        let is_plain = plain.payload.is_some() || plain.payload_type.is_some() || plain.signatures.is_some();
        let dsse = match (bundle, outer.envelope, is_plain) {
            (true, Some(envelope), false) => envelope,
            (false, None, true) => plain,
            (_, Some(_), true) => return Err(EnvelopeError::Shape("it has two payloads")),
            (true, None, _) => return Err(EnvelopeError::Shape("it is a Sigstore bundle without a dsseEnvelope")),
            (false, _, _) => return Err(EnvelopeError::Shape("it is neither a Sigstore bundle nor a DSSE envelope")),
        };
        if outer.message_signature.is_some() {
            return Err(EnvelopeError::Shape("it has two payloads"));
        }
        let envelope = Self::of(&dsse)?;
        match envelope.signatures.len() {
            0 => Err(EnvelopeError::NoSignature),
            1 => Ok(envelope),
            2.. if bundle => Err(EnvelopeError::Shape("a Sigstore bundle has one signature")),
            2..=MAX_SIGNATURES => Ok(envelope),
            _ => Err(EnvelopeError::TooManySignatures),
        }
    }

    fn of(dsse: &Dsse<'_>) -> Result<Self, EnvelopeError> {
        let (Some(payload), Some(payload_type)) = (&dsse.payload, &dsse.payload_type) else {
            return Err(EnvelopeError::Shape("it has no payload or no payloadType"));
        };
        let signature = |Object(made): &Object<Made<'_>>| {
            let bytes = decode(&made.sig).ok_or(EnvelopeError::Base64("a signature"))?;
            Ok(Signature { key_id: made.keyid.as_deref().unwrap_or_default().to_owned(), bytes })
        };
        Ok(Self {
            payload_type: payload_type.clone().into_owned(),
            payload: decode(payload).ok_or(EnvelopeError::Base64("its payload"))?,
            signatures: dsse.signatures.iter().flatten().map(signature).collect::<Result<_, EnvelopeError>>()?,
        })
    }

    /// Which form can hold all signatures: a Sigstore bundle one, plain DSSE more.
    pub fn form(&self) -> Form {
        if self.signatures.len() == 1 { Form::SigstoreBundle } else { Form::Dsse }
    }

    /// Its bytes, one line of JSON in the form that can hold it; the same for the same content.
    pub fn encode(&self) -> Vec<u8> {
        let dsse = Dsse {
            payload: Some(STANDARD.encode(&self.payload).into()),
            payload_type: Some(self.payload_type.as_str().into()),
            signatures: Some(self.signatures.iter().map(Made::of).map(Object).collect()),
        };
        let json = match (self.form(), self.signatures.first()) {
            (Form::SigstoreBundle, Some(signature)) => serde_json::to_vec(&Bundle {
                media_type: BUNDLE_MEDIA_TYPE,
                material: Material { public_key: Hint { hint: &signature.key_id }, entries: [] },
                envelope: dsse,
            }),
            _ => serde_json::to_vec(&dsse),
        };
        // Strings and lists of them always have a JSON form.
        let mut bytes = json.unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// DSSE allows both alphabets; either way one text for the same bytes.
fn decode(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    alphabet.decode(text).ok()
}

// === impl Claim ===

impl Claim<'_> {
    /// The keys that signed it; none if it was not verified.
    pub const fn by(&self) -> &BTreeSet<KeyId> {
        &self.by
    }
}

// === JSON ===

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(rename = "mediaType", borrow, default)]
    media_type: Option<Cow<'a, str>>,
    #[serde(rename = "dsseEnvelope", borrow, default, deserialize_with = "present_object")]
    envelope: Option<Dsse<'a>>,
    #[serde(rename = "messageSignature", default)]
    message_signature: Option<serde::de::IgnoredAny>,
    #[serde(borrow, default)]
    payload: Option<Cow<'a, str>>,
    #[serde(rename = "payloadType", borrow, default)]
    payload_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    signatures: Option<Vec<Object<Made<'a>>>>,
}

#[derive(Serialize, Deserialize)]
struct Dsse<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    payload: Option<Cow<'a, str>>,
    #[serde(rename = "payloadType", borrow, default, skip_serializing_if = "Option::is_none")]
    payload_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    signatures: Option<Vec<Object<Made<'a>>>>,
}

#[derive(Serialize, Deserialize)]
struct Made<'a> {
    #[serde(borrow)]
    sig: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    keyid: Option<Cow<'a, str>>,
}

impl<'a> Made<'a> {
    fn of(made: &'a Signature) -> Self {
        let keyid = (!made.key_id.is_empty()).then(|| made.key_id.as_str().into());
        Self { sig: STANDARD.encode(&made.bytes).into(), keyid }
    }
}

#[derive(Serialize)]
struct Bundle<'a> {
    #[serde(rename = "mediaType")]
    media_type: &'static str,
    #[serde(rename = "verificationMaterial")]
    material: Material<'a>,
    #[serde(rename = "dsseEnvelope")]
    envelope: Dsse<'a>,
}

#[derive(Serialize)]
struct Material<'a> {
    #[serde(rename = "publicKey")]
    public_key: Hint<'a>,
    /// No transparency log: it would need the network.
    #[serde(rename = "tlogEntries")]
    entries: [(); 0],
}

#[derive(Serialize)]
struct Hint<'a> {
    hint: &'a str,
}
