//! A run's network: made before its first process, announced when it runs, taken away when it has ended.
//!
//! `ROOT/network/<container's id>` is the container's hosts file, and at once the mark that it is
//! connected: what a killed plywood left behind is found by it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use plywood_store::Store;
use plywood_store::record::{ContainerRecord, ContainerState};
use rustix::fs::{FlockOperation, flock};

use crate::commands::connection::Connection;
use crate::commands::{Host, Session, container, hold};
use crate::error::{Context, Error, Kind, Result, both};
use crate::exec::ids::UserNamespace;
use crate::exec::spec::{Network, Spec};
use crate::exec::{Namespace, Surroundings, state};
use crate::explain;
use crate::network::port::Held;
use crate::network::subnet::Subnet;
use crate::network::{self, Attachment, Fate, firewall, names};

/// The folder of hosts files.
const FOLDER: &str = "network";
/// Held by whoever writes them.
const LOCK: &str = ".lock";
/// The network to use instead of the first that is free.
const POOL: &str = "PLYWOOD_POOL";

/// A run's network.
#[derive(Debug, Default)]
pub struct Connected {
    connection: Connection,
    attachment: Option<Attachment>,
    joined: Option<OwnedFd>,
    path: String,
    hosts: Option<PathBuf>,
    resolv_conf: Option<String>,
    /// Published ports are this process's while the container runs.
    held: Held,
}

/// Makes the network that `spec` wants for the container, which the caller holds.
///
/// # Errors
/// Where a port is taken, no address is free, or what is to be joined or linked does not run.
pub fn connect(
    session: &Session,
    host: &Host,
    container: &ContainerRecord,
    spec: &Spec,
    users: Option<&UserNamespace>,
) -> Result<Connected> {
    let connection = Connection {
        endpoint: None,
        ..Connection::of(container)?
    };
    match &spec.network {
        Network::Bridge => on_bridge(session, host, container, connection, users),
        Network::Container(id) => join(host, connection, id),
        Network::Host | Network::None => {
            let resolv_conf = match connection.dns.as_slice() {
                [] => None,
                asked => Some(names::resolv_conf(asked)?),
            };
            Ok(Connected {
                connection,
                resolv_conf,
                ..Connected::default()
            })
        }
    }
}

fn on_bridge(
    session: &Session,
    host: &Host,
    container: &ContainerRecord,
    connection: Connection,
    users: Option<&UserNamespace>,
) -> Result<Connected> {
    for link in &connection.links {
        linked(&host.store, &link.container)?;
    }
    let held = Held::take(&connection.ports)?;
    let pool = std::env::var(POOL).ok().filter(|text| !text.is_empty());
    let pool: Option<Subnet> = pool.map(|text| text.parse()).transpose()?;
    let digits = container.id.get(..8).unwrap_or_default();
    let preferred = u32::from_str_radix(digits, 16).unwrap_or_default();
    let attachment = network::attach(pool, preferred, users.map(UserNamespace::network))?;
    let connection = Connection {
        endpoint: Some(attachment.endpoint.clone()),
        ..connection
    };
    let mut connected = Connected {
        path: format!("/run/netns/{}", attachment.endpoint.host_veth),
        connection,
        attachment: Some(attachment),
        held,
        ..Connected::default()
    };
    match connected.furnish(session, host, container) {
        Ok(()) => Ok(connected),
        Err(error) => both(Err(error), connected.release(host, &container.id).done()),
    }
}

/// The record of a linked container, which must run on the bridge.
fn linked(store: &Store, id: &str) -> Result<ContainerRecord> {
    let found = store.containers.get(id)?;
    let found = found.ok_or_else(|| Error::not_found("a container that this one is linked to has been removed"))?;
    if state::is_alive(&found.state) && Connection::of(&found)?.endpoint.is_some() {
        return Ok(found);
    }
    let name = &found.name;
    Err(Error::new(
        Kind::InUse,
        format!("cannot link to container {name}: it does not run on the bridge"),
    )
    .hinted(format!("plywood start {name} first")))
}

/// Joins the network namespace of a running container.
fn join(host: &Host, connection: Connection, id: &str) -> Result<Connected> {
    let found = host.store.containers.get(id)?;
    let found =
        found.ok_or_else(|| Error::not_found("the container whose network was to be joined has been removed"))?;
    let ContainerState::Running { pid, .. } = state::settled(&found.state) else {
        let name = &found.name;
        return Err(Error::new(
            Kind::InUse,
            format!("cannot join the network of container {name}: it does not run"),
        )
        .hinted(format!("plywood start {name} first")));
    };
    let path = format!("/proc/{pid}/ns/net");
    let joined = OwnedFd::from(File::open(&path).context("open", &path)?);
    // The number may have become another process's in between.
    if !state::is_alive(&found.state) {
        return Err(Error::new(
            Kind::InUse,
            format!("container {} has just ended", found.name),
        ));
    }
    let owner = owner(&host.store, found)?;
    let hosts = host.store.folder(FOLDER)?.join(&owner.id);
    let resolv_conf = match container::recorded_spec(&owner)?.network {
        Network::Bridge | Network::Host => Some(names::resolv_conf(&Connection::of(&owner)?.dns)?),
        Network::None | Network::Container(_) => None,
    };
    Ok(Connected {
        connection,
        joined: Some(joined),
        path,
        hosts: hosts.exists().then_some(hosts),
        resolv_conf,
        ..Connected::default()
    })
}

