//! Hashes what was inside. Inflating alone takes a processor, so this is none of its.

use std::sync::mpsc::{Receiver, SyncSender};

use plywood_store::DiffId;
use plywood_store::digest::Hasher as Sha256;

use super::inflater::Message;

/// Between the inflater and the caller.
pub(super) struct Hasher {
    pub(super) from: Receiver<Message>,
    pub(super) to: SyncSender<Message>,
}

impl Hasher {
    pub(super) fn run(self) {
        let mut inside = Sha256::default();
        let mut was_packed = false;
        for mut message in self.from {
            match &mut message {
                Message::Piece {
                    plain,
                    was_packed: true,
                    ..
                } => {
                    was_packed = true;
                    inside.update(plain);
                }
                Message::Piece { .. } | Message::Broken(_) => {}
                Message::End(end) => {
                    let inside = std::mem::take(&mut inside);
                    let size = inside.bytes();
                    end.inside = std::mem::take(&mut was_packed).then(|| (DiffId(inside.digest()), size));
                }
            }
            if self.to.send(message).is_err() {
                return;
            }
        }
    }
}
