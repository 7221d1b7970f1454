//! Owns connections: how many there may be, how long one may say nothing, the TLS handshake, and handing requests to the
//! router with where they came from. Must not own what a request does, or what a handshake verifies.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::caller::Connection;
use crate::identity::Identities;
use crate::identity::certificate::ClientCertificate;
use crate::metrics::Metrics;
use crate::tls::Tls;

/// The most bytes of a request's line and headers, and of what is read ahead of a body.
const BUFFER: usize = 64 * 1024;
/// How long to wait when no more connections can be accepted, for want of descriptors.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How much connections may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of these, of one address (a /64 of IPv6), those that no credential was accepted over.
    pub strangers: usize,
    /// From a connection to the headers of its first request, the handshake within it.
    pub first: Duration,
    /// From one request to the headers of the next. Longer than agents keep a connection, so that they end it.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 20_000, strangers: 512, first: Duration::from_secs(10), idle: Duration::from_secs(120) }
    }
}

/// What a listener serves.
#[derive(Debug)]
pub struct Served {
    /// Where requests go.
    pub router: Router,
    /// What handshakes use; absent: plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// Who is who.
    pub identities: Arc<Identities>,
    /// How much connections may take.
    pub limits: Limits,
    /// Ends it.
    pub shutdown: CancellationToken,
}

/// Connections of strangers, counted by where they come from.
#[derive(Clone, Debug, Default)]
struct Strangers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection among those of strangers, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    strangers: Strangers,
    source: IpAddr,
}

impl Strangers {
    fn enter(&self, address: IpAddr, most: usize) -> Option<Place> {
        let source = source_of(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { strangers: self.clone(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.strangers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// By what addresses are told apart: a network of IPv6 is one, as a site has as many addresses of it as it wants.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Serves until the shutdown; requests under way then have `grace`. Gives whether all came to their end.
pub async fn serve(listener: TcpListener, served: Served, metrics: &Metrics, grace: Duration) -> bool {
    let served = Arc::new(served);
    let (strangers, places) = (Strangers::default(), Arc::new(Semaphore::new(served.limits.connections)));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = served.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned().ok();
        let stranger = strangers.enter(address, served.limits.strangers);
        // Dropped is closed: who is one too many is told at once.
        let (Some(place), Some(stranger)) = (place, stranger) else {
            metrics.count_refused_connection();
            continue;
        };
        let served = Arc::clone(&served);
        connections.spawn(async move {
            let _place = place;
            served.connection(stream, address, stranger).await;
        });
    }
    drop(listener);
    connections.close();
    tokio::time::timeout(grace, connections.wait()).await.is_ok()
}

/// Whether accepting failed for what a client did.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

impl Served {
    async fn connection(&self, stream: TcpStream, address: IpAddr, stranger: Place) {
        // An answer is one small packet or two; it does not wait for more.
        let _as_well = stream.set_nodelay(true);
        let deadline = Instant::now() + self.limits.first;
        let unknown = Arc::new(Mutex::new(Some(stranger)));
        let Some(tls) = &self.tls else {
            let connection = Connection { address, is_tls: false, certificate: None, unknown };
            return self.requests(stream, connection, deadline, CancellationToken::new()).await;
        };
        let (config, trust) = tls.current();
        let stream = match timeout_at(deadline, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "handshake failed");
                return;
            }
            Err(_) => return,
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate =
            certificate.map(|certificate| Arc::new(ClientCertificate::read(certificate, self.identities.naming())));
        let connection = Connection { address, is_tls: true, certificate, unknown };
        if let Some(certificate) = &connection.certificate
            && self.identities.host_of_certificate(certificate).is_ok()
        {
            connection.is_known();
        }
        self.requests(stream, connection, deadline, trust).await;
    }

    /// Answers what comes over a connection until it ends, says nothing for too long, or is asked to end.
    async fn requests<S>(&self, stream: S, connection: Connection, deadline: Instant, trust: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let has_begun = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            has_begun.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection.clone());
            self.router.clone().oneshot(request)
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.limits.idle).max_buf_size(BUFFER);
        let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let (mut is_ending, mut is_waiting) = (false, true);
        loop {
            tokio::select! {
                _ended = served.as_mut() => return,
                () = self.shutdown.cancelled(), if !is_ending => is_ending = true,
                () = trust.cancelled(), if !is_ending => is_ending = true,
                () = sleep_until(deadline), if is_waiting => {
                    if !has_begun.load(Ordering::Relaxed) {
                        return;
                    }
                    is_waiting = false;
                    continue;
                }
            }
            served.as_mut().graceful_shutdown();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for (address, source) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(source_of(address.parse().unwrap()), source.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn strangers_are_counted_by_where_they_come_from() {
        let strangers = Strangers::default();
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        let held = [strangers.enter(a, 2), strangers.enter(a, 2)];
        assert!(held.iter().all(Option::is_some));
        assert!(strangers.enter(a, 2).is_none());
        assert!(strangers.enter(b, 2).is_some());
        drop(held);
        assert!(strangers.0.lock().unwrap().is_empty(), "nothing is kept of who is gone");
    }
}
