//! What becomes due: rotations that were scheduled, and ends of keys.

use super::{
    Actor, Keys,
    ask::Ask,
    journal,
    operations::{MAX_TRIES, NoPlan},
    wanted::RotateKey,
};
use crate::{
    error::ApiError,
    storage::{Change, KeyRecord, RotationSchedule},
};

/// How much later a rotation is tried again that the policy has refused, in
/// seconds. An hour: a policy that refuses by mistake is replaced by people, who
/// take minutes or days, and each try is an entry in a log from which nothing is
/// ever dropped.
const PUT_OFF_SECS: u64 = 60 * 60;

impl Keys {
    /// Rotates a key if its schedule says so by now. A rotation that the policy
    /// refuses is put off, however often: another policy may allow it, and nobody
    /// misses a schedule that was lost. Returns the code of that refusal.
    pub(crate) async fn rotate_if_due(&self, id: &str) -> Result<Option<String>, ApiError> {
        let ask = Ask::by(Actor::Platform);
        for _ in 0..MAX_TRIES {
            // Not by way of what its caller may see: nobody has asked for it.
            let Some(current) = self.storage.find_key(id).await? else { return Ok(None) };
            let _sealing = self.sealing.read().await;
            let now = self.clock.now();
            let Some(schedule) = current.rotation.as_ref().filter(|schedule| schedule.at <= now)
            else {
                // Somebody else was faster, or has put it off.
                return Ok(None);
            };
            let wanted = RotateKey {
                expire_current_key_in_minutes: schedule.expire_current_in_minutes,
                note: None,
            };
            let stored = match self.plan_rotation(&ask, &current, &wanted, now) {
                Ok(planned) => {
                    // Its secret is kept by the vault alone: nobody has seen it.
                    let stored = self.store_changed(&ask, "api_key.rotated", &current, planned);
                    stored.await.map(|_| None)
                }
                Err(NoPlan::Denied(denial)) => {
                    let code = ApiError::from(denial).refusal().unwrap_or_default();
                    let stored = self.put_off_rotation(&ask, &current, schedule, now, &code);
                    stored.await.map(|()| Some(code))
                }
                Err(NoPlan::Failed(err)) => Err(err),
            };
            match stored {
                Err(ApiError::Changed { .. }) => {}
                stored => return stored,
            }
        }
        // It is still due the next time.
        Ok(None)
    }

    /// Sets a schedule to a later time, counted from now: a host that was away for
    /// long tries once, and not for every hour that it has missed. Stored over the
    /// revision that was read, so that of several hosts one does it.
    async fn put_off_rotation(
        &self,
        ask: &Ask,
        current: &KeyRecord,
        schedule: &RotationSchedule,
        now: u64,
        code: &str,
    ) -> Result<(), ApiError> {
        let at = now.saturating_add(PUT_OFF_SECS);
        let rotation = Some(RotationSchedule { at, ..schedule.clone() });
        let changed = KeyRecord { rotation, ..current.clone() };
        let after = KeyRecord { revision: current.revision + 1, ..changed.clone() };
        let entry = journal::put_off(ask, self.clock.now_ms(), current, &after, code);
        let change =
            Change { changed_keys: vec![changed], audit: vec![entry], ..Change::default() };
        self.commit(change).await
    }

    /// Sees to the end of a key that has ended by itself: forgets its secret and
    /// its schedule, and tells the audit log. Nothing hangs on it: what has ended
    /// is refused whether or not this was done.
    pub(crate) async fn note_end(&self, key: &KeyRecord) -> Result<(), ApiError> {
        let ask = Ask::by(Actor::Platform);
        let noted =
            KeyRecord { rotation: None, sealed_secret: None, end_noted: true, ..key.clone() };
        let after = KeyRecord { revision: key.revision + 1, ..noted.clone() };
        let entry = journal::done(&ask, self.clock.now_ms(), "api_key.ended", Some(key), &after);
        let change = Change { changed_keys: vec![noted], audit: vec![entry], ..Change::default() };
        match self.commit(change).await {
            // Somebody else has seen to it, or will.
            Err(ApiError::Changed { .. }) => Ok(()),
            done => done,
        }
    }
}
