//! Owns the `GET` endpoints of the API: query to store, records to JSON. Must not own SQL or HTML.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use driftlock_common::drift::Change;
use driftlock_common::host_name::HostName;
use driftlock_common::path::from_base64;
use driftlock_common::policy::{Ruling, Severity};
use serde::Deserialize;

use crate::app::AppState;
use crate::clock::Timestamp;
use crate::credential::{
    self, Cas, IdentityView, IdentityViews, ListedToken, RevocationView, Revocations, SCOPES, STATES, TokenQuery,
    TokenViews,
};
use crate::error::ApiError;
use crate::fleet::HostState;
use crate::roster::{Roster, RosterOrder, RosterQuery};
use crate::store::identity::{IdentityQuery, Standing};
use crate::store::{ConditionQuery, FindingQuery, GroupKey, GroupOrder, GroupQuery, HoleQuery, Lifetime, Order};
use crate::view::{Conditions, Findings, Groups, Holes, Hosts, host_views};

/// What is given without `limit`.
const DEFAULT_LIMIT: usize = 100;
/// The largest `limit`.
const MAX_LIMIT: usize = 1000;
/// The value of `sort` for the newest first, which is so without it.
pub(crate) const NEWEST: &str = "newest";
/// The value of `sort` for the loudest first, of one severity the newest first.
pub(crate) const LOUDEST: &str = "severity";
/// The value of `sort` for those on the most hosts first.
pub(crate) const WIDEST: &str = "hosts";
/// Behind a severity: that and louder.
pub(crate) const LOUDER: &str = "..";
/// In a cursor, where others have a severity.
const TOLERATED: &str = Ruling::Tolerated.name();

/// What may be asked of findings. An empty value narrows nothing, as a form sends it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FindingParameters {
    pub(crate) state: String,
    pub(crate) host: String,
    pub(crate) target: String,
    path: String,
    path_b64: String,
    /// Exactly the directory that a path is in; `.` is the root.
    pub(crate) directory: String,
    pub(crate) directory_b64: String,
    /// The same, or further down.
    pub(crate) below: String,
    pub(crate) below_b64: String,
    pub(crate) change: String,
    pub(crate) verdict: String,
    /// `high` is that alone, `high..` that and louder.
    pub(crate) severity: String,
    /// An id, or what stands for none: `-`.
    pub(crate) rule: String,
    /// The key of a group.
    pub(crate) group: String,
    pub(crate) sort: String,
    limit: String,
    pub(crate) cursor: String,
}

/// What may be asked of groups.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GroupParameters {
    pub(crate) change: String,
    pub(crate) verdict: String,
    pub(crate) severity: String,
    pub(crate) sort: String,
    limit: String,
    pub(crate) cursor: String,
}

/// What may be asked of conditions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConditionParameters {
    pub(crate) state: String,
    pub(crate) host: String,
    limit: String,
    pub(crate) cursor: String,
}

/// What may be asked of holes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HoleParameters {
    pub(crate) host: String,
    limit: String,
    pub(crate) cursor: String,
}

impl HoleParameters {
    pub(crate) fn query(self) -> Result<HoleQuery, ApiError> {
        Ok(HoleQuery { host: given(self.host), before: cursor(&self.cursor)?, limit: limit(&self.limit)? })
    }
}

/// What may be asked of hosts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HostParameters {
    pub(crate) host: String,
    pub(crate) state: String,
    /// `KEY=VALUE`, or `KEY` with any value.
    pub(crate) label: String,
    /// A part of key or name.
    pub(crate) name: String,
    limit: String,
    pub(crate) cursor: String,
}

/// What may be asked of hosts that joined.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct IdentityParameters {
    pub(crate) host: String,
    pub(crate) state: String,
    limit: String,
    pub(crate) cursor: String,
}

/// What may be asked of tokens.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenParameters {
    pub(crate) scope: String,
    pub(crate) state: String,
    limit: String,
    pub(crate) cursor: String,
}

/// What may be asked of names that are refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RevocationParameters {
    limit: String,
    cursor: String,
}

/// What may be asked of that of which there are few: nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NoParameters {}

/// A query, or what is wrong with it.
pub(crate) type Parameters<T> = Result<Query<T>, QueryRejection>;

pub(crate) async fn findings(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<FindingParameters>,
) -> Result<Json<Findings>, ApiError> {
    let page = state.store.findings(parsed(parameters)?.query()?).await?;
    let findings = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Findings { findings, next: page.next.map(cursor_of) }))
}

