//! The verbs, one a file, and what each begins with: [`Host`], the opened root.

pub mod attach;
pub mod build;
pub mod check;
pub mod collect;
pub mod commit;
pub mod completion;
pub mod connect;
pub mod connection;
pub mod container;
pub mod cp;
pub mod detach;
pub mod df;
mod diagnosis;
pub mod diff;
pub mod doctor;
mod exceptions;
pub mod exec;
pub mod export;
pub mod freeze;
pub mod gc;
mod hardening;
pub mod history;
pub mod hold;
mod ids;
pub mod images;
pub mod import;
pub mod inspect;
mod layer;
pub mod live;
pub mod logs;
pub mod merge;
pub mod mount;
pub mod pool;
mod pool_repair;
pub mod ps;
pub mod request;
pub mod rm;
pub mod rmi;
mod room;
pub mod run;
pub mod start;
pub mod stats;
pub mod stop;
pub mod tag;
pub mod tree;
mod trim;
pub mod try_file;
pub mod umount;
pub mod volume;
pub mod wait;
mod watch;

use std::sync::Arc;

use plywood_store::{Driver, Store};

use crate::cli::{DriverChoice, Global, PoolVerb, Verb};
use crate::error::{Error, Kind, Result};
use crate::failure::Outcome;
use crate::output::Output;
use crate::snapshot::Snapshotter;

/// An opened root: what exists, and the driver that makes it so.
pub struct Host {
    /// The facts.
    pub store: Arc<Store>,
    /// The driver.
    pub snapshotter: Box<dyn Snapshotter>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// One invocation: what applies to every verb.
#[derive(Debug)]
pub struct Session {
    /// The global options.
    pub global: Global,
    /// Where results go.
    pub output: Output,
}

impl Session {
    /// The root, opened; made on first use. For verbs that bring something in or need a driver.
    ///
    /// Takes up what dead processes left before anything else happens.
    ///
    /// # Errors
    /// Where the root cannot be opened or made, or keeps another driver than the one asked for.
    pub fn host(&self) -> Result<Host> {
        need_root()?;
        match self.store()? {
            Some(store) => self.host_of(store),
            None => self.host_of(self.create()?),
        }
    }

    fn host_of(&self, store: Arc<Store>) -> Result<Host> {
        let snapshotter = open_driver(&store)?;
        let recovered = snapshotter.recover()?;
        let host = Host { store, snapshotter };
        // A frozen container cannot end.
        let thawed = freeze::sweep(&host.store)?;
        connect::sweep(&host.store)?;
        for line in recovered.into_iter().chain(thawed).chain(rm::take_up(&host)?) {
            self.output.note(format!("recovered: {line}"));
        }
        container::sweep_runs(&host.store)?;
        // A namespace of our own may show the caller's mounts as they were when it was made.
        if !crate::sys::mount::is_private() {
            let gone = host.snapshotter.sweep_mounts()?;
            for target in gone.iter().filter_map(|gone| gone.mounted_at.as_deref()) {
                self.output.note(format!(
                    "recovered: nothing is mounted at {} any more",
                    target.display()
                ));
            }
        }
        Ok(host)
    }

    /// The root, opened, or none where nothing was ever kept there: for verbs on what is there already.
    ///
    /// # Errors
    /// As for [`Session::host`].
    pub fn existing_host(&self) -> Result<Option<Host>> {
        let Some(store) = self.store()? else {
            return Ok(None);
        };
        need_root()?;
        self.host_of(store).map(Some)
    }

    /// The root's facts, or none where nothing was ever kept there. Never makes one, never touches the kernel.
    ///
    /// # Errors
    /// As for [`Session::host`].
    pub fn store(&self) -> Result<Option<Arc<Store>>> {
        let Some(store) = Store::open(&self.global.root)? else {
            return Ok(None);
        };
        let kept = store.meta().driver;
        let asked = match self.global.driver {
            DriverChoice::Auto => kept,
            DriverChoice::Thin => Driver::Thin,
            DriverChoice::Overlay => Driver::Overlay,
        };
        if asked != kept {
            return Err(Error::new(Kind::Incompatible, format!("{} keeps its layers with the {kept} driver, not {asked}", self.global.root.display())).hinted(
                "leave out --driver (and PLYWOOD_DRIVER), or name another --root; plywood export and import carry images from one driver to the other",
            ));
        }
        Ok(Some(Arc::new(store)))
    }

