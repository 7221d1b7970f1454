//! Owns the pages: requests to queries, records to what a template shows, and the assets. Everything an agent said goes
//! through `shown` and the template engine's escaping. Must not own what is asked of the store, or judgement.

mod compare;
mod condition;
mod coverage;
mod enrolment;
mod filter;
mod finding;
mod group;
mod hole;
mod host;
mod link;
mod overview;
mod shown;

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use driftlock_common::policy::{Ruling, Severity};

use crate::app::Routes;
use crate::clock::Timestamp;
use crate::error::{ApiError, InPath};
use crate::fleet::{HostState, duration};
use crate::tally::Tally;
use compare::grouped;
use link::Link;

/// The files a page refers to, compiled in: name, media type, content.
const ASSETS: [(&str, &str, &str); 3] = [
    ("style.css", "text/css; charset=utf-8", include_str!("../assets/style.css")),
    ("live.js", "text/javascript; charset=utf-8", include_str!("../assets/live.js")),
    ("icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
];

/// The pages, and what they refer to.
pub(crate) fn routes() -> Routes {
    Routes::default()
        .get("/", overview::show)
        .get("/hosts", host::list)
        .get("/host", host::show)
        .get("/findings", finding::list)
        .get("/finding", finding::show)
        .get("/groups", group::list)
        .get("/conditions", condition::list)
        .get("/holes", hole::list)
        .get("/enrolment", enrolment::hosts)
        .get("/tokens", enrolment::tokens)
        .get("/assets/{name}", asset)
}

/// What every page has around its content.
struct Frame {
    version: &'static str,
    loaded: Moment,
    /// Whether it follows what happens.
    live: bool,
}

/// A point in time, exact and as a distance.
struct Moment {
    exact: Timestamp,
    ago: String,
}

/// Until when something is good, exact and as a distance.
struct Deadline {
    exact: Timestamp,
    words: String,
}

/// Open findings of one severity, or those that are tolerated.
struct Marked {
    mark: &'static str,
    number: String,
    none: bool,
    link: Link,
}

/// Hosts in one state.
struct Tile {
    state: HostState,
    number: String,
    none: bool,
    link: Link,
}

impl Frame {
    /// Of a page that follows what happens.
    fn live(now: Timestamp) -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), loaded: Moment::new(now, now), live: true }
    }

    /// Of the first part of a list, or a further one, under which nothing moves.
    fn of_part(cursor: &str, now: Timestamp) -> Self {
        Self { live: cursor.is_empty(), ..Self::live(now) }
    }
}

impl Moment {
    fn new(exact: Timestamp, now: Timestamp) -> Self {
        Self { exact, ago: format!("{} ago", duration(now.seconds_since(exact))) }
    }

    /// Of what was kept as text.
    fn read(text: &str, now: Timestamp) -> Option<Self> {
        Timestamp::parse(text).map(|exact| Self::new(exact, now))
    }
}

impl Deadline {
    fn new(exact: Timestamp, now: Timestamp) -> Self {
        let words = if exact > now {
            format!("in {}", duration(exact.seconds_since(now)))
        } else {
            format!("{} ago", duration(now.seconds_since(exact)))
        };
        Self { exact, words }
    }
}

impl Marked {
    /// Every severity, the loudest first, and what is tolerated; each leads to its findings.
    fn all(open: &Tally, within: &Link) -> Vec<Self> {
        let alerts = open.alerts.loudest_first().map(|(severity, number)| (Some(severity), number));
        let all = alerts.chain([(None, open.tolerated)]).map(|(severity, number)| Self {
            mark: mark(severity),
            number: grouped(number),
            none: number == 0,
            link: match severity {
                Some(severity) => within.clone().and("severity", severity.name()),
                None => within.clone().and("verdict", Ruling::Tolerated.name()),
            },
        });
        all.collect()
    }

    /// Those of which there are any.
    fn some(open: &Tally, within: &Link) -> Vec<Self> {
        Self::all(open, within).into_iter().filter(|marked| !marked.none).collect()
    }
}

/// `/assets/NAME`.
async fn asset(InPath(name): InPath<String>) -> Result<Response, ApiError> {
    let (_, media_type, content) = ASSETS
        .into_iter()
        .find(|(known, ..)| *known == name)
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is no such asset"))?;
    Ok(([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-cache")], content).into_response())
}

fn render(page: &impl Template) -> Result<Response, ApiError> {
    let html = page.render().map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "page", "the page cannot be shown").because(error)
    })?;
    Ok(Html(html).into_response())
}

/// The first digits of a digest.
fn shortened(digest: &str) -> String {
    digest.chars().take(digest.find(':').unwrap_or(0) + 13).collect()
}

/// The word of how loudly something is said.
const fn mark(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(severity) => severity.name(),
        None => Ruling::Tolerated.name(),
    }
}
