//! Owns writing to stdout and stderr, and the forms of a scan's result: text, json, ndjson. Must not own deciding what
//! is drift.

use std::io::Write as _;

use crate::failure::Failure;

/// One line on stderr.
pub fn complain(failure: &Failure) {
    // Nothing can be said on a closed stream.
    let _closed = writeln!(std::io::stderr(), "driftlock: {failure}");
}
