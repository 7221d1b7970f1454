//! Owns digest values, their algorithms and their spellings. Must not own reading files: bytes come in as arguments.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A 256-bit hash value. Which algorithm made it is said by the place that holds it, or by [`OciDigest`].
///
/// Text form: 64 lower-case hexadecimal digits; anything else is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The algorithm that a manifest's content digests are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Plain BLAKE3-256 of the bytes, so that `b3sum` agrees.
    Blake3,
    /// SHA-256 (FIPS 180-4), for imports that have nothing else.
    Sha256,
}

/// A digest with its algorithm, in OCI's spelling: `blake3:<64 hex>` or `sha256:<64 hex>`
/// (OCI image-spec, descriptor.md, "Digests").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OciDigest {
    /// What made the value.
    pub algorithm: Algorithm,
    /// The value.
    pub digest: Digest,
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("a digest is 64 lower-case hexadecimal digits")]
    NotHex,
    /// No `:` or an algorithm that is neither `blake3` nor `sha256`.
    #[error("a digest begins with blake3: or sha256:")]
    UnknownAlgorithm,
}

/// In [`VALUES`]: not a digit. All ones, so that it shows through any union of values.
const NO_DIGIT: u8 = 0xff;
/// The value of each lower-case hexadecimal digit. A table, because a manifest of a million files has two million
/// digests, and reading them digit by digit took a fifth of the time to load one.
const VALUES: [u8; 256] = values();

const fn values() -> [u8; 256] {
    let digits = b"0123456789abcdef";
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[digits[value as usize] as usize] = value;
        value += 1;
    }
    values
}

// === impl Digest ===

impl Digest {
    /// Wraps a value that a hash function gave.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// SHA-256 of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Plain BLAKE3-256 of `bytes`.
    pub fn blake3(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits: &[u8; 64] = text.as_bytes().try_into().map_err(|_| DigestError::NotHex)?;
        let mut bytes = [0; 32];
        let mut seen = 0;
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            seen |= high | low;
            *byte = high << 4 | low;
        }
        if seen == NO_DIGIT { Err(DigestError::NotHex) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

// === impl Algorithm ===

impl Algorithm {
    /// The word used in headers and before the colon of [`OciDigest`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        match self {
            Self::Blake3 => Digest::blake3(bytes),
            Self::Sha256 => Digest::sha256(bytes),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl OciDigest ===

impl OciDigest {
    /// `blake3:<hex>`.
    pub const fn blake3(digest: Digest) -> Self {
        Self { algorithm: Algorithm::Blake3, digest }
    }

    /// `sha256:<hex>`.
    pub const fn sha256(digest: Digest) -> Self {
        Self { algorithm: Algorithm::Sha256, digest }
    }
}

impl fmt::Display for OciDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.digest)
    }
}

impl FromStr for OciDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::UnknownAlgorithm)?;
        let algorithm = match algorithm {
            "blake3" => Algorithm::Blake3,
            "sha256" => Algorithm::Sha256,
            _ => return Err(DigestError::UnknownAlgorithm),
        };
        Ok(Self { algorithm, digest: hex.parse()? })
    }
}

impl Serialize for OciDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OciDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_are_not_digests_are_refused() {
        let hex = "00".repeat(32);
        assert!(hex.parse::<Digest>().is_ok());
        for bad in ["", "00", &"0g".repeat(32), &"AB".repeat(32), &format!("{hex}0"), &format!(" {hex}")] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError::NotHex), "{bad:?}");
        }
        assert!(format!("sha256:{hex}").parse::<OciDigest>().is_ok());
        for bad in [hex.clone(), format!("md5:{hex}"), format!("SHA256:{hex}"), format!("sha512:{hex}")] {
            assert_eq!(bad.parse::<OciDigest>(), Err(DigestError::UnknownAlgorithm), "{bad:?}");
        }
    }

    #[test]
    fn known_answers() {
        assert_eq!(Digest::blake3(b"").to_hex(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(Digest::sha256(b"").to_hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
