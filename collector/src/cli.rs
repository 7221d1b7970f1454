//! Owns the command line: what may be typed and what `--help` teaches. Must not own reading files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use driftlock_common::enrolment::TRUST_DOMAIN;
use driftlock_common::host_name::{HostName, HostPattern};

use crate::admin::verb::duration;
use crate::identity::certificate::NameRule;

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
    Serve(Box<ServeArgs>),
    /// Make a token by which one host may join
    EnrollToken(EnrollTokenArgs),
    /// Make, list and end tokens for reporting, reading and pushing
    Token(TokenArgs),
    /// Refuse what a host was given so far, at once
    Revoke(RevokeArgs),
    /// Show and change the CAs that certificates of hosts come from
    Ca(CaArgs),
    /// Copy everything a collector keeps into one file, while it runs
    Backup(BackupArgs),
    /// Make a collector's directory of such a file
    Restore(RestoreArgs),
    /// See it work: collector and agent in one process, on a directory or a small sample image
    Dev(DevArgs),
}

/// Where the data is. The verbs speak to the collector that uses it, and change it themselves where none runs.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Directory of the store
    #[arg(long, value_name = "DIR", default_value = "/var/lib/driftlock-collector", global = true)]
    pub data: PathBuf,
}

/// `driftlock-collector serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Hosts report with a certificate, which they get by `driftlock enroll` and a token of `driftlock-collector enroll-token`;
or with a bearer token of `driftlock-collector token`, or of the tokens file. That has a line for each host: its name, a
blank, its token (at least 16 characters); it must not be readable by everyone. SIGHUP reads it again, and the files of
--tls-cert, --tls-key and --client-ca.
Beyond loopback it is always TLS. Where no certificate is given, the collector's own CA issues one for the names of
--allow-host and the address of --listen. It is below ca in the data directory; `driftlock-collector ca show` prints it.
Certificates of --client-ca name a host by the URI spiffe://DOMAIN/host/NAME, or with --client-name dns by their one DNS
name. NAME is 1 to 128 letters, digits, dots, underscores and hyphens.

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
    days   = [\"sat\", \"sun\"]")]
pub struct ServeArgs {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Directory of the store; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "/var/lib/driftlock-collector")]
    pub data: PathBuf,
    /// Hosts that report by tokens: a line for each with its name and token
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Who may read: a file with one token; without it, on loopback everyone, elsewhere who has one of `token add --read`
    #[arg(long, value_name = "FILE")]
    pub read_token_file: Option<PathBuf>,
    /// What is said of the fleet: hosts that should be there, when one is silent, quiet times; TOML
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,
    /// Another name under which to answer, as clients write it; loopback's names always are
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Whether to answer over TLS; auto is on, but for loopback without --tls-cert
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = TlsWhen::Auto)]
    pub tls: TlsWhen,
    /// The collector's certificate, PEM, with those that lead to its CA
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// CAs of the hosts' certificates, PEM, instead of the collector's own: it then enrolls no host
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Which name of a certificate of --client-ca is the host's
    #[arg(long, value_enum, value_name = "KIND", default_value_t = NameRule::Spiffe, requires = "client_ca")]
    pub client_name: NameRule,
    /// Trust domain of the URIs in certificates
    #[arg(long, value_name = "DOMAIN", default_value = TRUST_DOMAIN, value_parser = trust_domain)]
    pub trust_domain: String,
    /// How long a host's certificate is valid; it renews at two thirds of that
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lifetime)]
    pub certificate_lifetime: Duration,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub max_connections: usize,
    /// Of these, from one address (a /64 of IPv6), those without an accepted credential
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_strangers: usize,
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

/// When to answer over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsWhen {
    /// Beyond loopback, and with a certificate
    Auto,
    /// Always
    On,
    /// Never: on loopback alone
    Off,
}

/// `driftlock-collector enroll-token`.
#[derive(Debug, Args)]
#[command(after_help = "\
The token is printed on standard output, once; only its digest is kept. It is good for one host. It says which CA the
collector's certificate leads to, so the host needs nothing else to know that it speaks with this collector.
A name that is known already is taken only with --replace: then what that host was given before is refused. After it was
revoked, a token for that name alone does too.")]
pub struct EnrollTokenArgs {
    /// Where the data is
    #[command(flatten)]
    pub data: DataArgs,
    /// The host's name; with * for any part of it
    #[arg(value_name = "HOST")]
    pub host: HostPattern,
    /// A label that the host gets, whatever its agent says
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// How long it may be used: 10m, 1h, 7d; at most 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub valid: Duration,
    /// Also for a host that is known already: it was installed anew
    #[arg(long)]
    pub replace: bool,
}

/// `driftlock-collector token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Where the data is
    #[command(flatten)]
    pub data: DataArgs,
    /// What to do
    #[command(subcommand)]
    pub verb: TokenVerb,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Print a new one, once
    Add {
        /// What it allows
        #[command(flatten)]
        scope: ScopeArgs,
        /// How long it may be used: 1h, 90d; at most 366d
        #[arg(long, value_name = "TIME", default_value = "90d", value_parser = duration)]
        valid: Duration,
    },
    /// List tokens of every kind, but for their secrets
    List,
    /// End one at once
    End {
        /// Its id, or the beginning of it
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// What a token allows.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ScopeArgs {
    /// To report as a host of this name; with * for any part of it, the request names the host
    #[arg(long, value_name = "HOST")]
    pub report: Option<HostPattern>,
    /// To read everything
    #[arg(long)]
    pub read: bool,
    /// To push manifests, and to say what a target must match
    #[arg(long)]
    pub push: bool,
}

/// `driftlock-collector revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Where the data is
    #[command(flatten)]
    pub data: DataArgs,
    /// The host
    #[arg(value_name = "HOST")]
    pub host: HostName,
    /// Take the revocation back
    #[arg(long)]
    pub lift: bool,
}

/// `driftlock-collector ca`.
#[derive(Debug, Args)]
pub struct CaArgs {
    /// Where the data is
    #[command(flatten)]
    pub data: DataArgs,
    /// What to do
    #[command(subcommand)]
    pub verb: CaVerb,
}

/// What can be done with CAs.
#[derive(Debug, Subcommand)]
pub enum CaVerb {
    /// List those in force, the oldest first: it issues the collector's own certificate, the newest those of hosts
    List,
    /// Print the certificates of those in force, PEM
    Show,
    /// Put a new one in force beside the others; hosts learn of it when they renew
    Rotate,
    /// Take one out of force
    Retire {
        /// The beginning of its SHA-256
        #[arg(value_name = "ID")]
        id: String,
        /// Also if hosts would be locked out that have not renewed
        #[arg(long)]
        force: bool,
    },
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

/// The shortest and the longest life of a host's certificate.
const LIFETIMES: [Duration; 2] = [Duration::from_secs(10), Duration::from_hours(24 * 366)];

fn lifetime(text: &str) -> Result<Duration, &'static str> {
    let time = duration(text)?;
    let [shortest, longest] = LIFETIMES;
    if (shortest..=longest).contains(&time) { Ok(time) } else { Err("from 10s to 366d") }
}

/// As SPIFFE-ID, 2.1, allows it.
fn trust_domain(text: &str) -> Result<String, &'static str> {
    let is_letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if (1..=255).contains(&text.len()) && text.bytes().all(is_letter) {
        return Ok(text.to_owned());
    }
    Err("a trust domain is 1 to 255 lower-case letters, digits, dots, hyphens and underscores")
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
