//! The instances that wait for the next request.
//!
//! # Invariants
//!
//! - Who takes an instance finds it as it began: the function that
//!   [`reset`](super::reset) has added has put it back.
//! - One that has trapped, was cut short, or could not be put back never waits here.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use wasmtime::{
    Store,
    component::{Func, TypedFunc},
};

use super::Call;
use crate::secret::Digest;

/// How many instances wait at most, those of all policies together. A busy host
/// needs one for each thread that decides and each policy in force; further ones
/// are made anew. Each keeps its memory, mostly 64 KiB, and its place in the pool.
pub(super) const MAX_WAITING: usize = 32;

/// Puts an instance back, or says that it cannot.
pub(super) type Reset = TypedFunc<(), (bool,)>;

/// An instance that can be asked for a decision.
pub(super) struct Instance {
    pub(super) store: Store<Call>,
    pub(super) authorize: Func,
    /// `None`: it is used once.
    pub(super) reset: Option<Reset>,
}

/// Those that wait, of an engine's policies.
#[derive(Default)]
pub(super) struct Waiting {
    /// With the digests of their policies. The one that was used last is the last.
    instances: Mutex<VecDeque<(Digest, Instance)>>,
}

impl Waiting {
    fn instances(&self) -> MutexGuard<'_, VecDeque<(Digest, Instance)>> {
        // Nothing panics between two states of it.
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an instance of a policy. Policies of one digest are one.
    pub(super) fn take(&self, policy: Digest) -> Option<Instance> {
        let mut instances = self.instances();
        // What was used last is in the processor's cache still.
        let place = instances.iter().rposition(|(digest, _)| *digest == policy)?;
        Some(instances.remove(place)?.1)
    }

    /// Puts an instance back and lets it wait, in the place of the one that has
    /// waited longest if there are too many.
    pub(super) fn put(&self, policy: Digest, mut instance: Instance) {
        let Some(reset) = instance.reset else { return };
        if !matches!(reset.call(&mut instance.store, ()), Ok((true,))) {
            return;
        }
        let mut instances = self.instances();
        let longest = if instances.len() < MAX_WAITING { None } else { instances.pop_front() };
        instances.push_back((policy, instance));
        drop(instances);
        drop(longest);
    }

    /// Lets go of the instances of a policy.
    pub(super) fn forget(&self, policy: Digest) {
        let mut forgotten = Vec::new();
        let mut instances = self.instances();
        while let Some(place) = instances.iter().position(|(digest, _)| *digest == policy) {
            forgotten.extend(instances.remove(place));
        }
        drop(instances);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{active_policy::STANDARD_POLICY, engine::Engine, facts::Facts};

    #[test]
    fn no_more_wait_than_there_are_places_and_the_one_that_waited_longest_goes() {
        let engine = Engine::new().unwrap();
        let policy = engine.load(STANDARD_POLICY).unwrap();
        let waiting = &engine.waiting;
        let instance = || policy.instance(Facts::default()).ok().unwrap();
        let count = |of| waiting.instances().iter().filter(|(digest, _)| *digest == of).count();

        let another = Digest::of("another");
        waiting.put(another, instance());
        for wait in 1..=MAX_WAITING + 2 {
            assert_eq!(count(another), usize::from(wait <= MAX_WAITING), "{wait}");
            waiting.put(policy.digest(), instance());
        }
        assert_eq!(count(policy.digest()), MAX_WAITING);
        assert!(waiting.take(another).is_none());
        assert!(waiting.take(policy.digest()).is_some());
        let digest = policy.digest();
        drop(policy);
        assert_eq!(count(digest), 0, "a policy takes its instances with it");
    }

    #[test]
    fn an_instance_that_cannot_be_put_back_does_not_wait() {
        let engine = Engine::new().unwrap();
        let policy = engine.load(STANDARD_POLICY).unwrap();
        let instance = policy.instance(Facts::default()).ok().unwrap();
        engine.waiting.put(policy.digest(), Instance { reset: None, ..instance });
        assert!(engine.waiting.take(policy.digest()).is_none());
    }
}
