//! Owns the command line: what may be typed and what `--help` teaches. Must not own reading files.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Receives the reports of driftlock's agents, keeps the evidence, shows what runs where.
#[derive(Debug, Parser)]
#[command(name = "driftlock-collector", version, max_term_width = 100, after_help = exits())]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Receive reports and show them
    Serve(ServeArgs),
    /// Copy everything a collector keeps into one file, while it runs
    Backup(BackupArgs),
    /// Make a collector's directory of such a file
    Restore(RestoreArgs),
    /// See it work: collector and agent in one process, on a directory or a small sample image
    Dev(DevArgs),
}

/// `driftlock-collector serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The tokens file has a line for each host: its name, a blank, its token (at least 16 characters). The name is what the
host is called here, whatever its agent says. The file must not be readable by everyone; SIGHUP reads it again.

The fleet file has the names of hosts that should be there (a JSON list of names is one too), after how long hosts are
silent, by name or label, and when they may be, at once or each week, in UTC. SIGHUP reads it again:

    expected = [\"web-1\", \"web-2\"]
    [[silent]]
    labels = { role = \"batch\" }
    after  = \"2h\"
    [[quiet]]
    hosts  = \"web-*\"
    from   = \"2026-12-01T22:00:00Z\"
    until  = \"2026-12-01T23:00:00Z\"
    reason = \"kernel update\"
    [[quiet]]
    at     = \"02:30\"
    for    = \"1h\"
    days   = [\"sat\", \"sun\"]

TLS is for a proxy before it: agents send to https:// addresses, or to http:// on their own host.")]
pub struct ServeArgs {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Directory of the store; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "/var/lib/driftlock-collector")]
    pub data: PathBuf,
    /// Who may report: a line for each host with its name and token
    #[arg(long, value_name = "FILE")]
    pub tokens: PathBuf,
    /// Who may read: a file with one token; needed beyond loopback
    #[arg(long, value_name = "FILE")]
    pub read_token_file: Option<PathBuf>,
    /// What is said of the fleet: hosts that should be there, when one is silent, quiet times; TOML
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,
    /// Another name under which to answer, as clients write it; loopback's names always are
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Events in a second that a host may send for long; 200 times as many at once
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub host_rate: u32,
    /// Days that events, resolved findings and resolved conditions are kept; what is open is kept as long as it is
    /// [default: for ever]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_days: Option<u32>,
    /// Bytes that the store may have before the oldest of these are forgotten, for example 20GB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub keep_bytes: Option<u64>,
}

/// `driftlock-collector backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
The file holds keys if the directory does, and is readable by its owner only.")]
pub struct BackupArgs {
    /// The file to make
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Directory of the store
    #[arg(long, value_name = "DIR", default_value = "/var/lib/driftlock-collector")]
    pub data: PathBuf,
}

/// `driftlock-collector restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `backup` made
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Directory of the store, which has none yet; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "/var/lib/driftlock-collector")]
    pub data: PathBuf,
}

/// Bytes, with a unit of 1000 or of 1024 or none.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "" => 1,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err("a number with MB, GB, TB, MiB, GiB or TiB behind it".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a number of bytes".to_owned())?;
    number.checked_mul(unit).filter(|size| *size > 0).ok_or_else(|| "a size above 0 that fits 64 bits".to_owned())
}

/// `driftlock-collector dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Directory to seal as it is now, and to watch [default: a sample image, deployed to a temporary directory]
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Port of the page on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub port: u16,
}

/// The collector's part of the table of exit codes.
fn exits() -> String {
    let mut text = String::from("Exit codes:\n    0  ended as asked\n");
    for (code, meaning) in driftlock_common::exit::TABLE.iter().filter(|(code, _)| *code >= 64) {
        text.push_str("   ");
        text.push_str(&code.to_string());
        text.push_str("  ");
        text.push_str(meaning);
        text.push('\n');
    }
    text
}
