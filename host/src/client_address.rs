//! Finds the address of the client behind proxies.
//!
//! A proxy appends the address of its peer to `X-Forwarded-For`. What a trusted
//! proxy has appended is true, what stands to the left of it is caller-supplied:
//! so the list is read from the right, and only as far as trust goes.

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use ipnet::IpNet;

/// Returns the address that a request comes from.
///
/// That is the peer, unless the peer is `trusted`: then it is the rightmost
/// address in `forwarded_for` that is not itself trusted. `forwarded_for` holds
/// the values of all `X-Forwarded-For` headers in their order, which mean the
/// same as one header with all of them.
///
/// Anything but an address ends the walk at the last good one, a proxy of ours:
/// better too near than forged. If everything is trusted, the leftmost counts.
/// An IPv4 address is always returned as such, also if it was written as
/// `::ffff:192.0.2.1`: lists of allowed addresses know it in one form only.
pub fn client_address<'a>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'a HeaderValue>,
    trusted: &[IpNet],
) -> IpAddr {
    let mut client = peer.to_canonical();
    let mut hops =
        forwarded_for.rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    while is_trusted(client, trusted) {
        let Some(hop) = hops.next().and_then(parse_hop) else {
            break;
        };
        client = hop;
    }
    client
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address) || contains_mapped(net, address))
}

/// Tells whether `net` is a range of IPv4 addresses that an operator wrote as
/// IPv6, and holds `address`.
///
/// `::/0` is not such a range: whoever trusts all of IPv6 has not said IPv4.
fn contains_mapped(net: &IpNet, address: IpAddr) -> bool {
    let (IpNet::V6(net), IpAddr::V4(address)) = (net, address) else {
        return false;
    };
    net.prefix_len() >= 96 && net.contains(&address.to_ipv6_mapped())
}

/// Reads one caller-supplied entry: an address, as some proxies write it in
/// brackets or with a port.
fn parse_hop(entry: &[u8]) -> Option<IpAddr> {
    let entry = str::from_utf8(entry.trim_ascii()).ok()?;
    let unbracketed = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']'));
    let address = match unbracketed {
        Some(address) => IpAddr::V6(address.parse().ok()?),
        None => {
            entry.parse().or_else(|_| entry.parse().map(|address: SocketAddr| address.ip())).ok()?
        }
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proxies of these tests: `10.0.0.0/8` and `fd00::/8`.
    #[track_caller]
    fn check(peer: &str, forwarded_for: &[&str], expected: &str) {
        check_trusting(&["10.0.0.0/8", "fd00::/8"], peer, forwarded_for, expected);
    }

    #[track_caller]
    fn check_trusting(trusted: &[&str], peer: &str, forwarded_for: &[&str], expected: &str) {
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let values: Vec<_> = forwarded_for
            .iter()
            .map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap())
            .collect();
        let found = client_address(peer.parse().unwrap(), values.iter(), &trusted);
        assert_eq!(found.to_string(), expected, "{peer} {forwarded_for:?}");
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_client() {
        check("192.0.2.1", &[], "192.0.2.1");
        check("192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("192.0.2.1", &["10.0.0.1"], "192.0.2.1");
        check("2001:db8::1", &["198.51.100.7"], "2001:db8::1");
        check_trusting(&[], "127.0.0.1", &["198.51.100.7"], "127.0.0.1");
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        check("10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9,198.51.100.7 ,\t10.0.0.2"], "198.51.100.7");
        check("fd00::1", &["2001:db8::7, fd00::2"], "2001:db8::7");
        // A client cannot hide behind an address that we trust.
        check("10.0.0.1", &["10.0.0.9, 198.51.100.7"], "198.51.100.7");
    }

    #[test]
    fn several_headers_are_one_list() {
        check("10.0.0.1", &["203.0.113.9", "198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7", "10.0.0.2"], "198.51.100.7");
        check("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.0.0.3", "10.0.0.2"], "198.51.100.7");
    }

    #[test]
    fn in_a_list_of_trusted_addresses_the_leftmost_is_the_client() {
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check("10.0.0.1", &["10.0.0.4", "fd00::3, 10.0.0.2"], "10.0.0.4");
    }

    #[test]
    fn garbage_ends_the_walk_at_the_last_good_address() {
        for garbage in [
            "",
            " ",
            ",",
            "x",
            "*",
            "unknown",
            "_hidden",
            "198.51.100",
            "198.51.100.7/32",
            "198.51.100.256",
            "198.51.100.07",
            "198.51.100.7:",
            "198.51.100.7:65536",
            "[198.51.100.7]",
            "[::1",
            "::1]",
            "[]",
            "\"198.51.100.7\"",
            "198.51.100.7 198.51.100.8",
            "１９８.51.100.7",
        ] {
            check("10.0.0.1", &[garbage], "10.0.0.1");
            let list = format!("203.0.113.9, {garbage}, 10.0.0.2");
            check("10.0.0.1", &[&list], "10.0.0.2");
            let list = format!("{garbage}, 198.51.100.7");
            check("10.0.0.1", &[&list], "198.51.100.7");
        }
        check("10.0.0.1", &[&"*".repeat(10_000)], "10.0.0.1");
        check("10.0.0.1", &[&"10.0.0.2,".repeat(1_000)], "10.0.0.1");
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        check("::ffff:192.0.2.1", &["198.51.100.7"], "192.0.2.1");
        check("::ffff:10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7");
        check("10.0.0.1", &["198.51.100.7, [::ffff:10.0.0.2]:80"], "198.51.100.7");
    }

    #[test]
    fn a_mapped_range_is_a_range_of_ipv4_addresses() {
        check_trusting(&["::ffff:10.0.0.0/104"], "10.0.0.1", &["198.51.100.7"], "198.51.100.7");
        check_trusting(&["::ffff:10.0.0.0/104"], "11.0.0.1", &["198.51.100.7"], "11.0.0.1");
        check_trusting(&["::/0"], "10.0.0.1", &["198.51.100.7"], "10.0.0.1");
        check_trusting(&["0.0.0.0/0"], "fd00::1", &["198.51.100.7"], "fd00::1");
    }

    #[test]
    fn a_port_is_ignored() {
        check("10.0.0.1", &["198.51.100.7:5678"], "198.51.100.7");
        check("10.0.0.1", &["[2001:db8::7]:80"], "2001:db8::7");
        check("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7");
        check("10.0.0.1", &["198.51.100.7:1, 10.0.0.2:2"], "198.51.100.7");
    }
}
