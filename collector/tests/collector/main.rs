//! The collector from outside: requests against the router, and the process over a real socket.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod conformance;
mod copies;
mod coverage;
mod dev;
mod document;
mod enrolment;
mod fleet;
mod identity_admin;
mod identity_certificate;
mod identity_enroll;
mod identity_kit;
mod identity_listener;
mod identity_token;
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
mod shelf;
mod store;
