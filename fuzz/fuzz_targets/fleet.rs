#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmd_fuzz::fleet::check(data));
