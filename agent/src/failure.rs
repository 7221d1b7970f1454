//! Owns how an error ends a command: one line on stderr and an exit code of the table. Must not own the errors
//! themselves; they stand beside the code that makes them.

use std::fmt;
use std::io;

use driftlock_common::exit::Exit;

/// An error with the exit code that it ends the process with.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What was wrong, where, and what to do.
    pub error: anyhow::Error,
}

/// What a command gives `main`.
pub type Outcome = Result<Exit, Failure>;

impl Failure {
    /// An error that ends with `exit`.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// An error of a system call on an input, named by `what`: missing is 66, not permitted is 77, the rest is 74.
    pub fn input(what: impl fmt::Display, error: io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Exit::NoInput,
            io::ErrorKind::PermissionDenied => Exit::Refused,
            _ => Exit::Io,
        };
        Self { exit, error: anyhow::Error::new(error).context(what.to_string()) }
    }

    /// An error of a system call on an output, named by `what`.
    pub fn output(what: impl fmt::Display, error: io::Error) -> Self {
        Self { exit: Exit::CannotCreate, error: anyhow::Error::new(error).context(what.to_string()) }
    }
}

impl fmt::Display for Failure {
    /// The whole chain on one line, control characters escaped: an error may quote a hostile name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ch in format!("{:#}", self.error).chars() {
            if ch.is_control() { write!(f, "{}", ch.escape_default())? } else { write!(f, "{ch}")? }
        }
        Ok(())
    }
}
