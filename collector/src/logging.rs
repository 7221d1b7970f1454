//! Owns the set-up of logs: to stderr, one line each. Must not own what is logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What filters the log.
pub const VARIABLE: &str = "DRIFTLOCK_LOG";

/// Sends logs to stderr, filtered by [`VARIABLE`] (default `info`). A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal();
    // An error means that a subscriber is there already, which is what was wanted.
    let _already_there =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).try_init();
}
