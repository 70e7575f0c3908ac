//! Hostile layers through the whole of `plywood import`: whatever they say, it ends inside the image.
//!
//! One table for both drivers, in three parts: [`links`], [`whiteouts`], [`contents`]. Names in capitals at the end of
//! a case's name are those of containerd's archive tests that stand for the same attack.

#[path = "breakouts/contents.rs"]
mod contents;
#[path = "breakouts/links.rs"]
mod links;
#[path = "breakouts/whiteouts.rs"]
mod whiteouts;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use plywood_store::layer::Limits;
use plywood_store::layer::read::{EntryKind, Reader};

use crate::common::layout::Layout;
use crate::common::tars::{archive, directory, file};
use crate::common::{Plywood, listing};
use crate::sentinel::Sentinel;

/// What is at a path of the image in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    File(String),
    Directory,
    Link(PathBuf),
    /// Another name of the file at this path.
    Same(&'static str),
    Device,
    Nothing,
}

/// How an attack may end.
pub enum End {
    /// By an error that says this.
    Refused(&'static str),
    /// In an image that has this.
    Inside(Vec<(&'static str, Node)>),
    /// On this driver refused, on others inside.
    RefusedBy(&'static str, &'static str),
}

use End::{Inside, Refused, RefusedBy};
use Node::{Device, Directory, Link, Nothing, Same};

/// A name, the layers, base first, and the end.
pub type Case = (&'static str, Vec<Vec<Vec<u8>>>, End);

fn content(text: &str) -> Node {
    Node::File(text.to_owned())
}

fn to(target: &str) -> Node {
    Link(target.into())
}

/// `/etc` with a file, as most attacks want it.
fn etc() -> Vec<Vec<u8>> {
    vec![directory("etc"), file("etc/passwd", "inside")]
}

fn and(mut base: Vec<Vec<u8>>, more: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    base.extend(more);
    base
}

fn and_nodes(
    mut nodes: Vec<(&'static str, Node)>,
    more: impl IntoIterator<Item = (&'static str, Node)>,
) -> Vec<(&'static str, Node)> {
    nodes.extend(more);
    nodes
}

/// Runs every case on a store with this driver, beside a tree that must stay as it is.
pub fn run(driver: &'static str) {
    let plywood = Plywood::new(driver);
    let sentinel = Sentinel::new(&plywood.beside("outside"));
    let base = plywood.beside("archive");
    fs::write(&base, Layout::of(&[archive(&etc())]).tar(false)).unwrap();
    plywood.ok(["import", base.to_str().unwrap(), "bystander"]);
    let bystander = tree_of(&plywood, "bystander");
    let all = [links::cases, whiteouts::cases, contents::cases].map(|cases| cases(sentinel.path()));
    for (name, layers, end) in all.into_iter().flatten() {
        let layers: Vec<_> = layers.iter().map(|entries| archive(entries)).collect();
        fs::write(&base, Layout::of(&layers).tar(false)).unwrap();
        let before = listing(&plywood);
        let output = plywood.run(["import", base.to_str().unwrap(), "attack"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let refused = match end {
            Refused(why) => Some(why),
            RefusedBy(by, why) if by == driver => Some(why),
            _ => None,
        };
        if let Some(why) = refused {
            assert_eq!(output.status.code(), Some(1), "{name}: {error}");
            assert!(
                error.contains(why) && !error.contains("without a report"),
                "{name}: {error}"
            );
            assert_eq!(listing(&plywood), before, "{name}");
        } else {
            assert!(output.status.success(), "{name}: {error}");
        }
        if let Inside(wanted) = end {
            let found = tree_of(&plywood, "attack");
            for (path, node) in wanted {
                found.check(name, path, &node);
            }
        }
        sentinel.check(name);
    }
    assert_eq!(tree_of(&plywood, "bystander"), bystander);
    plywood.sound();
}

/// An image's tree: each path's node and the first of its names.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, (Node, PathBuf)>);

impl Tree {
    #[track_caller]
    fn check(&self, name: &str, path: &str, wanted: &Node) {
        let found = self.0.get(Path::new(path));
        match wanted {
            Nothing => assert_eq!(found, None, "{name}: {path:?}"),
            Same(other) => {
                let first = |path: &str| self.0.get(Path::new(path)).map(|(_, first)| first);
                assert!(
                    found.is_some() && first(path) == first(other),
                    "{name}: {path:?} in {self:?}"
                );
            }
            wanted => assert_eq!(found.map(|(node, _)| node), Some(wanted), "{name}: {path:?}"),
        }
    }
}

/// An image's tree, through its export.
pub fn tree_of(plywood: &Plywood, image: &str) -> Tree {
    let path = plywood.beside("rootfs.tar");
    plywood.ok(["export", "--format", "rootfs", "-o", path.to_str().unwrap(), image]);
    let mut file = File::open(path).unwrap();
    let mut reader = Reader::new(&mut file, &Limits::default());
    let mut found = BTreeMap::<_, (Node, PathBuf)>::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut bytes = Vec::new();
        while let Some((_, piece)) = reader.content().unwrap() {
            bytes.extend_from_slice(piece);
        }
        let node = match entry.kind {
            EntryKind::File => Node::File(String::from_utf8(bytes).unwrap()),
            EntryKind::Directory => Directory,
            EntryKind::Symlink(target) => Link(target),
            EntryKind::HardLink(first) => {
                let same = found[&first].clone();
                found.insert(entry.path, same);
                continue;
            }
            EntryKind::Character(_) | EntryKind::Block(_) | EntryKind::Fifo => Device,
        };
        found.insert(entry.path.clone(), (node, entry.path));
    }
    Tree(found)
}
