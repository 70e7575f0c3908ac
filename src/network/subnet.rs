//! The address pool: one private IPv4 network, the bridge's own address first in it.
//!
//! A container's address is taken by making its veth pair: the host's end is called after the
//! address, and the kernel lets a name be there once. So no list is kept, two that start at once
//! cannot get the same one, whatever their stores, and a killed plywood's address is free as soon
//! as its container's namespace is gone.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::error::Error;

/// Prefix lengths that a pool can have: a bridge and a container at least, no more than a class A network.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=30;

/// Where nothing else is asked for: the first that the host has no route into.
const CANDIDATES: [Subnet; 6] = [
    Subnet::private([10, 214, 0, 0], 16),
    Subnet::private([10, 215, 0, 0], 16),
    Subnet::private([172, 29, 0, 0], 16),
    Subnet::private([172, 30, 0, 0], 16),
    Subnet::private([192, 168, 214, 0], 24),
    Subnet::private([192, 168, 215, 0], 24),
];

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    const fn private(base: [u8; 4], prefix: u8) -> Self {
        Self {
            base: u32::from_be_bytes(base),
            prefix,
        }
    }

    /// The network of `prefix` bits that `address` lies in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Self {
        Self {
            base: u32::from(address) & mask(prefix),
            prefix,
        }
    }

    /// The networks that are tried one after the other.
    pub fn candidates() -> &'static [Self] {
        &CANDIDATES
    }

    /// Bits of the network's part.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The bridge's address: the first.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base.saturating_add(1))
    }

    /// How many containers it has addresses for.
    pub fn capacity(self) -> u32 {
        // Without the network's own, the bridge's and the broadcast address.
        (!mask(self.prefix)).saturating_sub(2)
    }

    /// Every container's address once, beginning somewhere that `preferred` says.
    pub fn addresses(self, preferred: u32) -> impl Iterator<Item = Ipv4Addr> {
        let capacity = self.capacity();
        let first = preferred.checked_rem(capacity).unwrap_or(0);
        (first..capacity)
            .chain(0..first)
            .map(move |at| Ipv4Addr::from(self.base + 2 + at))
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        let common = mask(self.prefix.min(other.prefix));
        self.base & common == other.base & common
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::invalid(format!("{text:?} is no network for containers"))
                .hinted("write ADDRESS/BITS with 8 to 30 bits, as in 10.214.0.0/16")
        };
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let subnet = Self::around(address, prefix);
        if PREFIXES.contains(&prefix) && Ipv4Addr::from(subnet.base) == address {
            Ok(subnet)
        } else {
            Err(bad())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_network_is_written_with_its_bits() {
        let subnet: Subnet = "10.9.0.0/29".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.9.0.0/29");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 9, 0, 1));
        let addresses: Vec<_> = subnet.addresses(7).map(|one| one.octets()[3]).collect();
        assert_eq!(
            addresses,
            [4, 5, 6, 2, 3],
            "neither .0, nor the bridge's, nor the broadcast"
        );
        for bad in [
            "",
            "10.9.0.0",
            "10.9.0.0/",
            "10.9.0.0/31",
            "10.9.0.0/7",
            "10.9.0.1/16",
            "10.9/16",
            "x/16",
            "10.9.0.0/-1",
            "::/16",
            "10.9.0.0/16 ",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_overlap_where_one_holds_the_other() {
        let of = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(of("10.0.0.0/8").overlaps(of("10.214.0.0/16")));
        assert!(of("10.214.7.0/24").overlaps(of("10.214.0.0/16")));
        assert!(!of("10.213.0.0/16").overlaps(of("10.214.0.0/16")));
        assert!(Subnet::around(Ipv4Addr::UNSPECIFIED, 0).overlaps(of("10.214.0.0/16")));
    }

    proptest! {
        #[test]
        fn every_address_is_given_once_and_lies_in_the_network(prefix in 20u8..=30, address: u32, preferred: u32) {
            let subnet = Subnet::around(Ipv4Addr::from(address), prefix);
            let mut all: Vec<_> = subnet.addresses(preferred).collect();
            prop_assert_eq!(all.len(), subnet.capacity() as usize);
            prop_assert!(all.iter().all(|one| Subnet::around(*one, prefix) == subnet && *one != subnet.gateway()));
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), subnet.capacity() as usize);
        }
    }
}
