#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cordium_parsers::tls(bytes));
