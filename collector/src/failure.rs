//! Owns how an error ends a command: one line on stderr and an exit code of the table.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;

use driftlock_common::exit::Exit;

/// An error with the exit code that it ends the process with.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What was wrong, where, and what to do.
    pub error: anyhow::Error,
}

impl Failure {
    /// An error that ends with `exit`.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// One line on stderr, control characters escaped: an error may quote a hostile name.
    pub fn complain(&self) {
        let line = one_line(&format!("{:#}", self.error));
        // Nothing can be said on a closed stream.
        let _closed = writeln!(std::io::stderr(), "driftlock-collector: {line}");
    }
}

/// An error and its sources on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a string does not fail.
        let _always_fits = write!(text, ": {error}");
        source = error.source();
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for ch in text.chars() {
        if ch.is_control() { line.extend(ch.escape_default()) } else { line.push(ch) }
    }
    line
}

/// Makes every panic, on any thread, end the process with the code for a bug: a collector whose writer is dead and
/// whose listener is not would look alive.
#[expect(clippy::exit, reason = "a panic has no way back to main")]
pub fn exit_70_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(Exit::Bug.code().into());
    }));
}
