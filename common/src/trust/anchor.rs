//! Owns whom a target believes: keys with what they may sign and when, how many of them it takes, and of which images a
//! statement may be. Must not own files, a clock, or the form in which it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::envelope::{Claim, Envelope};
use super::key::{KeyId, PublicKey};
use super::statement::Statement;
use super::timestamp::Timestamp;
use crate::digest::Digest;

/// The most keys of a target: each is tried with each signature.
pub const MAX_KEYS: usize = 64;

/// What a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Statements about manifests: what was built.
    Manifest,
    /// Assignments: what is to be where.
    Assignment,
}

/// Whom a target believes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Anchors {
    pub(super) keys: Vec<Anchor>,
    pub(super) quorums: BTreeMap<Role, Quorum>,
    pub(super) source: Source,
}

/// A key that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// What people call it.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// Nothing that is judged earlier counts.
    pub not_before: Option<Timestamp>,
    /// Nothing that is judged then or later counts.
    pub expires: Option<Timestamp>,
    /// Nothing counts, whenever it was signed.
    pub revoked: bool,
}

/// How many of which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quorum {
    /// At least 1.
    pub(super) threshold: usize,
    pub(super) members: BTreeSet<KeyId>,
}

/// Of which images a statement may be; empty lists allow every one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Source {
    /// Names of repositories, without tag or digest.
    pub repositories: Vec<String>,
    /// SHA-256 of image manifests.
    pub images: Vec<Digest>,
}

/// What enough keys say.
#[derive(Clone, Debug)]
pub struct Trusted<'a> {
    /// What they say.
    pub claim: Claim<'a>,
    /// The keys that counted, and no others.
    pub by: BTreeSet<KeyId>,
    /// When too few of them will still count; `None`: never.
    pub until: Option<Timestamp>,
}

/// Why something signed is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host's clock cannot be right, so that nothing can be judged by it.
    #[error("this host's clock says {0}, before driftlock signed anything: set it")]
    Clock(Timestamp),
    /// No key may sign such a thing.
    #[error("no key is trusted with {}: {}", .0.plural(), .0.hint())]
    NoKeys(Role),
    /// Too few keys signed, or others.
    #[error("signed by {have} of the {need} trusted key(s) that it takes{because}")]
    TooFew {
        /// Keys that counted.
        have: usize,
        /// Keys that it takes.
        need: usize,
        /// Which signed and did not count.
        because: Because,
    },
    /// There were enough until one ended.
    #[error("signed by {have} of the {need} trusted key(s) that it takes{because}; judged at {now}")]
    Expired {
        /// Keys that counted.
        have: usize,
        /// Keys that it takes.
        need: usize,
        /// Which signed and did not count.
        because: Because,
        /// By which it was judged.
        now: Timestamp,
    },
    /// There will be enough, or the clock is behind.
    #[error("signed by {have} of the {need} trusted key(s) that it takes{because}; judged at {now}")]
    NotYet {
        /// Keys that counted.
        have: usize,
        /// Keys that it takes.
        need: usize,
        /// Which signed and did not count.
        because: Because,
        /// By which it was judged.
        now: Timestamp,
    },
    /// A good statement about something else.
    #[error("the statement is about {0}")]
    Source(String),
}

/// Which keys signed and did not count, and why; may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Because(Vec<String>);

// === impl Anchors ===

impl Anchors {
    /// Any one of these keys is enough, for everything. Each has the name that people know it by.
    pub fn any_of(keys: impl IntoIterator<Item = (String, PublicKey)>) -> Self {
        let anchor = |(name, key)| Anchor { name, key, not_before: None, expires: None, revoked: false };
        let keys: Vec<Anchor> = keys.into_iter().map(anchor).collect();
        let members: BTreeSet<KeyId> = keys.iter().map(|anchor| anchor.key.id()).collect();
        let quorum = Quorum { threshold: 1, members };
        let roles = [Role::Manifest, Role::Assignment].into_iter().filter(|_| !keys.is_empty());
        Self { quorums: roles.map(|role| (role, quorum.clone())).collect(), keys, source: Source::default() }
    }

    /// The same keys, of which it takes so many for everything; `None` if there are not as many, or it takes none.
    #[must_use]
    pub fn with_threshold(mut self, threshold: usize) -> Option<Self> {
        let is_met = |quorum: &Quorum| (1..=quorum.members.len()).contains(&threshold);
        if self.quorums.is_empty() || !self.quorums.values().all(is_met) {
            return None;
        }
        self.quorums.values_mut().for_each(|quorum| quorum.threshold = threshold);
        Some(self)
    }

