//! Owns the local socket of an agent, both of its ends: where it is, who may speak, what can be asked, and in which form it
//! is answered. Must not own what the answers say: the loop gives them.
//!
//! HTTP/1.1, one request for each connection, so that `curl --unix-socket` is a client:
//!
//! - `GET /v1/status`: a [`Status`].
//! - `GET /metrics`: the same in the text format of Prometheus.
//! - `POST /v1/rescan[?target=NAME]`: looks at everything now; [`Tickets`](driftlock_common::status::Tickets) for waiting.
//! - `GET /v1/wait?target=NAME[&run=RUN&after=N][&manifest=SHA256][&timeout_s=N]`: is answered with a
//!   [`Waited`](driftlock_common::status::Waited) once a complete look came to its end that began later than the ticket was
//!   drawn, or than the question came, and compared with that manifest; or when the time is up.

mod client;
mod listener;
mod metrics;
mod place;
mod query;
mod server;

use driftlock_common::status::Status;
use tokio::sync::oneshot;

pub use client::{AskError, Client};
pub(crate) use listener::{ListenError, Listener};
pub(crate) use place::of_agent;
pub use place::{PlaceError, find};
pub(crate) use server::serve;

/// The longest that one request to wait is held, in seconds; whoever wants to wait longer asks again.
pub const MAX_WAIT_S: u64 = 50;
/// The longest answer that a client reads, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// What is asked of the loop.
#[derive(Debug)]
pub(crate) struct Question {
    /// Targets that are to be looked at, which begins after the answer was made.
    pub(crate) look_at: Vec<String>,
    /// Who asks.
    pub(crate) answer: oneshot::Sender<Status>,
}
