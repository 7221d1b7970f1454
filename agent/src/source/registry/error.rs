//! Owns what can go wrong between a registry and us, and the exit code that follows. Must not own detecting it.
//!
//! Nothing here quotes a credential, an address with its query, or the text of an answer: all of them may hold a secret.

use std::fmt;
use std::io;
use std::path::PathBuf;

use driftlock_common::exit::Exit;
use reqwest::StatusCode;

use super::credentials::FileError;
use super::helper::HelperError;
use super::limits::{LONGEST_PAUSE, LOWEST_RATE};
use crate::http::BuildError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no connection.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// Which server.
        host: String,
        /// The chain of errors.
        why: String,
    },
    /// Connections break.
    #[error("{host} broke off {tries} times, the last time: {why}")]
    Broken {
        /// Which server.
        host: String,
        /// How often it was asked.
        tries: u32,
        /// The chain of errors.
        why: String,
    },
    /// Nothing comes.
    #[error("{host} sends nothing for {seconds} s")]
    Silent {
        /// Which server.
        host: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Hardly anything comes.
    #[error("{host} sends less than {LOWEST_RATE} bytes a second")]
    Slow {
        /// Which server.
        host: String,
    },
    /// It has no time, or is out of order.
    #[error("{host} answers {status}{code}{}", if *.tries == 1 { String::new() } else { format!(", asked {tries} times") })]
    Busy {
        /// Which server.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// Its reason.
        code: Code,
        /// How often it was asked.
        tries: u32,
    },
    /// It asks for too much patience.
    #[error("{host} answers {status} and asks to wait longer than {} s: try again later", LONGEST_PAUSE.as_secs())]
    Later {
        /// Which server.
        host: String,
        /// Its answer.
        status: StatusCode,
    },
    /// An answer that makes no sense here.
    #[error("{host} answers {status}{code}, which makes no sense here")]
    Status {
        /// Which server.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// Its reason.
        code: Code,
    },
    /// It refuses somebody without a credential.
    #[error(
        "{host} answers {status}{code}: not for everybody, or there is no such repository; log in with docker or podman, \
         or name a file of credentials in REGISTRY_AUTH_FILE"
    )]
    Anonymous {
        /// Which server.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// Its reason.
        code: Code,
    },
    /// It refuses the credential.
    #[error("{host} answers {status}{code}: the credential is refused")]
    Denied {
        /// Which server.
        host: String,
        /// Its answer.
        status: StatusCode,
        /// Its reason.
        code: Code,
    },
    /// It does not say how to log in.
    #[error("{host} answers 401 and asks for neither Bearer nor Basic in a way that can be understood")]
    Challenge {
        /// Which server.
        host: String,
    },
    /// A token endpoint that is not asked.
    #[error("{host} names a token endpoint that is not https://")]
    Realm {
        /// Which server.
        host: String,
    },
    /// What a token endpoint gives is no token.
    #[error("the token endpoint {host} {what}")]
    Token {
        /// Which server.
        host: String,
        /// What it does instead.
        what: &'static str,
    },
    /// Redirects without end.
    #[error("{host} redirects more than {} times", super::route::MAX_REDIRECTS)]
    Redirects {
        /// Where it began.
        host: String,
    },
    /// A redirect to nowhere.
    #[error("{host} redirects to something that is no address of a server")]
    RedirectAddress {
        /// Who redirects.
        host: String,
    },
    /// A redirect that others could read and change.
    #[error("{host} redirects to {to} without encryption, which is refused")]
    RedirectUnencrypted {
        /// Who redirects.
        host: String,
        /// Where to.
        to: String,
    },
    /// A redirect of something that is written.
    #[error("{host} redirects what is written to it, which is not followed")]
    RedirectWrite {
        /// Which server.
        host: String,
    },
    /// It takes no blob.
    #[error("{host} does not say where a blob is to be written")]
    NoUpload {
        /// Which server.
        host: String,
    },
    /// A body that goes on.
    #[error("{host} sends more than the {size} bytes that it should have")]
    TooLong {
        /// Which server.
        host: String,
        /// How many it should have.
        size: u64,
    },
    /// Another part than was asked for.
    #[error("{host} was asked for the bytes from {from} on and answers with another range")]
    Range {
        /// Which server.
        host: String,
        /// What was asked for.
        from: u64,
    },
    /// A file of credentials that cannot be used.
    #[error("{}", .0.display())]
    Credentials(PathBuf, #[source] FileError),
    /// A helper that gives none.
    #[error("docker-credential-{0}")]
    Helper(String, #[source] HelperError),
    /// There is no client.
    #[error(transparent)]
    Client(BuildError),
    /// There is no runtime.
    #[error("the network cannot be used")]
    Runtime(#[source] io::Error),
}

/// The reason that a registry gives (OCI distribution-spec, "Error Codes"): a word of capitals, or nothing. The rest of
/// its answer is not kept, since it may repeat what was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code(Option<String>);

impl Code {
    /// Out of the body of an answer.
    pub fn read(body: &[u8]) -> Self {
        let word = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|body| {
            let word = body.get("errors")?.get(0)?.get("code")?.as_str()?;
            let fits = word.len() <= 40 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            fits.then(|| word.to_owned())
        });
        Self(word)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |word| write!(f, " ({word})"))
    }
}

impl RegistryError {
    /// How it ends a command.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Silent { .. }
            | Self::Slow { .. }
            | Self::Busy { .. }
            | Self::Later { .. } => Exit::Unavailable,
            Self::Status { .. }
            | Self::Challenge { .. }
            | Self::Token { .. }
            | Self::Redirects { .. }
            | Self::RedirectAddress { .. }
            | Self::RedirectWrite { .. }
            | Self::NoUpload { .. }
            | Self::TooLong { .. }
            | Self::Range { .. } => Exit::Malformed,
            Self::Anonymous { .. } | Self::Denied { .. } | Self::Realm { .. } | Self::RedirectUnencrypted { .. } => {
                Exit::Refused
            }
            Self::Credentials(..) | Self::Helper(..) | Self::Client(_) => Exit::Configuration,
            Self::Runtime(_) => Exit::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_of_an_answer_is_said() {
        for (body, said) in [
            (r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"secret"}]}"#, " (MANIFEST_UNKNOWN)"),
            (r#"{"errors":[{"code":"secret"}]}"#, ""),
            (r#"{"errors":[{"code":"A B"}]}"#, ""),
            (r#"{"errors":[]}"#, ""),
            (r#"{"errors":"X"}"#, ""),
            ("secret", ""),
            ("", ""),
        ] {
            assert_eq!(Code::read(body.as_bytes()).to_string(), said, "{body}");
        }
    }
}
