//! The binary of the collector.
fn main() {}
