//! Owns the set-up of logs: to stderr, one line each. Must not own what is logged.

use std::str::FromStr as _;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What filters the logs, such as `debug` or `info,driftlock_agent::scan=trace`: levels, for all or for a module.
pub const VARIABLE: &str = "DRIFTLOCK_LOG";
const DEFAULT: &str = "info";

/// Sends logs to stderr, filtered by [`VARIABLE`]. A second call does nothing.
pub fn init() {
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| DEFAULT.to_owned());
    let filter = Targets::from_str(&wanted);
    let refused = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    // An error means that a subscriber is there already, which is what was wanted.
    let _already_there = tracing_subscriber::registry().with(lines).with(filter).try_init();
    if let Some(error) = refused {
        tracing::warn!("{VARIABLE} is not understood, so it is {DEFAULT}: {error}");
    }
}
