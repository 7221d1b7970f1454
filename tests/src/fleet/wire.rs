//! Owns a connection that is kept, and requests and answers over it as bytes, so that a test can stop in the middle of
//! either. Must not own what is asked, or what an answer leads to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http::{Answer, Head};

/// How long anything over a connection may take, as with an agent.
pub const WHOLE: Duration = Duration::from_secs(30);
/// The largest head of an answer that is read.
const MAX_HEAD: usize = 64 * 1024;

/// A connection over which requests go, one after another.
#[derive(Debug)]
pub struct Wire<S = TlsStream<TcpStream>> {
    stream: S,
    /// What was read and belongs to no answer yet.
    read: Vec<u8>,
}

impl Wire {
    /// Connects with a handshake.
    ///
    /// # Errors
    /// If nobody answers, or one side does not believe the other. Under TLS 1.3 who connects may only learn with the first
    /// answer that its certificate was refused.
    pub async fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::IpAddress(address.ip().into());
            TlsConnector::from(Arc::clone(config)).connect(name, stream).await
        };
        let stream = timeout(WHOLE, connecting).await.context("the handshake takes too long")??;
        Ok(Self::over(stream))
    }

    /// Whether the other end has not ended it. What comes without being asked for is its end too.
    pub fn is_open(&self) -> bool {
        let (stream, _) = self.stream.get_ref();
        let peeked = recv(stream, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        self.read.is_empty() && peeked.is_err_and(|error| error == Errno::AGAIN)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Over a stream that is connected.
    pub const fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends bytes, whatever they are part of.
    ///
    /// # Errors
    /// If the connection ended.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        Ok(timeout(WHOLE, sending).await.context("sending takes too long")??)
    }

    /// Reads the next answer.
    ///
    /// # Errors
    /// If the connection ends before it is complete, or it is none.
    pub async fn answer(&mut self) -> Result<Answer> {
        timeout(WHOLE, self.read_answer()).await.context("the answer takes too long")?
    }

    /// Sends a whole request and reads its answer.
    ///
    /// # Errors
    /// As [`Wire::send`] and [`Wire::answer`].
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request).await?;
        self.answer().await
    }

    async fn read_answer(&mut self) -> Result<Answer> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(self.read.len() <= MAX_HEAD, "a head without an end");
            self.read_more().await?;
        };
        let head = Head::read(&mut &self.read[..end])?.context("no head")?;
        let status = head.first.split(' ').nth(1).context("no status")?.parse()?;
        let length = head.header("content-length").map_or(Ok(0), str::parse::<usize>).context("a length")?;
        ensure!(head.header("transfer-encoding").is_none(), "an answer in chunks");
        while self.read.len() < end + length {
            self.read_more().await?;
        }
        let body = self.read[end..end + length].to_vec();
        self.read.drain(..end + length);
        Ok(Answer { status, head, body })
    }

    async fn read_more(&mut self) -> Result<()> {
        ensure!(self.stream.read_buf(&mut self.read).await? > 0, "closed before the answer was complete");
        Ok(())
    }
}

/// A request as bytes.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = head(method, path, headers, body.len());
    bytes.extend_from_slice(body);
    bytes
}

/// What comes before a body of this length.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {length}\r\n\r\n"));
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_read_one_after_another_however_they_come() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut wire = Wire::over(ours);
        let said =
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\n\
            content-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut";
        let sending = async {
            for part in said.chunks(7) {
                theirs.write_all(part).await.unwrap();
            }
            drop(theirs);
        };
        let reading = async {
            let first = wire.answer().await.unwrap();
            assert_eq!((first.status, first.text().as_str()), (200, "ok"));
            let second = wire.answer().await.unwrap();
            assert_eq!((second.status, second.head.header("retry-after")), (429, Some("7")));
            assert!(wire.answer().await.is_err(), "it is cut off");
        };
        tokio::join!(sending, reading);
    }
}
