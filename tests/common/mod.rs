//! What the tests on the binary share. Most begin with [`Plywood`], the binary on a store of its own, and with
//! [`busybox_tar`], a small base system, or with [`with_base`], which is both.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test crate has a copy of its own and uses a part of it"
)]

pub mod base;
pub mod binary;
pub mod debian;
pub mod edits;
pub mod environment;
pub mod explain;
pub mod json_page;
pub mod killed;
pub mod layout;
pub mod network;
pub mod nodes;
pub mod site;
pub mod story;
pub mod tars;
pub mod terminal;
pub mod together;
pub mod wait;

pub use base::{add_entry, busybox_tar, import_base, with_base};
pub use binary::{Plywood, listing, ready, words};
pub use environment::{as_many, in_guest, number, rounds, seed, seeds};
pub use network::{heard, own_network, translates};
pub use story::{EDITS, story};
pub use together::{every_two_at_a_time, siblings_keep_to_themselves};
