//! Notes when keys are used, without a write for each use.
//!
//! A use is noted in memory, the latest for each key, and written about once a
//! second. The rules hang on these times, so that none is ever dropped.
//!
//! # Invariants
//!
//! - [`mark`](UsageMarks::mark) never waits for storage.
//! - A mark stays until storage has it. There is at most one for each key, so
//!   that the number of keys bounds them.

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error,
    fmt, mem,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::storage::{LastUse, Storage, StorageResult, UsageMark};

/// How long a mark waits for others. The times are whole seconds: to write more
/// often would write the same ones again, and wait for the disk each time.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How long to leave storage alone after it failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How many marks are written at once: a few milliseconds of the thread that writes,
/// which is how long a management change may have to wait for it.
const MAX_BATCH_MARKS: usize = 2_048;

/// What a key was used for: the method, and the path as it is logged.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path's template where the catalogue lists the endpoint.
    pub path: &'a str,
}

impl fmt::Display for Endpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Uses of keys that storage does not have yet.
pub struct UsageMarks {
    shared: Arc<Shared>,
    // Async, because whoever finishes holds it until the task has ended.
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl UsageMarks {
    /// Starts the task that writes.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(storage: Arc<dyn Storage>) -> Self {
        let shared = Arc::new(Shared {
            storage,
            marks: Mutex::default(),
            wake: Notify::new(),
            is_closed: AtomicBool::new(false),
        });
        let task = tokio::spawn(write_marks(Arc::clone(&shared)));
        Self { shared, task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Notes that the key was used at `now`, from where and for which endpoint,
    /// and whether that moved money.
    ///
    /// Is on the way of every request: allocates only for a key that is not
    /// noted yet, or for an endpoint that is longer than those before it.
    pub fn mark(
        &self,
        key_id: &str,
        now: u64,
        source: IpAddr,
        endpoint: Endpoint<'_>,
        moved_money: bool,
    ) {
        let money_moved_at = moved_money.then_some(now);
        let mut marks = self.shared.marks();
        match marks.get_mut(key_id) {
            Some(mark) => {
                mark.used(now, source, endpoint);
                mark.money_moved(money_moved_at);
            }
            None => {
                let last_use = LastUse { at: now, source, endpoint: endpoint.to_string() };
                marks.insert(key_id.to_owned(), Latest { last_use, money_moved_at });
                let is_first = marks.len() == 1;
                drop(marks);
                if is_first {
                    self.shared.wake.notify_one();
                }
            }
        }
    }

    /// Ends the task and writes all marks.
    ///
    /// Waits for as long as storage does not answer: the caller sets the limit.
    ///
    /// # Errors
    ///
    /// Marks that storage did not take are kept, and may be written by calling
    /// this again.
    pub async fn finish(&self) -> StorageResult<()> {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.wake.notify_one();
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            if let Err(err) = running.await {
                tracing::error!(
                    error = &err as &dyn Error,
                    "the task that writes usage marks failed"
                );
            }
            *task = None;
        }
        self.shared.flush().await
    }
}

impl Drop for UsageMarks {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        self.shared.wake.notify_one();
    }
}

struct Latest {
    last_use: LastUse,
    money_moved_at: Option<u64>,
}

impl Latest {
    /// Of two uses in the same second, the one that is noted later stays.
    fn used(&mut self, at: u64, source: IpAddr, endpoint: Endpoint<'_>) {
        let last = &mut self.last_use;
        if at < last.at {
            return;
        }
        last.at = at;
        last.source = source;
        let Endpoint { method, path } = endpoint;
        if last.endpoint.split_once(' ') != Some((method, path)) {
            // Into the room that is there.
            last.endpoint.clear();
            for part in [method, " ", path] {
                last.endpoint.push_str(part);
            }
        }
    }

    fn money_moved(&mut self, at: Option<u64>) {
        // `None` is less than any time.
        self.money_moved_at = self.money_moved_at.max(at);
    }

