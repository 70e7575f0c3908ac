//! rtnetlink(7): a socket, requests that are acknowledged, and lists.
//!
//! Packets are made and read by netlink-packet-route. Lengths are checked here, before a message is
//! put together: an attribute's length has 16 bits, and a longer value would wrap around and be
//! taken for other attributes by the kernel.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Bytes that a message may have. As no part is longer than the whole, every attribute's length fits.
const MESSAGE_MAX: usize = 65_535;

/// A socket of the network namespace that its maker's thread was in.
#[derive(Debug)]
pub(super) struct Route(Socket);

impl Route {
    /// In this thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Has the kernel do something, and waits until it is done. `flags` besides the usual ones, as
    /// `NLM_F_CREATE`.
    pub(super) fn change(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(|_| ())
    }

    /// The kernel's list of what `message` asks for.
    pub(super) fn list(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut list = Vec::new();
        self.receive(|item| list.push(item))?;
        Ok(list)
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let bytes = encode(message, flags)?;
        let sent = self.0.send(&bytes, 0)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::WriteZero, "a message was cut off"))
        }
    }

    /// Takes items until an acknowledgement, an error or the list's end.
    fn receive(&self, mut item: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        loop {
            let (datagram, _) = self.0.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let (message, length) = decode(rest)?;
                match message {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(()),
                    NetlinkPayload::Done(done) => return Err(io::Error::from_raw_os_error(done.code.saturating_neg())),
                    NetlinkPayload::InnerMessage(inner) => item(inner),
                    _ => {}
                }
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

/// A message's bytes.
fn encode(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<u8>> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    let length = message.buffer_len();
    if length > MESSAGE_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a netlink message of {length} bytes: attributes end at {MESSAGE_MAX}"),
        ));
    }
    message.finalize();
    let mut bytes = vec![0; length];
    message.serialize(&mut bytes);
    Ok(bytes)
}

/// The first message of `bytes`, and where the next one begins.
fn decode(bytes: &[u8]) -> io::Result<(NetlinkPayload<RouteNetlinkMessage>, usize)> {
    let bad = |error| io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer: {error}"));
    let length = NetlinkBuffer::new_checked(bytes).map_err(bad)?.length();
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let one = bytes.get(..length).unwrap_or(bytes);
    let message = NetlinkMessage::deserialize(one).map_err(bad)?;
    Ok((message.payload, length.next_multiple_of(4)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use proptest::prelude::*;

    fn with_alias(length: usize) -> RouteNetlinkMessage {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfAlias("a".repeat(length)));
        RouteNetlinkMessage::NewLink(link)
    }

    #[test]
    fn e13_an_attribute_that_would_wrap_around_is_refused() {
        // Header, link header, attribute header, closing zero.
        let overhead = 16 + 16 + 4 + 1;
        assert!(encode(with_alias(MESSAGE_MAX - overhead - 3), 0).is_ok());
        for length in [65_532, 65_535, 65_536, 65_540, 131_072, 1 << 20] {
            let error = encode(with_alias(length), 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn e13_what_is_sent_is_what_was_meant(length in prop_oneof![0usize..300, 65_000usize..200_000]) {
            match encode(with_alias(length), 0) {
                Err(_) => prop_assert!(length > 65_000),
                Ok(bytes) => {
                    prop_assert!(bytes.len() <= MESSAGE_MAX);
                    let (read, end) = decode(&bytes).unwrap();
                    prop_assert_eq!(end, bytes.len());
                    prop_assert_eq!(read, NetlinkPayload::InnerMessage(with_alias(length)));
                }
            }
        }

        #[test]
        fn any_answer_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Ok((_, length)) = decode(rest) {
                prop_assert!(length > 0);
                rest = rest.get(length..).unwrap_or_default();
                if rest.is_empty() {
                    break;
                }
            }
        }
    }

    #[test]
    fn the_kernel_lists_this_namespaces_addresses() {
        use netlink_packet_route::address::AddressMessage;
        let route = Route::open().unwrap();
        let list = route
            .list(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .unwrap();
        assert!(
            list.iter()
                .all(|item| matches!(item, RouteNetlinkMessage::NewAddress(_)))
        );
        let unknown = LinkMessage::default();
        assert!(route.change(RouteNetlinkMessage::DelLink(unknown), 0).is_err());
    }
}
