//! Owns writing to stdout and stderr, and the forms of a result: text, json, ndjson. Must not own deciding what is drift.

mod json;
mod text;

use std::io::{self, IsTerminal as _, Write};

use driftlock_common::digest::Algorithm;
use driftlock_common::drift::Drift;
use driftlock_common::finding::{Finding, Summary};
use serde::Serialize;

use crate::failure::Failure;

pub use json::{finding_line, summary_line};
pub use text::{drift_line, summary_lines};

/// One line on stderr.
pub fn complain(failure: &Failure) {
    say(&failure.to_string());
}

/// One line for the person at the terminal, on stderr. Names in it must be escaped already.
pub fn say(line: &str) {
    // Nothing can be said on a closed stream.
    let _closed = writeln!(io::stderr(), "driftlock: {line}");
}

/// Whether colour is wanted on stdout.
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether the reader is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// As far as is known.
    There,
    /// It closed its end: what else there is to say is of no use, and that is no error.
    Gone,
}

/// Writes a result. Once the reader is gone nothing more is written.
#[derive(Debug)]
pub struct Output<W> {
    sink: W,
    reader: Reader,
}

impl Output<io::BufWriter<io::Stdout>> {
    /// Stdout. [`Output::finish`] must be called: what is buffered is lost otherwise.
    pub fn stdout() -> Self {
        Self::new(io::BufWriter::with_capacity(64 * 1024, io::stdout()))
    }
}

impl<W: Write> Output<W> {
    /// Writes to `sink`.
    pub const fn new(sink: W) -> Self {
        Self { sink, reader: Reader::There }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Any but a reader that is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Reader, Failure> {
        self.attempt(|sink| sink.write_all(bytes))
    }

    /// Hands everything on that is buffered.
    ///
    /// # Errors
    /// Any but a reader that is gone.
    pub fn finish(&mut self) -> Result<Reader, Failure> {
        self.attempt(Write::flush)
    }

    /// Writes a whole result: `drifts` in path order, then its summary.
    ///
    /// # Errors
    /// Any but a reader that is gone.
    pub fn text(&mut self, drifts: &[Drift], summary: &Summary, colour: bool) -> Result<Reader, Failure> {
        for drift in drifts {
            self.write(drift_line(drift, colour).as_bytes())?;
        }
        self.write(summary_lines(summary).as_bytes())?;
        self.finish()
    }

    /// Writes a whole result as one object, `{"findings":[…],"summary":{…}}`.
    ///
    /// # Errors
    /// Any but a reader that is gone.
    pub fn json<S: Serialize>(&mut self, drifts: &[Drift], content: Algorithm, summary: &S) -> Result<Reader, Failure> {
        // One at a time: a result may be large, its text larger still.
        self.write(b"{\"findings\":[")?;
        for (index, drift) in drifts.iter().enumerate() {
            self.write(if index == 0 { b"" } else { b"," })?;
            self.write(&json::to_json(&Finding::new(drift, content)))?;
        }
        self.write(b"],\"summary\":")?;
        self.write(&json::to_json(summary))?;
        self.write(b"}\n")?;
        self.finish()
    }

    fn attempt(&mut self, write: impl FnOnce(&mut W) -> io::Result<()>) -> Result<Reader, Failure> {
        if self.reader == Reader::There {
            match write(&mut self.sink) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.reader = Reader::Gone,
                Err(error) => return Err(Failure::output("stdout", error)),
            }
        }
        Ok(self.reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error_and_any_other_is() {
        let mut closed = Output::new(Broken(io::ErrorKind::BrokenPipe));
        assert_eq!(closed.write(b"x").unwrap(), Reader::Gone);
        assert_eq!(closed.finish().unwrap(), Reader::Gone);
        let failure = Output::new(Broken(io::ErrorKind::StorageFull)).write(b"x").unwrap_err();
        assert_eq!(failure.exit.code(), 73);
    }
}