    /// Takes back what was noted before `self`, and could not be written.
    fn merge_earlier(&mut self, earlier: Self) {
        self.money_moved(earlier.money_moved_at);
        if earlier.last_use.at > self.last_use.at {
            self.last_use = earlier.last_use;
        }
    }
}

struct Shared {
    storage: Arc<dyn Storage>,
    marks: Mutex<HashMap<String, Latest>>,
    // Notified when the first mark comes, and at the end.
    wake: Notify,
    is_closed: AtomicBool,
}

impl Shared {
    fn marks(&self) -> MutexGuard<'_, HashMap<String, Latest>> {
        // Nothing panics between two states of the marks.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    async fn flush(&self) -> StorageResult<()> {
        let taken = mem::take(&mut *self.marks());
        let mut unwritten = Unwritten { marks: taken.into_iter().collect(), shared: self };
        while !unwritten.marks.is_empty() {
            let rest = unwritten.marks.len().saturating_sub(MAX_BATCH_MARKS);
            let batch = unwritten.marks[rest..].iter().map(|(key_id, latest)| UsageMark {
                key_id: key_id.clone(),
                last_use: latest.last_use.clone(),
                money_moved_at: latest.money_moved_at,
            });
            self.storage.record_usage(batch.collect()).await?;
            unwritten.marks.truncate(rest);
        }
        Ok(())
    }
}

/// Marks that were taken to be written. What is left of them is merged back when
/// this is dropped: after an error, and also when a flush is given up half-way.
struct Unwritten<'a> {
    marks: Vec<(String, Latest)>,
    shared: &'a Shared,
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        if self.marks.is_empty() {
            return;
        }
        let mut marks = self.shared.marks();
        for (key_id, latest) in self.marks.drain(..) {
            match marks.entry(key_id) {
                Entry::Occupied(mut mark) => mark.get_mut().merge_earlier(latest),
                Entry::Vacant(free) => {
                    free.insert(latest);
                }
            }
        }
    }
}

