//! Owns what makes bytes trustworthy: keys, signatures over envelopes, the statements in them, and whom to
//! believe. Must not own files or a clock.
//!
//! In the order in which they are checked: an [`Envelope`] holds bytes and signatures of [`PublicKey`]s over exactly these
//! bytes; [`Anchors`] say which keys, and how many, are believed; a [`Statement`] is what they say of a manifest, an
//! [`Assignment`] where it is to be. Nothing of either is read before signatures were verified.

mod anchor;
mod assignment;
mod envelope;
mod timestamp;
mod key;
mod roots;
mod statement;

pub use anchor::{Anchor, Anchors, MAX_KEYS, Refusal, Role, Source, Trusted};
pub use assignment::{ASSIGNMENT_TYPE, Assignment, MAX_SERIAL, Mark, Unassigned};
pub use envelope::{Envelope, EnvelopeError, Form, MAX_ENVELOPE, MAX_SIGNATURES, Signature, pae};
pub use key::{KeyError, KeyId, MAX_KEY, PrivateKey, PublicKey, Scheme};
pub use roots::{MAX_ROOTS, RootsError};
pub use statement::{
    Counts, MANIFEST_MEDIA_TYPE, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, Statement, StatementError, Subject,
};
pub use timestamp::Timestamp;
