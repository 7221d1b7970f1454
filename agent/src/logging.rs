//! Owns the set-up of logs: to stderr, one line each. Must not own what is logged.

use tracing_subscriber::EnvFilter;

/// Sends logs to stderr. `DRIFTLOCK_LOG` filters them (default `info`). A second call does nothing.
pub fn init() {
    let filter = EnvFilter::try_from_env("DRIFTLOCK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    // An error means that a subscriber is there already, which is what was wanted.
    let _already_there =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).try_init();
}
