//! The central side of driftlock: receives reports, keeps the evidence, shows what runs where.
//!
//! What the [`gate`] lets in of a request becomes a [`batch`]; [`ingest`] binds it to the host whose credential it came with ([`auth`]) and
//! hands it to the [`store`]. [`fleet`] says what a host's last reports mean; [`query`], [`stream`], [`metrics`] and
//! [`page`] show it in the shapes of [`view`]. [`app`] puts them behind one router; [`serve`] and [`dev`] are commands,
//! and so is what [`archive`] does.

pub mod clock;
pub mod batch;
pub mod tally;
pub mod store;
pub mod fleet;
pub mod auth;
pub mod identity;
pub mod credential;
pub mod caller;
pub mod error;
pub mod roster;
pub mod gate;
pub mod app;
pub mod ingest;
pub mod shelf;
pub mod enroll;
pub mod view;
pub mod query;
pub mod stream;
pub mod metrics;
pub mod page;
pub mod failure;
pub mod logging;
pub mod cli;
pub mod systemd;
pub mod tls;
pub mod listener;
pub mod admin;
pub mod serve;
pub mod archive;
pub mod dev;
