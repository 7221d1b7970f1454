//! See `fuzz::csr`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| driftlock_fuzz::fuzz::csr(data));
