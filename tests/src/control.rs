//! Owns speaking to the socket of an agent as another program does: HTTP over a unix socket, as it should be and otherwise;
//! and what Prometheus' own reader makes of the metrics. Must not own what is to be answered.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::http::{Answer, Head};
use crate::schema::PYTHON;
use crate::wait::PATIENCE;

/// What the script below needs.
pub const PROMETHEUS_MODULES: &str = "import prometheus_client.parser";

/// Reads the text with Prometheus' own parser, and says each sample, its type beside it.
const READ_METRICS: &str = r"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
text = open(sys.argv[1], encoding='utf-8', newline='').read()
for family in text_string_to_metric_families(text):
    assert family.documentation, family.name
    for sample in family.samples:
        print(json.dumps([family.type, sample.name, sorted(sample.labels.items()), sample.value]))
";

/// A socket.
#[derive(Clone, Debug)]
pub struct Control {
    path: PathBuf,
}

/// A sample: its name and its labels.
pub type Sample = (String, BTreeMap<String, String>);

impl Control {
    /// The one at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Sends a request without a body, and reads the whole answer.
    ///
    /// # Errors
    /// If nobody answers, or not with HTTP.
    pub fn ask(&self, method: &str, target: &str) -> Result<Answer> {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: agent\r\n\r\n").as_bytes())
    }

    /// What `GET /v1/status` answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn status(&self) -> Result<Value> {
        self.ask("GET", "/v1/status")?.json()
    }

    /// Sends bytes, and reads the whole answer.
    ///
    /// # Errors
    /// If nobody answers, or not with HTTP.
    pub fn send(&self, bytes: &[u8]) -> Result<Answer> {
        let mut stream = self.connect()?;
        stream.write_all(bytes)?;
        let mut stream = BufReader::new(stream);
        let head = Head::read(&mut stream)?.context("closed without an answer")?;
        let status = head.first.split(' ').nth(1).context("no status")?.parse()?;
        let mut body = Vec::new();
        stream.read_to_end(&mut body)?;
        Ok(Answer { status, head, body })
    }

    /// A connection on which nothing was said yet.
    ///
    /// # Errors
    /// If nobody listens.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.path).with_context(|| self.path.display().to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What Prometheus' parser makes of a text: each sample with its value. Counters end in `_total`, and nothing else does.
///
/// # Errors
/// If it refuses it, or a sample is there twice.
pub fn samples(file: &Path) -> Result<BTreeMap<Sample, f64>> {
    let output = Command::new(PYTHON).args(["-c", READ_METRICS]).arg(file).output().context(PYTHON)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut samples = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let (kind, name, labels, value): (String, String, Vec<(String, String)>, f64) = serde_json::from_str(line)?;
        ensure!((kind == "counter") == name.ends_with("_total"), "{name} is a {kind}");
        ensure!(matches!(kind.as_str(), "counter" | "gauge"), "{name} is a {kind}");
        let before = samples.insert((name, labels.into_iter().collect()), value);
        ensure!(before.is_none(), "twice: {line}");
    }
    Ok(samples)
}
