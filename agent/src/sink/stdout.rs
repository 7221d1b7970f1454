//! Owns writing events to standard output, a line of JSON each. Must not own who reads them.

use std::io::{self, Write};

use super::{Drain, Record};

/// Lines for whoever reads them.
pub(super) struct Lines<W>(pub(super) W);

impl<W: Write + Send> Drain for Lines<W> {
    fn take(&mut self, record: &Record) -> io::Result<()> {
        // A whole line at once: whoever reads sees no half of one.
        self.0.write_all(format!("{}\n", record.json).as_bytes())?;
        self.0.flush()
    }

    /// Nobody comes back to a pipe that was closed, and of any other error it is not known what was written.
    fn is_over(&self, _: &io::Error) -> bool {
        true
    }
}
