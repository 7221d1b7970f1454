//! See `fuzz::mtree`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| driftlock_fuzz::fuzz::mtree(data));
