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
//! - Each look meets every key that was due when it began, and none without end:
//!   keys that fail stay due, and keep no other from its turn.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    error::ApiError,
    host::Host,
    storage::{KeyRecord, StorageError, StorageResult},
};

/// How often to look. A scheduled rotation is at most this late, where nothing fails.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many keys are looked up in one go: as many as are held in memory at once.
const BATCH: usize = 50;

/// How many keys a line of the log names.
const NAMED: usize = 10;

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
    /// Keys with which neither could be done, as they are damaged, the policy has
    /// failed, or storage has. They are due the next time; the log says why.
    pub failed: usize,
}

/// Does what is due at the host's time, all of it.
///
/// # Errors
///
/// If storage does not say what is due. What was done is done, and the rest is due
/// the next time.
pub async fn run_due(host: &Host) -> Result<Seen, ApiError> {
    let mut look = Look::default();
    let searched = look.see_to_all(host).await;
    look.tell();
    searched.map(|()| Seen { failed: look.failed.count, ..look.seen })
}

/// What came of one look so far.
#[derive(Default)]
struct Look {
    seen: Seen,
    /// Why the first one has failed.
    failed: Told<ApiError>,
    /// The code that the first one was refused with.
    put_off: Told<String>,
}

impl Look {
    async fn see_to_all(&mut self, host: &Host) -> Result<(), ApiError> {
        // One time for all of it: what becomes due meanwhile is for the next look.
        let now = host.clock.now();
        // Ends first: what has ended is not rotated.
        let mut after = None;
        loop {
            let page = host.storage.unnoted_ends(now, after, BATCH).await?;
            for key in self.sound(page.keys) {
                match host.keys.note_end(&key).await {
                    Ok(()) => self.seen.ends += 1,
                    Err(err) => self.failed.add(key.id, err),
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        loop {
            let page = host.storage.due_rotations(now, after, BATCH).await?;
            for key in self.sound(page.keys) {
                match host.keys.rotate_if_due(&key.id).await {
                    Ok(refused) => {
                        self.seen.rotations += 1;
                        if let Some(code) = refused {
                            self.put_off.add(key.id, code);
                        }
                    }
                    Err(err) => self.failed.add(key.id, err),
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Returns the keys that can be read, and notes those that cannot.
    fn sound(&mut self, found: Vec<StorageResult<KeyRecord>>) -> Vec<KeyRecord> {
        let mut sound = Vec::new();
        for key in found {
            match key {
                Ok(key) => sound.push(key),
                Err(err) => {
                    let id = match &err {
                        StorageError::Damaged { id, .. } => id.clone(),
                        _ => String::new(),
                    };
                    self.failed.add(id, err.into());
                }
            }
        }
        sound
    }

    /// Tells the log in a line of each kind, however many keys there are: there is
    /// a look every second, for as long as nobody mends what is wrong.
    fn tell(&self) {
        if let Told { count, named, first: Some(err) } = &self.failed {
            let (keys, error) = (named.join(" "), err as &dyn Error);
            tracing::error!(count, keys, error, "what is due with these keys was not done");
        }
        if let Told { count, named, first: Some(code) } = &self.put_off {
            let keys = named.join(" ");
            tracing::warn!(count, keys, code, "the policy refused rotations, which were put off");
        }
    }
}

/// Keys that the log is told of together.
struct Told<T> {
    count: usize,
    /// The ids of the first ones.
    named: Vec<String>,
    /// What there is to say of the first one.
    first: Option<T>,
}

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self { count: 0, named: Vec::new(), first: None }
    }
}

impl<T> Told<T> {
    fn add(&mut self, id: String, what: T) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(id);
        }
        self.first.get_or_insert(what);
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

/// Returns how long to wait for the next look. What fails is tried again in each
/// look: where that takes long, as with a policy that loops, it may not take all of
/// a core for good.
fn pause(took: Duration, failed: usize) -> Duration {
    match failed {
        0 => INTERVAL,
        _ => INTERVAL.max(took),
    }
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
                let began = Instant::now();
                let seen = run_due(&host).await;
                let pause = pause(began.elapsed(), seen.as_ref().map_or(1, |seen| seen.failed));
                if let Err(err) = seen {
                    tracing::error!(error = &err as &dyn Error, "what is due was not done");
                }
                if cleans && let Err(err) = drop_old(&host).await {
                    tracing::error!(error = &err as &dyn Error, "old records were not dropped");
                }
                drop(host);
                if timeout(pause, stopped.wait_for(|stop| *stop)).await.is_ok() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_fail_take_half_of_the_time_at_most() {
        let ms = Duration::from_millis;
        for (took, failed, expected) in [
            (0, 0, 1_000),
            (90_000, 0, 1_000),
            (0, 1, 1_000),
            (1_000, 1, 1_000),
            (1_001, 1, 1_001),
            (90_000, 9, 90_000),
        ] {
            assert_eq!(pause(ms(took), failed), ms(expected), "{took} {failed}");
        }
    }
}
