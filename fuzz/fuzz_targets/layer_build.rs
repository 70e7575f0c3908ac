#![no_main]

#[path = "../bodies/layers.rs"]
mod layers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| layers::build(data));
