//! Owns what a store keeps of who may connect: hosts that joined, what they joined with, tokens, revocations. Secrets are
//! kept as digests alone. Must not own certificates, or what a kept value allows.

mod sql;

use std::collections::BTreeMap;
use std::time::Duration;

use driftlock_common::digest::Digest;
use driftlock_common::host_name::{HostName, HostPattern};
use serde::{Deserialize, Serialize};

use super::{Page, Pending};
use crate::clock::Timestamp;

pub(super) use self::sql::{
    access_tokens, add_access_token, add_enrolment_token, end_token, enrolment_tokens, identities, join, lift, renew,
    revocations, revoke,
};

/// The part of a store that knows who may connect.
pub trait IdentityStore {
    /// Keeps a token by which a host may join.
    fn add_enrolment_token(&self, token: EnrolmentToken) -> Pending<'_, ()>;
    /// Uses a token: that it is used and that the host has joined is one commit.
    fn join(&self, join: Join) -> Pending<'_, Joined>;
    /// Notes that a host gets another certificate.
    fn renew(&self, renewal: Renewal) -> Pending<'_, Renewed>;
    /// Refuses what was issued to the host up to `at`. Gives whether the host had joined.
    fn revoke(&self, host: HostName, at: Timestamp) -> Pending<'_, bool>;
    /// Takes that back. Gives whether there was something to take back.
    fn lift(&self, host: HostName) -> Pending<'_, bool>;
    /// Hosts that joined, in order of their names.
    fn identities(&self, query: IdentityQuery) -> Pending<'_, Page<Identity, HostName>>;
    /// What is refused.
    fn revocations(&self) -> Pending<'_, Vec<(HostName, Timestamp)>>;
    /// Keeps a token for reporting, reading or pushing.
    fn add_access_token(&self, token: AccessToken) -> Pending<'_, ()>;
    /// Tokens for reporting, reading and pushing, the newest first.
    fn access_tokens(&self) -> Pending<'_, Vec<AccessToken>>;
    /// Tokens for joining, the newest first.
    fn enrolment_tokens(&self) -> Pending<'_, Vec<EnrolmentToken>>;
    /// Ends the token of either kind whose digest begins so. Gives how many begin so; only one is ended.
    fn end_token(&self, id: String, at: Timestamp) -> Pending<'_, usize>;
}

/// A token by which one host may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// SHA-256 of its secret, as text.
    pub digest: Digest,
    /// Under which name.
    pub pattern: HostPattern,
    /// Labels that the host gets, whatever its agent says.
    pub labels: BTreeMap<String, String>,
    /// Whether it may take the name of a host that is known already.
    pub replace: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it may be used.
    pub expires_at: Timestamp,
    /// Who used it.
    pub used: Option<Used>,
}

/// Who used a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// When.
    pub at: Timestamp,
    /// The host.
    pub host: HostName,
    /// Names the keys that it came with.
    pub keys: Digest,
}

/// A host that wants to join.
#[derive(Clone, Debug)]
pub struct Join {
    /// SHA-256 of the secret that it has.
    pub secret: Digest,
    /// Its name.
    pub host: HostName,
    /// Names both of its keys. The same ones may use a token again, for an answer that was lost.
    pub keys: Digest,
    /// PEM of the key that signs its receipts.
    pub receipt_key: String,
    /// The collector's time.
    pub at: Timestamp,
    /// How long its certificate is valid.
    pub lifetime: Duration,
}

/// What became of a [`Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It has joined.
    Issue(Issue),
    /// It has not, and nothing was kept.
    Refused(JoinRefused),
}

/// Why a host may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// Nobody made this token, or it was ended.
    Unknown,
    /// It is too old.
    Expired,
    /// It was used, with other keys.
    Used,
    /// It is not for this name.
    Name,
    /// The name is another host's.
    Taken,
}

/// A certificate that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// For whom.
    pub host: HostName,
    /// From when: later than whatever of it was revoked.
    pub issued_at: Timestamp,
    /// Until when.
    pub expires_at: Timestamp,
    /// PEM of the key that signs its receipts.
    pub receipt_key: String,
}

/// A host that wants another certificate.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// Its name.
    pub host: HostName,
    /// The collector's time.
    pub at: Timestamp,
    /// How long its certificate is valid.
    pub lifetime: Duration,
    /// How old the one before has to be.
    pub pause: Duration,
}

/// What became of a [`Renewal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It gets one.
    Issue(Issue),
    /// It had one just now; this is when it may come again.
    TooSoon(Timestamp),
    /// It never joined, as far as this store knows.
    Unknown,
}

/// Which hosts.
#[derive(Clone, Debug, Default)]
pub struct IdentityQuery {
    /// Only this one.
    pub host: Option<HostName>,
    /// Only those whose newest certificate is so at that time.
    pub standing: Option<(Standing, Timestamp)>,
    /// Name after which to begin.
    pub after: Option<HostName>,
    /// The most to give.
    pub limit: usize,
}

/// A host that joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub host: HostName,
    /// Labels of the token that it joined with.
    pub labels: BTreeMap<String, String>,
    /// PEM of the key that signs its receipts.
    pub receipt_key: String,
    /// When it joined, the last time.
    pub enrolled_at: Timestamp,
    /// When its newest certificate was issued.
    pub issued_at: Timestamp,
    /// Until when that is valid.
    pub expires_at: Timestamp,
    /// What was issued up to then is refused.
    pub revoked_at: Option<Timestamp>,
}

/// Whether the newest certificate of a host counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It does.
    Valid,
    /// Its time is over: the host has to enroll again.
    Expired,
    /// It is refused.
    Revoked,
}

/// What a token allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scope", content = "host", rename_all = "lowercase")]
pub enum Scope {
    /// To report as one of these hosts.
    Report(HostPattern),
    /// To read everything.
    Read,
    /// To push manifests, and to say what a target must match.
    Push,
}

/// A token for reporting, reading or pushing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// SHA-256 of the token.
    pub digest: Digest,
    /// What it allows.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it may be used.
    pub expires_at: Timestamp,
    /// Since when it may not.
    pub ended_at: Option<Timestamp>,
}

impl Standing {
    /// Each, and its word.
    pub const TABLE: [(&'static str, Self); 3] =
        [("valid", Self::Valid), ("expired", Self::Expired), ("revoked", Self::Revoked)];

    /// The word of API and pages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Scope {
    /// The word of API and pages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Report(_) => "report",
            Self::Read => "read",
            Self::Push => "push",
        }
    }
}

impl Identity {
    /// Whether its newest certificate counts at this time.
    pub fn standing(&self, now: Timestamp) -> Standing {
        if self.is_revoked() {
            Standing::Revoked
        } else if self.expires_at <= now {
            Standing::Expired
        } else {
            Standing::Valid
        }
    }

    /// Whether its newest certificate is refused.
    pub fn is_revoked(&self) -> bool {
        self.revoked_at.is_some_and(|revoked_at| self.issued_at <= revoked_at)
    }
}
