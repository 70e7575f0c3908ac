//! `RUN`: a command in a snapshot, as a container that passes.
//!
//! The container has a record while it runs, as every container has: `ps` shows it, and what a killed build
//! leaves is found by it and removed by the next command. Its snapshot is the build's own and becomes the layer.
//! With `--network` and `--net` it has the network that `plywood run` would give it.

use std::fs::File;
use std::io::PipeReader;
use std::os::fd::AsFd;
use std::time::Instant;

use plywood_store::intent::Intent;
use plywood_store::record::{ContainerRecord, ContainerState};
use plywood_store::{ChainId, ImageId};

use crate::build::syntax::RunNetwork;
use crate::build::work::RunWork;
use crate::cli::NetworkChoice;
use crate::commands::build::event::{Event, Teller};
use crate::commands::build::mounts::Mounts;
use crate::commands::build::tail::{Printed, Tail, listen};
use crate::commands::connection::Connection;
use crate::commands::container::{self, Attending};
use crate::commands::{Host, Session, connection, hold, now, random_key, request, rm};
use crate::error::{Context, Error, Result, undone};
use crate::exec::Streams;
use crate::exec::spec::Spec;
use crate::failure::Failure;

/// The host name of every step: one of its own would be found in what programs write.
const HOSTNAME: &str = "build";

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ran {
    /// Its exit code.
    pub(super) code: u8,
    /// The last lines that it printed.
    pub(super) tail: Tail,
}

/// A `RUN`, and what it runs on.
pub(super) struct Running<'a> {
    pub(super) session: &'a Session,
    pub(super) host: &'a Host,
    pub(super) work: &'a RunWork,
    /// The build's network.
    pub(super) net: &'a NetworkChoice,
    /// The image that the stage began with.
    pub(super) base: ImageId,
    /// What `ps` shows as its image.
    pub(super) shown: &'a str,
    pub(super) parent: Option<&'a ChainId>,
    /// Who hears what it prints.
    pub(super) teller: &'a Teller<'a>,
}

impl Running<'_> {
    /// Runs the command in a new snapshot that `owner` leases, called `id`. It stays, whatever became of the command.
    ///
    /// # Errors
    /// Where plywood failed before the command, or what it wrote could not all be kept.
    pub(super) fn run(&self, id: &str, owner: &Intent, mounts: &Mounts) -> Result<Ran, Failure> {
        let spec = self.spec(mounts)?;
        let passing = rm::passing(self.host, id, false)?;
        let container = match self.record(id, &spec) {
            Ok(container) => container,
            Err(error) => return Err(undone(error, passing.done()).into()),
        };
        let hold = hold::take(self.session, &self.host.store, &container)?;
        let ran = self
            .host
            .snapshotter
            .prepare(id, self.parent, Some(owner))
            .map_err(Failure::from)
            .and_then(|()| self.attend(&container, &spec, &hold));
        // The record alone: the snapshot is the caller's.
        let forgotten = rm::forget_held(self.host, id, hold, passing);
        match (ran, forgotten) {
            (Ok(ran), Ok(())) => Ok(ran),
            (Err(failure), _) => Err(failure),
            (Ok(_), Err(error)) => Err(error.into()),
        }
    }

    fn spec(&self, mounts: &Mounts) -> Result<Spec> {
        let work = self.work;
        let net = match work.network {
            RunNetwork::Default => self.net.clone(),
            RunNetwork::None => NetworkChoice::None,
            RunNetwork::Host => NetworkChoice::Host,
        };
        let network = connection::of_choice(&net);
        let env: Vec<String> = work
            .env
            .iter()
            .chain(&work.proxies)
            .chain(&mounts.env)
            .cloned()
            .collect();
        let spec = Spec {
            env: request::environment_of_step(&env)?,
            working_dir: work.working_dir.clone(),
            user: work.user.clone(),
            network,
            // As in Docker's builds: packages' scripts call sudo and su.
            no_new_privileges: false,
            // What the shell does not pass on ends the command all the same.
            init: true,
            binds: mounts.binds.clone(),
            tmpfs: mounts.tmpfs.clone(),
            tmpfs_sizes: mounts.tmpfs_sizes.clone(),
            ..Spec::new(work.args.clone(), HOSTNAME)
        };
        spec.check().map_err(|error| Error::invalid(error.to_string()))?;
        Ok(spec)
    }

    fn record(&self, id: &str, spec: &Spec) -> Result<ContainerRecord> {
        let lock = self.host.store.exclusive()?;
        let container = ContainerRecord {
            name: random_key("build"),
            id: id.to_owned(),
            image: self.base,
            image_name: self.shown.to_owned(),
            created_at: now(),
            state: ContainerState::Created,
            spec: container::document(spec)?,
            network: Connection::default().document(),
        };
        self.host.store.containers.put_passing(&lock, &container)?;
        lock.done()?;
        Ok(container)
    }

    /// Runs it, and tells what it prints.
    fn attend(&self, container: &ContainerRecord, spec: &Spec, hold: &hold::Hold) -> Result<Ran, Failure> {
        let (tail, begun) = (Tail::default(), Instant::now());
        let pipe = || std::io::pipe().context("make", "a pipe");
        let ((out, to_out), (err, to_err)) = (pipe()?, pipe()?);
        let null = File::open("/dev/null").context("open", "/dev/null")?;
        let teller = self.teller;
        let outcome = std::thread::scope(|scope| {
            let streams = Streams {
                stdin: null.as_fd(),
                stdout: to_out.as_fd(),
                stderr: to_err.as_fd(),
            };
            let (tail, mut ends): (_, Option<(PipeReader, PipeReader)>) = (&tail, Some((out, err)));
            let ended = container::run(
                self.session,
                self.host,
                container,
                spec,
                hold,
                Attending::Build(streams),
                || {
                    for end in ends.take().into_iter().flat_map(|(out, err)| [out, err]) {
                        let tell = |at, printed| {
                            teller.tell(&match printed {
                                Printed::Line(line) => Event::Line(at, line),
                                Printed::Passing(text) => Event::Passing(at, text),
                            });
                        };
                        scope.spawn(move || listen(end, begun, tail, tell));
                    }
                    Ok(())
                },
            );
            // The command's ends are closed already: with these the readers end.
            drop((to_out, to_err));
            ended.outcome
        });
        Ok(Ran { code: outcome?, tail })
    }
}
