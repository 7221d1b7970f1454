//! Owns the pages of who may connect: hosts that joined and the CAs in force, tokens. Must not own a secret: none is kept.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use driftlock_common::host_name::HostName;

use super::link::Link;
use super::shown::Shown;
use super::{Deadline, Frame, Moment, render, shortened};
use crate::app::AppState;
use crate::clock::Timestamp;
use crate::credential::{self, ENROLL, ListedToken, SCOPES, STATES};
use crate::error::ApiError;
use crate::query::{IdentityParameters, Parameters, TokenParameters, parsed, token_cursor};
use crate::store::identity::{Identity, Standing};

/// Names that never joined and are refused, of which the page shows this many.
const SHOWN_REFUSED: usize = 100;

/// `/enrolment`.
#[derive(Template)]
#[template(path = "enrolment.html")]
struct Hosts {
    frame: Frame,
    filter: IdentityParameters,
    hosts: Vec<IdentityRow>,
    next: Option<Link>,
    /// Refused, though they never joined.
    refused: Vec<RefusedRow>,
    more_refused: bool,
    cas: Vec<CaRow>,
}

/// `/tokens`.
#[derive(Template)]
#[template(path = "tokens.html")]
struct Tokens {
    frame: Frame,
    filter: TokenParameters,
    tokens: Vec<TokenRow>,
    next: Option<Link>,
}

/// A host that joined.
pub(super) struct IdentityRow {
    pub(super) host: Shown,
    pub(super) link: Link,
    pub(super) standing: Standing,
    pub(super) labels: Vec<Shown>,
    pub(super) enrolled: Moment,
    /// If it was renewed since.
    pub(super) renewed: Option<Moment>,
    pub(super) expires: Deadline,
    pub(super) revoked: Option<Moment>,
}

struct RefusedRow {
    host: Shown,
    link: Link,
    revoked: Moment,
}

struct CaRow {
    digest: String,
    short: String,
    made: Option<Moment>,
    expires: Option<Deadline>,
    what: &'static str,
}

struct TokenRow {
    id: String,
    scope: &'static str,
    state: &'static str,
    /// For which hosts.
    host: Option<Shown>,
    labels: Vec<Shown>,
    replaces: bool,
    /// Who used it, and when.
    used: Option<(Shown, Link, Option<Moment>)>,
    created: Option<Moment>,
    expires: Option<Deadline>,
    ended: Option<Moment>,
}

pub(super) async fn hosts(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<IdentityParameters>,
) -> Result<Response, ApiError> {
    let filter = parsed(parameters)?;
    let now = state.now();
    let page = state.store.identities(filter.clone().query(now)?).await?;
    let mut refused = state.store.revocations().await?;
    refused.retain(|(host, _)| !state.identities.has_enrolled(host));
    refused.sort();
    let more_refused = refused.len() > SHOWN_REFUSED;
    refused.truncate(SHOWN_REFUSED);
    let link = Link::to("/enrolment").and_given("host", &filter.host).and_given("state", &filter.state);
    let cas = credential::cas(&state.identities);
    let newest = cas.len().saturating_sub(1);
    render(&Hosts {
        frame: Frame::of_part(&filter.cursor, now),
        hosts: page.items.into_iter().map(|identity| IdentityRow::new(&identity, now)).collect(),
        next: page.next.map(|host| link.and("cursor", host.to_string())),
        filter,
        refused: refused.into_iter().map(|(host, at)| RefusedRow::new(&host, at, now)).collect(),
        more_refused,
        cas: cas
            .into_iter()
            .enumerate()
            .map(|(place, ca)| CaRow {
                short: shortened(&ca.sha256),
                made: Moment::read(&ca.made_at, now),
                expires: Timestamp::parse(&ca.expires_at).map(|at| Deadline::new(at, now)),
                digest: ca.sha256,
                what: match (place == 0, place == newest) {
                    (true, true) => "issues every certificate",
                    (true, false) => "issues the collector’s own certificate",
                    (false, true) => "issues certificates of hosts",
                    (false, false) => "believed, issues nothing",
                },
            })
            .collect(),
    })
}

pub(super) async fn tokens(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<TokenParameters>,
) -> Result<Response, ApiError> {
    let filter = parsed(parameters)?;
    let now = state.now();
    let query = filter.clone().query()?;
    let (tokens, more) = query.part(credential::tokens(&*state.store, now).await?);
    let link = Link::to("/tokens").and_given("scope", &filter.scope).and_given("state", &filter.state);
    render(&Tokens {
        frame: Frame::of_part(&filter.cursor, now),
        next: tokens.last().filter(|_| more).map(|last| link.and("cursor", token_cursor(last))),
        tokens: tokens.into_iter().map(|token| TokenRow::new(token, now)).collect(),
        filter,
    })
}

impl IdentityRow {
    pub(super) fn new(identity: &Identity, now: Timestamp) -> Self {
        let host = identity.host.as_str();
        Self {
            host: Shown::name(host),
            link: Link::host(host),
            standing: identity.standing(now),
            labels: identity.labels.iter().map(|(key, value)| Shown::name(&format!("{key}={value}"))).collect(),
            enrolled: Moment::new(identity.enrolled_at, now),
            renewed: (identity.issued_at > identity.enrolled_at).then(|| Moment::new(identity.issued_at, now)),
            expires: Deadline::new(identity.expires_at, now),
            revoked: identity.revoked_at.map(|at| Moment::new(at, now)),
        }
    }
}

impl RefusedRow {
    fn new(host: &HostName, at: Timestamp, now: Timestamp) -> Self {
        let host = host.as_str();
        Self { host: Shown::name(host), link: Link::host(host), revoked: Moment::new(at, now) }
    }
}

impl TokenRow {
    fn new(token: ListedToken, now: Timestamp) -> Self {
        let word = |table: [&'static str; 4], word: &str| table.into_iter().find(|known| *known == word);
        let used_at = token.used_at.as_deref().and_then(|at| Moment::read(at, now));
        Self {
            scope: word(SCOPES, &token.scope).unwrap_or(ENROLL),
            state: word(STATES, &token.state).unwrap_or_default(),
            id: token.id,
            host: token.host.as_deref().map(Shown::name),
            labels: token.labels.iter().map(|(key, value)| Shown::name(&format!("{key}={value}"))).collect(),
            replaces: token.replaces,
            used: token.used_by.map(|host| (Shown::name(&host), Link::host(&host), used_at)),
            created: Moment::read(&token.created_at, now),
            expires: Timestamp::parse(&token.expires_at).map(|at| Deadline::new(at, now)),
            ended: token.ended_at.as_deref().and_then(|at| Moment::read(at, now)),
        }
    }
}
