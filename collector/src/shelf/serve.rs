//! Owns the requests about manifests: who may push, who may ask, bodies in and out. Must not own what is kept, or how.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use driftlock_common::digest::Digest;
use driftlock_common::shelf::{Item, Kind, Listing, MAX_BODY, MAX_WINDOW_LOG, Point, Pointer, is_target};
use futures_util::StreamExt as _;
use futures_util::stream::try_unfold;
use tokio::sync::mpsc;

use super::incoming::{self, Unfit};
use super::{Shelf, ShelfError};
use crate::app::AppState;
use crate::auth::bearer;
use crate::caller::{Caller, Connection};
use crate::credential;
use crate::error::{ApiError, InPath};

/// How long nothing may come of a body.
const IDLE: Duration = Duration::from_secs(30);
/// What is named by its digest is the same for ever.
const FOR_EVER: &str = "private, max-age=31536000, immutable";

fn shelf(state: &AppState) -> Result<&Shelf, ApiError> {
    state.shelf().ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "no_shelf", "this collector keeps no manifests"))
}

/// Who pushes, as it is noted.
fn pusher(state: &AppState, request: &Request) -> Result<String, ApiError> {
    let token = bearer(request.headers()).filter(|given| state.identities.may_push(given)).ok_or_else(|| {
        let public = "a token for pushing is needed: driftlock-collector token add --push makes one";
        ApiError::unauthorized("Bearer realm=\"driftlock\"", public)
    })?;
    let connection = request.extensions().get::<Connection>();
    if let Some(connection) = connection {
        connection.is_known();
    }
    let from = connection.map(|connection| format!(", from {}", connection.address)).unwrap_or_default();
    Ok(format!("token {}{from}", credential::id(Digest::sha256(token.as_bytes()))))
}

fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request("digest", "a SHA-256 is 64 lower case hexadecimal digits"))
}

/// `PUT /v1/manifests/{sha256}`.
pub(crate) async fn put(
    State(state): State<Arc<AppState>>,
    InPath(sha256): InPath<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let shelf = shelf(&state)?;
    let pushed_by = pusher(&state, &request)?;
    let sha256 = digest(&sha256)?;
    let is_compressed = match request.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => false,
        Some(b"zstd") => true,
        Some(_) => {
            let public = "content-encoding must be zstd or identity";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", public));
        }
    };
    let claimed = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if claimed.is_some_and(|length: u64| length > MAX_BODY) {
        return Err(ApiError::too_large(format!("the body is larger than {MAX_BODY} bytes")));
    }
    // Taken before the body is read: what waits here holds neither memory nor disk.
    let _permit = shelf.incoming.acquire().await.map_err(|_| crate::store::StoreError::Closed)?;
    let (sender, mut blocks) = mpsc::channel(4);
    let (directory, path) = (shelf.directory.clone(), shelf.file(sha256));
    let taking = tokio::task::spawn_blocking(move || {
        let whole = incoming::take(&directory, sha256, is_compressed, &mut blocks)?;
        let said = (whole.kind, whole.bytes, whole.manifest);
        whole.name(&path).map_err(Unfit::Io)?;
        Ok::<_, Unfit>(said)
    });
    let sent = feed(request.into_body().into_data_stream(), sender).await;
    let taken = taking.await.map_err(|_| crate::store::StoreError::Closed)?;
    let (kind, bytes, manifest) = match (taken, sent) {
        // What did not come whole is not what it says, and that is why.
        (Err(Unfit::Other(_) | Unfit::Compression), Err(cut)) => return Err(cut),
        (taken, _) => taken?,
    };
    let pushed_at = state.clock.now().to_string();
    let item = Item { sha256, kind, bytes, manifest, pushed_by, pushed_at };
    tracing::info!(%sha256, %kind, bytes, by = item.pushed_by, "pushed");
    let is_new = shelf.keep(item.clone())?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(item)).into_response())
}

/// Hands a body over, a block at a time.
async fn feed(mut body: BodyDataStream, to: mpsc::Sender<bytes::Bytes>) -> Result<(), ApiError> {
    loop {
        match tokio::time::timeout(IDLE, body.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(block))) => {
                // Nobody takes it any more: why is said there.
                if to.send(block).await.is_err() {
                    return Ok(());
                }
            }
            Ok(Some(Err(error))) => return Err(ApiError::cut_off(error)),
            Err(_) => return Err(ApiError::cut_off("nothing came for too long")),
        }
    }
}

/// `GET /v1/manifests/{sha256}`: for hosts, and for who may read.
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    InPath(sha256): InPath<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    if let Err(refused) = Caller::of(&state, &parts.extensions, &parts.headers) {
        let may_read = state.read_access.check(&parts.headers, |token| state.identities.may_read(token));
        // Who has no credential at all is told what there could be.
        may_read.and_then(|()| state.allowed_hosts.check(&parts.headers)).map_err(|_| refused)?;
    }
    let shelf = shelf(&state)?;
    answer(shelf, digest(&sha256)?, &parts.headers, FOR_EVER)
}

