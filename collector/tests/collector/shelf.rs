//! Pushing manifests and asking for them: what is kept, what is refused, who may.

use axum::body::Body as HttpBody;
use axum::http::{Request, StatusCode, header};
use driftlock_collector::app::{AppState, app};
use driftlock_collector::auth::{AllowedHosts, HostTokens, ReadToken};
use driftlock_collector::gate::GateLimits;
use driftlock_collector::shelf::Shelf;
use driftlock_collector::store::identity::Scope;
use driftlock_collector::store::sqlite::{Limits, SqliteStore};
use driftlock_common::digest::Digest;
use driftlock_common::shelf::{Listing, MAX_BODY};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const READ: &str = "Bearer whoever-has-this-token-may-read";
const HOST: &str = "Bearer token-of-web-1-0123456789";
const MANIFEST: &[u8] = b"{\"driftlock\":1,\"profile\":\"content\"}\n";

struct Stage {
    app: axum::Router,
    directory: TempDir,
    /// What who may push sends.
    push: String,
}

impl Stage {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let token = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text.strip_prefix("Bearer ").unwrap()).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            ReadToken::load(&path).unwrap()
        };
        let read = token("read", READ);
        let store = Arc::new(SqliteStore::open(directory.path(), Limits::default()).unwrap());
        let hosts = HostTokens::of("web-1".parse().unwrap(), HOST.strip_prefix("Bearer ").unwrap());
        let names = AllowedHosts::new("127.0.0.1".parse().unwrap(), &[]);
        let state = AppState::new(store, hosts, Some(read), names, CancellationToken::new(), GateLimits::default());
        state.keep_on(Shelf::open(directory.path()).unwrap());
        let (secret, _) = state.identities.make_access_token(Scope::Push, Duration::from_mins(1)).await.unwrap();
        let push = format!("Bearer {}", secret.reveal());
        Self { app: app(state), directory, push }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<HttpBody>,
    ) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = self.app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec())
    }

    async fn put(&self, sha256: Digest, headers: &[(&str, &str)], body: &[u8]) -> (StatusCode, String) {
        let headers = [headers, &[("authorization", &*self.push)]].concat();
        let (status, _, body) = self.send("PUT", &format!("/v1/manifests/{sha256}"), &headers, body.to_vec()).await;
        (status, String::from_utf8(body).unwrap())
    }

    /// Files of the shelf, but for its list.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("manifests")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "list.json").collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn what_is_pushed_is_what_is_had_in_the_encoding_that_is_taken() {
    let stage = Stage::new().await;
    let sha256 = Digest::sha256(MANIFEST);
    let compressed = zstd::encode_all(MANIFEST, 3).unwrap();
    let (status, said) = stage.put(sha256, &[("content-encoding", "zstd")], &compressed).await;
    assert_eq!(status, StatusCode::CREATED, "{said}");
    // Again, and as it is: it is there already.
    assert_eq!(stage.put(sha256, &[], MANIFEST).await.0, StatusCode::OK);
    assert_eq!(stage.files(), [format!("{sha256}.zst")]);
    let path = format!("/v1/manifests/{sha256}");
    for (credential, accepts, encoding) in [
        (HOST, "zstd", Some("zstd")),
        (READ, "gzip, zstd;q=0.5", Some("zstd")),
        (HOST, "identity", None),
        (HOST, "zstd;q=0", None),
    ] {
        let headers = [("authorization", credential), ("accept-encoding", accepts)];
        let (status, headers, body) = stage.send("GET", &path, &headers, "").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap()), encoding);
        let plain = if encoding.is_some() { zstd::decode_all(&body[..]).unwrap() } else { body };
        assert_eq!(plain, MANIFEST);
        assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        // What is known does not come again, in either encoding.
        for tag in [headers[header::ETAG].to_str().unwrap(), &format!("\"{sha256}\"")] {
            let headers = [("authorization", credential), ("if-none-match", tag)];
            assert_eq!(stage.send("GET", &path, &headers, "").await.0, StatusCode::NOT_MODIFIED);
        }
    }
    let nobody = stage.send("GET", &path, &[], "").await.0;
    assert_eq!(nobody, StatusCode::UNAUTHORIZED);
    let (_, _, body) = stage.send("GET", "/v1/manifests", &[("authorization", READ)], "").await;
    let listing: Listing = serde_json::from_slice(&body).unwrap();
    assert_eq!((listing.items.len(), listing.items[0].bytes), (1, MANIFEST.len() as u64));
    let digest = Digest::sha256(stage.push.strip_prefix("Bearer ").unwrap().as_bytes()).to_hex();
    assert_eq!(listing.items[0].pushed_by, format!("token {}", &digest[..12]));
}

