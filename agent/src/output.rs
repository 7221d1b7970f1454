//! Owns writing to stdout and stderr, and the forms of a result: text, json, ndjson, sarif, junit. Must not own deciding what is drift.

mod changes;
pub mod check_file;
mod fold;
mod json;
mod junit;
mod listing;
pub mod mtree;
#[cfg(test)]
mod sample;
mod sarif;
mod status;
mod text;

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;

use driftlock_common::finding::{Finding, Summary};
use driftlock_common::manifest::SealedIn;
use driftlock_common::policy::Judged;

use crate::cli::FormatArg;
use crate::failure::Failure;
use crate::gate::Gate;

pub use changes::Changes;
pub use json::{finding_line, summary_line, to_json};
pub use status::{ago, numbers, status};
pub use text::{layer_and_step, size, summary_lines};

/// One line on stderr.
pub fn complain(failure: &Failure) {
    say(&failure.to_string());
}

/// One line for the person at the terminal, on stderr. Names in it must be escaped already.
pub fn say(line: &str) {
    // In one piece, so that lines of two threads do not mix. Nothing can be said on a closed stream.
    let _closed = io::stderr().write_all(format!("driftlock: {line}\n").as_bytes());
}

/// Whether colour is wanted on stdout.
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A whole result, and what the gate makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// The verb that found it.
    pub verb: &'static str,
    /// Every difference with what is said of it, in path order.
    pub findings: &'a [Judged<'a>],
    /// What it was sealed in.
    pub sealed_in: SealedIn<'a>,
    /// What it amounts to.
    pub summary: &'a Summary,
    /// What of it fails.
    pub gate: Gate,
    /// The exit code.
    pub exit: u8,
    /// Sealed entries that an interrupted scan did not look at; `None` if it ran to its end.
    pub unreached: Option<u64>,
    /// The directory that was compared, if it was one.
    pub root: Option<&'a Path>,
    /// Whether the form for people has a line for each difference, as all others do.
    pub all: bool,
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

    /// Writes a whole result in a form. One difference at a time: a result may be large, its text larger still.
    ///
    /// # Errors
    /// Any but a reader that is gone.
    pub fn whole(&mut self, form: FormatArg, whole: &Whole<'_>, colour: bool) -> Result<Reader, Failure> {
        match form {
            FormatArg::Text => self.text(whole, colour),
            FormatArg::Json => self.json(whole),
            FormatArg::Ndjson => self.ndjson(whole),
            FormatArg::Sarif => sarif::write(self, whole),
            FormatArg::Junit => junit::write(self, whole),
        }
    }

    /// Writes what differs between two sides, for people: by layer, and there by directory.
    ///
    /// # Errors
    /// Any but a reader that is gone.
    pub fn changes(&mut self, changes: &Changes<'_>, colour: bool) -> Result<Reader, Failure> {
        changes::write(self, changes, colour)
    }

    fn text(&mut self, whole: &Whole<'_>, colour: bool) -> Result<Reader, Failure> {
        for line in listing::lines(whole.findings, whole.sealed_in, whole.all, colour) {
            self.write(line.as_bytes())?;
        }
        self.write(summary_lines(whole.summary).as_bytes())?;
        self.finish()
    }

    /// One object, `{"findings":[…],"summary":{…}}`.
    fn json(&mut self, whole: &Whole<'_>) -> Result<Reader, Failure> {
        self.write(b"{\"findings\":[")?;
        for (index, judged) in whole.findings.iter().enumerate() {
            self.write(if index == 0 { b"" } else { b"," })?;
            self.write(&json::to_json(&Finding::of(judged, whole.sealed_in)))?;
        }
        self.write(b"],\"summary\":")?;
        self.write(&json::to_json(whole.summary))?;
        self.write(b"}\n")?;
        self.finish()
    }

    fn ndjson(&mut self, whole: &Whole<'_>) -> Result<Reader, Failure> {
        for judged in whole.findings {
            self.write(&finding_line(judged, whole.sealed_in))?;
        }
        self.write(&summary_line(whole.summary))?;
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
