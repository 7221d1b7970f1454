//! `driftlock enroll`: this host joins a collector.

use std::io::{self, Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use driftlock_common::enrolment::EnrolmentToken;
use driftlock_common::exit::Exit;
use driftlock_common::host_name::HostName;
use driftlock_common::path::Escaped;

use crate::cli::EnrollArgs;
use crate::failure::{Failure, Outcome};
use crate::identity::{self, Directory, JoinError, Joined, Wish};
use crate::output;

/// The longest file of a token that is read, in bytes.
const MAX_TOKEN: u64 = 4096;

/// Runs the verb.
pub fn run(args: EnrollArgs) -> Outcome {
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    if !args.server.is_encrypted() {
        return Err(usage(anyhow!("--server {}: a host joins over https:// alone", args.server)));
    }
    let token: EnrolmentToken = match (args.token, args.token_file) {
        (Some(token), _) => token.parse().context("--token").map_err(usage)?,
        (None, Some(path)) => read(&path)?,
        (None, None) => return Err(usage(anyhow!("--token or --token-file is missing"))),
    };
    let host: HostName = match args.name {
        Some(name) => name.parse().context("--name").map_err(usage)?,
        None => name_of_this_host("--name")?,
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(|error| Failure::new(Exit::Io, error))?;
    let server = args.server.to_string();
    let wish = Wish { endpoint: args.server, token, host };
    let joined = tokio.block_on(identity::enroll(Directory::of(&args.state_dir), wish));
    let joined = joined.map_err(|error| explain(error, &server))?;
    let (identity, again) = match &joined {
        Joined::Now(identity) => (identity, ""),
        Joined::Before(identity) => (identity, ", as with this token before"),
    };
    let endpoint = identity.endpoint.as_ref().map_or(server, ToString::to_string);
    let (name, until) = (identity.name(), identity.until);
    output::say(&format!("{name} reports to {endpoint}{again}; its certificate is good until {until} and is renewed"));
    writeln!(io::stdout(), "{name}").map_err(|error| Failure::output("stdout", error))?;
    Ok(Exit::Found(0))
}

/// What the kernel calls this host, if that can be a name at a collector; `option` says another.
pub(super) fn name_of_this_host(option: &str) -> Result<HostName, Failure> {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name = name.to_string_lossy();
    let said = || format!("this host is called \"{}\"; say {option} NAME", Escaped(name.as_bytes()));
    name.parse().with_context(said).map_err(|error| Failure::new(Exit::Usage, error))
}

fn read(path: &Path) -> Result<EnrolmentToken, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().take(MAX_TOKEN).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text))
    };
    let shown = Escaped(path.as_os_str().as_encoded_bytes()).to_string();
    read.map_err(|error| Failure::input(&shown, error))?;
    text.trim().parse().context(shown).map_err(|error| Failure::new(Exit::Malformed, error))
}

/// Names who was asked, where it is about that.
fn explain(error: JoinError, server: &str) -> Failure {
    let about = matches!(error, JoinError::Exchange(_));
    let Failure { exit, error } = error.into();
    Failure { exit, error: if about { error.context(server.to_owned()) } else { error } }
}