async fn write_marks(shared: Arc<Shared>) {
    while !shared.is_closed() {
        shared.wake.notified().await;
        // Cut short only by the end: the next mark is not the first.
        let _ = timeout(FLUSH_INTERVAL, async {
            while !shared.is_closed() {
                shared.wake.notified().await;
            }
        })
        .await;
        while let Err(err) = shared.flush().await {
            tracing::warn!(error = &err as &dyn Error, "usage marks are written later");
            // The last attempt is that of `finish`, which reports it.
            if shared.is_closed() {
                return;
            }
            sleep(RETRY_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(endpoint: &str) -> Endpoint<'_> {
        let (method, path) = endpoint.split_once(' ').unwrap();
        Endpoint { method, path }
    }
    use crate::storage::double::GatedStorage;

    fn start(storage: GatedStorage) -> (Arc<GatedStorage>, UsageMarks) {
        let storage = Arc::new(storage);
        let marks = UsageMarks::start(storage.clone());
        (storage, marks)
    }

    fn source(at: u64) -> IpAddr {
        IpAddr::from([192, 0, 2, at as u8])
    }

    fn endpoint(at: u64) -> String {
        format!("GET /v1/{}", "x".repeat(at as usize))
    }

    fn mark(marks: &UsageMarks, key_id: &str, now: u64, moved_money: bool) {
        marks.mark(key_id, now, source(now), parts(&endpoint(now)), moved_money);
    }

    /// What storage has of each key, as `key last-used money-moved`, sorted.
    #[track_caller]
    fn check(storage: &GatedStorage, expected: &[&str]) {
        let mut found: Vec<_> = storage
            .usage()
            .iter()
            .map(|mark| {
                let UsageMark { key_id, last_use, money_moved_at } = mark;
                let money = money_moved_at.map_or("-".to_owned(), |at| at.to_string());
                // Each use is from an address and for an endpoint of its time.
                assert_eq!(last_use.source, source(last_use.at));
                assert_eq!(last_use.endpoint, endpoint(last_use.at));
                format!("{key_id} {} {money}", last_use.at)
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn uses_of_a_key_become_one_mark() {
        let (storage, marks) = start(GatedStorage::answering());
        for (key_id, now, moved_money) in [
            ("key_1", 10, false),
            ("key_2", 11, false),
            ("key_1", 12, true),
            ("key_1", 14, false),
            ("key_1", 13, true),
            ("key_1", 12, false),
        ] {
            mark(&marks, key_id, now, moved_money);
        }
        marks.finish().await.unwrap();
        check(&storage, &["key_1 14 13", "key_2 11 -"]);
        marks.finish().await.unwrap();
        check(&storage, &["key_1 14 13", "key_2 11 -"]);
    }

    #[tokio::test(start_paused = true)]
    async fn marks_are_written_in_the_background() {
        let (storage, marks) = start(GatedStorage::answering());
        for round in 0..3 {
            let begin = tokio::time::Instant::now();
            mark(&marks, "key_1", round, false);
            storage.arrival().await;
            assert_eq!(begin.elapsed(), FLUSH_INTERVAL);
        }
        marks.finish().await.unwrap();
        check(&storage, &["key_1 0 -", "key_1 1 -", "key_1 2 -"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_loses_no_mark() {
        let (storage, marks) = start(GatedStorage::answering());
        storage.fail(true);
        mark(&marks, "key_1", 20, true);
        storage.arrival().await;
        // Newer, and also older, than what comes back.
        mark(&marks, "key_1", 21, false);
        mark(&marks, "key_2", 5, false);
        storage.arrival().await;
        mark(&marks, "key_2", 4, true);
        marks.finish().await.unwrap_err();
        check(&storage, &[]);
        mark(&marks, "key_3", 6, false);
        storage.fail(false);
        marks.finish().await.unwrap();
        check(&storage, &["key_1 21 20", "key_2 5 4", "key_3 6 -"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_finish_that_was_given_up_loses_no_mark() {
        let (storage, marks) = start(GatedStorage::stalled());
        mark(&marks, "key_1", 1, false);
        for _ in 0..2 {
            timeout(Duration::from_secs(60), marks.finish()).await.unwrap_err();
        }
        storage.answer(9);
        marks.finish().await.unwrap();
        check(&storage, &["key_1 1 -"]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_marks_are_written_in_parts() {
        let (storage, marks) = start(GatedStorage::answering());
        let count = 2 * MAX_BATCH_MARKS + 1;
        for number in 0..count {
            mark(&marks, &format!("key_{number}"), 1, false);
        }
        marks.finish().await.unwrap();
        assert_eq!(storage.usage().len(), count);
        assert_eq!(storage.largest_batch(), MAX_BATCH_MARKS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_noted_costs_no_allocation() {
        let (storage, marks) = start(GatedStorage::answering());
        let [one, two] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        marks.mark("key_1", 10, one, parts("POST /v1/charges"), false);
        let room = marks.shared.marks()["key_1"].last_use.endpoint.as_ptr();
        for (at, source, endpoint) in [
            (10, two, "POST /v1/charges"),
            (11, one, "GET /v1/balance"),
            (9, one, "GET /v1/earlier"),
            (11, two, "POST /v1/refunds"),
        ] {
            marks.mark("key_1", at, source, parts(endpoint), false);
        }
        assert_eq!(marks.shared.marks()["key_1"].last_use.endpoint.as_ptr(), room);

        // What comes back from a failed write is older than what was noted in the
        // same second meanwhile.
        storage.fail(true);
        storage.arrival().await;
        marks.mark("key_1", 11, one, parts("GET /v1/newer"), false);
        marks.finish().await.unwrap_err();
        storage.fail(false);
        marks.finish().await.unwrap();
        let last_use = storage.usage().pop().unwrap().last_use;
        assert_eq!(last_use, LastUse { at: 11, source: one, endpoint: "GET /v1/newer".to_owned() });
    }
}
