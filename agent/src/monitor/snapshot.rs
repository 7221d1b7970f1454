//! Owns cutting all open findings of a target into parts that fit into a batch.

use driftlock_common::event::{ConditionBody, FindingBody, MAX_BATCH_BYTES, Snapshot};
use driftlock_common::finding::ManifestView;

/// Findings in one part.
const MAX_FINDINGS: usize = 500;
/// Bytes of findings in one part; a single larger one is a part of its own.
const MAX_BYTES: usize = MAX_BATCH_BYTES / 4;

/// The parts, at least one; the last is marked.
pub(crate) fn parts<'a>(
    target: &str,
    manifest: Option<&ManifestView>,
    mut conditions: Vec<ConditionBody>,
    findings: impl Iterator<Item = &'a FindingBody>,
) -> Vec<Snapshot> {
    let mut parts: Vec<Snapshot> = Vec::new();
    let mut part: Vec<FindingBody> = Vec::new();
    let mut bytes = 0;
    let mut close = |part: Vec<FindingBody>, last: bool| {
        parts.push(Snapshot {
            target: target.to_owned(),
            manifest: manifest.cloned(),
            part: u32::try_from(parts.len()).unwrap_or(u32::MAX),
            last,
            findings: part,
            conditions: std::mem::take(&mut conditions),
        });
    };
    for finding in findings {
        let size = serde_json::to_vec(finding).map_or(0, |json| json.len());
        if !part.is_empty() && (part.len() == MAX_FINDINGS || bytes + size > MAX_BYTES) {
            close(std::mem::take(&mut part), false);
            bytes = 0;
        }
        bytes += size;
        part.push(finding.clone());
    }
    close(part, true);
    parts
}
