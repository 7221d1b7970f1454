//! The kit of the black-box tests: trees to seal, verbs to tamper with them, guards around the real binaries, a
//! collector that misbehaves on command, and a second opinion on every diff. Owns how a test reaches the product;
//! must not own what the product promises, which the tests themselves say.
//!
//! Expectations come from the verb that tampered, or from [`naive`]: nothing here calls the product's code to find out
//! what is right. ([`fuzz`] is another matter: what the fuzz targets call.)

pub mod agent;
pub mod archive;
pub mod authority;
pub mod binaries;
pub mod browser;
pub mod bulk;
pub mod canary;
pub mod clock;
pub mod collector;
pub mod control;
pub mod debian;
pub mod disk;
pub mod drift;
pub mod fake;
pub mod fleet;
pub mod fuse;
pub mod fuzz;
pub mod history;
pub mod http;
pub mod image;
pub mod language;
pub mod machine;
pub mod mapped;
pub mod memory_group;
pub mod mtree;
pub mod naive;
pub mod namespace;
pub mod nginx;
pub mod overlay;
pub mod packages;
pub mod page_cache;
pub mod peak;
pub mod podman;
pub mod process;
pub mod random;
pub mod random_image;
pub mod random_tree;
pub mod require;
pub mod sandbox;
pub mod saved;
pub mod schema;
pub mod signed;
pub mod storm;
pub mod tamper;
pub mod told;
pub mod tree;
pub mod verdict;
pub mod wait;
pub mod watched;

// By the name that it has beside the fuzz targets, which build without a database.
use driftlock_collector::identity::request;
