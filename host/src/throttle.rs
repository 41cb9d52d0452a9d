//! How often a source may fail to authenticate before it is told to wait.
//!
//! Only failures are counted and only failures are told: a good key behind the
//! same address is served as before, whatever others there do. What this keeps
//! small is what somebody learns, and what a client that does not stop costs.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use quick_cache::sync::Cache as Bounded;

/// How many sources are remembered. The least used give way, and begin anew:
/// 40 bytes each, and more than a small network has addresses.
const MAX_SOURCES: usize = 20_000;

/// How many leading bits of an IPv6 address count: one customer has at least all
/// addresses of such a network.
const IPV6_PREFIX_BITS: u32 = 64;

const MINUTE_MS: u64 = 60_000;

/// Counts the failures of each source.
///
/// A bucket of so many as may happen in a minute, which refills steadily: a
/// burst is let through, a stream is not.
pub struct Throttle<Source = IpAddr> {
    per_minute: u32,
    buckets: Bounded<Source, Arc<Mutex<Bucket>>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// How much of a minute is left in it, in milliseconds.
    left_ms: u64,
    filled_at_ms: u64,
}

impl<Source: Clone + Eq + Hash> Throttle<Source> {
    /// Makes one that lets each source fail this often a minute.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, buckets: Bounded::new(MAX_SOURCES) }
    }

    /// Notes a failure. Returns whether the source had had its share already.
    pub fn is_spent(&self, source: Source, now_ms: u64) -> bool {
        self.take(source, now_ms, 1)
    }

    /// Tells whether the source has had its share, and notes nothing.
    pub fn would_be_spent(&self, source: Source, now_ms: u64) -> bool {
        self.take(source, now_ms, 0)
    }

    fn take(&self, source: Source, now_ms: u64, failures: u64) -> bool {
        if self.per_minute == 0 {
            return true;
        }
        let full = Bucket { left_ms: MINUTE_MS, filled_at_ms: now_ms };
        let made = self.buckets.get_or_insert_with::<_, std::convert::Infallible>(&source, || {
            Ok(Arc::new(Mutex::new(full)))
        });
        let bucket = made.unwrap_or_else(|never| match never {});
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now_ms.saturating_sub(bucket.filled_at_ms);
        bucket.left_ms = bucket.left_ms.saturating_add(passed).min(MINUTE_MS);
        bucket.filled_at_ms = bucket.filled_at_ms.max(now_ms);
        let cost = (MINUTE_MS / u64::from(self.per_minute)).max(1);
        if bucket.left_ms < cost {
            return true;
        }
        bucket.left_ms -= cost * failures;
        false
    }
}

/// Returns what an address is counted under.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - IPV6_PREFIX_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_stream_does_not() {
        let throttle = Throttle::new(3);
        for (at_ms, source, expected) in [
            (0, "a", false),
            (0, "a", false),
            (0, "a", false),
            (0, "a", true),
            (0, "b", false),
            (19_999, "a", true),
            (20_000, "a", false),
            (20_000, "a", true),
            // A clock that is late gives nothing back.
            (10_000, "a", true),
            (120_000, "a", false),
            (120_000, "a", false),
            (120_000, "a", false),
            (120_000, "a", true),
        ] {
            assert_eq!(throttle.is_spent(source, at_ms), expected, "{source} at {at_ms} ms");
        }
    }

    #[test]
    fn a_look_counts_as_nothing() {
        let throttle = Throttle::new(1);
        assert!(!throttle.would_be_spent("a", 0));
        assert!(!throttle.is_spent("a", 0));
        assert!(throttle.would_be_spent("a", 0));
        assert!(throttle.is_spent("a", 0));
    }

    #[test]
    fn none_allowed_means_none() {
        assert!(Throttle::new(0).is_spent("a", 0));
    }

    #[test]
    fn a_network_counts_as_one_source() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network(address), expected.parse::<IpAddr>().unwrap(), "{address}");
        }
    }
}
