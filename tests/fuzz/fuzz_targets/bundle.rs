//! See `fuzz::bundle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| driftlock_fuzz::fuzz::bundle(data));
