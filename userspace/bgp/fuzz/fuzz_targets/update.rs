#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| sluice_bgp_fuzz::update(octets));
