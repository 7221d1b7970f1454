//! See `fuzz::archive`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| driftlock_fuzz::fuzz::archive(data));
