//! The central side of driftlock: receives reports, keeps the evidence, shows what runs where.
//!
//! Bytes of a request become a [`batch`], which goes to the [`store`]. [`fleet`] says what a host's last reports mean.

pub mod clock;
pub mod batch;
pub mod store;
pub mod fleet;
pub mod failure;