/// `GET /v1/targets/{target}/{kind}`: for the host that asks.
pub(crate) async fn wanted(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    InPath((target, kind)): InPath<(String, Kind)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let shelf = shelf(&state)?;
    let Some(sha256) = shelf.wanted(&caller.host, &target, kind) else {
        let public = format!("there is no {kind} for this target of this host: driftlock push --for says one");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_pushed", public));
    };
    answer(shelf, sha256, &headers, "no-cache")
}

/// `GET /v1/manifests/{sha256}/bundle`: for hosts, the bundle about a manifest that was pushed last.
pub(crate) async fn about(
    State(state): State<Arc<AppState>>,
    _caller: Caller,
    InPath(manifest): InPath<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let shelf = shelf(&state)?;
    let Some(sha256) = shelf.bundle_about(digest(&manifest)?) else {
        let public = "no bundle about this manifest was pushed";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_pushed", public));
    };
    answer(shelf, sha256, &headers, "no-cache")
}

/// `PUT /v1/targets/{target}/{kind}`.
pub(crate) async fn point(
    State(state): State<Arc<AppState>>,
    InPath((target, kind)): InPath<(String, Kind)>,
    request: Request,
) -> Result<Json<Pointer>, ApiError> {
    const MOST: usize = 4096;
    let shelf = shelf(&state)?;
    let set_by = pusher(&state, &request)?;
    if !is_target(&target) || kind == Kind::Manifest {
        return Err(ApiError::bad_request("target", "a target's name, and bundle or assignment"));
    }
    let body = axum::body::to_bytes(request.into_body(), MOST).await;
    let body = body.map_err(|_| ApiError::too_large(format!("more than {MOST} bytes")))?;
    let Point { hosts, sha256 } =
        serde_json::from_slice(&body).map_err(|error| ApiError::bad_request("json", error.to_string()))?;
    let pointer = Pointer { hosts, target, kind, sha256, set_by, set_at: state.clock.now().to_string() };
    shelf.set(pointer.clone())?;
    tracing::info!(hosts = %pointer.hosts, target = pointer.target, %kind, %sha256, "set");
    Ok(Json(pointer))
}

/// `GET /v1/manifests`: for who may read.
pub(crate) async fn list(State(state): State<Arc<AppState>>) -> Result<Json<Listing>, ApiError> {
    Ok(Json(shelf(&state)?.listing()))
}

/// What is kept under a digest: compressed as it is, for who takes that.
fn answer(shelf: &Shelf, sha256: Digest, headers: &HeaderMap, caching: &'static str) -> Result<Response, ApiError> {
    let accepts = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let is_zstd = |coding: &str| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("zstd") && !parts.any(|weight| matches!(weight, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    };
    let takes_zstd = accepts.flat_map(|value| value.split(',')).any(is_zstd);
    // Other bytes are another tag.
    let tag = if takes_zstd { format!("\"{sha256}-zstd\"") } else { format!("\"{sha256}\"") };
    let common = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, caching.to_owned()),
        (header::VARY, "accept-encoding, authorization".to_owned()),
    ];
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let tags = [format!("\"{sha256}-zstd\""), format!("\"{sha256}\"")];
    let is_known = known.flat_map(|value| value.split(',')).any(|one| tags.iter().any(|tag| one.trim() == tag));
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    let Some((item, file)) = shelf.find(sha256)? else {
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", "nothing with this digest was pushed"));
    };
    let reader: Box<dyn std::io::Read + Send> = if takes_zstd {
        Box::new(file)
    } else {
        let decoder = zstd::stream::read::Decoder::new(file).and_then(|mut decoder| {
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Ok(decoder)
        });
        Box::new(decoder.map_err(|error| ApiError::from(ShelfError::Io(shelf.file(sha256), error)))?)
    };
    // A thread for each block, not for each who asks: whoever reads slowly holds nothing but an open file.
    let blocks = try_unfold(reader, |reader| async {
        let read = tokio::task::spawn_blocking(|| incoming::next_block(reader)).await;
        read.map_err(std::io::Error::other)?
    });
    let mut response = (StatusCode::OK, common, Body::from_stream(blocks)).into_response();
    let headers = response.headers_mut();
    let media_type = if item.kind == Kind::Manifest { "application/x-ndjson" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if takes_zstd {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    Ok(response)
}

impl From<Unfit> for ApiError {
    fn from(why: Unfit) -> Self {
        match why {
            Unfit::TooLarge(..) => Self::too_large(why.to_string()),
            Unfit::Other(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "digest", why.to_string()),
            Unfit::Compression => Self::bad_request("compression", why.to_string()),
            Unfit::NotKept(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "kind", why.to_string()),
            Unfit::Io(error) => disk(&error),
        }
    }
}

impl From<ShelfError> for ApiError {
    fn from(error: ShelfError) -> Self {
        match &error {
            ShelfError::Io(_, why) => disk(why),
            ShelfError::Damaged(..) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", "the list is damaged"),
            ShelfError::Full(..) => Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", error.to_string()),
            ShelfError::Absent(..) => Self::new(StatusCode::CONFLICT, "not_pushed", error.to_string()),
        }
    }
}

fn disk(error: &std::io::Error) -> ApiError {
    let (status, public) = if error.kind() == std::io::ErrorKind::StorageFull {
        (StatusCode::INSUFFICIENT_STORAGE, "the collector's disk is full")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the collector's disk cannot be used now")
    };
    ApiError::new(status, "disk", public).because(error)
}
