//! What the host does by itself: rotations that were scheduled, keys that have
//! ended, and records that nobody keeps any longer.
//!
//! # Invariants
//!
//! - Nothing here decides. A key that has ended is refused whether or not its
//!   end was seen to, and a rotation is the policy's plan.
//! - Each thing is done once, also where several hosts share a database and
//!   where one is killed in the middle: it is stored only over the revision that
//!   it was found at, together with the mark that it is done.

use std::{error::Error, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{error::ApiError, host::Host, storage::StorageResult};

/// How often to look. A scheduled rotation is at most this late.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many keys are seen to in one go, so that the rest of the host's writes
/// come in between.
const BATCH: usize = 50;

/// How often old records are dropped, in looks: about every minute.
const LOOKS_PER_CLEANING: u64 = 60;

/// How long a kept reply is good for, in seconds: Stripe's 24 hours.
const REPLIES_SECS: u64 = 24 * 60 * 60;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What was done in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Rotations that were due: done, or put off as the policy refused them.
    pub rotations: usize,
    /// Keys that have ended by themselves.
    pub ends: usize,
}

/// Does what is due at the host's time, all of it.
///
/// # Errors
///
/// If storage failed. What was done is done, and the rest is due the next time.
pub async fn run_due(host: &Host) -> Result<Seen, ApiError> {
    let mut seen = Seen::default();
    let mut failed = None;
    // Ends first: what has ended is not rotated.
    loop {
        let ended = host.storage.unnoted_ends(host.clock.now(), BATCH).await?;
        let before = seen.ends;
        for key in &ended {
            // One that fails must not keep the others from their turn.
            match host.keys.note_end(key).await {
                Ok(()) => seen.ends += 1,
                Err(err) => failed = Some(err),
            }
        }
        if ended.len() < BATCH || seen.ends == before {
            break;
        }
    }
    loop {
        let due = host.storage.due_rotations(host.clock.now(), BATCH).await?;
        let before = seen.rotations;
        for key in &due {
            match host.keys.rotate_if_due(&key.id).await {
                Ok(()) => seen.rotations += 1,
                Err(err) => failed = Some(err),
            }
        }
        if due.len() < BATCH || seen.rotations == before {
            break;
        }
    }
    match failed {
        Some(err) => Err(err),
        None => Ok(seen),
    }
}

/// Drops what is too old to be kept. Returns how many entries of the request log
/// that were.
///
/// # Errors
///
/// If storage failed.
pub async fn drop_old(host: &Host) -> StorageResult<u64> {
    let now_ms = host.clock.now_ms();
    let log_before =
        host.log_retention_days.map(|days| now_ms.saturating_sub(u64::from(days) * DAY_MS));
    host.storage.drop_old(log_before, (now_ms / 1000).saturating_sub(REPLIES_SECS)).await
}

/// The task that looks.
pub(crate) struct Worker {
    stop: watch::Sender<bool>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    pub(crate) fn start(host: &Arc<Host>) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        // Not an `Arc` that the host could never get rid of.
        let host = Arc::downgrade(host);
        let task = tokio::spawn(async move {
            for look in 0_u64.. {
                let Some(host) = host.upgrade() else { break };
                let cleans = look % LOOKS_PER_CLEANING == 0;
                if let Err(err) = run_due(&host).await {
                    tracing::error!(error = &err as &dyn Error, "what is due was not done");
                }
                if cleans && let Err(err) = drop_old(&host).await {
                    tracing::error!(error = &err as &dyn Error, "old records were not dropped");
                }
                drop(host);
                if timeout(INTERVAL, stopped.wait_for(|stop| *stop)).await.is_ok() {
                    break;
                }
            }
        });
        Self { stop, task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Ends the task, after what it is at.
    pub(crate) async fn finish(&self) {
        let _ = self.stop.send(true);
        if let Some(task) = self.task.lock().await.take()
            && let Err(err) = task.await
        {
            tracing::error!(error = &err as &dyn Error, "the task that does what is due failed");
        }
    }
}
