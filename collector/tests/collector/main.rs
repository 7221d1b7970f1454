//! The collector from outside: requests against the router, and the process over a real socket.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod coverage;
mod dev;
mod identity_admin;
mod identity_certificate;
mod identity_enroll;
mod identity_kit;
mod identity_listener;
mod identity_token;
mod ingest;
mod kit;
mod model;
mod pages;
mod policy;
mod process;
mod reads;
mod search;
mod store;
