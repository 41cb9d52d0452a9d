//! Who talks to the database file, and on which thread.
//!
//! SQLite blocks, and an async worker must not. All writes run on one thread
//! of their own, in the order they came: SQLite lets one connection write at a
//! time in any case, and so nobody waits for a lock or meets `SQLITE_BUSY`.
//! Reads run on a few connections of their own, which the write-ahead log lets
//! go on while a write is under way.
//!
//! # Invariants
//!
//! - A write that was handed over runs to its end, even if its caller has gone.
//! - A panic inside an operation rolls that one back, and stops no later one.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::unavailable;
use crate::storage::StorageResult;

/// How many writes may wait for the writer. At about a millisecond for each
/// flush of the disk, a quarter of a second's worth; later ones wait outside.
const MAX_QUEUED_WRITES: usize = 256;

/// How long a write may wait for a place among the queued ones, before
/// [`Unavailable`](crate::storage::StorageError::Unavailable) is answered. Once it has a
/// place there is no limit: "not done" would be a guess.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a read may take, before `Unavailable` is answered. Reads are look-ups
/// by index that take microseconds; this long means that the disk hangs, and
/// requests must not pile up behind it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What a committed write waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// The disk: a power cut cannot take it back.
    Flushed,
    /// Nothing. A power cut takes back the last such writes, whole; it never
    /// damages the database. The next flushed write makes them durable as well.
    Relaxed,
}

impl Durability {
    fn synchronous(self) -> &'static str {
        match self {
            Self::Flushed => "FULL",
            Self::Relaxed => "NORMAL",
        }
    }
}

type Job = Box<dyn FnOnce(&mut WriteConnection) + Send>;

/// The thread that writes. Dropping it waits for the writes in its queue.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. The connection must be set to [`Durability::Flushed`].
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(MAX_QUEUED_WRITES);
        let thread = thread::Builder::new().name("wardkey-writer".to_owned()).spawn(move || {
            let mut connection = WriteConnection { connection, durability: Durability::Flushed };
            while let Some(job) = queue.blocking_recv() {
                // The transaction was rolled back while unwinding, so that
                // the connection is as good as before. The caller learns of
                // it by the reply that never comes.
                if catch_unwind(AssertUnwindSafe(|| job(&mut connection))).is_err() {
                    tracing::error!("a write to storage panicked and was rolled back");
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `write` in a transaction of its own and commits it if that returns
    /// `Ok`.
    pub(super) async fn write<T, F>(&self, durability: Durability, write: F) -> StorageResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> StorageResult<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // The caller may have gone; the write counts all the same.
            let _ = reply.send(connection.commit(durability, write));
        });
        let jobs = self.jobs.as_ref().ok_or_else(|| unavailable(GONE))?;
        let place = timeout(QUEUE_TIMEOUT, jobs.reserve())
            .await
            .map_err(unavailable)?
            .map_err(unavailable)?;
        place.send(job);
        answer.await.map_err(unavailable)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panics are caught; there is no other way for it to fail.
            let _ = thread.join();
        }
    }
}

const GONE: &str = "the storage is being closed";

struct WriteConnection {
    connection: Connection,
    durability: Durability,
}

impl WriteConnection {
    fn commit<T>(
        &mut self,
        durability: Durability,
        write: impl FnOnce(&Transaction<'_>) -> StorageResult<T>,
    ) -> StorageResult<T> {
        // Between transactions, where alone it takes effect, and only when it
        // changes: compiling the statement costs more than a row of the log.
        if self.durability != durability {
            self.connection.pragma_update(None, "synchronous", durability.synchronous())?;
            self.durability = durability;
        }
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = write(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

/// The connections that read.
pub(super) struct Readers {
    idle: Mutex<Vec<Connection>>,
    // As many permits as connections: who has one finds a connection idle.
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(connections: Vec<Connection>) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(connections.len())),
            idle: Mutex::new(connections),
        })
    }

    /// Runs `read` on a thread that may block.
    pub(super) async fn read<T, F>(self: &Arc<Self>, read: F) -> StorageResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> StorageResult<T> + Send + 'static,
    {
        let answer = async {
            let permits = Arc::clone(&self.permits);
            let permit = permits.acquire_owned().await.map_err(unavailable)?;
            let mut lent = self.lend(permit)?;
            tokio::task::spawn_blocking(move || match &mut lent.connection {
                Some(connection) => read(connection),
                None => Err(unavailable(GONE)),
            })
            .await
            .map_err(unavailable)?
        };
        timeout(READ_TIMEOUT, answer).await.map_err(unavailable)?
    }

    /// Closes the connections that nobody is using, and lends none any more.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn lend(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> StorageResult<Lent> {
        let connection = self.idle().pop().ok_or_else(|| unavailable(GONE))?;
        Ok(Lent { connection: Some(connection), readers: Arc::clone(self), _permit: permit })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that goes back when it is dropped, a panic included. The permit
/// is released after it: fields are dropped after `drop` has run.
struct Lent {
    connection: Option<Connection>,
    readers: Arc<Readers>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.readers.idle().extend(self.connection.take());
    }
}
