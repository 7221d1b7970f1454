//! Owns answering at the socket, within limits that hold whoever connects: what one client does, or does not do, costs the
//! agent a bounded amount of memory and time. Must not own what is known.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use driftlock_common::key;
use driftlock_common::status::{Status, TargetStatus, Ticket, Tickets, Waited};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Listener, MAX_WAIT_S, Question, metrics, query};

/// Connections at a time. Others wait to be taken.
const MAX_CONNECTIONS: usize = 64;
/// Of these, as many may wait for a look.
const MAX_WAITING: usize = 48;
/// Between two connections that are taken: whoever asks without end leaves the agent time for its work.
const PAUSE: Duration = Duration::from_millis(2);
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(5);
/// The most headers of a request.
const MAX_HEADERS: usize = 32;
/// The largest head of a request, in bytes: the least that the library takes.
const MAX_HEAD: usize = 8192;
/// For a whole connection, the longest wait in it included.
const CONNECTION_LIFE: Duration = Duration::from_secs(MAX_WAIT_S + 10);
/// Questions that may wait for the loop.
const MAX_QUESTIONS: usize = 8;
/// How long a request to wait is held unless it says otherwise, in seconds.
const DEFAULT_WAIT_S: u64 = 30;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The loop's end. The socket is gone once it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    questions: mpsc::Receiver<Question>,
    looked: watch::Sender<()>,
    task: Option<JoinHandle<()>>,
}

/// What a connection needs.
#[derive(Debug)]
struct Desk {
    questions: mpsc::Sender<Question>,
    looked: watch::Receiver<()>,
    waiting: Semaphore,
}

/// An answer that is no answer.
struct Refusal(StatusCode, String);

type Answered = Result<(HeaderValue, Vec<u8>), Refusal>;

/// Begins answering at `listener`, or at nothing.
pub(crate) fn serve(listener: Option<Listener>) -> Server {
    let (sender, questions) = mpsc::channel(MAX_QUESTIONS);
    let (looked, on_look) = watch::channel(());
    let desk = Desk { questions: sender, looked: on_look, waiting: Semaphore::new(MAX_WAITING) };
    Server { questions, looked, task: listener.map(|listener| tokio::spawn(accept(listener, Arc::new(desk)))) }
}

impl Server {
    /// The next question; none ever comes if there is no socket. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }

    /// A complete look came to its end.
    pub(crate) fn looked(&self) {
        self.looked.send_replace(());
    }

