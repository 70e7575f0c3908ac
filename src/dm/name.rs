//! Every device name and uuid that plywood makes.
//!
//! ```text
//! plywood-0123abcd-pool              the pool of the root whose UUID begins with 0123abcd
//! plywood-0123abcd-thin-16777215     a volume in it
//! plywood-0123abcd-cow-16777215      the classic snapshot whose store that volume is
//! plywood-0123abcd-base-16777215     its origin: the volume of a layer, read-only
//! plywood-0123abcd-merge-16777215    what a store is folded into: that volume
//! ```
//!
//! The kernel takes 127 bytes of name and 128 of uuid: the longest name is
//! 8 + 8 + 7 + 8 = 31 bytes, the longest uuid `PLYWOOD-` and 32 digits and `-merge-16777215`, 55.

use std::path::PathBuf;

use crate::dm::pool::ThinId;

/// Where the kernel's devices get their nodes.
const NODES: &str = "/dev/mapper";

/// What a device is to its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The volume itself.
    Thin,
    /// The classic snapshot that keeps its exceptions in it.
    Cow,
    /// The origin of that snapshot: another activation of a layer's volume, read-only.
    Base,
    /// The volume while a store is folded into it.
    Merge,
}

impl Kind {
    /// All, each before what it lies on.
    pub const ALL: [Self; 4] = [Self::Merge, Self::Cow, Self::Base, Self::Thin];

    fn word(self) -> &'static str {
        match self {
            Self::Thin => "thin",
            Self::Cow => "cow",
            Self::Base => "base",
            Self::Merge => "merge",
        }
    }
}

/// The names of one root's devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    root: String,
}

impl Names {
    /// The names for the root with this UUID: 32 hexadecimal digits.
    pub fn of_root(uuid: &str) -> Self {
        let root = uuid.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
        Self { root }
    }

    fn short(&self) -> &str {
        self.root.get(..8).unwrap_or(&self.root)
    }

    /// The pool's name.
    pub fn pool(&self) -> String {
        format!("plywood-{}-pool", self.short())
    }

    /// The pool's uuid.
    pub fn pool_uuid(&self) -> String {
        format!("PLYWOOD-{}-pool", self.root)
    }

    /// A volume's name.
    pub fn thin(&self, id: ThinId) -> String {
        self.of(Kind::Thin, id)
    }

    /// A volume's uuid.
    pub fn thin_uuid(&self, id: ThinId) -> String {
        self.uuid_of(Kind::Thin, id)
    }

    /// The name of a device of this kind that belongs to a volume.
    pub fn of(&self, kind: Kind, id: ThinId) -> String {
        format!("plywood-{}-{}-{id}", self.short(), kind.word())
    }

    /// The uuid of such a device.
    pub fn uuid_of(&self, kind: Kind, id: ThinId) -> String {
        format!("PLYWOOD-{}-{}-{id}", self.root, kind.word())
    }

    /// The kind and the volume of a name, where it is one of this root's.
    pub fn parse(&self, name: &str) -> Option<(Kind, ThinId)> {
        let rest = name.strip_prefix(&format!("plywood-{}-", self.short()))?;
        let (word, digits) = rest.split_once('-')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
        // `parse` takes "+7" and "007" too, which are nobody's names for volume 7.
        let id = ThinId::new(digits.parse().ok()?).filter(|id| id.to_string() == digits)?;
        Some((kind, id))
    }

    /// The volume of a name, where it is one of this root's.
    pub fn parse_thin(&self, name: &str) -> Option<ThinId> {
        let (kind, id) = self.parse(name)?;
        (kind == Kind::Thin).then_some(id)
    }
}

/// A device's node.
pub fn node(name: &str) -> PathBuf {
    PathBuf::from(NODES).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_what_the_kernel_takes() {
        let names = Names::of_root(&"f".repeat(32));
        let last = ThinId::new(ThinId::MAX).unwrap();
        assert_eq!(names.thin(last), "plywood-ffffffff-thin-16777215");
        assert_eq!(names.thin(last).len(), 30);
        assert_eq!(names.thin_uuid(last).len(), 54);
        assert_eq!(names.of(Kind::Merge, last).len(), 31);
        assert_eq!(names.uuid_of(Kind::Merge, last).len(), 55);
        assert_eq!(names.pool(), "plywood-ffffffff-pool");
    }

    #[test]
    fn only_own_volumes_are_recognised() {
        let names = Names::of_root("0123abcd0000");
        assert_eq!(names.parse_thin("plywood-0123abcd-thin-7"), ThinId::new(7));
        for other in [
            "plywood-0123abcd-pool",
            "plywood-0123abce-thin-7",
            "plywood-0123abcd-thin-x",
            "plywood-0123abcd-thin-16777216",
            "plywood-0123abcd-thin-+7",
            "plywood-0123abcd-thin-007",
            "x",
        ] {
            assert_eq!(names.parse_thin(other), None, "{other}");
        }
    }
}
