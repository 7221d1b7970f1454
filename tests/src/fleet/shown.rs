//! Owns what the collector shows of a fleet over its interface, held against what each host knows. Must not own what is kept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use driftlock_common::path::from_base64;
use serde_json::Value;

use super::endpoint::Endpoint;
use super::model::Model;

/// What is open of a host, by path: its change, and how large it is now.
type Open = BTreeMap<Vec<u8>, (String, Option<u64>)>;

/// What is shown.
#[derive(Debug, Default)]
pub struct Shown {
    hosts: BTreeMap<String, Value>,
    findings: BTreeMap<String, Open>,
    conditions: BTreeMap<String, BTreeSet<String>>,
}

impl Shown {
    /// Asks for everything that is open.
    ///
    /// # Errors
    /// If it is not answered as documented.
    pub async fn read(endpoint: &Endpoint) -> Result<Self> {
        let mut shown = Self::default();
        let text = |value: &Value, key: &str| -> Result<String> {
            Ok(value[key].as_str().with_context(|| format!("{key} in {value}"))?.to_owned())
        };
        for host in endpoint.list("/v1/hosts?limit=1000", "hosts").await? {
            shown.hosts.insert(text(&host, "host")?, host);
        }
        for finding in endpoint.list("/v1/findings?state=open&limit=1000", "findings").await? {
            let path = match finding["path_b64"].as_str() {
                Some(base64) => from_base64(base64).context("base64")?,
                None => text(&finding, "path")?.into_bytes(),
            };
            let seen = (text(&finding, "change")?, finding["observed"]["size"].as_u64());
            let of_host = shown.findings.entry(text(&finding, "host")?).or_default();
            ensure!(of_host.insert(path, seen).is_none(), "a path is there twice: {finding}");
        }
        for condition in endpoint.list("/v1/conditions?state=open&limit=1000", "conditions").await? {
            let of_host = shown.conditions.entry(text(&condition, "host")?).or_default();
            ensure!(of_host.insert(text(&condition, "reason")?), "a condition is there twice: {condition}");
        }
        Ok(shown)
    }

    /// The hosts' names.
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.hosts.keys().map(String::as_str).collect()
    }

    /// What is shown as a host's state.
    pub fn state(&self, host: &str) -> Option<&str> {
        self.hosts.get(host)?["state"].as_str()
    }

    /// Holds it against what a host knows.
    ///
    /// # Errors
    /// If something else is shown.
    pub fn check(&self, model: &Model) -> Result<()> {
        self.check_open(model)?;
        let host = self.hosts.get(&model.host).with_context(|| format!("{} is not shown", model.host))?;
        ensure!(host["state"] == model.state(), "{} is {}, and {host} is shown", model.host, model.state());
        Ok(())
    }

    /// The same without the state.
    ///
    /// # Errors
    /// If something else is shown.
    pub fn check_open(&self, model: &Model) -> Result<()> {
        let host = &model.host;
        let (expected, nothing) = (model.findings(), BTreeMap::new());
        let found = self.findings.get(host).unwrap_or(&nothing);
        for (path, seen) in &expected {
            let shown = found.get(path);
            ensure!(shown == Some(seen), "{host}: {seen:?} at {}, and {shown:?} is shown", path.escape_ascii());
        }
        for path in found.keys() {
            ensure!(expected.contains_key(path), "{host}: {} is as sealed, and shown as open", path.escape_ascii());
        }
        let (expected, nothing) = (model.conditions(), BTreeSet::new());
        let found = self.conditions.get(host).unwrap_or(&nothing);
        ensure!(expected == *found, "{host}: conditions {expected:?}, and {found:?} are shown");
        Ok(())
    }
}