pub(crate) async fn conditions(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<ConditionParameters>,
) -> Result<Json<Conditions>, ApiError> {
    let query = parsed(parameters)?.query()?;
    let page = state.store.conditions(query).await?;
    let conditions = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Conditions { conditions, next: page.next.map(|id| id.to_string()) }))
}

pub(crate) async fn holes(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<HoleParameters>,
) -> Result<Json<Holes>, ApiError> {
    let query = parsed(parameters)?.query()?;
    let page = state.store.holes(query).await?;
    let holes = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Holes { holes, next: page.next.map(|id| id.to_string()) }))
}

pub(crate) async fn hosts(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<HostParameters>,
) -> Result<Json<Hosts>, ApiError> {
    let parameters = parsed(parameters)?;
    let order = RosterOrder::Key(given(parameters.cursor.clone()));
    let query = parameters.query(order)?;
    let outlook = state.outlook().await?;
    let roster = Roster::read(&state, &outlook).await?;
    let (page, _) = roster.page(&query);
    let next = match page.next {
        Some(RosterOrder::Key(next)) => next,
        _ => None,
    };
    Ok(Json(Hosts { hosts: host_views(&state, &page.items).await?, next }))
}

pub(crate) async fn groups(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<GroupParameters>,
) -> Result<Json<Groups>, ApiError> {
    let page = state.store.groups(parsed(parameters)?.query()?).await?;
    let groups = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Groups { groups, next: page.next.map(group_cursor) }))
}

pub(crate) async fn identities(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<IdentityParameters>,
) -> Result<Json<IdentityViews>, ApiError> {
    let now = state.now();
    let page = state.store.identities(parsed(parameters)?.query(now)?).await?;
    let identities = page.items.into_iter().map(|identity| IdentityView::new(identity, now)).collect();
    Ok(Json(IdentityViews { identities, next: page.next.map(|host| host.to_string()) }))
}

pub(crate) async fn tokens(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<TokenParameters>,
) -> Result<Json<TokenViews>, ApiError> {
    let query = parsed(parameters)?.query()?;
    let (tokens, more) = query.part(credential::tokens(&*state.store, state.now()).await?);
    let next = tokens.last().filter(|_| more).map(token_cursor);
    Ok(Json(TokenViews { tokens, next }))
}

pub(crate) async fn revocations(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<RevocationParameters>,
) -> Result<Json<Revocations>, ApiError> {
    let RevocationParameters { limit: most, cursor } = parsed(parameters)?;
    let (after, most) = (host_name("cursor", cursor)?, limit(&most)?);
    let mut refused = state.store.revocations().await?;
    refused.retain(|(host, _)| after.as_ref().is_none_or(|after| host > after));
    refused.sort();
    let more = refused.len() > most;
    refused.truncate(most);
    let next = refused.last().filter(|_| more).map(|(host, _)| host.to_string());
    let view = |(host, revoked_at): (HostName, _)| RevocationView { host: host.to_string(), revoked_at };
    Ok(Json(Revocations { revocations: refused.into_iter().map(view).collect(), next }))
}

pub(crate) async fn cas(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<NoParameters>,
) -> Result<Json<Cas>, ApiError> {
    let NoParameters {} = parsed(parameters)?;
    Ok(Json(Cas { cas: credential::cas(&state.identities) }))
}

impl IdentityParameters {
    pub(crate) fn query(self, now: Timestamp) -> Result<IdentityQuery, ApiError> {
        Ok(IdentityQuery {
            host: host_name("host", self.host)?,
            standing: word("state", &self.state, Standing::TABLE)?.map(|standing| (standing, now)),
            after: host_name("cursor", self.cursor)?,
            limit: limit(&self.limit)?,
        })
    }
}

impl TokenParameters {
    pub(crate) fn query(self) -> Result<TokenQuery, ApiError> {
        let after = given(self.cursor).map(|cursor| {
            let (made, id) = cursor.rsplit_once('.').ok_or_else(no_cursor)?;
            let made = Timestamp::parse(made).ok_or_else(no_cursor)?;
            let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_id { Ok((made.to_string(), id.to_owned())) } else { Err(no_cursor()) }
        });
        Ok(TokenQuery {
            scope: word("scope", &self.scope, SCOPES.map(|scope| (scope, scope)))?,
            state: word("state", &self.state, STATES.map(|state| (state, state)))?,
            after: after.transpose()?,
            limit: limit(&self.limit)?,
        })
    }
}

/// What [`TokenParameters::query`] reads.
pub(crate) fn token_cursor(token: &ListedToken) -> String {
    format!("{}.{}", token.created_at, token.id)
}

