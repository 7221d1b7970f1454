//! Owns what may be typed behind `driftlock policy`. Must not own what the commands do.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use driftlock_common::node::FileType;

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
