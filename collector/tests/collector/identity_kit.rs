//! A collector that answers over TLS under a clock of the test's, and clients with certificates. No assertions of
//! product rules.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use driftlock_collector::app::AppState;
use driftlock_collector::auth::{AllowedHosts, HostTokens, ReadAccess};
use driftlock_collector::clock::{Clock, Timestamp};
use driftlock_collector::gate::GateLimits;
use driftlock_collector::identity::authority::Authority;
use driftlock_collector::identity::certificate::{NameRule, Naming};
use driftlock_collector::identity::{Identities, Issuing, LIFETIME};
use driftlock_collector::listener::Limits;
use driftlock_collector::serve::serve_with;
use driftlock_collector::store::sqlite::{self, SqliteStore};
use driftlock_collector::tls::{ServerFiles, Sources, Tls};
use driftlock_common::enrolment::{EnrollRequest, EnrolmentToken, Issued};
use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, Event};
use driftlock_common::path::to_base64;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SigningKey as _};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// How a collector is started.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) plain: bool,
    pub(crate) client_ca: Option<(PathBuf, NameRule)>,
    pub(crate) server: Option<ServerFiles>,
    pub(crate) tokens: HostTokens,
    pub(crate) read_needs_token: bool,
}

pub(crate) struct Server {
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<AppState>,
    pub(crate) tls: Option<Arc<Tls>>,
    ahead: Arc<AtomicI64>,
    shutdown: CancellationToken,
}

/// A time that the test moves.
#[derive(Debug)]
struct Time(Arc<AtomicI64>);

fn time(ahead: &AtomicI64) -> Timestamp {
    Timestamp::from_millis(Timestamp::now().millis() + ahead.load(Ordering::Relaxed))
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(time(&self.0).millis()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub(crate) async fn start_with(settings: Settings) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings).await
    }

    pub(crate) async fn start_in(directory: TempDir, settings: Settings) -> Self {
        let Settings { limits, plain, client_ca, server, tokens, read_needs_token } = settings;
        let data = directory.path().join("data");
        let store = Arc::new(SqliteStore::open(&data, sqlite::Limits::default()).unwrap());
        let ahead = Arc::new(AtomicI64::new(0));
        let clock = {
            let ahead = Arc::clone(&ahead);
            Clock::of(move || time(&ahead))
        };
        let issuing = match &client_ca {
            Some(_) => Issuing::External,
            None => Issuing::Own { authority: Authority::open(&data, clock.now()).unwrap(), lifetime: LIFETIME },
        };
        let rule = client_ca.as_ref().map_or(NameRule::Spiffe, |(_, rule)| *rule);
        let naming = Naming { rule, ..Naming::default() };
        let identities =
            Arc::new(Identities::load(Arc::<SqliteStore>::clone(&store), clock, naming, issuing).await.unwrap());
        let names = AllowedHosts::new("127.0.0.1".parse().unwrap(), &["collector.example".to_owned()]);
        let sources = Sources { server, names: names.names(), client_ca: client_ca.map(|(file, _)| file) };
        let tls = (!plain).then(|| Arc::new(Tls::new(Arc::clone(&identities), sources).unwrap()));
        let shutdown = CancellationToken::new();
        let read_access = if read_needs_token { ReadAccess::Token(None) } else { ReadAccess::Open };
        // Who is busy here is not busy for long.
        let gate = GateLimits { rate: 1_000_000, ..GateLimits::default() };
        let state = AppState::with_identities(store, identities, tokens, read_access, names, shutdown.clone(), gate);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_with(listener, Arc::clone(&state), tls.clone(), limits));
        Self { directory, address, state, tls, ahead, shutdown }
    }

    /// Moves its clock.
    pub(crate) fn pass(&self, time: Duration) {
        self.ahead.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> Timestamp {
        time(&self.ahead)
    }

    pub(crate) fn authority(&self) -> &Authority {
        self.state.identities.authority().unwrap()
    }

    pub(crate) fn tls(&self) -> &Arc<Tls> {
        self.tls.as_ref().unwrap()
    }

    /// A token for joining.
    pub(crate) async fn token(&self, pattern: &str, replace: bool) -> EnrolmentToken {
        let labels = BTreeMap::from([("role".to_owned(), "from-the-token".to_owned())]);
        let pattern = pattern.parse().unwrap();
        let hour = Duration::from_hours(1);
        let (secret, _) = self.state.identities.make_enrolment_token(pattern, labels, replace, hour).await.unwrap();
        secret.reveal().parse().unwrap()
    }

    /// A client of this name, newly joined.
    pub(crate) async fn join(&self, host: &str) -> Host {
        let token = self.token(host, false).await;
        let host = Keys::new().enroll(self, host, &token).await;
        host.unwrap_or_else(|(status, problem)| panic!("{status}: {problem}"))
    }

    /// A connection, with a certificate or without.
    pub(crate) async fn connect(&self, host: Option<&Host>) -> io::Result<Client> {
        Client::over(self.handshake(host.map(Host::credentials)).await?).await
    }

    /// The TLS connection alone.
    pub(crate) async fn handshake(&self, credentials: Option<Credentials>) -> io::Result<TlsStream<TcpStream>> {
        let pem = match self.state.identities.authority() {
            Some(authority) => authority.bundle(),
            None => std::fs::read_to_string(self.directory.path().join("server-ca.pem")).unwrap(),
        };
        self.handshake_believing(&pem, credentials).await
    }

    pub(crate) async fn handshake_believing(
        &self,
        ca: &str,
        credentials: Option<Credentials>,
    ) -> io::Result<TlsStream<TcpStream>> {
        handshake(self.address, ca, credentials, Arc::new(Time(Arc::clone(&self.ahead)))).await
    }

    /// A plain connection from another address of this machine.
    pub(crate) async fn connect_from(&self, address: &str) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0))?;
        socket.connect(self.address).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A TLS connection to who has a certificate of one of these CAs.
