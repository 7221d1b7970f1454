//! Owns a request to a registry until its answer begins: the credential, redirects, what is tried again. Must not own
//! what is in an answer.

use std::future::Future;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use super::body::Body;
use super::credentials::{self, Credential, Entry, File};
use super::error::{Code, RegistryError};
use super::limits::{CONNECT, LONGEST_PAUSE, Limits};
use super::reference::Repository;
use super::route::{self, MAX_REDIRECTS};
use super::token::{self, Grant};
use super::{challenge, helper};
use crate::http::{self, Roots, Settings, chain, parse_retry_after};

/// How much of an answer that is an error is read, in bytes.
const MAX_ERROR: u64 = 64 * 1024;

/// Asks one registry for parts of one repository. Its methods are not for async code: it brings its own runtime.
#[derive(Debug)]
pub(super) struct Client {
    runtime: Runtime,
    pub(super) repository: Repository,
    pub(super) limits: Limits,
    pub(super) access: Access,
    plain: OnceLock<reqwest::Client>,
    secure: OnceLock<reqwest::Client>,
    /// Looked up once a registry asks for it.
    credential: OnceCell<Option<Credential>>,
    grant: Mutex<Option<Grant>>,
}

/// What a registry is asked to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading alone.
    Pull,
    /// Writing too.
    Push,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is of no use to ask again.
    Fail(RegistryError),
    /// Another try may help; not before this has passed, if the registry said so.
    Again(RegistryError, Option<Duration>),
}

/// How often something was asked for.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Behind the repository: `blobs/sha256:…`.
    pub(super) rest: &'a str,
    /// The media types that are wanted, if they matter.
    pub(super) accept: Option<&'static str>,
    /// From which byte on.
    pub(super) from: u64,
}

impl Client {
    pub(super) fn new(repository: &Repository, limits: Limits, access: Access) -> Result<Self, RegistryError> {
        // The worker keeps connections going while hashing threads do not read.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(RegistryError::Runtime)?;
        Ok(Self {
            runtime,
            repository: repository.clone(),
            limits,
            access,
            plain: OnceLock::new(),
            secure: OnceLock::new(),
            credential: OnceCell::new(),
            grant: Mutex::new(None),
        })
    }

    /// Waits for `work`.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Asks until there is an answer: 200, 206, 416 where only a part was asked for; `None` if there is no such thing.
    pub(super) async fn ask(&self, request: Request<'_>, tries: &mut Tries) -> Result<Option<Response>, RegistryError> {
        loop {
            match self.ask_once(request).await {
                Ok(answer) => return Ok(answer),
                // What was there a moment ago may come back.
                Err(Stop::Fail(error @ RegistryError::Unreachable { .. })) if tries.0 > 0 => {
                    self.pause(Stop::Again(error, None), tries).await?;
                }
                Err(stop) => self.pause(stop, tries).await?,
            }
        }
    }

    /// Waits before another try, if there is to be one.
    pub(super) async fn pause(&self, stop: Stop, tries: &mut Tries) -> Result<(), RegistryError> {
        let (error, after) = match stop {
            Stop::Fail(error) => return Err(error),
            Stop::Again(error, after) => (error, after),
        };
        tries.0 += 1;
        if tries.0 >= self.limits.tries {
            return Err(error.after(tries.0));
        }
        if let RegistryError::Busy { host, status, .. } = &error
            && after.is_some_and(|after| after > LONGEST_PAUSE)
        {
            return Err(RegistryError::Later { host: host.clone(), status: *status });
        }
        // Only where no random number can be had is it not spread.
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        let backoff = self.limits.backoff.map(|backoff| backoff.delay(tries.0, random));
        let pause = after.or(backoff).unwrap_or_default();
        tracing::debug!(%error, ?pause, "asking the registry again");
        sleep(pause).await;
        Ok(())
    }