#[tokio::test]
async fn what_is_not_what_it_says_leaves_nothing_behind() {
    let stage = Stage::new().await;
    let sha256 = Digest::sha256(MANIFEST);
    let zstd = [("content-encoding", "zstd")];
    let compressed = zstd::encode_all(MANIFEST, 3).unwrap();
    let junk = b"{}".to_vec();
    // Small as it comes, and larger than anything but a manifest may be.
    let bomb = zstd::encode_all(&vec![b' '; 64 << 20][..], 3).unwrap();
    assert!(bomb.len() < 100_000);
    for (digest, headers, body, status, code) in [
        (sha256, &[][..], &b"{\"driftlock\":2}\n".to_vec(), 422, "digest"),
        (sha256, &[], &MANIFEST[..10].to_vec(), 422, "digest"),
        (sha256, &zstd, &compressed[..compressed.len() / 2].to_vec(), 422, "digest"),
        (sha256, &zstd, &MANIFEST.to_vec(), 400, "compression"),
        (sha256, &[("content-encoding", "gzip")], &compressed, 415, "content_encoding"),
        (Digest::sha256(&junk), &[], &junk, 422, "kind"),
        (sha256, &zstd, &bomb, 413, "too_large"),
    ] {
        let (found, said) = stage.put(digest, headers, body).await;
        assert_eq!(found.as_u16(), status, "{said}");
        assert!(said.contains(&format!("\"code\":\"{code}\"")), "{said}");
    }
    let too_long = (MAX_BODY + 1).to_string();
    let (status, _) = stage.put(sha256, &[("content-length", &too_long)], b"").await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _, _) = stage.send("PUT", "/v1/manifests/../../x", &[("authorization", &*stage.push)], "").await;
    assert!(status.is_client_error());
    let (status, _, _) = stage.send("PUT", "/v1/manifests/ABC", &[("authorization", &*stage.push)], "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(stage.files().is_empty(), "{:?}", stage.files());
}

#[tokio::test]
async fn pushing_needs_its_own_token() {
    let stage = Stage::new().await;
    let sha256 = Digest::sha256(MANIFEST);
    let point = format!("{{\"hosts\":\"*\",\"sha256\":\"{sha256}\"}}");
    for credential in [HOST, READ, "Bearer nobodys-token-0123456789", "Basic eDp4"] {
        for path in [format!("/v1/manifests/{sha256}"), "/v1/targets/app/bundle".to_owned()] {
            let (status, _, _) = stage.send("PUT", &path, &[("authorization", credential)], point.clone()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{credential} {path}");
        }
    }
    assert!(stage.files().is_empty());
    // Nothing is for anybody that was not pushed, and nothing but what has a name.
    let headers = [("authorization", &*stage.push)];
    let put = |path: &'static str, body: String| stage.send("PUT", path, &headers, body);
    assert_eq!(put("/v1/targets/app/bundle", point.clone()).await.0, StatusCode::CONFLICT);
    assert_eq!(put("/v1/targets/app/manifest", point.clone()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(put("/v1/targets/a%20b/bundle", point.clone()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(put("/v1/targets/app/bundle", point.replace('*', "a b")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(put("/v1/targets/app/bundle", "[".repeat(100_000)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    // A manifest is no bundle.
    assert_eq!(stage.put(sha256, &[], MANIFEST).await.0, StatusCode::CREATED);
    assert_eq!(put("/v1/targets/app/bundle", point).await.0, StatusCode::CONFLICT);
    let (status, _, _) = stage.send("GET", "/v1/targets/app/bundle", &[("authorization", HOST)], "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _, _) = stage.send("GET", "/v1/targets/app/bundle", &[("authorization", READ)], "").await;
    assert!(status.is_client_error() && status != StatusCode::NOT_FOUND, "{status}");
}