fn host_name(name: &str, value: String) -> Result<Option<HostName>, ApiError> {
    let host = given(value).map(|value| value.parse());
    host.transpose().map_err(|_| bad(format!("{name} is not the name of a host that can enroll")))
}

impl HostParameters {
    pub(crate) fn query(self, order: RosterOrder) -> Result<RosterQuery, ApiError> {
        let label = given(self.label).map(|label| match label.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (label, None),
        });
        Ok(RosterQuery {
            host: given(self.host),
            state: word("state", &self.state, HostState::ALL.map(|state| (state.name(), state)))?,
            label,
            name: given(self.name),
            order,
            limit: limit(&self.limit)?,
        })
    }
}

impl ConditionParameters {
    pub(crate) fn query(self) -> Result<ConditionQuery, ApiError> {
        Ok(ConditionQuery {
            state: lifetime(&self.state)?,
            host: given(self.host),
            before: cursor(&self.cursor)?,
            limit: limit(&self.limit)?,
        })
    }
}

impl GroupParameters {
    pub(crate) fn query(self) -> Result<GroupQuery, ApiError> {
        Ok(GroupQuery {
            key: None,
            change: word("change", &self.change, Change::ALL.map(|change| (change.name(), change)))?,
            verdict: verdict(&self.verdict)?,
            severity: severity(&self.severity)?,
            order: group_order(&self.sort, &self.cursor)?,
            limit: limit(&self.limit)?,
        })
    }
}

impl FindingParameters {
    pub(crate) fn query(self) -> Result<FindingQuery, ApiError> {
        let directory = place("directory", &self.directory, &self.directory_b64)?;
        let below = place("below", &self.below, &self.below_b64)?;
        if directory.is_some() && below.is_some() {
            return Err(bad("directory and below exclude each other"));
        }
        Ok(FindingQuery {
            id: None,
            state: lifetime(&self.state)?,
            directory,
            below,
            path: bytes("path", &self.path, &self.path_b64)?,
            change: word("change", &self.change, Change::ALL.map(|change| (change.name(), change)))?,
            verdict: verdict(&self.verdict)?,
            severity: severity(&self.severity)?,
            group: given(self.group)
                .map(|key| key.parse())
                .transpose()
                .map_err(|_| bad("group is not one that a list gave"))?,
            order: order(&self.sort, &self.cursor)?,
            limit: limit(&self.limit)?,
            host: given(self.host),
            target: given(self.target),
            rule: given(self.rule),
        })
    }
}

/// The parameters, or 400 with what is wrong.
pub(crate) fn parsed<T>(parameters: Parameters<T>) -> Result<T, ApiError> {
    match parameters {
        Ok(Query(parameters)) => Ok(parameters),
        Err(rejection) => Err(bad(rejection.body_text())),
    }
}

pub(crate) fn bad(public: impl Into<String>) -> ApiError {
    ApiError::bad_request("query", public)
}

