#![no_main]

#[path = "../bodies/facts.rs"]
mod facts;

libfuzzer_sys::fuzz_target!(|data: &[u8]| facts::names(data));
