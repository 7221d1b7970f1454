//! `driftlock wait`: until the agent on this host has looked at a target completely.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::status::{NOT_VERIFIED, TargetStatus, Ticket, Waited};
use driftlock_common::trust::Statement;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::ask;
use crate::baseline::BaselineError;
use crate::bundle;
use crate::cli::WaitArgs;
use crate::control::{AskError, Client};
use crate::failure::{Failure, Outcome};
use crate::output::{self, Output};

/// An agent that is started anew is asked again after this.
const PAUSE: Duration = Duration::from_millis(200);
/// Read of a manifest at a time.
const CHUNK: usize = 64 * 1024;

/// How a wait ended.
enum Ended {
    /// A look that counts came to its end.
    Looked(u8, Box<TargetStatus>),
    /// None did, as far as is known; why the agent did not answer last, if it did not.
    TimeUp(Option<Box<TargetStatus>>, Option<AskError>),
}

/// One step of a wait.
enum Asked {
    Ticket(Ticket),
    Waited(Box<Waited>),
}

/// Runs the verb.
pub fn run(args: WaitArgs) -> Outcome {
    let manifest = args.manifest.as_deref().map(sha256).transpose()?;
    let (target, limit) = (args.target, args.timeout);
    ask::with(args.ask, async |client: Client| match wait(&client, &target, manifest.as_deref(), limit).await? {
        Ended::Looked(exit, status) => {
            let word = if exit == 0 { "as sealed" } else { "not as sealed" };
            let numbers = output::numbers(&status.open);
            let gap = if exit & NOT_VERIFIED == 0 { "" } else { ", something could not be verified" };
            let mut stdout = Output::stdout();
            stdout.write(format!("{}: {word}, {numbers}{gap}\n", Escaped(target.as_bytes())).as_bytes())?;
            stdout.finish()?;
            Ok(Exit::Found(exit))
        }
        Ended::TimeUp(status, error) => {
            let name = Escaped(target.as_bytes());
            let why = why(status.as_deref(), error, manifest.as_deref());
            output::say(&format!("{name} was not verified within {limit:?}: {why}"));
            Ok(Exit::Found(NOT_VERIFIED))
        }
    })
}

async fn wait(client: &Client, target: &str, manifest: Option<&str>, limit: Duration) -> Result<Ended, AskError> {
    let deadline = Instant::now() + limit;
    let mut ticket: Option<Ticket> = None;
    let mut last = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let asked = async {
            let Some(ticket) = &ticket else {
                let tickets = client.rescan(Some(target)).await?;
                let after = tickets.after.get(target).copied().unwrap_or(0);
                return Ok(Asked::Ticket(Ticket { run: tickets.run, after }));
            };
            client.wait(target, ticket, manifest, left).await.map(|waited| Asked::Waited(Box::new(waited)))
        };
        // One that is stopped in the middle does not answer at all.
        let error = match tokio::time::timeout(left + Duration::from_secs(1), asked).await {
            Ok(Ok(Asked::Ticket(drawn))) => {
                ticket = Some(drawn);
                continue;
            }
            Ok(Ok(Asked::Waited(waited))) => match *waited {
                Waited { exit: Some(exit), target, .. } => return Ok(Ended::Looked(exit, Box::new(target))),
                Waited { exit: None, target, .. } => {
                    last = Some(Box::new(target));
                    None
                }
            },
            // One that was there a moment ago may be back in a moment.
            Ok(Err(error)) if ticket.is_some() && error.may_pass() => {
                tokio::time::sleep(PAUSE.min(left)).await;
                Some(error)
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(Ended::TimeUp(last, None)),
        };
        if Instant::now() >= deadline {
            return Ok(Ended::TimeUp(last, error));
        }
    }
}

fn why(status: Option<&TargetStatus>, error: Option<AskError>, manifest: Option<&str>) -> String {
    if let Some(error) = error {
        return Failure::from(error).to_string();
    }
    let Some(status) = status else { return "the agent does not answer".to_owned() };
    let mut reasons: Vec<String> =
        status.conditions.iter().map(|body| format!("{}: {}", body.reason.name(), body.detail)).collect();
    if let (Some(wanted), Some(compared)) = (manifest, &status.manifest)
        && compared.sha256.to_string() != wanted
        && compared.parts.iter().all(|part| part.sha256.to_string() != wanted)
    {
        reasons.push("it is compared with another manifest".to_owned());
    }
    reasons.push(status.activity.doing.meaning().to_owned());
    Escaped(reasons.join("; ").as_bytes()).to_string()
}

/// The SHA-256 of a manifest; of a bundle, that of the manifest that it states. Whether that is to be believed the agent
/// decides, not who waits for it.
fn sha256(path: &Path) -> Result<String, Failure> {
    let opened = bundle::open(path)?;
    if !opened.is_manifest() {
        let envelope = opened.envelope()?;
        let claim = envelope.verify([]);
        let statement = Statement::read(&claim).map_err(|error| BaselineError::Statement(path.to_owned(), error))?;
        return Ok(statement.manifest.to_string());
    }
    let failed = |error| Failure::input(path.display(), error);
    let mut bytes = opened.manifest()?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match bytes.read(&mut chunk).map_err(failed)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&chunk[..read]),
        }
    }
}
