//! A registry in memory that takes what is pushed and lists referrers (OCI distribution-spec v1.1), or leaves that to its
//! clients, and does one thing otherwise if it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use driftlock_tests::image::sha256;
use serde_json::{Value, json};

use super::server::{Act, Asked, IMAGE_TYPE, Image, Reply, Server};

pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// What it has.
#[derive(Default)]
pub(super) struct Store {
    /// Blobs by digest; manifests by digest and by tag.
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    manifests: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(super) lists_referrers: bool,
}

/// Answers before the store does.
pub(super) type Instead = Box<dyn Fn(&Store, &Asked<'_>) -> Option<Reply> + Send + Sync>;

impl Store {
    /// One that lists referrers.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { lists_referrers: true, ..Self::default() })
    }

    /// One that leaves the list to its clients.
    pub(super) fn without_referrers() -> Arc<Self> {
        Arc::default()
    }

    /// Serves it, and the image.
    pub(super) fn serve(self: &Arc<Self>, image: &Arc<Image>, instead: Instead) -> Result<Server> {
        let store = Arc::clone(self);
        let act: Act = Box::new(move |asked| instead(&store, asked).or_else(|| store.answer(asked)));
        Server::start(Arc::clone(image), act)
    }

    /// The manifest under a tag or digest.
    pub(super) fn manifest(&self, name: &str) -> Result<Value> {
        let bytes = lock(&self.manifests).get(name).cloned().with_context(|| format!("no manifest {name}"))?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    pub(super) fn has_manifest(&self, name: &str) -> bool {
        lock(&self.manifests).contains_key(name)
    }

    /// Puts a manifest there, under its digest.
    pub(super) fn put(&self, manifest: &Value) -> String {
        self.put_as(None, manifest.to_string().into_bytes())
    }

    pub(super) fn put_as(&self, tag: Option<&str>, bytes: Vec<u8>) -> String {
        let digest = format!("sha256:{}", sha256(&bytes));
        let mut manifests = lock(&self.manifests);
        manifests.extend(tag.map(|tag| (tag.to_owned(), bytes.clone())));
        manifests.insert(digest.clone(), bytes);
        digest
    }

    pub(super) fn put_blob(&self, bytes: &[u8]) -> Value {
        let digest = format!("sha256:{}", sha256(bytes));
        lock(&self.blobs).insert(digest.clone(), bytes.to_vec());
        json!({"digest": digest, "size": bytes.len()})
    }

    pub(super) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        lock(&self.blobs).get(digest).cloned()
    }

    /// Removes a manifest.
    pub(super) fn remove(&self, digest: &str) {
        lock(&self.manifests).remove(digest);
    }

    /// Everything that refers to `image`, or says so.
    pub(super) fn artifacts(&self) -> Vec<(String, Value)> {
        let manifests = lock(&self.manifests);
        let parsed = manifests.iter().filter(|(name, _)| name.starts_with("sha256:"));
        parsed
            .filter_map(|(digest, bytes)| Some((digest.clone(), serde_json::from_slice::<Value>(bytes).ok()?)))
            .filter(|(_, manifest)| manifest["subject"].is_object())
            .collect()
    }

    /// As a list has it.
    pub(super) fn entry(&self, digest: &str, manifest: &Value) -> Value {
        let size = lock(&self.manifests).get(digest).map_or(0, Vec::len);
        json!({
            "mediaType": IMAGE_TYPE, "digest": digest, "size": size,
            "artifactType": manifest["artifactType"], "annotations": manifest["annotations"],
        })
    }

    pub(super) fn list(&self, image: &str) -> Value {
        let about = self.artifacts().into_iter().filter(|(_, manifest)| manifest["subject"]["digest"] == *image);
        let entries: Vec<Value> = about.map(|(digest, manifest)| self.entry(&digest, &manifest)).collect();
        json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
    }

    fn answer(&self, asked: &Asked<'_>) -> Option<Reply> {
        let (path, query) = asked.path.split_once('?').unwrap_or((asked.path, ""));
        let (kind, name) = path.strip_prefix("/v2/app/")?.split_once('/')?;
        match (asked.method(), kind) {
            ("POST", "blobs") => {
                Some(Reply::Whole(202, vec![("Location", "/v2/app/blobs/uploads/1?state=x%2F".into())], Vec::new()))
            }
            ("PUT", "blobs") => {
                let digest = query.strip_prefix("state=x%2F&digest=sha256%3A").unwrap_or_default();
                if sha256(asked.body) != digest {
                    return Some(Reply::Whole(400, Vec::new(), Vec::new()));
                }
                self.put_blob(asked.body);
                Some(Reply::Whole(201, Vec::new(), Vec::new()))
            }
            ("PUT", "manifests") => {
                let digest = self.put_as(Some(name), asked.body.to_vec());
                let subject = serde_json::from_slice::<Value>(asked.body).ok()?["subject"]["digest"].clone();
                let said = subject.as_str().filter(|_| self.lists_referrers);
                let headers = said.map(|subject| ("OCI-Subject", subject.to_owned()));
                let headers = headers.into_iter().chain([("Docker-Content-Digest", digest)]).collect();
                Some(Reply::Whole(201, headers, Vec::new()))
            }
            ("GET", "referrers") => Some(if self.lists_referrers {
                let list = self.list(name).to_string().into_bytes();
                Reply::Whole(200, vec![("Content-Type", INDEX_TYPE.into())], list)
            } else {
                Reply::Whole(404, Vec::new(), b"404 page not found".to_vec())
            }),
            ("GET", "manifests") => {
                let bytes = lock(&self.manifests).get(name).cloned()?;
                let is_index = serde_json::from_slice::<Value>(&bytes).is_ok_and(|said| said["manifests"].is_array());
                let kind = if is_index || name.starts_with("sha256-") { INDEX_TYPE } else { IMAGE_TYPE };
                Some(Reply::Whole(200, vec![("Content-Type", kind.into())], bytes))
            }
            ("GET", "blobs") => Some(Reply::Whole(200, Vec::new(), self.blob(name)?)),
            _ => None,
        }
    }
}

impl Asked<'_> {
    pub(super) fn method(&self) -> &str {
        self.head.first.split(' ').next().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
