//! What is in force, and the policy that answers where that is silent.
//!
//! # Invariants
//!
//! - A request is decided by one stack from start to end, even when another is
//!   put in force in the middle of it: it takes the stack once and keeps it.
//! - Overlays and canaries decide about requests only. The life of keys and the
//!   catalogue are the policy's that everybody else is decided by.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{
    engine::{
        Engine, EngineError, LoadError, Policy,
        contract::{
            Denial, catalogue,
            lifecycle::{
                Caller, KeyChange, KeyFilter, KeyPlan, KeyRequest, KeyStatus, KeyUpdate,
                RevealPlan, RotationPlan, RotationRequest, RotationSchedule, StoredKey,
            },
        },
    },
    fallback::Bell,
    shadow::Shadow,
    stack::{InForce, Stack},
};

/// The standard policy, built with this program.
pub const STANDARD_POLICY: &[u8] = include_bytes!(env!("WARDKEY_STANDARD_POLICY"));

/// The slot that holds what is in force.
pub struct ActivePolicy {
    // `ArcSwap` and not `RwLock`: a reader must not wait while another policy
    // is put in, and every request reads.
    slot: ArcSwap<InForce>,
    /// Answers for interfaces that the policy in force does not export, so that
    /// a small policy stays small.
    standard: Arc<Policy>,
    bell: Bell,
}

impl ActivePolicy {
    /// Loads the standard policy and, if there is one, another to put in force.
    ///
    /// # Errors
    ///
    /// If one of them does not load.
    pub fn load(engine: &Engine, other: Option<&[u8]>) -> Result<Self, LoadError> {
        let standard = Arc::new(engine.load(STANDARD_POLICY)?);
        let active = match other {
            Some(bytes) => Arc::new(engine.load(bytes)?),
            None => Arc::clone(&standard),
        };
        let stable = Arc::new(Stack::new(active, Vec::new()));
        Ok(Self {
            slot: ArcSwap::from_pointee(InForce::new(stable)),
            standard,
            bell: Bell::default(),
        })
    }

    /// Returns all that is in force, which stays alive for as long as the caller
    /// holds it.
    pub fn in_force(&self) -> Arc<InForce> {
        self.slot.load_full()
    }

