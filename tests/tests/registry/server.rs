//! A registry on loopback that serves one image honestly, unless told otherwise, and remembers every request. Speaks just
//! enough HTTP/1.1, one request for each connection, and shares no code with the product.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::http::Head;
use driftlock_tests::image::{Layer, Layout, sha256};
use driftlock_tests::sandbox::{Finished, Sandbox};
use serde_json::Value;

pub(super) const IMAGE_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Of the user `u`.
pub(super) const PASSWORD: &str = "correct-horse";
/// `u:correct-horse`.
pub(super) const BASIC: &str = "dTpjb3JyZWN0LWhvcnNl";
pub(super) const TOKEN: &str = "token-that-nobody-may-see";

/// What is sent back.
pub(super) enum Reply {
    /// A status, more headers, and a body with its length.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// As it is; then the connection is closed.
    Raw(Vec<u8>),
    /// As it is; then zeros until the other side has enough.
    Endless(Vec<u8>),
}

/// A request.
pub(super) struct Asked<'a> {
    pub(super) image: &'a Image,
    pub(super) head: &'a Head,
    pub(super) path: &'a str,
    pub(super) body: &'a [u8],
    /// How many requests for the same path came before.
    pub(super) nth: usize,
    /// Of this server.
    pub(super) address: SocketAddr,
}

/// Answers some requests otherwise than an honest registry.
pub(super) type Act = Box<dyn Fn(&Asked<'_>) -> Option<Reply> + Send + Sync>;

/// An image of one layer, in a layout.
pub(super) struct Image {
    pub(super) blobs: PathBuf,
    pub(super) source: String,
    pub(super) manifest: String,
    pub(super) config: String,
    pub(super) layer: String,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    image: Arc<Image>,
    act: Act,
    requests: Mutex<Vec<Head>>,
    stopped: AtomicBool,
}

impl Image {
    /// Of a layer with some kilobytes that do not compress, so that it comes in pieces.
    pub(super) fn create(sandbox: &Sandbox, name: &str) -> Result<Self> {
        let noise: Vec<u8> =
            (0..1000_u32).flat_map(|n| hex::decode(sha256(&n.to_be_bytes())).unwrap_or_default()).collect();
        let layer = Layer::new().dir("etc/").file("etc/motd", name.as_bytes()).file("bin/app", &noise).finish();
        let layout = Layout::create(sandbox.path(name))?.layer(&layer)?.finish()?;
        let blobs = layout.dir().join("blobs/sha256");
        let index: Value = serde_json::from_slice(&fs::read(layout.dir().join("index.json"))?)?;
        let digest = |value: &Value| -> Result<String> {
            let text = value["digest"].as_str().context("a digest")?;
            Ok(text.strip_prefix("sha256:").context("sha256")?.to_owned())
        };
        let manifest = digest(&index["manifests"][0])?;
        let document: Value = serde_json::from_slice(&fs::read(blobs.join(&manifest))?)?;
        let (config, layer) = (digest(&document["config"])?, digest(&document["layers"][0])?);
        Ok(Self { source: layout.source(), blobs, manifest, config, layer })
    }

    pub(super) fn blob(&self, sha256: &str) -> Vec<u8> {
        fs::read(self.blobs.join(sha256)).unwrap_or_default()
    }
}

impl Asked<'_> {
    pub(super) fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }

    pub(super) fn is_config(&self) -> bool {
        self.path.ends_with(&self.image.config)
    }

    pub(super) fn is_layer(&self) -> bool {
        self.path.ends_with(&self.image.layer)
    }

    /// The bytes that an honest registry would send.
    pub(super) fn honest(&self) -> Vec<u8> {
        self.path.rsplit_once("sha256:").map(|(_, sha256)| self.image.blob(sha256)).unwrap_or_default()
    }

    /// From which byte on.
    pub(super) fn from(&self) -> Option<usize> {
        self.head.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

impl Server {
    pub(super) fn start(image: Arc<Image>, act: Act) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State { image, act, requests: Mutex::default(), stopped: AtomicBool::new(false) });
        let ours = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ours.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let ours = Arc::clone(&ours);
                // A connection that breaks is the client's to notice.
                thread::spawn(move || drop(ours.serve(stream, address)));
            }
        });
        Ok(Self { address, state })
    }

    pub(super) fn requests(&self) -> Vec<Head> {
        lock(&self.state.requests).clone()
    }

    /// The image as a source.
    pub(super) fn source(&self) -> String {
        format!("registry:{}/app@sha256:{}", self.address, self.state.image.manifest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees that it is to stop.
        let _woken = TcpStream::connect(self.address);
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream, address: SocketAddr) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let head = Head::read(&mut reader)?.context("a request")?;
        // What is not read makes the kernel break the connection off before the answer is there.
        let length: u64 = head.header("content-length").unwrap_or("0").parse()?;
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body)?;
        let path = head.first.split(' ').nth(1).context("a path")?.to_owned();
        let nth = {
            let mut requests = lock(&self.requests);
            let nth = requests.iter().filter(|other| other.first == head.first).count();
            requests.push(head.clone());
            nth
        };
        let asked = Asked { image: &self.image, head: &head, path: &path, body: &body, nth, address };
        let reply = (self.act)(&asked).unwrap_or_else(|| honest(&asked));
        match reply {
            Reply::Whole(status, headers, body) => {
                write!(
                    stream,
                    "HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\nConnection: close\r\n",
                    body.len()
                )?;
                for (name, value) in headers {
                    write!(stream, "{name}: {value}\r\n")?;
                }
                stream.write_all(b"\r\n")?;
                stream.write_all(&body)?;
            }
            Reply::Raw(bytes) => stream.write_all(&bytes)?,
            Reply::Endless(head) => {
                stream.write_all(&head)?;
                while stream.write_all(&[0; 16 * 1024]).is_ok() {}
            }
        }
        Ok(())
    }
}