    fn create(&self) -> Result<Arc<Store>> {
        let driver = match self.global.driver {
            DriverChoice::Thin => Driver::Thin,
            DriverChoice::Overlay => Driver::Overlay,
            DriverChoice::Auto if crate::dm::is_available() => Driver::Thin,
            DriverChoice::Auto => {
                self.output.note(
                    "this kernel has no device-mapper thin pools: using the overlay driver (plywood doctor says more)",
                );
                Driver::Overlay
            }
        };
        // A root keeps its driver for ever: one that cannot work here must not brand it.
        match driver {
            Driver::Thin => crate::dm::require()?,
            Driver::Overlay => crate::snapshot::overlay::require_fit(&self.global.root)?,
        }
        Ok(Arc::new(Store::create(&self.global.root, driver)?))
    }
}

/// Runs the verb that was typed.
///
/// # Errors
/// The verb's failure.
pub fn dispatch(verb: Verb, session: &Session) -> Outcome {
    perform(verb, session).map_err(|failure| diagnosis::explained(failure, session))
}

fn perform(verb: Verb, session: &Session) -> Outcome {
    if matches!(
        verb,
        Verb::Run(_) | Verb::Start(_) | Verb::Exec(_) | Verb::Try(_) | Verb::Build(_)
    ) {
        crate::exec::sealed::ensure().map_err(container::failure)?;
    }
    if mounts(&verb) {
        need_root()?;
        crate::sys::mount::enter_private_namespace()?;
    }
    match verb {
        Verb::Pool(verb) => pool::run(&verb, session),
        Verb::Import(args) => import::run(&args, session),
        Verb::Export(args) => export::run(&args, session),
        Verb::Images(args) => images::run(&args, session),
        Verb::History(args) => history::run(&args, session),
        Verb::Inspect(args) => inspect::run(&args, session),
        Verb::Tag(args) => tag::run(&args, session),
        Verb::Rmi(args) => rmi::run(&args, session),
        Verb::Tree => tree::run(session),
        Verb::Run(args) => run::run(&args, session),
        Verb::Start(args) => start::run(&args, session),
        Verb::Ps(args) => ps::run(&args, session),
        Verb::Attach(args) => attach::run(&args, session),
        Verb::Exec(args) => exec::run(&args, session),
        Verb::Nsenter(args) => exec::nsenter(&args, session),
        Verb::Cp(args) => cp::run(&args, session),
        Verb::Stats(args) => stats::run(&args, session),
        Verb::Volume(verb) => volume::run(&verb, session),
        Verb::Logs(args) => logs::run(&args, session),
        Verb::Stop(args) => stop::run(&args, session),
        Verb::Kill(args) => stop::kill(&args, session),
        Verb::Wait(args) => wait::run(&args, session),
        Verb::Rm(args) => rm::run(&args, session),
        Verb::Build(args) => build::run(&args, session),
        Verb::Commit(args) => commit::run(&args, session),
        Verb::Merge(args) => merge::run(&args, session),
        Verb::Try(args) => try_file::run(&args, session),
        Verb::Diff(args) => diff::run(&args, session),
        Verb::Mount(args) => mount::run(&args, session),
        Verb::Umount(args) => umount::run(&args, session),
        Verb::Gc(args) => gc::run(&args, session),
        Verb::Check(args) => check::run(&args, session),
        Verb::Df => df::run(session),
        Verb::Doctor => doctor::run(session),
        Verb::Completion(args) => completion::run(&args, session),
    }
}

/// Whether the verb mounts for itself alone, so that a kill unmounts everything.
/// `mount` and `umount` work on the caller's own tree.
fn mounts(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Pool(PoolVerb::Init(_) | PoolVerb::Trim | PoolVerb::Repair(_))
            | Verb::Import(_)
            | Verb::Export(_)
            | Verb::Run(_)
            | Verb::Start(_)
            | Verb::Build(_)
            | Verb::Commit(_)
            | Verb::Merge(_)
            | Verb::Try(_)
            | Verb::Cp(_)
            | Verb::Diff(_)
    )
}

fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::invalid("plywood needs root: it makes devices, mounts and namespaces").hinted("run it with sudo"))
}

fn open_driver(store: &Arc<Store>) -> Result<Box<dyn Snapshotter>> {
    match store.meta().driver {
        Driver::Overlay => {
            let unpack = Box::new(crate::image::unpack::unpack);
            Ok(Box::new(crate::snapshot::overlay::Overlay::open(
                Arc::clone(store),
                unpack,
            )?))
        }
        Driver::Thin => Ok(Box::new(crate::snapshot::thin::Thin::open(Arc::clone(store))?)),
    }
}

/// Seconds since 1970 by the clock.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Seconds since 1970 as an RFC 3339 date, as every `created` in JSON is one.
pub fn date(seconds: i64) -> Option<String> {
    let date = jiff::Timestamp::from_second(seconds).ok()?;
    Some(date.to_string())
}

/// A key for a snapshot that lives no longer than this invocation.
pub fn random_key(verb: &str) -> String {
    let mut bytes = [0u8; 8];
    // Not a secret, only unlike all others: a short answer is as good.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    format!("{verb}-{:016x}", u64::from_le_bytes(bytes))
}
