//! Owns making signatures: with a key of a file, or by a command that has the key elsewhere (a security module, a key
//! service). Must not own what is signed.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driftlock_common::exit::Exit;
use driftlock_common::trust::{Envelope, PrivateKey, PublicKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::key_file;

/// How long a command may take to sign: somebody may have to touch a device.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The most that a command may write, in bytes: signatures have less than a hundred, their base64 less than two.
pub const MAX_ANSWER: u64 = 4 * 1024;

/// Something that signs.
#[derive(Debug)]
pub enum Signer {
    /// A key that is at hand.
    Key(PrivateKey),
    /// A command that gets the bytes to be signed on stdin, and writes the signature.
    Command(SignCommand),
}

/// A command that signs, and the public half of the key that it signs with.
#[derive(Debug)]
pub struct SignCommand {
    words: Vec<String>,
    key: PublicKey,
    patience: Duration,
}

/// Why a command signed nothing.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// No command.
    #[error("--sign-command {0:?}: not words as a shell reads them: a quote is open, or there is none")]
    Words(String),
    /// It cannot be run.
    #[error("the sign command {0}")]
    Run(String, #[source] io::Error),
    /// It takes too long.
    #[error("the sign command {0} did not sign within {1} s")]
    Slow(String, u64),
    /// It failed.
    #[error("the sign command {0} failed: {1}")]
    Failed(String, ExitStatus),
    /// It wrote nothing.
    #[error("the sign command {0} wrote no signature")]
    Silent(String),
    /// It wrote too much.
    #[error("the sign command {0} wrote more than {MAX_ANSWER} bytes, which is no signature")]
    TooLong(String),
    /// It wrote something else.
    #[error("the sign command {0} wrote something that is not a signature by the key {1:?} over what it was given")]
    NotIts(String, PublicKey),
}

// === impl Signer ===

impl Signer {
    /// The key of a file.
    ///
    /// # Errors
    /// If the file cannot be used, or others can read it.
    pub fn of_file(path: &Path) -> Result<Self, Failure> {
        Ok(Self::Key(key_file::read_private(path)?))
    }

    /// A command, written as for a shell, which is not asked: words and quotes, and nothing else means anything. The key is
    /// the public one.
    ///
    /// # Errors
    /// If it is no command, or the file of the key cannot be used.
    pub fn of_command(command: &str, key: &Path) -> Result<Self, Failure> {
        let words = shlex::split(command).filter(|words| words.first().is_some_and(|program| !program.is_empty()));
        let words = words.ok_or_else(|| SignerError::Words(command.to_owned()))?;
        Ok(Self::Command(SignCommand { words, key: key_file::read_public(key)?, patience: PATIENCE }))
    }

    /// The key that verifies what this signs.
    pub const fn public(&self) -> &PublicKey {
        match self {
            Self::Key(key) => key.public(),
            Self::Command(command) => &command.key,
        }
    }

    /// Signs an envelope.
    ///
    /// # Errors
    /// If a command gives no signature of its key.
    pub fn sign(&self, envelope: &mut Envelope) -> Result<(), SignerError> {
        match self {
            Self::Key(key) => {
                envelope.sign(key);
                Ok(())
            }
            Self::Command(command) => command.sign(envelope),
        }
    }
}

// === impl SignCommand ===

impl SignCommand {
    fn sign(&self, envelope: &mut Envelope) -> Result<(), SignerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| SignerError::Run(self.name(), error))?;
        let message = envelope.to_sign();
        let answer = runtime.block_on(async { timeout(self.patience, self.ask(&message)).await });
        let answer = answer.unwrap_or_else(|_| Err(SignerError::Slow(self.name(), self.patience.as_secs())))?;
        // Which of the two it is needs no guessing: only one can be the key's.
        let decoded = STANDARD.decode(answer.trim_ascii()).ok();
        if envelope.add(&self.key, answer) || decoded.is_some_and(|answer| envelope.add(&self.key, answer)) {
            return Ok(());
        }
        Err(SignerError::NotIts(self.name(), self.key.clone()))
    }

    /// What it writes. Its own words, on stderr, are for the person who called.
    async fn ask(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let run = |error| SignerError::Run(self.name(), error);
        let mut command = tokio::process::Command::new(self.program());
        command.args(self.words.iter().skip(1)).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(run)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        // At once: it may write before it has read everything.
        let tell = async {
            if let Some(mut input) = input {
                // It may not want to read; what it writes then counts.
                let _closed = input.write_all(message).await;
            }
        };
        let hear = async {
            let mut said = Vec::new();
            match output {
                Some(output) => output.take(MAX_ANSWER + 1).read_to_end(&mut said).await.map(|_| said),
                None => Ok(said),
            }
        };
        let said = tokio::select! {
            // Who has written too much need not read to the end.
            said = hear => said,
            said = async { tell.await; std::future::pending().await } => said,
        };
        let said = said.map_err(run)?;
        if said.len() as u64 > MAX_ANSWER {
            return Err(SignerError::TooLong(self.name()));
        }
        let status = child.wait().await.map_err(run)?;
        if !status.success() {
            return Err(SignerError::Failed(self.name(), status));
        }
        if said.is_empty() { Err(SignerError::Silent(self.name())) } else { Ok(said) }
    }

    fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn name(&self) -> String {
        format!("{:?}", self.program())
    }
}

