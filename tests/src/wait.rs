//! Owns letting time pass: waiting for what another process does, and spreading what a test does. Must not own how long
//! anything may take: no test asserts a time, and [`PATIENCE`] only ends a test that would hang.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything is waited for before the test is given up.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` until it answers `Ok`. It answers `Err` with what it saw instead, and the last of that is in the error.
///
/// This polls, because what is waited for is the state of another process behind its public interface, which has no
/// handle to wait on. Where there is one (a line of output, the end of a process) the kit waits on that.
///
/// # Errors
/// If `probe` does not answer `Ok` within [`PATIENCE`].
pub fn eventually<T, E: Display>(what: &str, probe: impl FnMut() -> Result<T, E>) -> Result<T> {
    within(PATIENCE, what, probe)
}

/// As [`eventually`], for what is known to take longer.
///
/// # Errors
/// If `probe` does not answer `Ok` within `limit`.
pub fn within<T, E: Display>(limit: Duration, what: &str, mut probe: impl FnMut() -> Result<T, E>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() >= deadline => bail!("gave up on: {what}; seen instead: {seen:#}"),
            Err(_) => pass(PAUSE),
        }
    }
}

/// Lets time pass between two things that a test does, so that they meet different moments of what runs meanwhile. It
/// waits for nothing: for that there is [`eventually`].
pub fn pass(time: Duration) {
    // Nothing unparks the threads of a test; if something did, the next thing would merely be done sooner.
    thread::park_timeout(time);
}
