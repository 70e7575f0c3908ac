//! Every device name and uuid that plywood makes.
//!
//! ```text
//! plywood-0123abcd-pool              the pool of the root whose UUID begins with 0123abcd
//! plywood-0123abcd-thin-16777215     a volume in it
//! ```
//!
//! The kernel takes 127 bytes of name and 128 of uuid: the longest name is
//! 8 + 8 + 6 + 8 = 30 bytes, the longest uuid `PLYWOOD-` and 32 digits and `-thin-16777215`, 54.

use std::path::PathBuf;

use crate::dm::pool::ThinId;

/// Where the kernel's devices get their nodes.
const NODES: &str = "/dev/mapper";

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
        format!("plywood-{}-thin-{id}", self.short())
    }

    /// A volume's uuid.
    pub fn thin_uuid(&self, id: ThinId) -> String {
        format!("PLYWOOD-{}-thin-{id}", self.root)
    }

    /// The volume of a name, where it is one of this root's.
    pub fn parse_thin(&self, name: &str) -> Option<ThinId> {
        let digits = name.strip_prefix(&format!("plywood-{}-thin-", self.short()))?;
        // `parse` takes "+7" and "007" too, which are nobody's names for volume 7.
        ThinId::new(digits.parse().ok()?).filter(|id| id.to_string() == digits)
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
