//! Owns the JSON of who may connect, as an operator sees it and who may read: hosts that joined, tokens, CAs in force. Must
//! not own a secret: of a token there is the beginning of its digest.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use driftlock_common::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::identity::Identities;
use crate::identity::authority::Ca;
use crate::store::identity::{AccessToken, EnrolmentToken, Identity, Scope, Standing};
use crate::store::{Store, StoreError};

/// Hexadecimal digits of a digest by which a token or a CA is named.
const ID: usize = 12;
/// The scope of a token by which a host joins.
pub(crate) const ENROLL: &str = "enroll";
/// Every scope, and every state, of [`ListedToken`].
pub(crate) const SCOPES: [&str; 4] = [ENROLL, "report", "read", "push"];
pub(crate) const STATES: [&str; 4] = ["valid", "used", "expired", "ended"];

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct IdentityViews {
    /// In order of their names.
    pub identities: Vec<IdentityView>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct TokenViews {
    /// The newest first.
    pub tokens: Vec<ListedToken>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// A list and where its next part begins.
#[derive(Debug, Serialize)]
pub struct Revocations {
    /// In order of their names.
    pub revocations: Vec<RevocationView>,
    /// `cursor` of the next part; null at the end.
    pub next: Option<String>,
}

/// CAs in force.
#[derive(Debug, Serialize)]
pub struct Cas {
    /// The oldest first: it issues the collector's own certificate, the newest those of hosts. None where somebody else
    /// issues them, or nobody.
    pub cas: Vec<ListedCa>,
}

/// A host that joined. Times are RFC 3339, by the collector's clock.
#[derive(Debug, Serialize)]
pub struct IdentityView {
    host: String,
    state: Standing,
    labels: BTreeMap<String, String>,
    enrolled_at: Timestamp,
    /// Of the newest certificate; later than `enrolled_at` if it was renewed.
    issued_at: Timestamp,
    expires_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
    /// PEM.
    receipt_key: String,
}

/// A name of which everything is refused that was issued up to a time.
#[derive(Debug, Serialize)]
pub struct RevocationView {
    /// The host.
    pub host: String,
    /// Up to when.
    pub revoked_at: Timestamp,
}

/// A token in a list. Times are RFC 3339, by the collector's clock.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedToken {
    /// The beginning of the SHA-256 of its secret.
    pub id: String,
    /// `enroll`, `report`, `read` or `push`.
    pub scope: String,
    /// For which hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Labels that a host gets by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whether it may take the name of a host that is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaces: bool,
    /// `valid`, `used`, `expired` or `ended`.
    pub state: String,
    /// Who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// Until when it may be used.
    pub expires_at: String,
    /// Since when it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
}

/// A CA in force. Times are RFC 3339.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListedCa {
    /// SHA-256 of its certificate.
    pub sha256: String,
    /// When it was made.
    pub made_at: String,
    /// Until when it is valid.
    pub expires_at: String,
    /// PEM.
    pub certificate: String,
}

/// Which tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenQuery {
    pub(crate) scope: Option<&'static str>,
    pub(crate) state: Option<&'static str>,
    /// When the last one of the part before was made, and its id.
    pub(crate) after: Option<(String, String)>,
    pub(crate) limit: usize,
}

/// What names a token in a list.
pub(crate) fn id(digest: Digest) -> String {
    digest.to_hex().chars().take(ID).collect()
}

/// Every token, the newest first.
///
/// # Errors
/// If the store cannot be read.
pub(crate) async fn tokens(store: &dyn Store, now: Timestamp) -> Result<Vec<ListedToken>, StoreError> {
    let joining = store.enrolment_tokens().await?.into_iter().map(|token| ListedToken::of_joining(token, now));
    let access = store.access_tokens().await?.into_iter().map(|token| ListedToken::of_access(token, now));
    let mut tokens: Vec<ListedToken> = joining.chain(access).collect();
    tokens.sort_by(|a, b| a.place().cmp(&b.place()));
    Ok(tokens)
}

/// CAs in force.
pub(crate) fn cas(identities: &Identities) -> Vec<ListedCa> {
    let in_force = identities.authority().map(|authority| authority.in_force());
    in_force.iter().flat_map(|cas| cas.iter()).map(ListedCa::from).collect()
}

impl TokenQuery {
    /// This part of all tokens, and whether there is more.
    pub(crate) fn part(&self, tokens: Vec<ListedToken>) -> (Vec<ListedToken>, bool) {
        let after = self.after.as_ref().map(|(made, id)| (Reverse(made.as_str()), id.as_str()));
        let mut found: Vec<ListedToken> = tokens
            .into_iter()
            .filter(|token| self.scope.is_none_or(|scope| token.scope == scope))
            .filter(|token| self.state.is_none_or(|state| token.state == state))
            .filter(|token| after.is_none_or(|after| token.place() > after))
            .take(self.limit.saturating_add(1))
            .collect();
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        (found, more)
    }
}

