//! Owns what may be typed behind `driftlock policy`. Must not own what the commands do.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use driftlock_common::node::FileType;
use driftlock_common::policy::Severity;

use super::AnswerFormatArg;
use crate::config::Endpoint;

/// `driftlock policy`.
#[derive(Debug, Args)]
#[command(after_help = "\
A policy is a TOML file of rules. The first rule that covers a drift decides; where none does, the drift is an alert.
What is tolerated is reported all the same.

  version = 1
  name = \"web\"

  [[rule]]
  id = \"app-log\"
  path = [\"var/log/app.log\"]         # as excludes: * within a name, ** for whole components; {1..14} and {a,b} too
  allow = \"append\"                   # nothing, attributes, content, append, absent, any
  rotate = [\"app.log.{1..15}\", \"app.log.{2..15}.gz\"]
  keep = 14                          # logrotate moves the oldest on before it deletes it: one name more
  severity = \"high\"                  # of what is not allowed: info, low, medium, high, critical
  reason = \"the program's log\"

Optional in a rule: change = [\"added\", …], type = [\"file\", …], attributes = [\"mode\", …] (what may differ under allow =
\"attributes\"; what raises the alarm under \"nothing\"), privileged = [\"set-id\", \"capabilities\", \"device\"] (never tolerated
unless named).")]
pub struct PolicyArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub verb: PolicyVerb,
}

/// What can be done with a policy.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Check a policy: everything wrong with it, and what a reviewer would miss
    Check(PolicyCheckArgs),
    /// Say which rule decides about a path, and why
    Explain(PolicyExplainArgs),
    /// Run the test cases of policies
    Test(PolicyTestArgs),
    /// Say what a policy would have said of what was found
    Simulate(PolicySimulateArgs),
}

/// `driftlock policy check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Warned of are: rules that never decide because one earlier rule covers all that they do (every one that is named is
shadowed; one that only several rules together shadow is not found); tolerance of what runs code or grants rights; and,
with a manifest, rules that tolerate a fifth of its paths or more.

Exit codes:
    0  the policy can be used
    1  with --strict: there are warnings
   64  the command line is wrong
   65  the policy or the manifest is not one
   66  a file is not there")]
pub struct PolicyCheckArgs {
    /// The policy
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Count how many paths of this manifest each rule tolerates
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Fail if there is a warning
    #[arg(long)]
    pub strict: bool,
}

/// `driftlock policy explain`.
#[derive(Debug, Args)]
pub struct PolicyExplainArgs {
    /// The path, relative to the root; a leading slash is left out
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// The policy
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// What the path is
    #[arg(long, value_enum, default_value_t = TypeArg::File)]
    pub r#type: TypeArg,
}

/// `driftlock policy test`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every file *.toml in the directory has the cases of one policy:

  policy = \"../web.toml\"             # beside the file

  [[case]]
  path = \"var/log/app.log\"           # or path_b64
  change = \"changed\"                 # added, removed, changed, unverifiable
  attributes = [\"content\"]           # of a changed path; or becomes = \"symlink\", the type that it has now
  fate = \"rotated\"                   # of a growing file: grown, rotated, shrunk, rewritten, gone
  time = 2026-01-01T00:00:00Z
  verdict = \"tolerated\"              # or \"alert\", with severity = \"high\"
  rule = \"app-log\"                   # the rule that decides; none if left out

Also: type (file unless said), mode (\"0644\" unless said), capabilities = true.

Exit codes:
    0  every case is as it should be
    1  a case is not
   64  the command line is wrong
   65  a file is no policy or has no cases
   66  a file is not there")]
pub struct PolicyTestArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// `driftlock policy simulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
What was found is asked of both policies: how many alerts each rule makes, and every finding that would fall silent, by the
severity that it had. FILE is what driftlock wrote: lines of scan --format ndjson, or its json; events of the agent's
standard output, of which each that opens or updates a finding counts; or an answer of the collector's /v1/findings.

Of each list 10,000 findings of a severity are shown, alike ones once.

What is said of a log that was written to depends on what became of its bytes, which no finding holds. If the finding was
judged by the same append rule of OLD, that holds; else it is \"not known\", which is listed, and is never silent.

Exit codes:
    0  told, and nothing fell silent that may not
    1  with --fail-on: a finding of that severity or a louder one would fall silent
   64  the command line is wrong
   65  a policy is none, or something that was found could not be read; the rest is told all the same
   66  a file is not there
   69  the collector does not answer
   77  the collector refuses")]
pub struct PolicySimulateArgs {
    /// The policy that is to be
    #[arg(value_name = "NEW")]
    pub policy: PathBuf,
    /// The policy in force [default: none, under which everything is an alert]
    #[arg(long, value_name = "OLD")]
    pub against: Option<PathBuf>,
    /// What was found; - is stdin
    #[arg(long, value_name = "FILE", required_unless_present = "server", conflicts_with = "server")]
    pub history: Option<PathBuf>,
    /// What was found, as a collector knows it: https://…, http://… on this host, or unix:///…
    #[arg(long, value_name = "URL")]
    pub server: Option<Endpoint>,
    /// The file with the collector's token for reading
    #[arg(long, value_name = "FILE", conflicts_with = "history")]
    pub token_file: Option<PathBuf>,
    /// Believe these certificates alone
    #[arg(long, value_name = "FILE", conflicts_with = "history")]
    pub ca_file: Option<PathBuf>,
    /// Fail if a finding falls silent that was an alert of this severity or a louder one: newly-silent=high
    #[arg(long, value_name = "newly-silent=SEVERITY")]
    pub fail_on: Option<FailOnArg>,
    /// Form of the answer on stdout
    #[arg(long, value_enum, default_value_t = AnswerFormatArg::Text)]
    pub format: AnswerFormatArg,
}

/// The quietest severity that may not fall silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailOnArg(pub Severity);

impl FromStr for FailOnArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let severity = text.strip_prefix("newly-silent=").and_then(Severity::of_name);
        severity.map(Self).ok_or("write newly-silent=SEVERITY: info, low, medium, high or critical")
    }
}

/// The types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TypeArg {
    /// A regular file
    File,
    /// A directory
    Directory,
    /// A symbolic link
    Symlink,
    /// A character device
    Char,
    /// A block device
    Block,
    /// A named pipe
    Fifo,
    /// A socket
    Socket,
}

impl From<TypeArg> for FileType {
    fn from(arg: TypeArg) -> Self {
        match arg {
            TypeArg::File => Self::File,
            TypeArg::Directory => Self::Directory,
            TypeArg::Symlink => Self::Symlink,
            TypeArg::Char => Self::Char,
            TypeArg::Block => Self::Block,
            TypeArg::Fifo => Self::Fifo,
            TypeArg::Socket => Self::Socket,
        }
    }
}