/// The container whose network this one has: its own, or the one that it joined.
fn owner(store: &Store, mut container: ContainerRecord) -> Result<ContainerRecord> {
    while let Network::Container(id) = container::recorded_spec(&container)?.network {
        match store.containers.get(&id)? {
            Some(next) => container = next,
            None => break,
        }
    }
    Ok(container)
}

impl Connected {
    /// The way out, published ports, and the files that are mounted.
    fn furnish(&mut self, session: &Session, host: &Host, container: &ContainerRecord) -> Result<()> {
        let Some(attachment) = &self.attachment else {
            return Ok(());
        };
        let hosts = host.store.folder(FOLDER)?.join(&container.id);
        let own = hosts_of(&host.store, container, &self.connection, &[])?;
        names::make(&hosts, &own)?;
        self.hosts = Some(hosts);
        self.resolv_conf = Some(names::resolv_conf(&self.connection.dns)?);

        let ports = &self.connection.ports;
        let way_out = firewall::ensure(attachment.pool).and_then(|()| network::enable_forwarding());
        match way_out {
            Ok(true) => session
                .output
                .note("the host forwards IPv4 packets from now on (net.ipv4.ip_forward): containers need it"),
            Ok(false) => {}
            Err(error) if ports.is_empty() => session.output.note(format!(
                "containers and the host reach each other, nothing else: no address translation ({error})"
            )),
            Err(error) => {
                return Err(
                    Error::new(error.kind(), "cannot publish ports: there is no address translation")
                        .hinted("without -p the container runs, and is reached from the host by its own address")
                        .caused_by(error),
                );
            }
        }
        if !ports.is_empty() {
            // Known before it is done: a killed plywood's rules are found by the record.
            put(&host.store, &self.running(container))?;
            attachment.reach_itself()?;
            firewall::publish(ports, attachment.endpoint.address)?;
        }
        Ok(())
    }

    /// What the container's first process is given.
    pub fn surroundings(&self) -> Surroundings<'_> {
        let own = self.attachment.as_ref().map(Attachment::namespace);
        let handle = own.or_else(|| self.joined.as_ref().map(AsFd::as_fd));
        Surroundings {
            cgroup: None,
            passes: false,
            network: handle.map(|handle| Namespace {
                handle,
                path: &self.path,
            }),
            hosts: self.hosts.as_deref(),
            resolv_conf: self.resolv_conf.as_deref(),
            users: None,
            devices: &[],
        }
    }

    /// The container's record while it runs.
    pub fn running(&self, container: &ContainerRecord) -> ContainerRecord {
        ContainerRecord {
            network: self.connection.document(),
            ..container.clone()
        }
    }

    /// The container's record once it has ended: its address is given back.
    pub fn ended(&self, container: &ContainerRecord) -> ContainerRecord {
        let asked = Connection {
            endpoint: None,
            ..self.connection.clone()
        };
        ContainerRecord {
            network: asked.document(),
            ..container.clone()
        }
    }

    /// Tells all containers on the bridge that this one runs, as its record says by now.
    ///
    /// # Errors
    /// Where a hosts file cannot be written.
    pub fn announce(&self, host: &Host) -> Result<()> {
        match self.attachment {
            Some(_) => write_names(&host.store),
            None => Ok(()),
        }
    }

    /// Begins to take everything away. The container has ended.
    pub fn release(self, host: &Host, id: &str) -> Releasing {
        let Some(attachment) = self.attachment else {
            return Releasing(Ok(None));
        };
        let (store, id, ports, held) = (Arc::clone(&host.store), id.to_owned(), self.connection.ports, self.held);
        // Who starts it again expects its address.
        let returns = !store.containers.is_passing(&id);
        // A link's removal waits for all processors, many milliseconds: meanwhile the rest can go on.
        let thread = std::thread::Builder::new().spawn(move || {
            firewall::withdraw(&ports)?;
            drop(held);
            match returns {
                true => attachment.close()?,
                false => attachment.leave(),
            }
            forget(&store, &id)
        });
        Releasing(thread.map(Some))
    }
}

/// A network that is being taken away.
#[derive(Debug)]
#[must_use]
pub struct Releasing(std::io::Result<Option<JoinHandle<Result<()>>>>);