impl ListedToken {
    fn of_joining(token: EnrolmentToken, now: Timestamp) -> Self {
        let EnrolmentToken { digest, pattern, labels, replace, created_at, expires_at, used } = token;
        let used = used.map(|used| (used.host.to_string(), used.at.to_string()));
        let (used_by, used_at) = used.unzip();
        Self {
            id: id(digest),
            scope: ENROLL.to_owned(),
            host: Some(pattern.to_string()),
            labels,
            replaces: replace,
            state: state(used_by.as_ref().map(|_| "used"), expires_at, now),
            used_by,
            used_at,
            created_at: created_at.to_string(),
            expires_at: expires_at.to_string(),
            ended_at: None,
        }
    }

    fn of_access(token: AccessToken, now: Timestamp) -> Self {
        let AccessToken { digest, scope, created_at, expires_at, ended_at } = token;
        Self {
            id: id(digest),
            scope: scope.name().to_owned(),
            host: match scope {
                Scope::Report(pattern) => Some(pattern.to_string()),
                Scope::Read | Scope::Push => None,
            },
            labels: BTreeMap::new(),
            replaces: false,
            state: state(ended_at.map(|_| "ended"), expires_at, now),
            used_by: None,
            used_at: None,
            created_at: created_at.to_string(),
            expires_at: expires_at.to_string(),
            ended_at: ended_at.map(|at| at.to_string()),
        }
    }

    /// Where it stands: times of this form are in the order of their text.
    fn place(&self) -> (Reverse<&str>, &str) {
        (Reverse(&self.created_at), &self.id)
    }
}

fn state(over: Option<&str>, expires_at: Timestamp, now: Timestamp) -> String {
    over.unwrap_or(if expires_at > now { "valid" } else { "expired" }).to_owned()
}

impl IdentityView {
    /// A host that joined, as it stands now.
    pub(crate) fn new(identity: Identity, now: Timestamp) -> Self {
        Self {
            state: identity.standing(now),
            host: identity.host.to_string(),
            labels: identity.labels,
            enrolled_at: identity.enrolled_at,
            issued_at: identity.issued_at,
            expires_at: identity.expires_at,
            revoked_at: identity.revoked_at,
            receipt_key: identity.receipt_key,
        }
    }
}

impl From<&Ca> for ListedCa {
    fn from(ca: &Ca) -> Self {
        Self {
            sha256: ca.digest().to_hex(),
            made_at: ca.made_at().to_string(),
            expires_at: ca.expires_at().to_string(),
            certificate: ca.pem().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(scope: Scope, made: i64, ended_at: Option<i64>) -> AccessToken {
        AccessToken {
            digest: Digest::sha256(&made.to_be_bytes()),
            scope,
            created_at: Timestamp::from_millis(made),
            expires_at: Timestamp::from_millis(100),
            ended_at: ended_at.map(Timestamp::from_millis),
        }
    }

    #[test]
    fn what_a_token_is_is_said_in_words_of_the_tables() {
        for (number, scope) in
            [Scope::Report("web-*".parse().unwrap()), Scope::Read, Scope::Push].into_iter().enumerate()
        {
            for (now, ended_at, state) in [(99, None, "valid"), (100, None, "expired"), (99, Some(5), "ended")] {
                let made = i64::try_from(number).unwrap();
                let listed = ListedToken::of_access(token(scope.clone(), made, ended_at), Timestamp::from_millis(now));
                assert_eq!((listed.scope.as_str(), listed.state.as_str()), (scope.name(), state));
                assert!(SCOPES.contains(&listed.scope.as_str()) && STATES.contains(&listed.state.as_str()));
                assert_eq!(listed.id.len(), ID);
            }
        }
    }

    #[test]
    fn parts_are_the_whole_in_order() {
        let all = || -> Vec<ListedToken> {
            let mut all: Vec<_> = (0..10)
                .map(|number| ListedToken::of_access(token(Scope::Read, number / 2, None), Timestamp::from_millis(1)))
                .collect();
            for (number, token) in (0..).zip(&mut all) {
                token.id = format!("{number:012x}");
            }
            all.sort_by(|a, b| a.place().cmp(&b.place()));
            all
        };
        let mut query = TokenQuery { limit: 3, ..TokenQuery::default() };
        let mut read = Vec::new();
        loop {
            let (part, more) = query.part(all());
            query.after = part.last().map(|token| (token.created_at.clone(), token.id.clone()));
            read.extend(part);
            if !more {
                break;
            }
        }
        assert_eq!(read, all());
    }
}
