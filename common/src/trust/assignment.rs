//! Owns what a signed assignment says: which manifest a target must match, from when until when, and the serial by which an
//! old one is told from a new one. Must not own signatures, a clock, or keeping serials.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::envelope::Claim;
use super::statement::{Digests, KindJson, PAYLOAD_TYPE, STATEMENT_TYPE, StatementError, SubjectJson};
use super::timestamp::Timestamp;
use crate::digest::Digest;
use crate::json::{Checked, Object, objects, present};
use crate::path::Escaped;

/// The type of the predicate: an identifier, not an address.
pub const ASSIGNMENT_TYPE: &str = "https://driftlock.dev/attestation/assignment/v1";
/// The largest serial: the largest whole number that every reader of JSON takes for the same (RFC 8259, section 6).
pub const MAX_SERIAL: u64 = (1 << 53) - 1;

/// Which manifest a target must match. Going back is a new assignment with a higher serial and an old manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The target's name; `None`: any.
    pub target: Option<String>,
    /// Labels that the host must have. If there are none, there is a target's name.
    pub labels: BTreeMap<String, String>,
    /// SHA-256 of the manifest's uncompressed bytes.
    pub manifest: Digest,
    /// From 1 to [`MAX_SERIAL`].
    pub serial: u64,
    /// It does not count earlier.
    pub not_before: Option<Timestamp>,
    /// It does not count then or later.
    pub expires: Option<Timestamp>,
}

/// By which an assignment is told from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of what was signed.
    pub sha256: Digest,
}

/// Why an assignment does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unassigned {
    /// For another target, or another host.
    #[error("it is for {0}")]
    Elsewhere(String),
    /// The serial is too low.
    #[error(
        "its serial is {found}, and {known} was accepted before: an old assignment is not taken back, sign a new one"
    )]
    Replayed {
        /// Its own.
        found: u64,
        /// The highest so far.
        known: u64,
    },
    /// Two of one serial.
    #[error("another assignment with the serial {0} was accepted before: sign one with a higher serial")]
    Twice(u64),
    /// Its time has not come.
    #[error("it counts only from {begin}; judged at {now}")]
    NotYet {
        /// When it comes.
        begin: Timestamp,
        /// By which it was judged.
        now: Timestamp,
    },
    /// Its time is over.
    #[error("it counted until {end}; judged at {now}")]
    Expired {
        /// When it ended.
        end: Timestamp,
        /// By which it was judged.
        now: Timestamp,
    },
}

impl Assignment {
    /// Reads what was claimed.
    ///
    /// # Errors
    /// If it is no assignment, or says something that this version does not know and must.
    pub fn read(claim: &Claim<'_>) -> Result<(Self, Mark), StatementError> {
        if claim.payload_type != PAYLOAD_TYPE {
            return Err(StatementError::PayloadType(claim.payload_type.to_owned()));
        }
        let json = |error: serde_json::Error| StatementError::Json(Escaped(error.to_string().as_bytes()).to_string());
        serde_json::from_slice::<Checked>(claim.payload).map_err(json)?;
        let Object(kind) = serde_json::from_slice::<Object<KindJson>>(claim.payload).map_err(json)?;
        if kind.statement != STATEMENT_TYPE {
            return Err(StatementError::Type(kind.statement));
        }
        if kind.predicate != ASSIGNMENT_TYPE {
            return Err(StatementError::NotAssignment(kind.predicate));
        }
        let Object(read) = serde_json::from_slice::<Object<AssignmentJson>>(claim.payload).map_err(json)?;
        let Object(said) = read.predicate;
        let manifest = said.manifest.0.sha256;
        if !read.subject.iter().any(|subject| subject.digest.0.sha256 == manifest) {
            return Err(StatementError::NotASubject);
        }
        let wrong = |what: &str| Err(StatementError::Json(what.to_owned()));
        if said.target.is_none() && said.labels.is_empty() {
            return wrong("it is for no target: a target's name or labels are missing");
        }
        if said.serial == 0 || said.serial > MAX_SERIAL {
            return wrong("its serial is not between 1 and 9007199254740991");
        }
        let assignment = Self {
            target: said.target,
            labels: said.labels,
            manifest,
            serial: said.serial,
            not_before: said.not_before,
            expires: said.expires,
        };
        Ok((assignment, Mark { serial: said.serial, sha256: Digest::sha256(claim.payload) }))
    }

    /// Its bytes: JSON without spaces, keys in order; the same for the same assignment.
    pub fn encode(&self) -> Vec<u8> {
        let digest = || Object(Digests { sha256: self.manifest });
        let json = AssignmentJson {
            statement: STATEMENT_TYPE.to_owned(),
            subject: vec![SubjectJson { name: String::new(), digest: digest() }],
            predicate_type: ASSIGNMENT_TYPE.to_owned(),
            predicate: Object(Predicate {
                target: self.target.clone(),
                labels: self.labels.clone(),
                manifest: digest(),
                serial: self.serial,
                not_before: self.not_before,
                expires: self.expires,
            }),
        };
        // Strings, numbers and lists of them always have a JSON form.
        serde_json::to_vec(&json).unwrap_or_default()
    }

    /// Whether it counts for a target of a host with these labels, by what the clock says.
    ///
    /// # Errors
    /// If it does not.
    pub fn check(&self, target: &str, labels: &BTreeMap<String, String>, now: Timestamp) -> Result<(), Unassigned> {
        if let Some(other) = self.target.as_ref().filter(|name| *name != target) {
            return Err(Unassigned::Elsewhere(format!("the target {other:?}")));
        }
        if let Some((label, value)) = self.labels.iter().find(|(label, value)| labels.get(*label) != Some(*value)) {
            return Err(Unassigned::Elsewhere(format!("hosts with the label {label:?} = {value:?}")));
        }
        if let Some(begin) = self.not_before.filter(|begin| now < *begin) {
            return Err(Unassigned::NotYet { begin, now });
        }
        if let Some(end) = self.expires.filter(|end| now >= *end) {
            return Err(Unassigned::Expired { end, now });
        }
        Ok(())
    }
}

impl Mark {
    /// Whether it may come after `known`, or is it.
    ///
    /// # Errors
    /// If it may not.
    pub fn follows(self, known: Option<Self>) -> Result<(), Unassigned> {
        match known {
            Some(known) if self.serial < known.serial => {
                Err(Unassigned::Replayed { found: self.serial, known: known.serial })
            }
            Some(known) if self.serial == known.serial && self != known => Err(Unassigned::Twice(self.serial)),
            _ => Ok(()),
        }
    }
}

// === JSON ===

#[derive(Serialize, Deserialize)]
struct AssignmentJson {
    #[serde(rename = "_type")]
    statement: String,
    #[serde(deserialize_with = "objects")]
    subject: Vec<SubjectJson>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Object<Predicate>,
}

#[derive(Serialize, Deserialize)]
struct Predicate {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    manifest: Object<Digests>,
    serial: u64,
    #[serde(rename = "notBefore", default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    expires: Option<Timestamp>,
}