impl Releasing {
    /// Waits until it is gone.
    ///
    /// # Errors
    /// Where something stays; the next command tries again.
    pub fn done(self) -> Result<()> {
        let thread = self.0.context("start", "a thread that takes the network away")?;
        let gone = |_| Err(Error::new(Kind::Io, "the thread that takes the network away is gone"));
        thread.map_or(Ok(()), |thread| thread.join().unwrap_or_else(gone))
    }
}

/// Takes away what a killed plywood left of the networks of containers that do not run.
///
/// # Errors
/// Where something cannot be read or removed.
pub fn sweep(store: &Store) -> Result<()> {
    for id in connected(store)? {
        let found = store.containers.get(&id)?;
        if found.as_ref().is_some_and(|found| state::is_alive(&found.state)) {
            continue;
        }
        // Held: it is just being started, or ended.
        let Some(hold) = hold::try_take(store, &id)? else {
            continue;
        };
        remove(store, &id)?;
        match found {
            Some(_) => drop(hold),
            None => hold::forget(store, &id, hold)?,
        }
    }
    Ok(())
}

/// Takes away what there is of a container's network. The caller holds the container, which does not run.
///
/// # Errors
/// As for [`sweep`].
pub fn remove(store: &Store, id: &str) -> Result<()> {
    if !store.root().join(FOLDER).join(id).exists() {
        return Ok(());
    }
    if let Some(found) = store.containers.get(id)? {
        let mut connection = Connection::of(&found)?;
        if let Some(endpoint) = connection.endpoint.take() {
            let anothers = endpoint.fate()? == Fate::Another;
            firewall::withdraw_dead(&connection.ports, endpoint.address, anothers)?;
            network::detach(&endpoint)?;
            let network = connection.document();
            put(store, &ContainerRecord { network, ..found })?;
        }
    }
    forget(store, id)
}

/// Removes the container's hosts file, and its names from the others'.
fn forget(store: &Store, id: &str) -> Result<()> {
    let path = store.folder(FOLDER)?.join(id);
    explain::step(|| format!("rm -f {}", explain::quote(&path)));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
        _ => write_names(store),
    }
}

fn put(store: &Store, record: &ContainerRecord) -> Result<()> {
    let lock = store.exclusive()?;
    store.containers.put(&lock, record)?;
    lock.done()
}

/// The ids of the containers that have a hosts file.
fn connected(store: &Store) -> Result<Vec<String>> {
    let folder = store.root().join(FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("list", &folder)?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.context("list", &folder)?.file_name();
        ids.extend(name.into_string().ok().filter(|name| !name.starts_with('.')));
    }
    Ok(ids)
}

/// Writes the hosts file of every container on the bridge anew, one writer at a time.
fn write_names(store: &Store) -> Result<()> {
    let folder = store.folder(FOLDER)?;
    let path = folder.join(LOCK);
    let lock = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = lock.context("open", &path)?;
    flock(&lock, FlockOperation::LockExclusive).context("lock", &path)?;
    let mut running = Vec::new();
    for id in connected(store)? {
        if let Some(record) = store.containers.get(&id)?
            && state::is_alive(&record.state)
        {
            let connection = Connection::of(&record)?;
            running.push((record, connection));
        }
    }
    running.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    for (record, connection) in &running {
        let text = hosts_of(store, record, connection, &running)?;
        names::rewrite(&folder.join(&record.id), &text)?;
    }
    Ok(())
}

/// A container's hosts file: itself, what it is linked to, and all others.
fn hosts_of(
    store: &Store,
    own: &ContainerRecord,
    connection: &Connection,
    running: &[(ContainerRecord, Connection)],
) -> Result<String> {
    let mut hosts: Vec<names::Host> = host(own, connection, Vec::new()).into_iter().collect();
    let aliases = |id: &str| -> Vec<String> {
        let links = connection.links.iter().filter(|link| link.container == id);
        links.map(|link| link.alias.clone()).collect()
    };
    let mut others = Vec::new();
    for link in &connection.links {
        if running.is_empty()
            && let Some(record) = store.containers.get(&link.container)?
        {
            others.extend(host(&record, &Connection::of(&record)?, aliases(&record.id)));
        }
    }
    for (record, connection) in running.iter().filter(|(record, _)| record.id != own.id) {
        others.extend(host(record, connection, aliases(&record.id)));
    }
    hosts.extend(others);
    Ok(names::hosts(&hosts))
}

/// A container's line, where it is on the bridge.
fn host(record: &ContainerRecord, connection: &Connection, aliases: Vec<String>) -> Option<names::Host> {
    let endpoint = connection.endpoint.as_ref()?;
    let mut names = vec![record.name.clone()];
    let hostname = record.spec.get("hostname").and_then(|name| name.as_str());
    for name in aliases.into_iter().chain(hostname.map(str::to_owned)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Some(names::Host {
        address: endpoint.address,
        names,
    })
}
