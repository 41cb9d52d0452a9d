//! What becomes due: rotations that were scheduled, and ends of keys.

use super::{
    Actor, Keys,
    ask::Ask,
    journal,
    operations::{MAX_TRIES, NoPlan, RotateKey},
};
use crate::{
    error::{ApiError, ErrorBody},
    storage::{Change, KeyRecord},
};

impl Keys {
    /// Rotates a key if its schedule says so by now. A rotation that the policy
    /// refuses takes the schedule off the key: it would be refused for ever.
    pub(crate) async fn rotate_if_due(&self, id: &str) -> Result<(), ApiError> {
        let ask = Ask::by(Actor::Platform);
        for _ in 0..MAX_TRIES {
            let current = self.find(&ask, id).await?;
            let _sealing = self.sealing.read().await;
            let now = self.clock.now();
            let Some(schedule) = current.rotation.as_ref().filter(|schedule| schedule.at <= now)
            else {
                // Somebody else was faster, or has put it off.
                return Ok(());
            };
            let wanted = RotateKey {
                expire_current_key_in_minutes: schedule.expire_current_in_minutes,
                note: None,
            };
            let stored = match self.plan_rotation(&ask, &current, &wanted, now) {
                Ok(planned) => {
                    // Its secret is kept by the vault alone: nobody has seen it.
                    self.store_changed(&ask, "api_key.rotated", &current, planned).await.map(drop)
                }
                Err(NoPlan::Denied(denial)) => {
                    let code = ErrorBody::from(&denial).code.unwrap_or_default();
                    self.give_up_rotation(&ask, &current, &code).await
                }
                Err(NoPlan::Failed(err)) => Err(err),
            };
            match stored {
                Err(ApiError::Changed { .. }) => {}
                stored => return stored,
            }
        }
        // It is still due the next time.
        Ok(())
    }

    async fn give_up_rotation(
        &self,
        ask: &Ask,
        current: &KeyRecord,
        code: &str,
    ) -> Result<(), ApiError> {
        let at_ms = self.clock.now_ms();
        let changed = KeyRecord { rotation: None, ..current.clone() };
        let after = KeyRecord { revision: current.revision + 1, ..changed.clone() };
        let audit = vec![
            journal::refused(ask, at_ms, "api_key.rotated", Some(&current.id), code),
            journal::done(ask, at_ms, "api_key.rotation_canceled", Some(current), &after),
        ];
        self.commit(Change { changed_keys: vec![changed], audit, ..Change::default() }).await
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
