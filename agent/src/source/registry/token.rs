//! Owns asking a token endpoint (CNCF distribution, "Token Authentication" and its OAuth 2 form). Must not own who is
//! asked, or keeping the token.

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::body::Body;
use super::client::{Access, Client, Stop};
use super::credentials::Credential;
use super::error::RegistryError;
use super::route;

/// The longest answer, in bytes. Tokens that list permissions grow to some kilobytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// How long a token holds where nothing is said, and at least.
const LIFETIME: Duration = Duration::from_mins(1);
/// How long one is used at most.
const LONGEST_LIFETIME: Duration = Duration::from_hours(1);

/// What a registry wants to see, and until when it is worth showing.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) header: HeaderValue,
    pub(super) until: Option<Instant>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// Gets a token to read the repository, or to write to it; nothing more is asked for, whatever the challenge names.
pub(super) async fn ask(
    client: &Client,
    endpoint: Url,
    service: Option<&str>,
    credential: Option<&Credential>,
) -> Result<Grant, Stop> {
    let host = route::host(&endpoint);
    let actions = match client.access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    let scope = format!("repository:{}:{actions}", client.repository.name());
    let http = client.http(&endpoint)?;
    let request = if let Some(Credential::Identity(token)) = credential {
        // The library for addresses also writes forms.
        let mut form = endpoint.clone();
        form.set_query(None);
        let mut pairs = form.query_pairs_mut();
        pairs.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
        pairs.append_pair("client_id", "driftlock").append_pair("scope", &scope);
        pairs.append_pair("service", service.unwrap_or_default());
        drop(pairs);
        let body = form.query().unwrap_or_default().to_owned();
        http.post(endpoint.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
    } else {
        let mut url = endpoint.clone();
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &scope);
        let request = http.get(url);
        match credential {
            Some(Credential::Basic { user, password }) => {
                request.header(AUTHORIZATION, Grant::basic(user, password).header)
            }
            _ => request,
        }
    };
    let response = client.send(request, &endpoint).await?;
    let fail = |what| RegistryError::Token { host: host.clone(), what };
    match response.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => return Err(fail("answers with a redirect, which is not followed").into()),
        _ => return Err(client.refusal(host, response, true).await),
    }
    let body = Body::new(response, host.clone()).read_up_to(MAX_ANSWER, &client.limits).await?;
    let body = body.ok_or_else(|| fail("answers with more than 65536 bytes"))?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| fail("answers with something else than JSON"))?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| fail("answers without a token"))?;
    let mut header = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| fail("answers with a token that cannot stand in a header"))?;
    header.set_sensitive(true);
    let seconds = answer.expires_in.and_then(|value| value.as_u64()).map_or(LIFETIME, Duration::from_secs);
    Ok(Grant { header, until: Instant::now().checked_add(seconds.clamp(LIFETIME, LONGEST_LIFETIME)) })
}

impl Grant {
    pub(super) fn basic(user: &str, password: &str) -> Self {
        // Base64 is always fit for a header.
        let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut header = HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("Basic"));
        header.set_sensitive(true);
        Self { header, until: None }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grant(…)")
    }
}
