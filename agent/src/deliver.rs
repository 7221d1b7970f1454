//! Owns the way of a batch to the collector and what an answer to it means. Must not own the spool, or what is in a batch.

mod client;
mod courier;
pub mod once;

#[cfg(test)]
mod outage;
#[cfg(test)]
mod protocol;

use std::time::Duration;

use driftlock_common::event::Answer;

pub use client::{Client, ClientError, Timeouts};
pub use courier::{Courier, Verdict};

/// What came of sending a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The collector took it, as far as the answer says.
    Answered(Answer),
    /// It did not, or not in a way that can be understood: send it again.
    Retry {
        /// One line.
        why: String,
        /// Not before this has passed, if the collector said so.
        after: Option<Duration>,
    },
    /// It is too large.
    TooLarge,
    /// It is refused for what is in it.
    Rejected {
        /// One line.
        why: String,
    },
    /// The credential is refused.
    Refused {
        /// One line.
        why: String,
    },
}
