#![no_main]

#[path = "../bodies/builds.rs"]
mod builds;

libfuzzer_sys::fuzz_target!(|data: &[u8]| builds::dockerfile(data));
