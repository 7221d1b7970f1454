//! Owns finding the signed manifest of an image beside it in the registry. Must not own whom to believe: what is found is
//! handed to who decides, byte for byte.
//!
//! Whoever may write to the repository may attach what they like. So nothing of a list is believed, everything is bounded, and
//! what is not signed by a wanted key is passed over. Two manifests that both are signed are a question that nobody
//! here can answer: the time in a statement proves nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use driftlock_common::digest::Digest;
use driftlock_common::trust::{Envelope, Statement};

use super::super::image::{self, Blobs as _};
use super::super::problem::{Problem, SourceError};
use super::artifact::{self, Listed, MAX_BUNDLES, MAX_REFERRERS, Parts};
use super::attach::fallback_tag;
use super::client::{Request, Tries};
use super::download::Download;
use super::{MAX_MANIFEST, Registry, Repository, route};

/// The most pages of a list.
const MAX_PAGES: usize = 32;

/// A bundle that was found, and the files that it was put into.
#[derive(Debug)]
pub struct Found {
    /// The bundle, with its manifest beside it.
    pub bundle: std::path::PathBuf,
    /// What the registry calls the artifact that holds it.
    pub artifact: Digest,
}

/// A bundle that is believed.
struct Attached {
    artifact: Digest,
    bytes: Vec<u8>,
    parts: Parts,
}

/// A part of a list, and where the next one is.
struct Page {
    bytes: Vec<u8>,
    next: Option<String>,
}

/// Finds the one manifest of an image for which there is a bundle that `is_believed` about it, and puts both into a directory.
/// Of an index it is the image for the platform, and what is attached to that comes before what is attached to the index.
///
/// # Errors
/// If there is none, there are several that differ, or the registry does not give what it should.
pub fn find(
    repository: &Repository,
    named: Digest,
    platform: &str,
    is_believed: impl Fn(&Envelope, Digest) -> Result<Statement, String>,
    directory: &Path,
) -> Result<Found, SourceError> {
    let registry = Registry::open(repository)?;
    let at = |problem: Problem| problem.at(format!("{}@sha256:{named}", registry.place()));
    let image = match registry.manifest(named, None) {
        // What is attached may be there without it.
        Err(SourceError { problem: Problem::Missing, .. }) => named,
        document => image::meant(named, &document?, &registry.place(), platform, &registry)?,
    };
    let mut refused = Vec::new();
    for subject in [Some(image), (named != image).then_some(named)].into_iter().flatten() {
        let is_believed = |envelope: &Envelope| is_believed(envelope, image);
        let believed = registry.believed(subject, is_believed, &mut refused, at)?;
        let mut believed = believed.into_iter();
        match (believed.next(), believed.next()) {
            (None, _) => {}
            (Some((one, _)), Some((other, _))) => {
                return Err(at(Problem::Untrusted(format!(
                    "two signed manifests of one image differ, {one} and {other}: take the right one by --manifest BUNDLE"
                ))));
            }
            (Some((sha256, Attached { artifact, bytes, parts })), None) => {
                let bundle = directory.join("image.bundle");
                let written = std::fs::write(&bundle, bytes);
                written.map_err(|error| at(Problem::Cache(error)))?;
                registry.save(&parts, sha256, directory)?;
                return Ok(Found { bundle, artifact });
            }
        }
    }
    Err(at(none(&refused)))
}

/// What is said where no bundle is believed: why the first was not, and how many there are.
fn none(refused: &[String]) -> Problem {
    match refused.split_first() {
        None => Problem::NoImage("no signed manifest is attached to it: driftlock attach puts one there".into()),
        Some((first, more)) => {
            let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
            Problem::Untrusted(format!("no bundle that is attached to it is believed: {first}{more}"))
        }
    }
}

impl Registry {
    /// The believed bundles that are attached to `subject`, by the manifest that they are about; why others are not.
    fn believed(
        &self,
        subject: Digest,
        is_believed: impl Fn(&Envelope) -> Result<Statement, String>,
        refused: &mut Vec<String>,
        at: impl Fn(Problem) -> SourceError,
    ) -> Result<BTreeMap<Digest, Attached>, SourceError> {
        let mut believed = BTreeMap::new();
        for listed in &self.listed(subject).map_err(&at)? {
            let digest = listed.sha256().map_err(&at)?;
            let artifact = match self.manifest(digest, Some(listed.size())) {
                // A list that clients keep may still have what was deleted.
                Err(SourceError { problem: Problem::Missing, .. }) => {
                    refused.push(format!("sha256:{digest} is listed and not there"));
                    continue;
                }
                artifact => artifact?,
            };
            let Some(parts) = artifact::parts(&artifact, subject).map_err(&at)? else { continue };
            let bytes = self.document(parts.bundle, Some(parts.bundle_size), parts.bundle_size)?;
            let statement = Envelope::parse(&bytes).map_err(|error| error.to_string()).and_then(|e| is_believed(&e));
            match statement {
                Ok(statement) => {
                    believed.entry(statement.manifest).or_insert(Attached { artifact: digest, bytes, parts });
                }
                Err(why) => refused.push(format!("sha256:{digest}: {why}")),
            }
        }
        Ok(believed)
    }