impl From<SignerError> for Failure {
    fn from(error: SignerError) -> Self {
        let exit = match &error {
            SignerError::Words(_) => Exit::Usage,
            SignerError::Run(_, io) if io.kind() == io::ErrorKind::NotFound => Exit::NoInput,
            SignerError::Run(_, io) if io.kind() == io::ErrorKind::PermissionDenied => Exit::Refused,
            SignerError::Run(..) => Exit::Io,
            SignerError::Slow(..) | SignerError::Failed(..) => Exit::Unavailable,
            SignerError::Silent(_) | SignerError::TooLong(_) => Exit::Malformed,
            SignerError::NotIts(..) => Exit::Refused,
        };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::trust::Scheme;

    use super::*;

    /// Signs by `sh -c SCRIPT`, in a directory with the raw signature, its base64, and that of another key.
    fn by_script(script: &str, patience: Duration) -> Result<Envelope, SignerError> {
        let dir = tempfile::tempdir().unwrap();
        let mut envelope = Envelope::new("type", vec![b'x'; 300_000]);
        let key = PrivateKey::from_random(Scheme::Ed25519, &[7; 32]).unwrap();
        let other = PrivateKey::from_random(Scheme::Ed25519, &[8; 32]).unwrap();
        let signature = key.sign(&envelope.to_sign());
        for (name, bytes) in [
            ("message", envelope.to_sign()),
            ("raw", signature.clone()),
            ("base64", format!("{}\n", STANDARD.encode(&signature)).into_bytes()),
            ("other", other.sign(&envelope.to_sign())),
        ] {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let place = dir.path().display();
        let words = ["sh", "-c", &format!("cd {place}; {script}")].map(str::to_owned).to_vec();
        let command = SignCommand { words, key: key.public().clone(), patience };
        command.sign(&mut envelope).map(|()| envelope)
    }

    #[test]
    fn a_command_gets_the_bytes_and_gives_the_signature() {
        let expected = by_script("cat raw", PATIENCE).unwrap();
        assert_eq!(expected.signatures().len(), 1);
        for script in [
            "cmp - message && cat raw",
            "cat base64",
            // It writes before it reads, or closes its input.
            "cat raw; cat >/dev/null",
            "exec <&-; cat raw",
        ] {
            assert_eq!(by_script(script, PATIENCE).unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn a_command_that_misbehaves_signs_nothing() {
        let soon = Duration::from_millis(300);
        for (script, patience, exit, says) in [
            ("cat raw; exit 3", PATIENCE, 69, "\"sh\" failed: exit status: 3"),
            ("cat raw; kill -9 $$", PATIENCE, 69, "failed: signal: 9"),
            (":", PATIENCE, 65, "wrote no signature"),
            ("cat /dev/zero", PATIENCE, 65, "wrote more than 4096 bytes"),
            ("head -c 4097 /dev/zero", PATIENCE, 65, "wrote more than 4096 bytes"),
            ("cat other", PATIENCE, 77, "not a signature by the key ed25519:"),
            ("cat raw raw", PATIENCE, 77, "not a signature by the key"),
            ("head -c 63 raw", PATIENCE, 77, "not a signature by the key"),
            ("exec sleep 1000", soon, 69, "did not sign within 0 s"),
            // What it left running holds the pipe open.
            ("sleep 5 & cat raw", soon, 69, "did not sign within 0 s"),
        ] {
            let failure = Failure::from(by_script(script, patience).unwrap_err());
            assert_eq!(failure.exit.code(), exit, "{script}: {failure}");
            assert!(failure.to_string().contains(says), "{script}: {failure}");
        }
    }

    #[test]
    fn a_command_is_words_and_no_shell_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let pair = key_file::make(&dir.path().join("k"), Scheme::EcdsaP256).unwrap();
        let words = |text| match Signer::of_command(text, &pair.public) {
            Ok(Signer::Command(command)) => Some(command.words),
            _ => None,
        };
        for (text, expected) in [
            ("kms sign", Some(vec!["kms", "sign"])),
            ("sh -c 'a | b'", Some(vec!["sh", "-c", "a | b"])),
            ("a $HOME; b > c", Some(vec!["a", "$HOME;", "b", ">", "c"])),
            ("a \"b c\" d\\ e", Some(vec!["a", "b c", "d e"])),
            ("", None),
            ("  ", None),
            ("''", None),
            ("a 'b", None),
        ] {
            let expected = expected.map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(words(text), expected, "{text}");
        }
        let absent = Signer::of_command("/no/such/program", &pair.public).unwrap();
        let failure = Failure::from(absent.sign(&mut Envelope::new("type", Vec::new())).unwrap_err());
        assert_eq!(failure.exit, Exit::NoInput);
    }
}
