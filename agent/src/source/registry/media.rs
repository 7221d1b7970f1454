//! Owns whether a document is the index or image manifest that was asked for: what its head says and what it says itself
//! must be the same. Must not own its contents.
//!
//! Two programs that take one document for two different things deploy two different trees (CVE-2021-41190).

use driftlock_common::path::Escaped;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::problem::Problem;

/// What is asked for: indexes and image manifests, in OCI's and Docker's form.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
                                 application/vnd.oci.image.manifest.v1+json, \
                                 application/vnd.docker.distribution.manifest.list.v2+json, \
                                 application/vnd.docker.distribution.manifest.v2+json";
const INDEXES: &[&str] =
    &["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const IMAGES: &[&str] =
    &["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// What servers send who do not know better: it says nothing.
const NOTHING: &[&str] = &["application/json", "application/octet-stream", "text/plain"];
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
const NOT_SCHEMA_1: &str =
    "a Docker image of schema 1, whose layers cannot be verified: push it again with a current tool";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Image,
}

/// Checks a document with the `Content-Type` that it came with.
pub(super) fn check(content_type: Option<&str>, document: &[u8]) -> Result<(), Problem> {
    let said = content_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let said = said.as_deref().filter(|said| !said.is_empty() && !NOTHING.contains(said));
    let refuse = |text: String| Err(Problem::Unusable(text));
    if said.is_some_and(|said| said.starts_with(SCHEMA_1)) {
        return refuse(NOT_SCHEMA_1.into());
    }
    if let Some(said) = said
        && kind(said).is_none()
    {
        return refuse(format!("it comes as {}, which is no image manifest or index", shown(said)));
    }
    let shape: Shape = serde_json::from_slice(document)
        .map_err(|error| Problem::Json(Escaped(error.to_string().as_bytes()).to_string()))?;
    if shape.schema_version == Some(1) {
        return refuse(NOT_SCHEMA_1.into());
    }
    let own = shape.media_type.as_deref();
    if let (Some(said), Some(own)) = (said, own)
        && said != own
    {
        return refuse(format!("it comes as {}, but calls itself {}", shown(said), shown(own)));
    }
    let image = shape.config.is_some() || shape.layers.is_some();
    let is = match (shape.manifests.is_some(), image) {
        (true, true) => return refuse("it has both manifests and layers, so it could be taken for two images".into()),
        (true, false) => Kind::Index,
        (false, _) => Kind::Image,
    };
    match own.or(said) {
        None => Ok(()),
        Some(named) if kind(named) == Some(is) => Ok(()),
        Some(named) => refuse(format!("it calls itself {}, but is not that", shown(named))),
    }
}

fn kind(media_type: &str) -> Option<Kind> {
    if INDEXES.contains(&media_type) {
        Some(Kind::Index)
    } else if IMAGES.contains(&media_type) {
        Some(Kind::Image)
    } else {
        None
    }
}

fn shown(text: &str) -> String {
    let text: String = text.chars().take(100).collect();
    Escaped(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_document_say_the_same() {
        const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
        const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        let image = |own: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{own}","config":{{}},"layers":[]}}"#);
        let index = |own: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{own}","manifests":[]}}"#);
        let bare = r#"{"config":{},"layers":[]}"#.to_owned();
        for (content_type, document, says) in [
            (Some(OCI), image(OCI), None),
            (Some("Application/vnd.oci.image.manifest.v1+JSON; charset=utf-8"), image(OCI), None),
            (Some(DOCKER), image(DOCKER), None),
            (Some(INDEX), index(INDEX), None),
            (None, image(OCI), None),
            (None, bare.clone(), None),
            (Some(""), bare.clone(), None),
            (Some(OCI), bare.clone(), None),
            (Some("application/json"), image(OCI), None),
            (Some("application/octet-stream"), index(INDEX), None),
            (
                Some(OCI),
                image(DOCKER),
                Some("it comes as application/vnd.oci.image.manifest.v1+json, but calls itself"),
            ),
            (Some(INDEX), image(OCI), Some("but calls itself")),
            (Some(INDEX), bare.clone(), Some("calls itself application/vnd.oci.image.index.v1+json, but is not that")),
            (None, index(OCI), Some("but is not that")),
            (None, image("application/vnd.evil"), Some("calls itself application/vnd.evil, but is not that")),
            (Some("text/html"), image(OCI), Some("it comes as text/html, which is no image manifest")),
            (Some("application/vnd.oci.image.config.v1+json"), bare, Some("which is no image manifest")),
            (Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), "{}".into(), Some("schema 1")),
            (Some("application/vnd.docker.distribution.manifest.v1+json"), "{}".into(), Some("schema 1")),
            (None, r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), Some("schema 1")),
            (None, r#"{"manifests":[],"layers":[]}"#.into(), Some("both manifests and layers")),
            (None, r#"{"manifests":[],"config":{}}"#.into(), Some("both manifests and layers")),
            (None, "7".into(), Some("not the JSON expected here")),
            (None, String::new(), Some("not the JSON expected here")),
        ] {
            let said = check(content_type, document.as_bytes()).err().map(|problem| problem.to_string());
            match (says, &said) {
                (None, None) => {}
                (Some(part), Some(said)) if said.contains(part) => {}
                _ => panic!("{content_type:?} {document}: {said:?}"),
            }
        }
    }
}
