//! Addresses as text, for every request: in its header and in its row of the log.

use std::{io::Write as _, net::IpAddr};

/// The longest address as text, `ffff:…:255.255.255.255`, in bytes.
const MAX_BYTES: usize = 45;

/// An address as its `Display` writes it, where it lies.
///
/// IPv4 goes without the formatter, which knows of padding and takes 600 instructions
/// longer (measured 2026-11).
pub(crate) struct AddressText {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl AddressText {
    pub(crate) fn new(address: IpAddr) -> Self {
        let mut bytes = [0; MAX_BYTES];
        let mut rest = bytes.as_mut_slice();
        // It fits.
        let _ = match address {
            IpAddr::V4(address) => {
                let mut number = itoa::Buffer::new();
                let [first, others @ ..] = address.octets();
                rest.write_all(number.format(first).as_bytes()).and_then(|()| {
                    others.into_iter().try_for_each(|octet| {
                        rest.write_all(b".")?;
                        rest.write_all(number.format(octet).as_bytes())
                    })
                })
            }
            IpAddr::V6(address) => write!(rest, "{address}"),
        };
        let left = rest.len();
        Self { bytes, len: MAX_BYTES - left }
    }

    pub(crate) fn as_str(&self) -> &str {
        // All of it is ASCII.
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_everywhere() {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for address in ["0.0.0.0", "192.0.2.7", "255.255.255.255", "::1", "::ffff:1.2.3.4", longest]
        {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(AddressText::new(address).as_str(), address.to_string());
        }
    }
}
