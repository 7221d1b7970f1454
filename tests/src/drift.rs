//! Owns what a test expects or is told: path, change, attributes. Must not use the product's own types: the JSON is
//! read as any other program would read it.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::sandbox::Finished;

/// One difference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// Relative to the root, any bytes.
    pub path: Vec<u8>,
    /// `added`, `removed`, `changed` or `unverifiable`.
    pub change: String,
    /// What differs, if `changed`.
    pub attributes: BTreeSet<String>,
}

/// The result of a scan.
#[derive(Clone, Debug)]
pub struct Report {
    /// The differences.
    pub drifts: BTreeSet<Drift>,
    /// The findings as they came.
    pub findings: Vec<Value>,
    /// The summary as it came.
    pub summary: Value,
}

impl Drift {
    /// Something that was not sealed.
    pub fn added(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, "added", &[])
    }

    /// Something sealed that is gone.
    pub fn removed(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, "removed", &[])
    }

    /// Something that differs in `attributes`.
    pub fn changed(path: impl AsRef<[u8]>, attributes: &[&str]) -> Self {
        Self::new(path, "changed", attributes)
    }

    /// Something that could not be established.
    pub fn unverifiable(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, "unverifiable", &[])
    }

    fn new(path: impl AsRef<[u8]>, change: &str, attributes: &[&str]) -> Self {
        let attributes = attributes.iter().map(|name| (*name).to_owned()).collect();
        Self { path: path.as_ref().to_owned(), change: change.to_owned(), attributes }
    }

    /// Reads a finding, of `scan` or of the collector.
    ///
    /// # Errors
    /// If it is not one.
    pub fn from_json(finding: &Value) -> Result<Self> {
        let path = Self::path_of(finding)?;
        let change = finding["change"].as_str().with_context(|| format!("no change: {finding}"))?.to_owned();
        let attributes = finding.get("attributes").and_then(Value::as_array).into_iter().flatten();
        let attributes =
            attributes.map(|name| name.as_str().map(str::to_owned).context("an attribute")).collect::<Result<_>>()?;
        Ok(Self { path, change, attributes })
    }

    /// The exact path of anything that has one.
    ///
    /// # Errors
    /// If it has none.
    pub fn path_of(finding: &Value) -> Result<Vec<u8>> {
        match (finding["path_b64"].as_str(), finding["path"].as_str()) {
            (Some(base64), Some(_)) => driftlock_common::path::from_base64(base64).context("path_b64 is not base64"),
            (None, Some(path)) => Ok(path.as_bytes().to_owned()),
            (_, None) => anyhow::bail!("no path: {finding}"),
        }
    }
}

impl fmt::Debug for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.change, self.path.escape_ascii())?;
        if !self.attributes.is_empty() {
            write!(f, " {:?}", self.attributes)?;
        }
        Ok(())
    }
}

impl Report {
    /// Reads what `scan --format ndjson` wrote.
    ///
    /// # Errors
    /// If it is not that, a path stands twice, or the summary's counts are not those of the findings.
    pub fn from_ndjson(finished: &Finished) -> Result<Self> {
        let mut findings = Vec::new();
        let mut summary = None;
        for line in finished.text()?.lines() {
            ensure!(summary.is_none(), "a line after the summary: {line}");
            let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            match value["type"].as_str() {
                Some("finding") => findings.push(value),
                Some("summary") => summary = Some(value),
                other => anyhow::bail!("a line of type {other:?}"),
            }
        }
        let summary = summary.with_context(|| format!("no summary\n{finished:?}"))?;
        let drifts = drifts(&findings)?;
        for change in ["added", "removed", "changed"] {
            let found = drifts.iter().filter(|drift| drift.change == change).count();
            ensure!(summary[change].as_u64() == Some(found as u64), "{found} {change}, but the summary: {summary}");
        }
        Ok(Self { drifts, findings, summary })
    }

    /// Whether anything differs at a path.
    pub fn has(&self, path: &[u8]) -> bool {
        self.drifts.iter().any(|drift| drift.path == path)
    }
}

/// The differences that `findings` name.
///
/// # Errors
/// If one is none, or a path stands twice.
pub fn drifts(findings: &[Value]) -> Result<BTreeSet<Drift>> {
    let mut drifts = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for finding in findings {
        let drift = Drift::from_json(finding)?;
        ensure!(paths.insert(drift.path.clone()), "a path stands twice, the second time as {finding}");
        drifts.insert(drift);
    }
    Ok(drifts)
}

/// Fails with what is too much and what is missing, if the sets are not equal.
///
/// # Errors
/// If they are not equal.
pub fn ensure_same(expected: &BTreeSet<Drift>, found: &BTreeSet<Drift>) -> Result<()> {
    let missing: Vec<_> = expected.difference(found).collect();
    let unexpected: Vec<_> = found.difference(expected).collect();
    ensure!(missing.is_empty() && unexpected.is_empty(), "missing: {missing:?}; unexpected: {unexpected:?}");
    Ok(())
}
