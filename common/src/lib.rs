//! The words of driftlock and its pure functions: no I/O, no clock, no threads, no async, no logging.
//!
//! In the order in which data goes: bytes have a [`digest`]; a [`path`] leads to a [`node`]; paths with nodes are a
//! [`tree`], whose [`canonical`] bytes have one digest; a tree sealed under a [`profile`] and exclude [`pattern`]s is a
//! [`manifest`]. What was sealed and what was observed differ by [`drift`], or a [`gap`] says why that is not known.
//! What of it counts is what is [`compared`]; what may differ all the same, and how loudly to say so, is a [`policy`].
//! A drift is reported as a [`finding`]; trouble with the watching is a [`condition`], what can be vouched
//! for is [`coverage`]; all travel as an [`event`].
//! Who sealed a manifest is said by signed statements ([`trust`]).
//! A host has a [`host_name`] at the collector, and gets it there by [`enrolment`].
//! What was signed is pushed to a collector's [`shelf`], where agents find it.
//! [`key`] says which known key an unknown one was meant to be. [`exit`] has the exit codes of both binaries.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod digest;
pub mod path;
pub mod node;
pub mod profile;
pub mod tree;
pub mod canonical;
pub mod pattern;
mod json;
pub mod key;
mod section;
pub mod manifest;
pub mod trust;
pub mod gap;
pub mod drift;
pub mod compared;

pub mod policy;
pub mod finding;
pub mod condition;
pub mod coverage;
pub mod event;
pub mod host_name;
pub mod enrolment;
pub mod status;
pub mod shelf;
pub mod fleet;
pub mod exit;
