//! Owns writing to a registry: a blob, a manifest (OCI distribution-spec v1.1, "Pushing blobs", "Pushing manifests"). Must not
//! own what is written.
//!
//! Everything is written under its digest, so that writing it again does no harm: each step is tried again as a whole.

use std::time::Duration;

use bytes::Bytes;
use driftlock_common::digest::Digest;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};

use super::client::{Client, Stop, Tries};
use super::error::RegistryError;
use super::limits::LOWEST_RATE;
use super::route;

const BYTES: &str = "application/octet-stream";

/// Writes a blob in one piece.
pub(super) async fn blob(client: &Client, bytes: Bytes) -> Result<(), RegistryError> {
    let digest = Digest::sha256(&bytes);
    again(client, async || {
        let start = address(client, "blobs/uploads/")?;
        let answer = send(client, Method::POST, &start, BYTES, Bytes::new()).await?;
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| RegistryError::NoUpload { host: route::host(&start) })?;
        let mut to = route::follow(&start, location)?;
        to.query_pairs_mut().append_pair("digest", &format!("sha256:{digest}"));
        send(client, Method::PUT, &to, BYTES, bytes.clone()).await.map(drop)
    })
    .await
}

/// Writes a manifest or an index, under its digest or a tag; whether the registry says that it lists it as a referrer.
pub(super) async fn manifest(
    client: &Client,
    name: &str,
    media_type: &'static str,
    bytes: Bytes,
) -> Result<bool, RegistryError> {
    again(client, async || {
        let to = address(client, &format!("manifests/{name}"))?;
        let answer = send(client, Method::PUT, &to, media_type, bytes.clone()).await?;
        Ok(answer.headers().contains_key("oci-subject"))
    })
    .await
}

async fn again<T>(client: &Client, step: impl AsyncFn() -> Result<T, Stop>) -> Result<T, RegistryError> {
    let mut tries = Tries::default();
    loop {
        match step().await {
            Ok(done) => return Ok(done),
            Err(stop) => client.pause(stop, &mut tries).await?,
        }
    }
}

fn address(client: &Client, rest: &str) -> Result<Url, RegistryError> {
    client.repository.url(rest).map_err(|_| client.no_address())
}

/// Sends something, and the credential only to the registry itself. No redirect is followed: where an upload goes, the
/// registry has said before.
async fn send(client: &Client, method: Method, to: &Url, media_type: &str, body: Bytes) -> Result<Response, Stop> {
    let registry = address(client, "")?;
    let own = route::same_origin(&registry, to);
    let patience = Duration::from_secs(body.len() as u64 / LOWEST_RATE).saturating_add(client.limits.silence);
    let mut asked = false;
    loop {
        let mut builder = client.http(to)?.request(method.clone(), to.clone()).header(ACCEPT_ENCODING, "identity");
        builder = builder.header(CONTENT_TYPE, media_type).body(body.clone());
        if own && let Some(value) = client.granted() {
            builder = builder.header(AUTHORIZATION, value);
        }
        let response = client.send_within(builder, to, patience).await?;
        let (status, host) = (response.status(), route::host(to));
        match status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                return Ok(response);
            }
            StatusCode::UNAUTHORIZED if own && !asked => {
                asked = true;
                client.authenticate(&registry, response).await?;
            }
            _ if status.is_redirection() => return Err(RegistryError::RedirectWrite { host }.into()),
            _ => return Err(client.refusal(host, response, own).await),
        }
    }
}
