//! driftlock on the build side and on the host.
//!
//! Build side: a [`source`] is read into a manifest, about which an [`attestation`] is made that a [`signer`]
//! signs with the key of a [`key_file`]; a [`draft`] becomes a file when it is whole. Host side: a manifest file, or a [`bundle`] with the one beside it, becomes
//! a [`baseline`]; a [`scan`]
//! compares a root with it, one that a path names or that of a [`process`], and a [`judge`] says what each difference is
//! under a policy, which a [`policy_file`] holds; [`siblings`] of a log show whether it was
//! rotated; [`watch`] gives hints where to look again; the [`monitor`] decides, the [`runtime`] carries
//! out; findings go through the [`journal`] to [`deliver`], under the [`identity`] of the host, and [`history`] reads them
//! back; [`control`] answers on the host, and what a `sink` takes is told besides. [`command`] has one file for each verb of
//! [`cli`].

pub mod source;
pub mod key_file;
pub mod signer;
pub mod attestation;
pub mod draft;
pub mod bundle;
pub mod state_file;
pub mod known_time;
pub mod assigned;
pub mod baseline;
pub mod pool;
pub mod host;
pub mod process;
pub mod judge;
pub mod scan;
pub mod siblings;
pub mod policy_file;
pub mod config;
pub mod anchor_file;
pub mod supply;
pub mod admit;
pub mod watch;
pub mod monitor;
pub mod journal;
pub mod http;
pub mod identity;
pub mod deliver;
pub mod history;
pub mod control;
mod sink;
pub mod runtime;
pub mod gate;
pub mod systemd;
pub mod output;
pub mod failure;
pub mod logging;
pub mod cli;
pub mod command;
pub mod sys;
