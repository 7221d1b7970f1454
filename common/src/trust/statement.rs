//! Owns what a signed statement says of a manifest: in-toto Statement v1 (in-toto/attestation, spec/v1/statement.md) with a
//! predicate of our own. Must not own signatures, or whom to believe.

use serde::{Deserialize, Serialize};

use super::assignment::ASSIGNMENT_TYPE;
use super::envelope::Claim;
use crate::digest::{Algorithm, Digest, OciDigest};
use crate::json::{Checked, Object, objects, present};
use crate::manifest::{Diagnostic, Manifest, Source};
use crate::path::Escaped;
use crate::profile::Profile;

/// Media type of the payload of an envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The type of a statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate: an identifier, not an address.
pub const PREDICATE_TYPE: &str = "https://driftlock.dev/attestation/fs-manifest/v1";
/// Media type of a manifest's uncompressed bytes.
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.driftlock.manifest.v1+ndjson";

/// What is said of a manifest.
///
/// Invariant, kept by [`Statement::of`] and [`Statement::read`]: the manifest is one of the subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it is about, by digest: the image, if there is one, and the manifest.
    pub subjects: Vec<Subject>,
    /// SHA-256 of the manifest's canonical, uncompressed bytes.
    pub manifest: Digest,
    /// Digest of the sealed tree.
    pub tree: OciDigest,
    /// How much of each path is sealed.
    pub profile: Profile,
    /// What content is hashed with.
    pub content: Algorithm,
    /// What was left out.
    pub excludes: Vec<String>,
    /// How much was sealed.
    pub counts: Counts,
    /// What was odd about the source.
    pub diagnostics: Vec<Diagnostic>,
    /// What was sealed.
    pub source: Option<Source>,
    /// RFC 3339, UTC: when it was stated, by the signer's clock; it proves nothing.
    pub created_at: String,
}

/// Something that a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// For people; empty if it has no name.
    pub name: String,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// How much was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Entry lines of the manifest.
    pub entries: u64,
    /// Sum of the sizes of regular files, in bytes.
    pub bytes: u64,
}

/// Why signed bytes are no statement about a manifest.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// Another payload than a statement.
    #[error("the bundle holds {0:?}, not a statement ({PAYLOAD_TYPE})")]
    PayloadType(String),
    /// Not JSON, or not what a statement has to be.
    #[error("the statement in the bundle: {0}")]
    Json(String),
    /// Another version of statements.
    #[error("a statement of type {0:?}, not {STATEMENT_TYPE}")]
    Type(String),
    /// Another kind of statement.
    #[error("a statement about something else ({0:?}), not about a manifest ({PREDICATE_TYPE})")]
    Predicate(String),
    /// Another kind of statement, where an assignment is wanted.
    #[error("a statement about something else ({0:?}), not an assignment ({ASSIGNMENT_TYPE})")]
    NotAssignment(String),
    /// What is stated of a manifest is not about one of the subjects.
    #[error("the statement is about a manifest that is none of its subjects")]
    NotASubject,
}

impl Statement {
    /// What there is to say of a manifest whose bytes have this SHA-256. `name` is the image's, for people; empty if it has
    /// none.
    pub fn of(manifest: &Manifest, sha256: Digest, name: &str, created_at: String) -> Self {
        let totals = manifest.totals();
        let header = &manifest.header;
        let image = header.source.as_ref().and_then(|source| source.manifest);
        // Verifiers refuse a statement with a digest that they do not know.
        let image = image.filter(|digest| digest.algorithm == Algorithm::Sha256);
        let subject = |name: &str, sha256| Subject { name: name.to_owned(), sha256 };
        let subjects = image.map(|image| subject(name, image.digest)).into_iter().chain([subject("", sha256)]);
        Self {
            subjects: subjects.collect(),
            manifest: sha256,
            tree: OciDigest::blake3(totals.tree),
            profile: header.profile,
            content: header.content,
            excludes: header.excludes.iter().map(str::to_owned).collect(),
            counts: Counts { entries: totals.entries, bytes: totals.bytes },
            diagnostics: header.diagnostics.clone(),
            source: header.source.clone(),
            created_at,
        }
    }

