//! plywood: parse, trace, dispatch, exit code; nothing else.

fn main() {}