pub(crate) fn given(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

fn lifetime(value: &str) -> Result<Option<Lifetime>, ApiError> {
    match value {
        "" => Ok(None),
        word => Lifetime::from_name(word).map(Some).ok_or_else(|| bad("state is open or resolved")),
    }
}

fn bytes(name: &str, text: &str, base64: &str) -> Result<Option<Vec<u8>>, ApiError> {
    match (text, base64) {
        ("", "") => Ok(None),
        (text, "") => Ok(Some(text.as_bytes().to_vec())),
        ("", base64) => from_base64(base64).map(Some).ok_or_else(|| bad(format!("{name}_b64 is not base64"))),
        _ => Err(bad(format!("{name} and {name}_b64 exclude each other"))),
    }
}

/// `.` is the root, which an empty value cannot say.
fn place(name: &str, text: &str, base64: &str) -> Result<Option<Vec<u8>>, ApiError> {
    let place = bytes(name, text, base64)?;
    Ok(place.map(|place| if place == b"." { Vec::new() } else { place }))
}

/// A word of a closed table.
fn word<T, const N: usize>(name: &str, value: &str, table: [(&'static str, T); N]) -> Result<Option<T>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    let words = table.each_ref().map(|(word, _)| *word).join(", ");
    let found = table.into_iter().find(|(word, _)| *word == value);
    found.map(|(_, meant)| Some(meant)).ok_or_else(|| bad(format!("{name} is one of {words}")))
}

fn verdict(value: &str) -> Result<Option<Ruling>, ApiError> {
    word("verdict", value, [Ruling::Alert, Ruling::Tolerated].map(|ruling| (ruling.name(), ruling)))
}

fn severity(value: &str) -> Result<Option<RangeInclusive<Severity>>, ApiError> {
    let (least, open) = value.strip_suffix(LOUDER).map_or((value, false), |least| (least, true));
    let wrong = || {
        let words = Severity::ALL.map(Severity::name).join(", ");
        bad(format!("severity is one of {words}; with {LOUDER} behind it, all that are louder too"))
    };
    if value.is_empty() {
        return Ok(None);
    }
    let least = Severity::of_name(least).ok_or_else(wrong)?;
    Ok(Some(least..=if open { Severity::Critical } else { least }))
}

fn order(sort: &str, text: &str) -> Result<Order, ApiError> {
    match sort {
        "" | NEWEST => Ok(Order::Newest(cursor(text)?)),
        LOUDEST if text.is_empty() => Ok(Order::Loudest(None)),
        LOUDEST => {
            let (word, id) = text.split_once('.').ok_or_else(no_cursor)?;
            let id = cursor(id)?.ok_or_else(no_cursor)?;
            Ok(Order::Loudest(Some((loudness(word)?, id))))
        }
        _ => Err(bad(format!("sort is {LOUDEST} or {NEWEST}"))),
    }
}

/// What [`order`] reads. It names a place in the order, so what comes or goes meanwhile moves nothing.
pub(crate) fn cursor_of(order: Order) -> String {
    match order {
        Order::Newest(id) => id.map(|id| id.to_string()).unwrap_or_default(),
        Order::Loudest(place) => place
            .map(|(severity, id)| format!("{}.{id}", severity.map_or(TOLERATED, Severity::name)))
            .unwrap_or_default(),
    }
}

/// The severity of a cursor, which only what is tolerated has not.
fn loudness(word: &str) -> Result<Option<Severity>, ApiError> {
    let severity = Severity::of_name(word);
    if severity.is_none() && word != TOLERATED { Err(no_cursor()) } else { Ok(severity) }
}

fn group_order(sort: &str, text: &str) -> Result<GroupOrder, ApiError> {
    let place = |text: &str| {
        let (hosts, key) = text.split_once('.').ok_or_else(no_cursor)?;
        let key: GroupKey = key.parse().map_err(|_| no_cursor())?;
        Ok::<_, ApiError>((hosts.parse().map_err(|_| no_cursor())?, key))
    };
    match sort {
        "" | WIDEST if text.is_empty() => Ok(GroupOrder::Widest(None)),
        "" | WIDEST => place(text).map(|place| GroupOrder::Widest(Some(place))),
        LOUDEST if text.is_empty() => Ok(GroupOrder::Loudest(None)),
        LOUDEST => {
            let (word, rest) = text.split_once('.').ok_or_else(no_cursor)?;
            let (hosts, key) = place(rest)?;
            Ok(GroupOrder::Loudest(Some((loudness(word)?, hosts, key))))
        }
        _ => Err(bad(format!("sort is {WIDEST} or {LOUDEST}"))),
    }
}

/// What [`group_order`] reads.
pub(crate) fn group_cursor(order: GroupOrder) -> String {
    match order {
        GroupOrder::Widest(place) => place.map(|(hosts, key)| format!("{hosts}.{key}")).unwrap_or_default(),
        GroupOrder::Loudest(place) => place
            .map(|(severity, hosts, key)| format!("{}.{hosts}.{key}", severity.map_or(TOLERATED, Severity::name)))
            .unwrap_or_default(),
    }
}

/// In which order the page of hosts lists, and a cursor of it.
pub(crate) fn worst_order(text: &str) -> Result<RosterOrder, ApiError> {
    if text.is_empty() {
        return Ok(RosterOrder::Worst(None));
    }
    let (state, host) = text.split_once('.').ok_or_else(no_cursor)?;
    let state = HostState::ALL.into_iter().find(|known| known.name() == state).ok_or_else(no_cursor)?;
    Ok(RosterOrder::Worst(Some((state, host.to_owned()))))
}

/// What [`worst_order`] reads.
pub(crate) fn worst_cursor(order: RosterOrder) -> String {
    match order {
        RosterOrder::Worst(Some((state, host))) => format!("{}.{host}", state.name()),
        RosterOrder::Worst(None) | RosterOrder::Key(_) => String::new(),
    }
}

fn no_cursor() -> ApiError {
    bad("cursor is not one that an answer gave as next in this order")
}

fn cursor(value: &str) -> Result<Option<i64>, ApiError> {
    match value {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| no_cursor()),
    }
}

fn limit(value: &str) -> Result<usize, ApiError> {
    match value {
        "" => Ok(DEFAULT_LIMIT),
        text => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| bad(format!("limit is a number from 1 to {MAX_LIMIT}"))),
    }
}
