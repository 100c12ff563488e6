#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvmd_fuzz::connector_datagram::check(data));