    /// Reads what was claimed.
    ///
    /// # Errors
    /// If it is no statement about a manifest, or says something that this version does not know and must.
    pub fn read(claim: &Claim<'_>) -> Result<Self, StatementError> {
        if claim.payload_type != PAYLOAD_TYPE {
            return Err(StatementError::PayloadType(claim.payload_type.to_owned()));
        }
        let json = |error: serde_json::Error| StatementError::Json(Escaped(error.to_string().as_bytes()).to_string());
        serde_json::from_slice::<Checked>(claim.payload).map_err(json)?;
        let Object(kind) = serde_json::from_slice::<Object<KindJson>>(claim.payload).map_err(json)?;
        if kind.statement != STATEMENT_TYPE {
            return Err(StatementError::Type(kind.statement));
        }
        if kind.predicate != PREDICATE_TYPE {
            return Err(StatementError::Predicate(kind.predicate));
        }
        let Object(read) = serde_json::from_slice::<Object<StatementJson>>(claim.payload).map_err(json)?;
        let subjects: Vec<Subject> = read
            .subject
            .into_iter()
            .map(|subject| Subject { name: subject.name, sha256: subject.digest.0.sha256 })
            .collect();
        let Object(said) = read.predicate;
        let manifest = said.manifest.0.digest.0.sha256;
        if !subjects.iter().any(|subject| subject.sha256 == manifest) {
            return Err(StatementError::NotASubject);
        }
        Ok(Self {
            subjects,
            manifest,
            tree: said.tree,
            profile: said.profile,
            content: said.content,
            excludes: said.excludes,
            counts: said.counts.0,
            diagnostics: said.diagnostics,
            source: said.source.map(|Object(source)| source),
            created_at: said.created_at,
        })
    }

    /// Its bytes: JSON without spaces, keys in order; the same for the same statement.
    pub fn encode(&self) -> Vec<u8> {
        let digest = |sha256| Object(Digests { sha256 });
        let json = StatementJson {
            statement: STATEMENT_TYPE.to_owned(),
            subject: self
                .subjects
                .iter()
                .map(|subject| SubjectJson { name: subject.name.clone(), digest: digest(subject.sha256) })
                .collect(),
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Object(Predicate {
                manifest: Object(ManifestJson {
                    media_type: MANIFEST_MEDIA_TYPE.to_owned(),
                    digest: digest(self.manifest),
                }),
                tree: self.tree,
                profile: self.profile,
                content: self.content,
                excludes: self.excludes.clone(),
                counts: Object(self.counts),
                diagnostics: self.diagnostics.clone(),
                source: self.source.clone().map(Object),
                created_at: self.created_at.clone(),
            }),
        };
        // Strings, numbers and lists of them always have a JSON form.
        serde_json::to_vec(&json).unwrap_or_default()
    }

    /// Whether it is about the image with this SHA-256 of its manifest.
    pub fn is_about(&self, image: Digest) -> bool {
        self.manifest != image && self.subjects.iter().any(|subject| subject.sha256 == image)
    }
}

// === JSON ===

#[derive(Deserialize)]
pub(super) struct KindJson {
    #[serde(rename = "_type")]
    pub(super) statement: String,
    #[serde(rename = "predicateType")]
    pub(super) predicate: String,
}

#[derive(Serialize, Deserialize)]
struct StatementJson {
    #[serde(rename = "_type")]
    statement: String,
    #[serde(deserialize_with = "objects")]
    subject: Vec<SubjectJson>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Object<Predicate>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SubjectJson {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    pub(super) digest: Object<Digests>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Digests {
    pub(super) sha256: Digest,
}

#[derive(Serialize, Deserialize)]
struct Predicate {
    manifest: Object<ManifestJson>,
    tree: OciDigest,
    profile: Profile,
    content: Algorithm,
    #[serde(default)]
    excludes: Vec<String>,
    counts: Object<Counts>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    diagnostics: Vec<Diagnostic>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    source: Option<Object<Source>>,
    #[serde(rename = "createdAt")]
    created_at: String,
}

#[derive(Serialize, Deserialize)]
struct ManifestJson {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: Object<Digests>,
}