fn honest(asked: &Asked<'_>) -> Reply {
    let body = asked.honest();
    if body.is_empty() {
        let missing = br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#;
        return Reply::Whole(404, Vec::new(), missing.to_vec());
    }
    let kind = if asked.is_manifest() { IMAGE_TYPE } else { "application/octet-stream" };
    Reply::Whole(200, vec![("Content-Type", kind.to_owned())], body)
}

/// Seals from `server`, with a credential for it at hand, and holds that nobody is told any of it.
pub(super) fn seal(sandbox: &Sandbox, server: &Server) -> Result<Finished> {
    log_in(sandbox, &[&server.address.to_string()])?;
    seal_source(sandbox, &server.source())
}

pub(super) fn seal_source(sandbox: &Sandbox, source: &str) -> Result<Finished> {
    let finished = sandbox.driftlock(["seal", source, "-o", "sealed"]).env("RUST_LOG", "trace").run()?;
    for secret in [PASSWORD, BASIC, TOKEN] {
        ensure!(!finished.stderr.contains(secret), "a secret is said: {finished:?}");
    }
    ensure!(finished.code == Some(0) || !sandbox.path("sealed").exists(), "something was written: {finished:?}");
    Ok(finished)
}

/// Writes docker's file with a credential for each host.
pub(super) fn log_in(sandbox: &Sandbox, hosts: &[&str]) -> Result<()> {
    let one = |host: &&str| format!("\"{host}\": {{\"auth\": \"{BASIC}\"}}");
    let auths: Vec<String> = hosts.iter().map(one).collect();
    sandbox.write(".docker/config.json", format!("{{\"auths\": {{{}}}}}", auths.join(",")))?;
    Ok(())
}

/// The one line of a command that ends with `code`, which holds all of `says`.
pub(super) fn expect_line(finished: &Finished, code: i32, says: &[&str]) -> Result<()> {
    ensure!(finished.code == Some(code), "expected {code}\n{finished:?}");
    ensure!(finished.stderr.lines().count() == 1, "one line\n{finished:?}");
    for part in says {
        ensure!(finished.stderr.contains(part), "{part:?} is not said: {finished:?}");
    }
    Ok(())
}

/// That what was sealed is what `oci:` makes of the same image.
pub(super) fn expect_same(sandbox: &Sandbox, finished: Finished, image: &Image) -> Result<()> {
    finished.expect(0)?;
    let other = sandbox.seal(&image.source, "other")?;
    ensure!(fs::read(sandbox.path("sealed"))? == fs::read(other)?, "another manifest than that of the layout");
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