    /// What may hold a bundle about the image: as the registry lists it, else as its clients do.
    fn listed(&self, image: Digest) -> Result<Vec<Listed>, Problem> {
        let ours = |listed: Vec<Listed>| -> Vec<Listed> { listed.into_iter().filter(Listed::may_be_ours).collect() };
        let listed = self.referrers(image)?.map(ours).unwrap_or_default();
        // A registry that has learned to list may not know what was attached before.
        let listed = if listed.is_empty() {
            let tagged = self.tagged(&fallback_tag(image))?;
            let listed = tagged.map(|bytes| artifact::list(&bytes)).transpose()?.unwrap_or_default();
            few(listed.len())?;
            ours(listed)
        } else {
            listed
        };
        if listed.len() > MAX_BUNDLES {
            let text =
                format!("more than {MAX_BUNDLES} bundles are attached to it: take the right one by --manifest BUNDLE");
            return Err(Problem::Untrusted(text));
        }
        Ok(listed)
    }

    /// Every referrer, page after page; `None` if the registry does not list them.
    pub(super) fn referrers(&self, image: Digest) -> Result<Option<Vec<Listed>>, Problem> {
        let first = self.client.repository.url(&format!("referrers/sha256:{image}"));
        let first = first.map_err(|_| self.client.no_address())?;
        let (mut page, mut all) = (first.clone(), Vec::new());
        for _ in 0..MAX_PAGES {
            let rest = rest_of(&first, &page, image);
            let request = Request { rest: &rest, accept: Some(artifact::INDEX), from: 0 };
            let Some(Page { bytes, next }) = self.page(request)? else {
                return if all.is_empty() { Ok(None) } else { Err(Problem::Missing) };
            };
            all.extend(artifact::list(&bytes)?);
            few(all.len())?;
            let Some(next) = next else { return Ok(Some(all)) };
            page = first
                .join(&next)
                .ok()
                .filter(|next| route::same_origin(&first, next) && next.path() == first.path())
                .ok_or_else(|| Problem::Unusable("the next page of its referrers is somewhere else".into()))?;
        }
        Err(Problem::Unusable(format!("its referrers have more than {MAX_PAGES} pages")))
    }

    /// A page of the list, and where the next one is (RFC 8288).
    fn page(&self, request: Request<'_>) -> Result<Option<Page>, Problem> {
        let mut tries = Tries::default();
        self.client.wait(async {
            loop {
                let Some(response) = self.client.ask(request, &mut tries).await? else { return Ok(None) };
                let link = response.headers().get(reqwest::header::LINK).and_then(|value| value.to_str().ok());
                let next = link.and_then(next_page);
                let host = route::host(response.url());
                let body = super::body::Body::new(response, host).read_up_to(MAX_MANIFEST, &self.client.limits).await;
                match body {
                    Ok(Some(bytes)) => return Ok(Some(Page { bytes, next })),
                    Ok(None) => return Err(Problem::TooLarge { limit: MAX_MANIFEST }),
                    Err(stop) => self.client.pause(stop, &mut tries).await?,
                }
            }
        })
    }

    /// The list under a tag; `None` if there is no such tag.
    pub(super) fn tagged(&self, tag: &str) -> Result<Option<Vec<u8>>, Problem> {
        match self.manifest_named(tag, None) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Problem::Missing) => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Writes the manifest's blob beside its bundle.
    fn save(&self, parts: &Parts, sha256: Digest, directory: &Path) -> Result<(), SourceError> {
        let ending = if parts.is_compressed { ".zst" } else { "" };
        let path = directory.join(format!("{}{ending}", crate::bundle::file_name(sha256)));
        let at = |problem: Problem| problem.at(self.place_of(parts.manifest));
        let mut file = File::create_new(path).map_err(|error| at(Problem::Cache(error)))?;
        let mut download = Download::new(&self.client, parts.manifest, parts.manifest_size);
        let copied = io::copy(&mut download, &mut file);
        download.finish().map_err(at)?;
        copied.map(drop).map_err(|error| at(Problem::Cache(error)))
    }
}

fn few(referrers: usize) -> Result<(), Problem> {
    if referrers <= MAX_REFERRERS {
        return Ok(());
    }
    Err(Problem::Unusable(format!("more than {MAX_REFERRERS} referrers, which are not looked through")))
}

/// Behind the repository, with the query that a page has.
fn rest_of(first: &reqwest::Url, page: &reqwest::Url, image: Digest) -> String {
    let query = page.query().filter(|_| page != first).map(|query| format!("?{query}")).unwrap_or_default();
    format!("referrers/sha256:{image}{query}")
}

/// The target of the first `rel="next"`.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|one| matches!(one.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then(|| target.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_read_from_its_link() {
        for (link, next) in [
            ("</v2/app/referrers/x?n=2>; rel=\"next\"", Some("/v2/app/referrers/x?n=2")),
            ("</a>; rel=prev, </b>; x=y; rel=next", Some("/b")),
            ("</a>; rel=\"prev\"", None),
            ("</a; rel=\"next\"", None),
            ("", None),
        ] {
            assert_eq!(next_page(link).as_deref(), next, "{link}");
        }
    }
}
