#![no_main]

#[path = "../bodies/blocks.rs"]
mod blocks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocks::exception_store(data));
