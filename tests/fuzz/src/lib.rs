//! The invariants of `driftlock-tests`, without the rest of that package: a fuzzer must not wait for a database to build.

#[path = "../../src/fuzz.rs"]
pub mod fuzz;

#[path = "../../../collector/src/identity/request.rs"]
pub mod request;
