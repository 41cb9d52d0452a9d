//! From what came over the wire to what the policy is asked.

use std::net::IpAddr;

use crate::{
    engine::contract::{Credential, PresentedCredential, Source},
    secret::Presented,
};

/// Says in a request that the operator lets endpoints through which the
/// catalogue does not list.
const ALLOW_UNLISTED: &[(&str, &str)] = &[("allow-unlisted", "yes")];

/// Returns what the host says of a request besides what it carries.
pub(crate) fn attributes(allow_unlisted: bool) -> &'static [(&'static str, &'static str)] {
    if allow_unlisted { ALLOW_UNLISTED } else { &[] }
}

/// Returns what the policy is told of a credential: never the secret itself.
pub(crate) fn credential<'a>(presented: Option<&'a Presented<'_>>) -> Credential<'a> {
    match presented {
        None => Credential::Absent,
        Some(Presented::Malformed { prefix, masked }) => {
            Credential::Malformed(PresentedCredential { prefix, masked: masked.as_str() })
        }
        Some(Presented::WellFormed { prefix, masked, .. }) => {
            Credential::WellFormed(PresentedCredential { prefix, masked: masked.as_str() })
        }
    }
}

/// Returns an address as the policy is told it.
pub(crate) fn source(address: IpAddr) -> Source {
    match address.to_canonical() {
        IpAddr::V4(address) => Source::Ipv4(address.into()),
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            Source::Ipv6(((bits >> 64) as u64, bits as u64))
        }
    }
}