async fn handshake(
    address: SocketAddr,
    ca: &str,
    credentials: Option<Credentials>,
    time: Arc<dyn TimeProvider>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, time);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = match credentials {
        Some(Credentials { chain, key }) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    // Each collector under test has this name.
    let name = "collector.example".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A connection to a collector of another process.
pub(crate) async fn connect(address: SocketAddr, ca: &str) -> io::Result<Client> {
    let now = Arc::new(Time(Arc::default()));
    Client::over(handshake(address, ca, None, now).await?).await
}

/// A certificate and its key as a handshake uses them.
pub(crate) struct Credentials {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Credentials {
    pub(crate) fn new(pem: &str, key: &KeyPair) -> Self {
        Self {
            chain: CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }
}

/// The keys of a host that wants to join.
pub(crate) struct Keys {
    pub(crate) key: KeyPair,
    pub(crate) receipt: KeyPair,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            receipt: KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        }
    }

    /// A request that asks for nothing but a certificate.
    pub(crate) fn csr(&self) -> String {
        self.csr_of(&CertificateParams::default())
    }

    pub(crate) fn csr_of(&self, params: &CertificateParams) -> String {
        params.serialize_request(&self.key).unwrap().pem().unwrap()
    }

    pub(crate) fn request(&self, host: &str, token: &EnrolmentToken) -> EnrollRequest {
        self.request_with(host, token, self.csr())
    }

    pub(crate) fn request_with(&self, host: &str, token: &EnrolmentToken, csr: String) -> EnrollRequest {
        let proof = self.receipt.sign(&der(&csr)).unwrap();
        EnrollRequest {
            token: token.secret().to_owned(),
            host: host.parse().unwrap(),
            csr,
            receipt_key: self.receipt.public_key_pem(),
            receipt_proof: to_base64(&proof),
        }
    }

    pub(crate) async fn enroll(
        self,
        server: &Server,
        host: &str,
        token: &EnrolmentToken,
    ) -> Result<Host, (StatusCode, Value)> {
        let request = self.request(host, token);
        let issued = server.connect(None).await.unwrap().enroll(&request).await?;
        Ok(Host { key: self.key, receipt: self.receipt, issued })
    }
}

/// The bytes of a PEM block.
pub(crate) fn der(pem: &str) -> Vec<u8> {
    let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    driftlock_common::path::from_base64(&lines).unwrap_or_default()
}

/// A host that joined.
pub(crate) struct Host {
    pub(crate) key: KeyPair,
    pub(crate) receipt: KeyPair,
    pub(crate) issued: Issued,
}

impl Host {
    pub(crate) fn credentials(&self) -> Credentials {
        Credentials::new(&self.issued.certificate, &self.key)
    }
}

/// A connection that is kept.
pub(crate) struct Client {
    sender: SendRequest<Body>,
}

impl Client {
    pub(crate) async fn over(
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends a request; an error is a connection that ended.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> io::Result<(StatusCode, HeaderMap, Value)> {
        self.sender.ready().await.map_err(io::Error::other)?;
        let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
        let (parts, body) = response.into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await.map_err(io::Error::other)?;
        Ok((parts.status, parts.headers, serde_json::from_slice(&body).unwrap_or_default()))
    }

    pub(crate) async fn get(&mut self, path: &str) -> io::Result<StatusCode> {
        let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
        Ok(self.send(request).await?.0)
    }

    pub(crate) async fn post_json(&mut self, path: &str, body: Vec<u8>) -> io::Result<(StatusCode, HeaderMap, Value)> {
        let request = Request::builder().method(Method::POST).uri(path).header("host", "localhost");
        self.send(request.header("content-type", "application/json").body(body.into()).unwrap()).await
    }

    pub(crate) async fn enroll(&mut self, request: &EnrollRequest) -> Result<Issued, (StatusCode, Value)> {
        let (status, _, body) = self.post_json("/v1/enroll", serde_json::to_vec(request).unwrap()).await.unwrap();
        if status == StatusCode::OK { Ok(serde_json::from_value(body).unwrap()) } else { Err((status, body)) }
    }

    pub(crate) async fn renew(&mut self, csr: &str) -> io::Result<(StatusCode, HeaderMap, Value)> {
        let body = serde_json::json!({ "csr": csr }).to_string();
        self.post_json("/v1/renew", body.into_bytes()).await
    }

    /// Reports these events with these headers; gives the status and the code of a refusal.
    pub(crate) async fn report(&mut self, events: &[Event], headers: &[(&str, &str)]) -> io::Result<(u16, String)> {
        let mut request =
            Request::post("/v1/events").header("host", "localhost").header("content-type", BATCH_MEDIA_TYPE);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, _, body) = self.send(request.body(serde_json::to_vec(events).unwrap().into()).unwrap()).await?;
        if status == StatusCode::OK {
            let _as_documented: Answer = serde_json::from_value(body.clone()).unwrap();
        }
        Ok((status.as_u16(), body["code"].as_str().unwrap_or_default().to_owned()))
    }
}

/// The code of a refusal.
pub(crate) fn code<T>(refused: Result<T, (StatusCode, Value)>) -> (u16, String) {
    match refused {
        Ok(_) => (200, String::new()),
        Err((status, problem)) => (status.as_u16(), problem["code"].as_str().unwrap_or_default().to_owned()),
    }
}
