//! The collector from outside: requests against the router, and the process over a real socket.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod conformance;
mod copies;
mod coverage;
mod dev;
mod fleet;
mod ingest;
mod holes;
mod kit;
mod limits;
mod migrations;
mod model;
mod pages;
mod policy;
mod process;
mod reads;
mod search;
mod store;
