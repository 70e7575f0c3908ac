//! Mount namespaces and mounts.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Context, Result};
use crate::explain;

/// Whether [`enter_private_namespace`] was called.
static PRIVATE: AtomicBool = AtomicBool::new(false);

/// Whether this process has left its caller's mount namespace.
pub fn is_private() -> bool {
    PRIVATE.load(Ordering::Relaxed)
}

/// Moves this process into a mount namespace of its own, where its mounts stay
/// unseen and end with it, however it ends. Call it before any thread is made.
///
/// # Errors
/// Where the kernel or the lack of rights forbids it.
pub fn enter_private_namespace() -> Result<()> {
    // A process of its own cannot be typed: a shell in its place, which `exit` ends as this process ends.
    explain::step(|| "unshare --mount --propagation slave sh".to_owned());
    unshare(CloneFlags::CLONE_NEWNS).context("make", "a mount namespace")?;
    PRIVATE.store(true, Ordering::Relaxed);
    // Slave, not private: what the host mounts or unmounts later still arrives here.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .context("detach the mounts under", "/")
}
