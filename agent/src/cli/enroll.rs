//! Owns what may be typed to join a collector. Must not own what the command does.

use std::path::PathBuf;

use clap::Args;

use crate::config::{DEFAULT_STATE_DIR, Endpoint};

/// `driftlock enroll`.
#[derive(Debug, Args)]
#[command(after_help = "\
The token comes from the collector, and is good once, for some time:
  driftlock-collector enroll-token web-1
  driftlock enroll --server https://collector.example:8443 --token TOKEN

It holds the SHA-256 of the collector's CA, so nothing else has to be trusted: nobody but who has that CA is
told the token. The key is made here, and stays here. The certificate is kept in the state directory with the
address of the collector, so that report.endpoint may be left out; the agent renews it, and takes it over
while it runs. Said again, with the same token, the same comes of it.

Exit codes:
    0  this host has joined
   64  the command line is wrong
   65  the file of the token holds none, or what is in the state directory cannot be used
   66  the file of the token is not there
   69  the collector does not answer
   73  the state directory cannot be written
   77  the collector refuses, or whoever answers is not the one that the token is of")]
pub struct EnrollArgs {
    /// Where the collector is, as `https://NAME:PORT`
    #[arg(long, value_name = "URL")]
    pub server: Endpoint,
    /// What lets this host in. Others on this host can see it while the command runs
    // One in 64 begins with a hyphen.
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file", allow_hyphen_values = true)]
    pub token: Option<String>,
    /// The same in a file; - is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// As what this host is to be known at the collector [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The agent's state directory, as in its configuration
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}
