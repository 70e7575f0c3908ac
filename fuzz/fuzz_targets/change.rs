#![no_main]

#[path = "../bodies/images.rs"]
mod images;

libfuzzer_sys::fuzz_target!(|data: &[u8]| images::change(data));