    /// Returns the policy in force, without overlays.
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(self.slot.load().stable.policy())
    }

    /// Returns the standard policy.
    pub fn standard(&self) -> Arc<Policy> {
        Arc::clone(&self.standard)
    }

    /// Puts `next` in force for everybody, without overlays, and returns the policy
    /// it replaced. Nothing of it is stored: a host's policies are put in force by
    /// [`Policies`](crate::policies::Policies).
    pub fn activate(&self, next: Arc<Policy>) -> Arc<Policy> {
        let before = self.put(InForce::new(Arc::new(Stack::new(next, Vec::new()))));
        Arc::clone(before.stable.policy())
    }

    /// Puts `next` in force and returns what it replaced.
    pub(crate) fn put(&self, next: InForce) -> Arc<InForce> {
        self.slot.swap(Arc::new(next))
    }

    /// Tells whether a stack is in force, for everybody or for a share.
    pub(crate) fn has(&self, stack: &Arc<Stack>) -> bool {
        let in_force = self.slot.load();
        let canary = in_force.canary.as_ref().map(|canary| &canary.stack);
        std::iter::once(&in_force.stable).chain(canary).any(|one| Arc::ptr_eq(one, stack))
    }

    /// Puts a shadow beside whatever is in force, or takes it away.
    pub(crate) fn put_shadow(&self, shadow: Option<Arc<Shadow>>) {
        // As one step: what is in force may be replaced meanwhile.
        self.slot.rcu(|in_force| InForce { shadow: shadow.clone(), ..InForce::clone(in_force) });
    }

    /// Returns where it is told that a policy fails.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Asks which keys a new account gets.
    ///
    /// # Errors
    ///
    /// If the policy fails at it.
    pub fn default_keys(&self, account: &str, now: u64) -> Result<Vec<KeyPlan>, EngineError> {
        self.or_standard(|policy| policy.default_keys(account, now))
    }

    /// Asks for the plan of a key that somebody wants.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn create(
        &self,
        caller: &Caller<'_>,
        request: &KeyRequest<'_>,
        now: u64,
    ) -> Result<Result<KeyPlan, Denial>, EngineError> {
        self.or_standard(|policy| policy.create(caller, request, now))
    }

    /// Asks for the plan of a key whose secret there is already.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn import_key(
        &self,
        caller: &Caller<'_>,
        request: &KeyRequest<'_>,
        prefix: &str,
        now: u64,
    ) -> Result<Result<KeyPlan, Denial>, EngineError> {
        self.or_standard(|policy| policy.import_key(caller, request, prefix, now))
    }

    /// Asks which keys somebody may see of those that it wants to see.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn visible(
        &self,
        caller: &Caller<'_>,
        wanted: &KeyFilter,
    ) -> Result<Result<KeyFilter, Denial>, EngineError> {
        self.or_standard(|policy| policy.visible(caller, wanted))
    }

    /// Asks what is shown of a key beside what is stored.
    ///
    /// # Errors
    ///
    /// If the policy fails at it.
    pub fn describe(&self, current: &StoredKey<'_>, now: u64) -> Result<KeyStatus, EngineError> {
        self.or_standard(|policy| policy.describe(current, now))
    }

    /// Asks what a key becomes by a change.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn update(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        change: &KeyChange<'_>,
        now: u64,
    ) -> Result<Result<KeyUpdate, Denial>, EngineError> {
        self.or_standard(|policy| policy.update(caller, current, change, now))
    }

    /// Asks when a key that shall end ends.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn expire(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<u64, Denial>, EngineError> {
        self.or_standard(|policy| policy.expire(caller, current, now))
    }

    /// Asks for the plan of replacing a key.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn rotate(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        request: &RotationRequest<'_>,
        now: u64,
    ) -> Result<Result<RotationPlan, Denial>, EngineError> {
        self.or_standard(|policy| policy.rotate(caller, current, request, now))
    }

    /// Asks for the schedule that a key gets.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn schedule_rotation(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        wanted: RotationSchedule,
        now: u64,
    ) -> Result<Result<RotationSchedule, Denial>, EngineError> {
        self.or_standard(|policy| policy.schedule_rotation(caller, current, wanted, now))
    }

    /// Asks whether a schedule may be taken off a key.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn cancel_rotation(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<(), Denial>, EngineError> {
        self.or_standard(|policy| policy.cancel_rotation(caller, current, now))
    }

    /// Asks whether somebody may see the secret of a key.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn reveal(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<RevealPlan, Denial>, EngineError> {
        self.or_standard(|policy| policy.reveal(caller, current, now))
    }

    /// Asks from when on a key counts as restored.
    ///
    /// # Errors
    ///
    /// If the policy fails at it. A refusal is an answer.
    pub fn restore(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<u64, Denial>, EngineError> {
        self.or_standard(|policy| policy.restore(caller, current, now))
    }

    /// Asks which permissions there are.
    ///
    /// # Errors
    ///
    /// If the policy fails at it.
    pub fn permissions(&self) -> Result<Vec<catalogue::Permission>, EngineError> {
        self.or_standard(Policy::permissions)
    }

    /// Asks which endpoint a request would reach.
    ///
    /// # Errors
    ///
    /// If the policy fails at it.
    pub fn find_endpoint(
        &self,
        method: &str,
        path: &str,
    ) -> Result<Option<catalogue::Endpoint>, EngineError> {
        self.or_standard(|policy| policy.find_endpoint(method, path))
    }

    fn or_standard<T>(
        &self,
        ask: impl Fn(&Policy) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        match ask(self.slot.load().stable.policy()) {
            Err(EngineError::Missing(_)) => ask(&self.standard),
            answer => answer,
        }
    }
}
