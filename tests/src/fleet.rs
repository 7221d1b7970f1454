//! A simulated fleet: hosts that join a real collector and report to it as agents do, with keys, certificates, kept
//! connections, epochs and sequences, thousands in one process; and what each of them knows to be so, to hold the collector
//! to. Owns the parts; must not own what goes wrong, which is the tests' business.
//!
//! Of the product only the shape of events and of joining is used here ([`driftlock_common`]): connections, HTTP and the
//! reading of the store are the kit's own.

pub mod agent;
pub mod endpoint;
pub mod identity;
pub mod ledger;
pub mod model;
pub mod shown;
pub mod wire;
