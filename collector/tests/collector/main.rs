//! The collector from outside: requests against the router, and the process over a real socket.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod coverage;
mod dev;
mod ingest;
mod kit;
mod model;
mod pages;
mod policy;
mod process;
mod reads;
mod search;
mod shelf;
mod store;
