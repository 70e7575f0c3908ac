#![no_main]

#[path = "../bodies/volumes.rs"]
mod volumes;

libfuzzer_sys::fuzz_target!(|data: &[u8]| volumes::ext4(data));
