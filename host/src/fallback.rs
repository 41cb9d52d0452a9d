//! What becomes of a stack that fails more than it may: an alarm, and, where that is
//! configured, the way back to what was in force before.
//!
//! # Invariants
//!
//! - Nobody alone brings an older policy back: the failures that do have met
//!   requests with good keys of several accounts. From a canary the way back is
//!   shorter, to the rules that everybody else has.
//! - It goes back only, and only once from each stack: what failed comes back
//!   when somebody puts it in force again.

use std::{
    error::Error,
    sync::{Arc, Weak},
};

use tokio::sync::Notify;

use crate::{
    active_policy::ActivePolicy,
    health::Breach,
    metrics::Metrics,
    policies::Policies,
    stack::{InForce, Stack},
};

/// The fewest accounts whose requests must have failed before a host goes back by
/// itself from what is in force for everybody.
pub(crate) const MIN_OWNERS: u32 = 2;

/// Where it is told that something fails.
#[derive(Debug, Default)]
pub(crate) struct Bell(Arc<Notify>);

impl Bell {
    /// Has somebody look at how what is in force fares. Never waits.
    #[cold]
    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }

    /// Starts the task that looks. It ends with what is in force.
    pub(crate) fn answer(
        &self,
        active: Weak<ActivePolicy>,
        policies: Weak<Policies>,
        metrics: Arc<Metrics>,
        after_owners: Option<u32>,
    ) {
        let rung = Arc::clone(&self.0);
        let after_owners = after_owners.map(|after| after.max(MIN_OWNERS) as usize);
        tokio::spawn(async move {
            loop {
                rung.notified().await;
                let (Some(active), Some(policies)) = (active.upgrade(), policies.upgrade()) else {
                    break;
                };
                let InForce { stable, canary, .. } = &*active.in_force();
                let canary = canary.as_ref().map(|canary| (&canary.stack, 1));
                let all = canary.into_iter().chain([(stable, after_owners.unwrap_or_default())]);
                for (stack, least_owners) in all {
                    let Some(breach) = stack.health.breach() else { continue };
                    if stack.health.is_to_be_told() {
                        metrics.alarm();
                        tell(breach);
                    }
                    if after_owners.is_some() && breach.owners >= least_owners {
                        fall_back(&policies, stack, breach).await;
                    }
                }
            }
        });
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // Whoever looks finds nothing left.
        self.0.notify_one();
    }
}

async fn fall_back(policies: &Policies, stack: &Arc<Stack>, breach: Breach) {
    // Once for each window: what there is to go back to is read each time.
    if stack.health.is_to_be_gone_back_from()
        && let Err(err) = policies.fall_back(stack, breach).await
    {
        tracing::error!(error = &err as &dyn Error, "the host did not fall back");
    }
}

/// Raises the alarm.
fn tell(Breach { policy, failed, decided, owners }: Breach) {
    tracing::error!(
        policy = %policy.to_hex(),
        failed,
        decided,
        accounts = owners,
        "THE POLICY FAILS: requests are answered with errors; `wardkey policies rollback` \
         goes back to what was in force before",
    );
}
