//! Owns the `GET` endpoints of the API: query to store, records to JSON. Must not own SQL or HTML.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use driftlock_common::path::from_base64;
use serde::Deserialize;

use crate::app::AppState;
use crate::clock::Timestamp;
use crate::error::ApiError;
use crate::store::{ConditionQuery, FindingQuery, HostQuery, Lifetime};
use crate::view::{Conditions, Findings, HostView, Hosts};

/// What is given without `limit`.
const DEFAULT_LIMIT: usize = 100;
/// The largest `limit`.
const MAX_LIMIT: usize = 1000;

/// What may be asked of findings. An empty value narrows nothing, as a form sends it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FindingParameters {
    pub(crate) state: String,
    pub(crate) host: String,
    pub(crate) target: String,
    path: String,
    path_b64: String,
    limit: String,
    pub(crate) cursor: String,
}

/// What may be asked of conditions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConditionParameters {
    state: String,
    host: String,
    limit: String,
    cursor: String,
}

/// What may be asked of hosts.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HostParameters {
    host: String,
    limit: String,
    cursor: String,
}

/// A query, or what is wrong with it.
pub(crate) type Parameters<T> = Result<Query<T>, QueryRejection>;

pub(crate) async fn findings(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<FindingParameters>,
) -> Result<Json<Findings>, ApiError> {
    let page = state.store.findings(parsed(parameters)?.query()?).await?;
    let findings = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Findings { findings, next: page.next.map(|id| id.to_string()) }))
}

pub(crate) async fn conditions(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<ConditionParameters>,
) -> Result<Json<Conditions>, ApiError> {
    let parameters = parsed(parameters)?;
    let query = ConditionQuery {
        state: lifetime(&parameters.state)?,
        host: given(parameters.host),
        before: cursor(&parameters.cursor)?,
        limit: limit(&parameters.limit)?,
    };
    let page = state.store.conditions(query).await?;
    let conditions = page.items.into_iter().map(Into::into).collect();
    Ok(Json(Conditions { conditions, next: page.next.map(|id| id.to_string()) }))
}

pub(crate) async fn hosts(
    State(state): State<Arc<AppState>>,
    parameters: Parameters<HostParameters>,
) -> Result<Json<Hosts>, ApiError> {
    let parameters = parsed(parameters)?;
    let query =
        HostQuery { host: given(parameters.host), after: given(parameters.cursor), limit: limit(&parameters.limit)? };
    let page = state.store.hosts(query).await?;
    let now = Timestamp::now();
    let hosts = page.items.into_iter().map(|host| HostView::new(host, now)).collect();
    Ok(Json(Hosts { hosts, next: page.next }))
}

impl FindingParameters {
    pub(crate) fn query(self) -> Result<FindingQuery, ApiError> {
        let path = match (self.path.as_str(), self.path_b64.as_str()) {
            ("", "") => None,
            (path, "") => Some(path.as_bytes().to_vec()),
            ("", base64) => Some(from_base64(base64).ok_or_else(|| bad("path_b64 is not base64"))?),
            _ => return Err(bad("path and path_b64 exclude each other")),
        };
        Ok(FindingQuery {
            state: lifetime(&self.state)?,
            host: given(self.host),
            target: given(self.target),
            path,
            before: cursor(&self.cursor)?,
            limit: limit(&self.limit)?,
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

fn bad(public: impl Into<String>) -> ApiError {
    ApiError::bad_request("query", public)
}

fn given(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

fn lifetime(value: &str) -> Result<Option<Lifetime>, ApiError> {
    match value {
        "" => Ok(None),
        word => Lifetime::from_name(word).map(Some).ok_or_else(|| bad("state is open or resolved")),
    }
}

fn cursor(value: &str) -> Result<Option<i64>, ApiError> {
    match value {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| bad("cursor is not one that an answer gave as next")),
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
