//! Owns asking `docker-credential-NAME`, the program that keeps credentials for docker and podman
//! (docker-credential-helpers, "Development"). Must not own which program is asked.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use super::credentials::Credential;

/// The longest answer of a helper, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
/// How long a helper may take: it may have to ask a person.
const PATIENCE: Duration = Duration::from_mins(1);
/// What helpers answer instead of an empty answer.
const NOT_FOUND: &str = "credentials not found";
/// The user that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// Why a helper gave nothing. What it wrote is not in here.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// It cannot be run.
    #[error("it cannot be run")]
    Run(#[source] io::Error),
    /// It takes too long.
    #[error("it did not answer within 60 s")]
    Slow,
    /// It failed.
    #[error("it ended with {0}")]
    Failed(std::process::ExitStatus),
    /// Its answer is not what it must be.
    #[error("its answer is not the JSON of a credential helper")]
    Answer,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Asks for the credential of `server`; `None` if there is none.
pub(super) async fn ask(name: &str, server: &str) -> Result<Option<Credential>, HelperError> {
    let mut command = Command::new(format!("docker-credential-{name}"));
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(HelperError::Run)?;
    let talk = async {
        if let Some(mut input) = child.stdin.take() {
            // It may not want to read; what it says then counts.
            let _closed = input.write_all(server.as_bytes()).await;
        }
        let mut said = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(MAX_ANSWER + 1).read_to_end(&mut said).await.map_err(HelperError::Run)?;
        }
        if said.len() as u64 > MAX_ANSWER {
            return Err(HelperError::Answer);
        }
        let status = child.wait().await.map_err(HelperError::Run)?;
        if !status.success() {
            let missing = String::from_utf8_lossy(&said).contains(NOT_FOUND);
            return if missing { Ok(None) } else { Err(HelperError::Failed(status)) };
        }
        read(&said).map(Some)
    };
    timeout(PATIENCE, talk).await.unwrap_or(Err(HelperError::Slow))
}

fn read(said: &[u8]) -> Result<Credential, HelperError> {
    let Answer { username, secret } = serde_json::from_slice(said).map_err(|_| HelperError::Answer)?;
    Ok(if username == TOKEN_USER {
        Credential::Identity(secret)
    } else {
        Credential::Basic { user: username, password: secret }
    })
}
