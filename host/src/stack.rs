//! What decides: a policy, and the overlays that may narrow what it allows.
//!
//! # Invariants
//!
//! - A stack allows only what all of its policies allow. They are asked in
//!   their order, the policy first, and the first that refuses is the last that is
//!   asked: an overlay has no way to widen anything.
//! - A stack never changes. To take an overlay away is to put another stack in
//!   force.
//! - Who is decided by a canary stays so while its share is raised: the keys of
//!   ten percent are among those of twenty.

use std::sync::Arc;

use crate::{
    engine::{Policy, contract::Key},
    health::Health,
    secret::Digest,
    shadow::Shadow,
    share::{CanaryBy, Share},
};

/// How many overlays may be stacked on a policy. Each costs a request that is
/// allowed as much as the policy itself does.
pub const MAX_OVERLAYS: usize = 4;

/// A policy with its overlays.
#[derive(Debug)]
pub struct Stack {
    policy: Arc<Policy>,
    overlays: Vec<Arc<Policy>>,
    /// How it has fared since it was put in force.
    pub(crate) health: Health,
}

impl Stack {
    /// Puts overlays on a policy, in this order.
    pub fn new(policy: Arc<Policy>, overlays: Vec<Arc<Policy>>) -> Self {
        Self { policy, overlays, health: Health::default() }
    }

    /// Returns the policy that the overlays stand on.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Returns the overlays in the order in which they are asked.
    pub fn overlays(&self) -> &[Arc<Policy>] {
        &self.overlays
    }

    /// Returns the digests of the overlays, in their order.
    pub fn overlay_digests(&self) -> Vec<Digest> {
        self.overlays.iter().map(|overlay| overlay.digest()).collect()
    }
}

/// All that is in force at a time. Replaced as a whole.
#[derive(Clone, Debug)]
pub struct InForce {
    /// What decides.
    pub stable: Arc<Stack>,
    /// What decides for a share instead.
    pub canary: Option<Canary>,
    /// What decides beside it, and is only compared.
    pub shadow: Option<Arc<Shadow>>,
}

impl InForce {
    /// Puts a stack in force, for everybody.
    pub fn new(stable: Arc<Stack>) -> Self {
        Self { stable, canary: None, shadow: None }
    }

    /// Returns what decides about a request with this key, and whether that is the
    /// canary. Whoever has no key that there is belongs to no share.
    pub fn stack_for(&self, key: Option<&Key>) -> (&Arc<Stack>, bool) {
        match (&self.canary, key) {
            (Some(canary), Some(key)) if canary.includes(key) => (&canary.stack, true),
            _ => (&self.stable, false),
        }
    }
}

/// A stack that decides for a share of the keys or of the accounts.
#[derive(Clone, Debug)]
pub struct Canary {
    /// What decides for them.
    pub stack: Arc<Stack>,
    /// How many they are.
    pub share: Share,
    /// What is counted.
    pub by: CanaryBy,
}

impl Canary {
    /// Tells whether a key is one of the share.
    ///
    /// By the first eight bytes of the SHA-256 of the policy's digest and the id:
    /// the same on every host, and others for every policy, so that it is not
    /// always the same customers who go first.
    fn includes(&self, key: &Key) -> bool {
        let id = match self.by {
            CanaryBy::Key => &key.id,
            CanaryBy::Account => &key.account,
        };
        let seed = [&self.stack.policy.digest().as_bytes()[..], id.as_bytes()].concat();
        self.share.includes(Digest::of_bytes(&seed).to_words().0)
    }
}
