//! Owns what the service manager is told: that the agent is ready, reads its configuration again, stops, and that its
//! loop still turns. Must not own when any of this is so. Where no service manager asked (`NOTIFY_SOCKET`), all of it
//! does nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Everything is in place; also the end of a reload.
pub fn ready(targets: usize) {
    let status = format!("watching {targets} target{}", if targets == 1 { "" } else { "s" });
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Another configuration is about to be taken; [`ready`] follows.
pub fn reloading() {
    // The time is for managers that wait for the end of a reload; others ignore it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("delivering what is left")]);
}

/// The sign of life of a loop. If it stops coming, the service manager ends the process and starts another.
#[derive(Debug)]
pub struct Watchdog {
    /// Half of the time after which the manager gives up; `None` if it does not watch.
    interval: Option<Duration>,
    due: Instant,
}

impl Watchdog {
    /// As the service manager asked for it (`WATCHDOG_USEC`).
    pub fn of_the_service() -> Self {
        Self { interval: sd_notify::watchdog_enabled().map(|limit| limit / 2), due: Instant::now() }
    }

    /// To be said at every turn of the loop, however busy it is.
    pub fn turned(&mut self) {
        if self.is_due(Instant::now()) {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// Ends when the next sign is due, so that a loop with nothing to do turns in time.
    pub async fn next(&self) {
        match self.interval {
            Some(_) => tokio::time::sleep_until(self.due.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Whether a sign is due now; if so, the next is due an interval later.
    fn is_due(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval.filter(|_| now >= self.due) else { return false };
        self.due = now + interval;
        true
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = %error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_due_at_once_and_then_once_in_an_interval() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut watchdog = Watchdog { interval: Some(10 * second), due: start };
        let signs: Vec<u32> = (0..35).filter(|elapsed| watchdog.is_due(start + *elapsed * second)).collect();
        assert_eq!(signs, [0, 10, 20, 30]);
    }

    #[test]
    fn nothing_is_due_where_nobody_watches() {
        let mut watchdog = Watchdog { interval: None, due: Instant::now() };
        assert!(!watchdog.is_due(Instant::now() + Duration::from_secs(1)));
    }
}