    /// Ends every connection, and takes the socket away.
    pub(crate) async fn close(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // It ends by being aborted.
            let _aborted = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn accept(listener: Listener, desk: Arc<Desk>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Ended together with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.listener.accept().await {
            Ok((stream, _)) => {
                let desk = Arc::clone(&desk);
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, desk).await;
                });
            }
            // No descriptors are left, perhaps: there may be some in a moment.
            Err(error) => tracing::debug!(%error, "a connection to the socket was not taken"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn connection(stream: UnixStream, desk: Arc<Desk>) {
    let service = service_fn(move |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(response(desk.answer(&request).await)) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_LIFE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the socket"),
        Err(_) => tracing::debug!("a connection to the socket took too long"),
    }
}

fn response(answered: Answered) -> Response<Full<Bytes>> {
    let (status, kind, body) = match answered {
        Ok((kind, body)) => (StatusCode::OK, kind, body),
        Err(Refusal(status, error)) => (status, JSON, json(&BTreeMap::from([("error", error)]))),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec(value).expect("maps with text for keys, and no floats, always have a JSON form");
    json.push(b'\n');
    json
}

impl Desk {
    async fn answer(&self, request: &Request<Incoming>) -> Answered {
        let given = request.uri().query();
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/v1/status") => {
                let [] = query::read(given, []).map_err(bad)?;
                Ok((JSON, json(&self.ask(Vec::new()).await?)))
            }
            (&Method::GET, "/metrics") => {
                let [] = query::read(given, []).map_err(bad)?;
                Ok((PROMETHEUS, metrics::text(&self.ask(Vec::new()).await?).into_bytes()))
            }
            (&Method::POST, "/v1/rescan") => self.rescan(given).await,
            (&Method::GET, "/v1/wait") => self.wait(given).await,
            (_, path @ ("/v1/status" | "/metrics" | "/v1/wait")) => Err(not_so(path, "GET")),
            (_, path @ "/v1/rescan") => Err(not_so(path, "POST")),
            (_, path) => {
                let known = "GET /v1/status, GET /metrics, POST /v1/rescan, GET /v1/wait";
                let path = path.escape_default().take(key::MAX_SHOWN).collect::<String>();
                Err(Refusal(StatusCode::NOT_FOUND, format!("{path} is not here; known: {known}")))
            }
        }
    }

    async fn rescan(&self, given: Option<&str>) -> Answered {
        let [name] = query::read(given, ["target"]).map_err(bad)?;
        let look_at = match name {
            Some(name) => {
                known(&self.ask(Vec::new()).await?, &name)?;
                vec![name]
            }
            None => self.ask(Vec::new()).await?.targets.into_iter().map(|target| target.target).collect(),
        };
        let status = self.ask(look_at.clone()).await?;
        let wanted = status.targets.iter().filter(|target| look_at.contains(&target.target));
        let tickets = wanted.map(|target| (target.target.clone(), target.looks)).collect();
        Ok((JSON, json(&Tickets { run: status.agent.run.clone(), after: tickets })))
    }

    async fn wait(&self, given: Option<&str>) -> Answered {
        let [name, run, after, manifest, seconds] =
            query::read(given, ["target", "run", "after", "manifest", "timeout_s"]).map_err(bad)?;
        let name = name.ok_or_else(|| bad("target is missing: wait for which one?".to_owned()))?;
        let number = |key: &str, text: String| text.parse().map_err(|_| bad(format!("{key} is not a whole number")));
        let seconds = seconds.map_or(Ok(DEFAULT_WAIT_S), |text| number("timeout_s", text))?.min(MAX_WAIT_S);
        let after = after.map(|text| number("after", text)).transpose()?;
        let _place = self.waiting.try_acquire().map_err(|_| {
            Refusal(StatusCode::SERVICE_UNAVAILABLE, format!("{MAX_WAITING} wait already: ask again later"))
        })?;
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut looked = self.looked.clone();
        let mut status = self.ask(Vec::new()).await?;
        let ticket = match (run, after) {
            (Some(run), Some(after)) => Ticket { run, after },
            (None, None) => status.ticket(known(&status, &name)?),
            _ => return Err(bad("run and after belong together".to_owned())),
        };
        loop {
            let target = known(&status, &name)?;
            let exit = target.verdict(&status.agent.run, &ticket, manifest.as_deref());
            if exit.is_some() || timeout_at(until, looked.changed()).await.is_err() {
                let waited = Waited { exit, ticket, target: target.clone() };
                return Ok((JSON, json(&waited)));
            }
            status = self.ask(Vec::new()).await?;
        }
    }

    async fn ask(&self, look_at: Vec<String>) -> Result<Status, Refusal> {
        let stopping = || Refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping".to_owned());
        let (answer, answered) = oneshot::channel();
        self.questions.send(Question { look_at, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }
}

fn known<'a>(status: &'a Status, name: &str) -> Result<&'a TargetStatus, Refusal> {
    status.target(name).ok_or_else(|| {
        let names: Vec<&str> = status.targets.iter().map(|target| target.target.as_str()).collect();
        let shown: String = name.escape_default().take(key::MAX_SHOWN).collect();
        let near = match key::nearest(&names, name) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there is {}", names.join(", ")),
        };
        Refusal(StatusCode::NOT_FOUND, format!("no target {shown}; {near}"))
    })
}

const fn bad(why: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why)
}

fn not_so(path: &str, method: &str) -> Refusal {
    Refusal(StatusCode::METHOD_NOT_ALLOWED, format!("{path} is for {method}"))
}
