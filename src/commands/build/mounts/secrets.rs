//! `RUN --mount=type=secret`, and the scripts of heredocs: files in a tmpfs of this command's own mount namespace, which
//! nobody else can see.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use plywood_store::Store;
use rustix::mount::MountFlags;

use super::{Mounts, Sources};
use crate::build::syntax::Secret;
use crate::build::work::Script;
use crate::error::{Context, Error, Result};
use crate::explain::{quote, step};

/// Where the tmpfs for secrets is mounted, in this process's own mount namespace.
const SECRETS: &str = "build/secrets";

impl Mounts {
    pub(super) fn secret(&mut self, store: &Store, secret: &Secret, sources: &dyn Sources) -> Result<()> {
        let Some(content) = sources.secret(&secret.id)? else {
            return match secret.required {
                false => Ok(()),
                true => Err(Error::not_found(format!("the secret {:?} was not given", secret.id))
                    .hinted(format!("--secret id={},src=FILE gives it", secret.id))),
            };
        };
        if let Some(name) = &secret.env {
            let value = String::from_utf8(content.clone()).map_err(|_| {
                Error::invalid(format!(
                    "the secret {:?} is no text: it cannot be a variable",
                    secret.id
                ))
            })?;
            self.env.push(format!("{name}={value}"));
        }
        if let Some(target) = &secret.target {
            let path = self.secret_file(store, &content, secret.mode)?;
            std::os::unix::fs::chown(&path, Some(secret.uid), Some(secret.gid)).context("set the owner of", &path)?;
            self.bind(path, target, true);
        }
        Ok(())
    }

    pub(super) fn script(&mut self, store: &Store, script: &Script) -> Result<()> {
        let path = self.secret_file(store, script.content.as_bytes(), 0o755)?;
        self.bind(path, &script.path, true);
        Ok(())
    }

    /// A new file in memory.
    fn secret_file(&mut self, store: &Store, content: &[u8], mode: u32) -> Result<PathBuf> {
        let folder = match &self.secrets {
            Some(folder) => folder.clone(),
            None => {
                let folder = store.folder(SECRETS)?;
                step(|| format!("mount -t tmpfs -o mode=0700,nosuid,nodev tmpfs {}", quote(&folder)));
                let flags = MountFlags::NOSUID | MountFlags::NODEV;
                rustix::mount::mount("tmpfs", &folder, "tmpfs", flags, Some(c"mode=0700"))
                    .context("mount a tmpfs on", &folder)?;
                self.secrets = Some(folder.clone());
                folder
            }
        };
        let path = folder.join(self.binds.len().to_string());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .context("make", &path)?;
        std::io::Write::write_all(&mut file, content).context("write", &path)?;
        file.set_permissions(Permissions::from_mode(mode))
            .context("set the mode of", &path)?;
        Ok(path)
    }
}