    async fn ask_once(&self, request: Request<'_>) -> Result<Option<Response>, Stop> {
        let registry = self.repository.url(request.rest).map_err(|_| self.no_address())?;
        let (mut url, mut own, mut asked, mut redirects) = (registry.clone(), true, false, 0);
        loop {
            let mut builder = self.http(&url)?.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(accept) = request.accept {
                builder = builder.header(reqwest::header::ACCEPT, accept);
            }
            if request.from > 0 {
                builder = builder.header(RANGE, format!("bytes={}-", request.from));
            }
            if own && let Some(value) = self.granted() {
                builder = builder.header(AUTHORIZATION, value);
            }
            let response = self.send(builder, &url).await?;
            let (status, host) = (response.status(), route::host(&url));
            match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(Some(response)),
                StatusCode::RANGE_NOT_SATISFIABLE if request.from > 0 => return Ok(Some(response)),
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED if own && !asked => {
                    asked = true;
                    self.authenticate(&registry, response).await?;
                    url = registry.clone();
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    redirects += 1;
                    if redirects > MAX_REDIRECTS {
                        return Err(RegistryError::Redirects { host: route::host(&registry) }.into());
                    }
                    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                    let location = location.ok_or(RegistryError::RedirectAddress { host })?;
                    url = route::follow(&url, location)?;
                    // Who was elsewhere comes back with an address that another server chose.
                    own = own && route::same_origin(&registry, &url);
                }
                _ => return Err(self.refusal(host, response, own).await),
            }
        }
    }

    /// Sends, and waits for the head of the answer.
    pub(super) async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, Stop> {
        self.send_within(request, url, self.limits.silence).await
    }

    /// The same, for what takes longer to send.
    pub(super) async fn send_within(
        &self,
        request: RequestBuilder,
        url: &Url,
        patience: Duration,
    ) -> Result<Response, Stop> {
        let host = route::host(url);
        match timeout(patience, request.send()).await {
            Err(_) => Err(RegistryError::Silent { host, seconds: patience.as_secs() }.into()),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let connects = error.is_connect();
                let why = chain(&error.without_url());
                let error = RegistryError::Unreachable { host, why };
                Err(if connects { Stop::Fail(error) } else { Stop::Again(error, None) })
            }
        }
    }

    /// The client for an address. Certificates are looked for once something encrypted is asked.
    pub(super) fn http(&self, url: &Url) -> Result<&reqwest::Client, RegistryError> {
        let (slot, roots) =
            if url.scheme() == "https" { (&self.secure, Roots::System) } else { (&self.plain, Roots::Nobody) };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let settings = Settings { connect: CONNECT, whole: None, roots, credential: None, socket: None };
        let client = http::client(&settings).map_err(RegistryError::Client)?;
        Ok(slot.get_or_init(|| client))
    }

    /// What an answer means that is neither what was wanted nor a redirect.
    pub(super) async fn refusal(&self, host: String, response: Response, own: bool) -> Stop {
        let status = response.status();
        let after = retry_after(response.headers());
        let code = self.code(response, &host).await;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if own => {
                let anonymous = self.credential.get().is_none_or(Option::is_none);
                if anonymous {
                    RegistryError::Anonymous { host, status, code }.into()
                } else {
                    RegistryError::Denied { host, status, code }.into()
                }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Stop::Again(RegistryError::Busy { host, status, code, tries: 1 }, after)
            }
            _ if status.is_server_error() => Stop::Again(RegistryError::Busy { host, status, code, tries: 1 }, after),
            _ => RegistryError::Status { host, status, code }.into(),
        }
    }

    async fn code(&self, response: Response, host: &str) -> Code {
        let body = Body::new(response, host.to_owned()).read_up_to(MAX_ERROR, &self.limits).await;
        // Without its reason an answer is an answer all the same.
        body.map(|body| Code::read(&body.unwrap_or_default())).unwrap_or_default()
    }

    pub(super) fn granted(&self) -> Option<HeaderValue> {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        grant.as_ref().filter(|grant| grant.until.is_none_or(|until| Instant::now() < until)).map(|g| g.header.clone())
    }

    /// Gets what a registry that answered 401 wants to see.
    pub(super) async fn authenticate(&self, registry: &Url, response: Response) -> Result<(), Stop> {
        let host = route::host(registry);
        let fields = response.headers().get_all(reqwest::header::WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> =
            fields.filter_map(|field| field.to_str().ok()).filter_map(challenge::parse).flatten().collect();
        let credential = self.credential.get_or_try_init(|| self.find_credential()).await?.as_ref();
        let with = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let grant = if let Some((bearer, realm)) = with("bearer").and_then(|c| Some((c, c.parameter("realm")?))) {
            let endpoint = route::realm(registry, realm)?;
            token::ask(self, endpoint, bearer.parameter("service"), credential).await?
        } else if with("basic").is_some() {
            let Some(Credential::Basic { user, password }) = credential else {
                return Err(self.refusal(host, response, true).await);
            };
            Grant::basic(user, password)
        } else {
            return Err(RegistryError::Challenge { host }.into());
        };
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant);
        Ok(())
    }

    async fn find_credential(&self) -> Result<Option<Credential>, RegistryError> {
        for candidate in credentials::candidates(|name| std::env::var_os(name)) {
            let fail = |error| RegistryError::Credentials(candidate.path.clone(), error);
            let Some(file) = File::read(&candidate).map_err(fail)? else { continue };
            match file.entry(&self.repository).map_err(fail)? {
                Entry::Nothing => {}
                Entry::Credential(credential) => return Ok(Some(credential)),
                Entry::Helper { name, server, or } => {
                    let asked = helper::ask(&name, &server).await;
                    let found = asked.map_err(|error| RegistryError::Helper(name, error))?.or(or);
                    if found.is_some() {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(None)
    }

    pub(super) fn no_address(&self) -> RegistryError {
        RegistryError::RedirectAddress { host: self.repository.authority() }
    }
}

impl RegistryError {
    /// The same, after so many tries.
    fn after(self, asked: u32) -> Self {
        match self {
            Self::Unreachable { host, why } => Self::Broken { host, tries: asked, why },
            Self::Busy { host, status, code, .. } => Self::Busy { host, status, code, tries: asked },
            error => error,
        }
    }
}

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        Self::Fail(error)
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, OffsetDateTime::now_utc())
}
