//! Brings decided requests to the request log, away from the request path.
//!
//! A request hands over its entry and goes on; one task writes what has come
//! together. The log is the one thing that may be lost: when storage does not
//! keep up, entries are dropped and counted, and no request waits.
//!
//! # Invariants
//!
//! - [`record`](RequestLog::record) never waits for storage.
//! - Every entry is written once or counted as dropped, provided that
//!   [`finish`](RequestLog::finish) is awaited.

use std::{
    error::Error,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::storage::{LogEntry, Storage, StorageError};

/// How many entries wait to be written at most, those in the hands of storage
/// included: three seconds of 20 000 requests each, in about 40 MB of memory.
/// Further ones are dropped and counted.
const MAX_QUEUED_ENTRIES: usize = 65_536;

/// How many entries are written at once: about 15 ms of the thread that writes,
/// which is how long a management change may have to wait for it.
const MAX_BATCH_ENTRIES: usize = 4_096;

/// How long an entry waits for company: short enough that who looks at the log
/// after a request finds it there.
const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// How long to leave storage alone after it failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often the last entries are tried before the host stops without them.
const LAST_ATTEMPTS: u32 = 3;

/// The way to the request log.
///
/// Dropping it lets the task write what is queued, but nobody waits for it: see
/// [`finish`](Self::finish).
pub struct RequestLog {
    shared: Arc<Shared>,
    // Async, because whoever finishes holds it until the task has ended.
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl RequestLog {
    /// Starts the task that writes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(storage: Arc<dyn Storage>) -> Self {
        let shared = Arc::new(Shared {
            storage,
            queue: Mutex::new(Queue {
                entries: Vec::with_capacity(MAX_BATCH_ENTRIES),
                in_flight: 0,
                is_closed: false,
            }),
            wake: Notify::new(),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let task = tokio::spawn(write_batches(Arc::clone(&shared)));
        Self { shared, task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Hands over an entry, or drops and counts it if too many wait already.
    // A `Mutex` around a vector and not a channel: it is held for a push, which
    // moves some 200 bytes, and the task takes everything in one swap. The task
    // is woken twice for a batch, not once for an entry: waking costs more than
    // all the rest.
    pub fn record(&self, entry: LogEntry) {
        let mut queue = self.shared.queue();
        if queue.is_closed || queue.entries.len() + queue.in_flight >= MAX_QUEUED_ENTRIES {
            drop(queue);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.entries.push(entry);
        let queued = queue.entries.len();
        drop(queue);
        if queued == 1 || queued == MAX_BATCH_ENTRIES {
            self.shared.wake.notify_one();
        }
    }

    /// Returns how many entries were written since the start.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Returns how many entries were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends the task. Entries that are recorded from
    /// now on are dropped and counted, as are those that storage refuses to the
    /// last.
    ///
    /// Waits for as long as storage does not answer: the caller sets the limit.
    /// May be called again, also after it was given up.
    pub async fn finish(&self) {
        self.shared.close();
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            if let Err(err) = running.await {
                tracing::error!(
                    error = &err as &dyn Error,
                    "the task that writes the request log failed"
                );
            }
            *task = None;
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        self.shared.close();
    }
}

struct Shared {
    storage: Arc<dyn Storage>,
    queue: Mutex<Queue>,
    // Notified when the first entry comes, when a batch is full, and at the end.
    wake: Notify,
    written: AtomicU64,
    dropped: AtomicU64,
}

struct Queue {
    entries: Vec<LogEntry>,
    // Taken by the task and not yet written or dropped.
    in_flight: usize,
    is_closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics between two states of the queue.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.queue().is_closed = true;
        self.wake.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.queue().is_closed
    }

    /// Tells whether there is no reason to wait for more entries.
    fn is_urgent(&self) -> bool {
        let queue = self.queue();
        queue.is_closed || queue.entries.len() >= MAX_BATCH_ENTRIES
    }

    /// Notes that entries are no longer in flight.
    fn settle(&self, entries: usize, counter: &AtomicU64) {
        self.queue().in_flight -= entries;
        counter.fetch_add(entries as u64, Ordering::Relaxed);
    }
}

async fn write_batches(shared: Arc<Shared>) {
    let mut batch = Vec::with_capacity(MAX_BATCH_ENTRIES);
    let mut reported = 0;
    loop {
        shared.wake.notified().await;
        if !shared.is_urgent() {
            // Cut short by the entry that makes a batch full.
            let _ = timeout(FLUSH_INTERVAL, shared.wake.notified()).await;
        }
        let is_last = {
            let mut queue = shared.queue();
            // The empty vector goes back in, with the room it has grown to.
            mem::swap(&mut queue.entries, &mut batch);
            queue.in_flight = batch.len();
            // Seen together with the swap: nothing is queued after it.
            queue.is_closed
        };
        while !batch.is_empty() {
            let part = batch.drain(..batch.len().min(MAX_BATCH_ENTRIES));
            write(&shared, part.collect()).await;
        }

        let dropped = shared.dropped.load(Ordering::Relaxed);
        if dropped > reported {
            let count = dropped - reported;
            tracing::warn!(count, "entries of the request log were dropped");
            reported = dropped;
        }
        if is_last {
            return;
        }
    }
}

/// Writes a batch, however long it takes; while the host stops, it takes a few
/// attempts at most.
async fn write(shared: &Shared, batch: Arc<[LogEntry]>) {
    let mut last_attempts = 0;
    loop {
        let err = match shared.storage.append_log(Arc::clone(&batch)).await {
            Ok(()) => return shared.settle(batch.len(), &shared.written),
            Err(err) => err,
        };
        last_attempts += u32::from(shared.is_closed());
        let is_hopeless = match &err {
            StorageError::Unavailable(_) => last_attempts >= LAST_ATTEMPTS,
            // The same entries would meet the same end.
            StorageError::Damaged { .. }
            | StorageError::Exists { .. }
            | StorageError::Changed { .. } => true,
        };
        let entries = batch.len();
        if is_hopeless {
            tracing::error!(
                entries,
                error = &err as &dyn Error,
                "the request log cannot be written"
            );
            return shared.settle(batch.len(), &shared.dropped);
        }
        tracing::warn!(entries, error = &err as &dyn Error, "the request log is written later");
        sleep(RETRY_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::storage::{contract::entry, double::GatedStorage};

    fn start(storage: GatedStorage) -> (Arc<GatedStorage>, RequestLog) {
        let storage = Arc::new(storage);
        let log = RequestLog::start(storage.clone());
        (storage, log)
    }

    /// What was written must be the entries of these numbers, in their order.
    #[track_caller]
    fn check(
        storage: &GatedStorage,
        log: &RequestLog,
        expected: std::ops::Range<u64>,
        dropped: u64,
    ) {
        let count = expected.end - expected.start;
        let expected: Vec<_> = expected.map(|number| entry(number, None)).collect();
        assert!(storage.log() == expected, "{} written", storage.log().len());
        assert_eq!((log.written(), log.dropped()), (count, dropped));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_on_finish() {
        let many = 3 * MAX_BATCH_ENTRIES as u64 + 7;
        for count in [0, 1, MAX_BATCH_ENTRIES as u64, many] {
            let (storage, log) = start(GatedStorage::answering());
            (0..count).for_each(|number| log.record(entry(number, None)));
            log.finish().await;
            check(&storage, &log, 0..count, 0);
            log.record(entry(9, None));
            log.finish().await;
            check(&storage, &log, 0..count, 1);
            assert!(storage.largest_batch() <= MAX_BATCH_ENTRIES);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn entries_wait_for_company_but_not_for_long() {
        let (storage, log) = start(GatedStorage::answering());
        let begin = tokio::time::Instant::now();
        log.record(entry(0, None));
        log.record(entry(1, None));
        storage.arrival().await;
        assert_eq!(begin.elapsed(), FLUSH_INTERVAL);
        tokio::task::yield_now().await;
        check(&storage, &log, 0..2, 0);

        let begin = tokio::time::Instant::now();
        for number in 2..2 + MAX_BATCH_ENTRIES as u64 {
            log.record(entry(number, None));
        }
        storage.arrival().await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "a full batch does not wait");
        log.finish().await;
        check(&storage, &log, 0..2 + MAX_BATCH_ENTRIES as u64, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn while_storage_stalls_entries_are_dropped_and_counted() {
        let (storage, log) = start(GatedStorage::stalled());
        let max = MAX_QUEUED_ENTRIES as u64;
        log.record(entry(0, None));
        storage.arrival().await;
        // One is in the hands of storage, and counts.
        (1..max + 5).for_each(|number| log.record(entry(number, None)));
        check(&storage, &log, 0..0, 5);
        storage.answer(1_000);
        log.finish().await;
        check(&storage, &log, 0..max, 5);
        assert_eq!(storage.largest_batch(), MAX_BATCH_ENTRIES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_batch_is_written_later_and_once() {
        let (storage, log) = start(GatedStorage::answering());
        storage.fail(true);
        log.record(entry(0, None));
        for _ in 0..5 {
            storage.arrival().await;
        }
        log.record(entry(1, None));
        check(&storage, &log, 0..0, 0);
        storage.fail(false);
        advance(RETRY_INTERVAL).await;
        log.finish().await;
        check(&storage, &log, 0..2, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_can_stop_without_its_storage() {
        let (storage, log) = start(GatedStorage::answering());
        storage.fail(true);
        (0..3).for_each(|number| log.record(entry(number, None)));
        log.finish().await;
        check(&storage, &log, 0..0, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_finish_that_was_given_up_can_be_awaited_again() {
        let (storage, log) = start(GatedStorage::stalled());
        log.record(entry(0, None));
        timeout(Duration::from_secs(60), log.finish()).await.unwrap_err();
        storage.answer(1);
        log.finish().await;
        check(&storage, &log, 0..1, 0);
    }
}
