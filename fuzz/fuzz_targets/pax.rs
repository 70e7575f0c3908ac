#![no_main]

#[path = "../bodies/pax.rs"]
mod pax;

libfuzzer_sys::fuzz_target!(|data: &[u8]| pax::records(data));
