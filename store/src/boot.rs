//! Which run of the kernel this is.

/// Tells one run of the kernel from another (random(4)'s `boot_id`); none where it cannot be told.
pub(crate) fn id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_id.then(|| id.to_owned())
}
