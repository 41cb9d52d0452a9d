//! IP allowlists: IPv4 addresses and networks (S42–S49, S80).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net as Network;

use crate::contract::{Ipv4Net, Source};

/// The most entries of one allowlist. Stripe names no limit; this many fit in
/// the component's memory beside the largest other fields.
pub const MAX_NETWORKS: usize = 200;

/// Tells whether `source` may use a key with this allowlist.
///
/// An IPv6 address is in no IPv4 network, so a key with a list cannot be used
/// from one.
pub fn allows(nets: &[Ipv4Net], source: Source) -> bool {
    if nets.is_empty() {
        return true;
    }
    let Source::Ipv4(address) = source else { return false };
    let address = Ipv4Addr::from(address);
    nets.iter().any(|net| {
        // A stored prefix length over 32 is damage; it lets nobody in.
        Network::new(Ipv4Addr::from(net.address), net.prefix_length)
            .is_ok_and(|network| network.contains(&address))
    })
}

/// Tells whether whoever may use a key with the allowlist `nets` may use one with
/// the allowlist `own`, going by entries: each of `nets` lies inside one of
/// `own`. Two halves do not make up a whole here.
pub fn within(nets: &[Ipv4Net], own: &[Ipv4Net]) -> bool {
    let network = |net: &Ipv4Net| Network::new(Ipv4Addr::from(net.address), net.prefix_length);
    own.is_empty()
        || !nets.is_empty()
            && nets.iter().all(|net| {
                // Damage is inside of nothing, and nothing is inside of it.
                let Ok(net) = network(net) else { return false };
                own.iter().any(|own| network(own).is_ok_and(|own| own.contains(&net)))
            })
}

/// Returns an address as people write it.
pub fn display(source: Source) -> String {
    match source {
        Source::Ipv4(address) => Ipv4Addr::from(address).to_string(),
        Source::Ipv6((high, low)) => {
            Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).to_string()
        }
    }
}

/// Reads one entry of an allowlist: an address, or a network in CIDR notation.
///
/// # Errors
///
/// A sentence for the person who wrote it. A network that does not start at its
/// first address is refused and not rounded: `10.0.0.5/8` is more often a slip
/// for one host than a wish for sixteen million.
pub fn parse(entry: &str) -> Result<Ipv4Net, String> {
    if entry.contains(':') {
        return Err(format!("'{entry}' is not IPv4. IP addresses must use the IPv4 protocol."));
    }
    let malformed = |_| {
        format!(
            "'{entry}' is neither an IPv4 address such as 192.0.2.7 nor a range in CIDR notation \
             such as 198.51.100.0/24."
        )
    };
    let network = if entry.contains('/') {
        entry.parse::<Network>().map_err(|_| malformed(()))?
    } else {
        Network::from(entry.parse::<Ipv4Addr>().map_err(|_| malformed(()))?)
    };
    if network.addr() != network.network() {
        return Err(format!(
            "'{entry}' does not start at the first address of its range. Write '{}' for the whole \
             range, or '{}' for the one address.",
            network.trunc(),
            network.addr(),
        ));
    }
    Ok(Ipv4Net { address: network.addr().into(), prefix_length: network.prefix_len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(list: &[&str], address: &str, expected: bool) {
        let nets: Vec<Ipv4Net> = list.iter().map(|entry| parse(entry).unwrap()).collect();
        let source = match address.parse().unwrap() {
            std::net::IpAddr::V4(address) => Source::Ipv4(address.into()),
            std::net::IpAddr::V6(address) => {
                let bits = u128::from(address);
                Source::Ipv6(((bits >> 64) as u64, bits as u64))
            }
        };
        assert_eq!(allows(&nets, source), expected, "{list:?} for {address}");
        assert_eq!(display(source), address);
    }

    #[test]
    fn a_range_holds_its_first_and_last_address_and_no_other() {
        check(&["100.10.38.0/24"], "100.10.38.0", true);
        check(&["100.10.38.0/24"], "100.10.38.255", true);
        check(&["100.10.38.0/24"], "100.10.39.1", false);
        check(&["100.10.38.0/24"], "100.10.37.255", false);
        check(&["0.0.0.0/0"], "203.0.113.9", true);
        check(&["192.0.2.7"], "192.0.2.7", true);
        check(&["192.0.2.7/32"], "192.0.2.8", false);
        check(&["192.0.2.7", "198.51.100.0/31"], "198.51.100.1", true);
    }

    #[test]
    fn no_list_is_any_address_and_a_list_is_no_ipv6_address() {
        check(&[], "203.0.113.9", true);
        check(&[], "2001:db8::1", true);
        check(&["0.0.0.0/0"], "2001:db8::1", false);
    }

    #[test]
    fn a_damaged_prefix_length_lets_nobody_in() {
        let nets = [Ipv4Net { address: 0, prefix_length: 33 }];
        assert!(!allows(&nets, Source::Ipv4(0)));
    }

    #[test]
    fn a_list_is_within_another_entry_by_entry() {
        let nets = |list: &str| -> Vec<Ipv4Net> {
            list.split_whitespace().map(|entry| parse(entry).unwrap()).collect()
        };
        for (list, own, expected) in [
            ("", "", true),
            ("192.0.2.7", "", true),
            // No list is any address.
            ("", "192.0.2.7", false),
            ("", "0.0.0.0/0", false),
            ("0.0.0.0/0", "0.0.0.0/0", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.0/24", true),
            ("192.0.2.0/24", "192.0.2.7", false),
            ("192.0.2.0/25 192.0.2.128/25", "192.0.2.0/24", true),
            ("192.0.2.0/24", "192.0.2.0/25 192.0.2.128/25", false),
            ("192.0.2.7 198.51.100.1", "192.0.2.0/24", false),
            ("192.0.2.7 198.51.100.1", "198.51.100.0/24 192.0.2.0/24", true),
        ] {
            assert_eq!(within(&nets(list), &nets(own)), expected, "`{list}` within `{own}`");
        }
        let damaged = [Ipv4Net { address: 0, prefix_length: 33 }];
        assert!(!within(&damaged, &nets("0.0.0.0/0")) && !within(&nets("0.0.0.0"), &damaged));
    }

    #[test]
    fn only_ipv4_in_cidr_notation_is_an_entry() {
        for (entry, complaint) in [
            ("2001:db8::/32", "not IPv4"),
            ("::1", "not IPv4"),
            ("10.0.0.5/8", "Write '10.0.0.0/8'"),
            ("10.0.0.0/33", "neither"),
            ("10.0.0.0/", "neither"),
            ("10.0.0", "neither"),
            ("010.0.0.1", "neither"),
            ("example.com", "neither"),
            ("", "neither"),
        ] {
            let err = parse(entry).unwrap_err();
            assert!(err.contains(complaint), "`{entry}`: {err}");
        }
    }
}
