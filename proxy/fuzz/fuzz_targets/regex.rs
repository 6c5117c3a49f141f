//! See `weir_proxy::fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| weir_proxy::fuzz::run("regex", input));
