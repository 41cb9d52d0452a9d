//! The instances that wait for the next request.
//!
//! # Invariants
//!
//! - Who takes an instance finds it as it began: the function that
//!   `reset` has added has put it back.
//! - One that has trapped, was cut short, or whose memory has grown never waits here:
//!   `Policy::decide` keeps only those that have given an answer.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

use wasmtime::{Store, component::Func};

use super::Call;
use crate::secret::Digest;

/// How many instances wait at most, those of all policies together. A busy host
/// needs one for each thread that decides and each policy in force; further ones
/// are made anew. Each keeps its memory, mostly 64 KiB, and its place in the pool.
pub(super) const MAX_WAITING: usize = 32;

/// An instance that can be asked for a decision.
pub(super) struct Instance {
    pub(super) store: Store<Call>,
    pub(super) authorize: Func,
}

/// Those that wait, of an engine's policies.
#[derive(Default)]
pub(super) struct Waiting {
    /// The one that was used last is the last.
    places: Mutex<VecDeque<Place>>,
}

struct Place {
    policy: Digest,
    /// Which thread has used it last.
    thread: ThreadId,
    instance: Instance,
}

impl Waiting {
    fn places(&self) -> MutexGuard<'_, VecDeque<Place>> {
        // Nothing panics between two states of it.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an instance of a policy. Policies of one digest are one.
    pub(super) fn take(&self, policy: Digest) -> Option<Instance> {
        let thread = thread::current().id();
        let mut places = self.places();
        // What this thread has used is in the cache of its processor, mostly, and what
        // another has used in that of another.
        let own = places.iter().rposition(|place| place.thread == thread && place.policy == policy);
        let place = match own {
            Some(own) => own,
            None => places.iter().rposition(|place| place.policy == policy)?,
        };
        Some(places.remove(place)?.instance)
    }

    /// Lets an instance wait that was put back, in the place of the one that has waited
    /// longest if there are too many.
    pub(super) fn keep(&self, policy: Digest, instance: Instance) {
        let place = Place { policy, thread: thread::current().id(), instance };
        let mut places = self.places();
        let longest = if places.len() < MAX_WAITING { None } else { places.pop_front() };
        places.push_back(place);
        drop(places);
        drop(longest);
    }

    /// Lets go of the instances of a policy.
    pub(super) fn forget(&self, policy: Digest) {
        let mut forgotten = Vec::new();
        let mut places = self.places();
        while let Some(place) = places.iter().position(|place| place.policy == policy) {
            forgotten.extend(places.remove(place));
        }
        drop(places);
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::ResourceLimiter as _;

    use super::*;
    use crate::{active_policy::STANDARD_POLICY, engine::Engine, facts::Facts};

    #[test]
    fn no_more_wait_than_there_are_places_and_the_one_that_waited_longest_goes() {
        let engine = Engine::new().unwrap();
        let policy = engine.load(STANDARD_POLICY).unwrap();
        let waiting = &engine.waiting;
        let instance = || policy.instance(Facts::default()).ok().unwrap();
        let count = |of| waiting.places().iter().filter(|place| place.policy == of).count();

        let another = Digest::of("another");
        waiting.keep(another, instance());
        for wait in 1..=MAX_WAITING + 2 {
            assert_eq!(count(another), usize::from(wait <= MAX_WAITING), "{wait}");
            waiting.keep(policy.digest(), instance());
        }
        assert_eq!(count(policy.digest()), MAX_WAITING);
        assert!(waiting.take(another).is_none());
        assert!(waiting.take(policy.digest()).is_some());
        let digest = policy.digest();
        drop(policy);
        assert_eq!(count(digest), 0, "a policy takes its instances with it");
    }

    #[test]
    fn to_be_made_is_not_to_grow_but_to_grow_from_nothing_is() {
        let engine = Engine::new().unwrap();
        let policy = engine.load(STANDARD_POLICY).unwrap();
        let mut instance = policy.instance(Facts::default()).ok().unwrap();
        let limits = &mut instance.store.data_mut().limits;
        assert!(!limits.has_grown);
        limits.memory_growing(0, 64 * 1024, None).unwrap();
        assert!(limits.has_grown);
    }
}
