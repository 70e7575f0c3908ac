#![no_main]

#[path = "../bodies/bases.rs"]
mod bases;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bases::ext4_write(data));
