//! Owns kept connections of hosts to a collector: TLS with a certificate of each, requests one after the other. As little
//! of HTTP as that takes, so that thousands of them leave the processors to the collector. Must not own what is sent.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::event::{Answer, BATCH_MEDIA_TYPE, EVENTS_PATH};
use driftlock_tests::authority::Authority;
use driftlock_tests::http::Head;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// As agents compress.
const LEVEL: i32 = 3;

/// A collector that knows hosts by certificates of a CA.
#[derive(Clone, Debug)]
pub struct Door {
    address: SocketAddr,
    authority: Arc<Authority>,
    roots: Arc<RootCertStore>,
}

/// A connection of a host.
#[derive(Debug)]
pub struct Link {
    stream: TlsStream<TcpStream>,
    /// What was read; empty between two answers.
    buffer: Vec<u8>,
}

impl Door {
    /// To the collector at `address`, whose certificate is of the same CA.
    ///
    /// # Errors
    /// If the CA cannot be used.
    pub fn new(address: SocketAddr, authority: Arc<Authority>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone())?;
        Ok(Self { address, authority, roots: Arc::new(roots) })
    }

    /// Connects as a host, with a key and a certificate of its own.
    ///
    /// # Errors
    /// If the collector does not take it in.
    pub async fn connect(&self, host: &str) -> Result<Link> {
        let (certificate, key) = self.authority.certify_host(host)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = config.with_client_auth_cert(vec![certificate.der().clone()], key)?;
        config.resumption = Resumption::disabled();
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Link { stream, buffer: Vec::new() })
    }
}

impl Link {
    /// Sends a batch, compressed, and reads the answer.
    ///
    /// # Errors
    /// If the connection ends, or the batch is not taken.
    pub async fn report(&mut self, batch: &[u8]) -> Result<Answer> {
        let body = zstd::bulk::compress(batch, LEVEL)?;
        let mut request = format!(
            "POST {EVENTS_PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {BATCH_MEDIA_TYPE}\r\n\
             content-encoding: zstd\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        Ok(serde_json::from_slice(&self.ask(&request).await?)?)
    }

    /// Reads what is at `path`.
    ///
    /// # Errors
    /// If the connection ends, or the answer is not 200.
    pub async fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        self.ask(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await
    }

    async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let body = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = Head::read(&mut Cursor::new(&self.buffer[..body]))?.context("no head")?;
        let length: usize = head.header("content-length").context("no length")?.parse()?;
        while self.buffer.len() < body + length {
            self.more().await?;
        }
        let answer = self.buffer.split_off(body);
        self.buffer.clear();
        let is_good = head.first.split(' ').nth(1) == Some("200");
        ensure!(is_good, "{}: {}", head.first, String::from_utf8_lossy(&answer));
        Ok(answer)
    }

    async fn more(&mut self) -> Result<()> {
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the collector closed the connection");
        Ok(())
    }
}
