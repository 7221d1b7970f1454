//! Owns what the service manager is told: that requests are answered, tokens read again, the end begun, and that the
//! runtime still turns. Must not own when any of this is so. Where no service manager asked (`NOTIFY_SOCKET`), all of it
//! does nothing.

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// Requests are answered at this URL.
pub fn ready(url: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {url}"))]);
}

/// The tokens are about to be read again; [`reloaded`] follows.
pub fn reloading() {
    // The time is for managers that wait for the end of a reload; others ignore it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The end of a reload, whatever came of it.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Gives the sign of life that the service manager asked for (`WATCHDOG_USEC`), from a task of the runtime that answers
/// the requests, until `shutdown`. If it stops coming, the service manager ends the process and starts another.
pub fn keep_watchdog(shutdown: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    tokio::spawn(shutdown.run_until_cancelled_owned(async move {
        let mut interval = tokio::time::interval(limit / 2);
        loop {
            interval.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    }));
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = %error, "the service manager cannot be told");
    }
}
