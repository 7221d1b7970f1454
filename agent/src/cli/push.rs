//! Owns what may be typed to push manifests. Must not own what the command does.

use std::path::PathBuf;

use clap::Args;
use driftlock_common::shelf::For;

use crate::config::Endpoint;

/// `driftlock push`.
#[derive(Debug, Args)]
#[command(after_help = "\
A bundle takes its manifest with it. The collector keeps what is pushed by its SHA-256 and hands it to
agents with manifest = \"collector\"; these verify it against their own trust, so that the collector
can withhold it and nothing else:
  driftlock push --to https://collector.example:8443 --token-file push.token --for 'web-*/app' app.bundle

Of several that match a host and its target the one that was set last counts. Where targets have an
assignment (assignment = \"collector\"), push that with --for, and the bundle that it names without.")]
pub struct PushArgs {
    /// The collector: https://HOST:PORT, or http:// or unix:// on this host
    #[arg(long, value_name = "URL")]
    pub to: Endpoint,
    /// The file with a token that may push
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// Only certificates of these authorities (PEM) are trusted [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// What a target must match on the hosts of a pattern, given several times: bundles and assignments alone
    #[arg(long = "for", value_name = "HOSTS/TARGET")]
    pub for_targets: Vec<For>,
    /// Bundles, assignments, manifests
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}
