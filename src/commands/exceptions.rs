//! The exception store of a `run --cow` container, as `ps` and `df` tell of it.

use plywood_store::Store;
use plywood_store::record::Place;

use crate::dm::assembly;
use crate::dm::classic::Status;
use crate::dm::pool::ThinId;
use crate::error::Result;
use crate::output;

/// What the kernel says of a container's store, or of its merge; none where it has none, or is not in use.
///
/// # Errors
/// A damaged record; the kernel's.
pub(super) fn status(store: &Store, id: &str) -> Result<Option<Status>> {
    let place = store.snapshots.get(id)?.map(|snapshot| snapshot.place);
    let volume = match place {
        Some(Place::Cow(id) | Place::Merging { target: id, .. }) => ThinId::new(id),
        Some(Place::Thin(_) | Place::Folder(_)) | None => None,
    };
    match volume {
        Some(id) => assembly::store_status(store, id),
        None => Ok(None),
    }
}

/// How full it is, or what the kernel calls its state.
pub(super) fn told(status: Status) -> String {
    match status {
        Status::Working { allocated, total, .. } => {
            let bytes = |sectors: u64| output::bytes(sectors.saturating_mul(512));
            format!("{} of {}", bytes(allocated), bytes(total))
        }
        broken => broken.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_told_in_bytes_or_in_the_kernels_words() {
        let told = |line: &str| told(line.parse().unwrap());
        assert_eq!(told("2048/20971520 16"), "1.00 MiB of 10.00 GiB");
        for line in ["Invalid", "Overflow", "Merge failed"] {
            assert_eq!(told(line), line);
        }
    }
}
