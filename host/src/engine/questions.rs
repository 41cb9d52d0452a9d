//! The questions beside the decision: the life of keys, and the catalogue.
//!
//! One function for each of the contract's. Each gets a new instance and has
//! an answer, a refusal (which is an answer too) or an [`EngineError`].

use wasmtime::{Store, component::Instance};

use super::{
    Call, EngineError, Policy,
    contract::{
        Denial, catalogue,
        lifecycle::{
            self, Caller, KeyChange, KeyFilter, KeyPlan, KeyRequest, KeyStatus, KeyUpdate,
            RevealPlan, RotationPlan, RotationRequest, RotationSchedule, StoredKey,
        },
    },
};

/// The life of keys.
impl Policy {
    /// Asks which keys a new account gets.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given no plan.
    pub fn default_keys(&self, account: &str, now: u64) -> Result<Vec<KeyPlan>, EngineError> {
        self.ask_lifecycle(|guest, store| guest.call_default_keys(store, account, now))
    }

    /// Asks for the plan of a key that somebody wants.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn create(
        &self,
        caller: &Caller<'_>,
        request: &KeyRequest<'_>,
        now: u64,
    ) -> Result<Result<KeyPlan, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_create(store, caller.clone(), request.clone(), now)
        })
    }

    /// Asks for the plan of a key whose secret there is already.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn import_key(
        &self,
        caller: &Caller<'_>,
        request: &KeyRequest<'_>,
        prefix: &str,
        now: u64,
    ) -> Result<Result<KeyPlan, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_import_key(store, caller.clone(), request.clone(), prefix, now)
        })
    }

    /// Asks which keys somebody may see of those that it wants to see.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn visible(
        &self,
        caller: &Caller<'_>,
        wanted: &KeyFilter,
    ) -> Result<Result<KeyFilter, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| guest.call_visible(store, caller.clone(), wanted))
    }

    /// Asks what is shown of a key beside what is stored.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given no answer.
    pub fn describe(&self, current: &StoredKey<'_>, now: u64) -> Result<KeyStatus, EngineError> {
        self.ask_lifecycle(|guest, store| guest.call_describe(store, current.clone(), now))
    }

    /// Asks what a key becomes by a change.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn update(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        change: &KeyChange<'_>,
        now: u64,
    ) -> Result<Result<KeyUpdate, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_update(store, caller.clone(), current.clone(), change.clone(), now)
        })
    }

    /// Asks when a key that shall end ends.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn expire(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<u64, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_expire(store, caller.clone(), current.clone(), now)
        })
    }

    /// Asks for the plan of replacing a key.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn rotate(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        request: &RotationRequest<'_>,
        now: u64,
    ) -> Result<Result<RotationPlan, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_rotate(store, caller.clone(), current.clone(), request.clone(), now)
        })
    }

    /// Asks for the schedule that a key gets.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn schedule_rotation(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        wanted: RotationSchedule,
        now: u64,
    ) -> Result<Result<RotationSchedule, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_schedule_rotation(store, caller.clone(), current.clone(), wanted, now)
        })
    }

    /// Asks whether a schedule may be taken off a key.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn cancel_rotation(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<(), Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_cancel_rotation(store, caller.clone(), current.clone(), now)
        })
    }

    /// Asks whether somebody may see the secret of a key.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn reveal(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<RevealPlan, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_reveal(store, caller.clone(), current.clone(), now)
        })
    }

    /// Asks from when on a key counts as restored.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given neither an answer nor a refusal.
    pub fn restore(
        &self,
        caller: &Caller<'_>,
        current: &StoredKey<'_>,
        now: u64,
    ) -> Result<Result<u64, Denial>, EngineError> {
        self.ask_lifecycle(|guest, store| {
            guest.call_restore(store, caller.clone(), current.clone(), now)
        })
    }

    fn ask_lifecycle<T>(
        &self,
        question: impl FnOnce(lifecycle::Guest, &mut Store<Call>) -> wasmtime::Result<T>,
    ) -> Result<T, EngineError> {
        let lifecycle = self.lifecycle.as_ref().ok_or(EngineError::Missing("lifecycle"))?;
        self.ask(|store: &mut Store<Call>, instance: &Instance| {
            question(lifecycle.load(&mut *store, instance)?, store)
        })
    }
}

/// The catalogue.
impl Policy {
    /// Asks which permissions there are.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given no list.
    pub fn permissions(&self) -> Result<Vec<catalogue::Permission>, EngineError> {
        let catalogue = self.catalogue.as_ref().ok_or(EngineError::Missing("catalogue"))?;
        self.ask(|store, instance| catalogue.load(&mut *store, instance)?.call_permissions(store))
    }

    /// Asks which endpoint a request would reach.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the policy has given no answer.
    pub fn find_endpoint(
        &self,
        method: &str,
        path: &str,
    ) -> Result<Option<catalogue::Endpoint>, EngineError> {
        let catalogue = self.catalogue.as_ref().ok_or(EngineError::Missing("catalogue"))?;
        self.ask(|store, instance| {
            catalogue.load(&mut *store, instance)?.call_find_endpoint(store, method, path)
        })
    }
}