    /// The keys, for showing them.
    pub fn keys(&self) -> &[Anchor] {
        &self.keys
    }

    /// How many keys it takes, and how many may; nothing if none may.
    pub fn quorum(&self, role: Role) -> Option<(usize, usize)> {
        self.quorums.get(&role).map(|quorum| (quorum.threshold, quorum.members.len()))
    }

    /// Whether an envelope is believed by what the clock says. Keys are counted, not signatures; the hints of signatures
    /// play no part.
    ///
    /// # Errors
    /// If it is not.
    pub fn judge<'e>(&self, role: Role, envelope: &'e Envelope, now: Timestamp) -> Result<Trusted<'e>, Refusal> {
        if now < Timestamp::EARLIEST {
            return Err(Refusal::Clock(now));
        }
        let Some(quorum) = self.quorums.get(&role) else { return Err(Refusal::NoKeys(role)) };
        let signed = envelope.verify(self.keys.iter().map(|anchor| &anchor.key));
        let signers = self.keys.iter().filter(|anchor| signed.by().contains(&anchor.key.id()));
        let (mut good, mut late, mut early) = (Vec::new(), 0, 0);
        let mut because = Vec::new();
        for anchor in signers {
            let name = &anchor.name;
            if anchor.revoked {
                because.push(format!("{name} is revoked"));
            } else if !quorum.members.contains(&anchor.key.id()) {
                because.push(format!("{name} may not sign {}", role.plural()));
            } else if let Some(begin) = anchor.not_before.filter(|begin| now < *begin) {
                early += 1;
                because.push(format!("{name} counts only from {begin}"));
            } else if let Some(end) = anchor.expires.filter(|end| now >= *end) {
                late += 1;
                because.push(format!("{name} counted until {end}"));
            } else {
                good.push(anchor);
            }
        }
        let (have, need, because) = (good.len(), quorum.threshold, Because(because));
        if have < need {
            return Err(match have {
                have if have + late >= need => Refusal::Expired { have, need, because, now },
                have if have + late + early >= need => Refusal::NotYet { have, need, because, now },
                have => Refusal::TooFew { have, need, because },
            });
        }
        // The last to end count the longest.
        let mut ends: Vec<Option<Timestamp>> = good.iter().map(|anchor| anchor.expires).collect();
        ends.sort_by_key(|end| std::cmp::Reverse(end.map_or(i64::MAX, Timestamp::unix)));
        let until = ends.get(need - 1).copied().flatten();
        let claim = envelope.verify(good.iter().map(|anchor| &anchor.key));
        Ok(Trusted { by: claim.by().clone(), claim, until })
    }

    /// Whether a statement is about an image that it may be about.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_source(&self, statement: &Statement) -> Result<(), Refusal> {
        let Source { repositories, images } = &self.source;
        if !images.is_empty() && !images.iter().any(|image| statement.is_about(*image)) {
            return Err(Refusal::Source("an image that is none of those that are trusted".to_owned()));
        }
        let about = || statement.subjects.iter().filter(|subject| subject.sha256 != statement.manifest);
        let is_named = |name: &str| repositories.iter().any(|wanted| wanted == repository(name));
        if !repositories.is_empty() && !about().any(|subject| is_named(&subject.name)) {
            let names: Vec<String> = about().map(|subject| format!("{:?}", repository(&subject.name))).collect();
            let found = if names.is_empty() { "no image".to_owned() } else { names.join(" and ") };
            return Err(Refusal::Source(format!("{found}, and only {} is trusted", repositories.join(" or "))));
        }
        Ok(())
    }
}

/// The name of an image without its tag and digest.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or_default();
    // A colon before the last slash belongs to a port.
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

// === impl Refusal ===

impl Refusal {
    /// Whether only time made it so.
    pub const fn is_expiry(&self) -> bool {
        matches!(self, Self::Expired { .. })
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .enumerate()
            .try_for_each(|(index, why)| write!(f, "{}{why}", if index == 0 { ": " } else { ", " }))
    }
}

// === impl Role ===

impl Role {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Manifest, Self::Assignment];

    /// The word of trust files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Assignment => "assignment",
        }
    }

    const fn plural(self) -> &'static str {
        match self {
            Self::Manifest => "manifests",
            Self::Assignment => "assignments",
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::Manifest => "name the key that must have signed it",
            Self::Assignment => "give it keys in the trust file, [role.assignment]",
        }
    }
}
