//! Owns what may be typed to tell a collector what one scan found. Must not own how it is told.

use std::path::PathBuf;

use clap::Args;

use crate::config::Endpoint;

/// Where a scan is told, besides stdout.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Tell a collector what was found, as a host that is gone after the scan. What cannot be delivered within a minute ends
    /// with 69, whatever was found
    #[arg(long, value_name = "URL", requires = "report_token_file")]
    pub report: Option<Endpoint>,
    /// The file of the token with which it is told: driftlock-collector token add --report 'ci-*'
    #[arg(long, value_name = "FILE", requires = "report")]
    pub report_token_file: Option<PathBuf>,
    /// Believe only the authorities in this file (PEM), instead of the system's: driftlock-collector ca show
    #[arg(long, value_name = "FILE", requires = "report")]
    pub report_ca_file: Option<PathBuf>,
    /// As which host it is told, one that the token may speak for [default: the host's name]
    #[arg(long, value_name = "NAME", requires = "report")]
    pub report_host: Option<String>,
    /// As which target
    #[arg(long, value_name = "NAME", default_value = "scan")]
    pub report_target: String,
}
