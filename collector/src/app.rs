//! Owns the router: which path goes where, and what every request passes first. Must not own sockets, so that tests
//! need none.

mod routes;

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use driftlock_common::enrolment::{ENROLL_PATH, RENEW_PATH};
use driftlock_common::event::EVENTS_PATH;
use driftlock_common::fleet::Fleet;
use driftlock_common::shelf::{MANIFESTS_PATH, TARGETS_PATH};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::{AllowedHosts, HostTokens, ReadAccess, ReadToken};
use crate::caller::Connection;
use crate::clock::{Clock, Timestamp};
use crate::error::{ApiError, RefusedFor};
use crate::fleet::Outlook;
use crate::gate::{Gate, GateLimits};
use crate::identity::Identities;
use crate::metrics::{self, Metrics};
use crate::shelf::{self, Shelf};
use crate::store::{HostQuery, Store, StoreError};
use crate::{enroll, ingest, page, query, stream};

pub(crate) use self::routes::Routes;

/// Open streams at one time.
const STREAMS: usize = 128;

/// Nothing but what the collector itself serves, and no script or style inside a page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What requests share.
#[derive(Debug)]
pub struct AppState {
    /// Where reports are kept.
    pub store: Arc<dyn Store>,
    /// Who may read.
    pub read_access: ReadAccess,
    /// Who is who.
    pub identities: Arc<Identities>,
    /// By which silence, expiry and everything else is judged.
    pub clock: Clock,
    /// Names under which requests are answered.
    pub allowed_hosts: AllowedHosts,
    /// Counters.
    pub metrics: Metrics,
    /// Ends the streams, which would otherwise never end.
    pub shutdown: CancellationToken,
    pub(crate) gate: Arc<Gate>,
    pub(crate) streams: Arc<Semaphore>,
    tokens: RwLock<Arc<HostTokens>>,
    shelf: OnceLock<Shelf>,
    fleet: RwLock<Arc<Fleet>>,
}

impl AppState {
    /// A state for requests of hosts that have tokens alone.
    pub fn new(
        store: Arc<dyn Store>,
        tokens: HostTokens,
        read_token: Option<ReadToken>,
        allowed_hosts: AllowedHosts,
        shutdown: CancellationToken,
        limits: GateLimits,
    ) -> Arc<Self> {
        let identities = Arc::new(Identities::empty(Arc::clone(&store), Clock::system()));
        Self::with_identities(store, identities, tokens, ReadAccess::of(read_token), allowed_hosts, shutdown, limits)
    }

    /// A state for requests.
    pub fn with_identities(
        store: Arc<dyn Store>,
        identities: Arc<Identities>,
        tokens: HostTokens,
        read_access: ReadAccess,
        allowed_hosts: AllowedHosts,
        shutdown: CancellationToken,
        limits: GateLimits,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            clock: identities.clock().clone(),
            identities,
            read_access,
            allowed_hosts,
            metrics: Metrics::default(),
            shutdown,
            gate: Gate::new(limits),
            streams: Arc::new(Semaphore::new(STREAMS)),
            tokens: RwLock::new(Arc::new(tokens)),
            shelf: OnceLock::new(),
            fleet: RwLock::default(),
        })
    }

    /// Keeps what is pushed there; without one nothing can be. The first one counts.
    pub fn keep_on(&self, shelf: Shelf) {
        let _the_first = self.shelf.set(shelf);
    }

    /// Where what was pushed is kept.
    pub fn shelf(&self) -> Option<&Shelf> {
        self.shelf.get()
    }

    /// The tokens in force.
    pub fn tokens(&self) -> Arc<HostTokens> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other tokens in force.
    pub fn replace_tokens(&self, tokens: HostTokens) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }

    /// The time, by the collector's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Puts in force what an operator says of the fleet.
    pub fn replace_fleet(&self, fleet: Fleet) {
        *self.fleet.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fleet);
    }

    /// What is known at present besides what hosts say.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn outlook(&self) -> Result<Outlook, StoreError> {
        let hearing = self.store.hearing().await?;
        let fleet = Arc::clone(&self.fleet.read().unwrap_or_else(PoisonError::into_inner));
        Ok(Outlook { now: self.now(), hearing, fleet })
    }
}

/// The document of the API (OpenAPI 3.1): every route, what it takes, and what it answers.
pub const DOCUMENT: &str = include_str!("../api/openapi.json");

/// The router.
pub fn app(state: Arc<AppState>) -> Router {
    let reading = reading()
        .router
        .layer(middleware::from_fn_with_state(Arc::clone(&state), may_read))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), is_named));
    reading
        .merge(unnamed().router)
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method")
        })
        .layer(middleware::map_response(with_security_headers))
        .layer(middleware::map_response_with_state(Arc::clone(&state), count_refusal))
        .with_state(state)
}

/// Every route: its method in lower case, and its path.
pub fn routes() -> Vec<(&'static str, String)> {
    reading().merge(unnamed()).known
}

/// For who may read, under the collector's names.
fn reading() -> Routes {
    page::routes()
        .get("/v1/hosts", query::hosts)
        .get("/v1/findings", query::findings)
        .get("/v1/groups", query::groups)
        .get("/v1/conditions", query::conditions)
        .get("/v1/holes", query::holes)
        .get("/v1/identities", query::identities)
        .get("/v1/tokens", query::tokens)
        .get("/v1/revocations", query::revocations)
        .get("/v1/cas", query::cas)
        .get("/v1/stream", stream::stream)
        .get(MANIFESTS_PATH, shelf::list)
        .get("/v1/openapi.json", async || ([(header::CONTENT_TYPE, "application/json")], DOCUMENT))
        .get("/metrics", metrics::show)
}

/// Under whatever name: a report needs a credential that no page in a browser has, and an agent that is refused sets its
/// events aside. Health is asked for by address, and tells nothing.
fn unnamed() -> Routes {
    let by_digest = format!("{MANIFESTS_PATH}/{{sha256}}");
    let wanted = format!("{TARGETS_PATH}/{{target}}/{{kind}}");
    Routes::default()
        .post(EVENTS_PATH, ingest::events)
        .post(ENROLL_PATH, enroll::enroll)
        .post(RENEW_PATH, enroll::renew)
        .get(&by_digest, shelf::get)
        .put(&by_digest, shelf::put)
        .get(&format!("{by_digest}/bundle"), shelf::about)
        .get(&wanted, shelf::wanted)
        .put(&wanted, shelf::point)
        .get("/healthz", async || "ok\n")
        .get("/readyz", ready)
}

async fn may_read(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    match state.read_access.check(request.headers(), |token| state.identities.may_read(token)) {
        Ok(()) => {
            // Where everyone may read, that says nothing of who does.
            if let (ReadAccess::Token(_), Some(connection)) =
                (&state.read_access, request.extensions().get::<Connection>())
            {
                connection.is_known();
            }
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

async fn is_named(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    match state.allowed_hosts.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// Ready is who can read what is stored.
async fn ready(State(state): State<Arc<AppState>>) -> Result<&'static str, ApiError> {
    state.store.hosts(HostQuery { limit: 1, ..HostQuery::default() }).await?;
    Ok("ready\n")
}

async fn count_refusal(State(state): State<Arc<AppState>>, response: Response) -> Response {
    if let Some(RefusedFor(code)) = response.extensions().get() {
        state.metrics.count_refusal(code);
    }
    response
}

async fn with_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
