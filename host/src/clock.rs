//! The time, as a value that is handed around.
//!
//! Nothing below the listeners asks the system what time it is: a test moves
//! the clock instead of waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// A clock that never goes back.
///
/// A system's clock does, when it is set right. A key that has ended would then
/// be good again for a moment, so the latest time that was ever told stays.
#[derive(Clone, Debug)]
pub struct Clock {
    latest_ms: Arc<AtomicU64>,
    by_hand: bool,
}

impl Clock {
    /// Returns the system's clock.
    pub fn system() -> Self {
        Self { latest_ms: Arc::default(), by_hand: false }
    }

    /// Returns a clock that stands at `now` (seconds since 1970) until it is
    /// [set](Self::set).
    pub fn by_hand(now: u64) -> Self {
        Self { latest_ms: Arc::new(AtomicU64::new(now * 1000)), by_hand: true }
    }

    /// Puts a clock that is moved by hand to `now`, unless that is earlier.
    pub fn set(&self, now: u64) {
        self.latest_ms.fetch_max(now * 1000, Ordering::Relaxed);
    }

    /// Sees to it that no time before `ms` (since 1970) is told any more.
    pub fn not_before(&self, ms: u64) {
        self.latest_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Returns the milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        if self.by_hand {
            return self.latest_ms.load(Ordering::Relaxed);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.latest_ms.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Returns the seconds since 1970.
    pub fn now(&self) -> u64 {
        self.now_ms() / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_clock_does_not_go_back() {
        let clock = Clock::by_hand(100);
        clock.set(99);
        assert_eq!(clock.now(), 100);
        clock.set(101);
        assert_eq!(clock.now(), 101);
    }
}
