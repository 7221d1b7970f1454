//! Owns what makes bytes trustworthy: keys, signatures over envelopes, and the statements in them. Must not own files, the
//! time, or deciding whom to trust with what.
//!
//! In the order in which they are checked: an [`Envelope`] holds bytes and signatures of [`PublicKey`]s over exactly these
//! bytes; a [`Statement`] is what they say of a manifest. Nothing of a statement is read before a signature was verified.

mod envelope;
mod key;
mod statement;

pub use envelope::{Envelope, EnvelopeError, Form, MAX_ENVELOPE, MAX_SIGNATURES, Signature, pae};
pub use key::{KeyError, KeyId, MAX_KEY, PrivateKey, PublicKey, Scheme};
pub use statement::{
    Counts, MANIFEST_MEDIA_TYPE, PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, Statement, StatementError, Subject,
};
