//! Copies of the database, made while it is written to.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction};

use super::{connect, to_sql_int, unavailable};
use crate::{
    secret_file::{sync_folder, unfinished},
    storage::{StorageError, StorageResult},
};

/// Writes a copy to a new file, and marks it. Blocks: half a second for 170 MB.
/// Writers go on meanwhile, as it reads one state of the database on a connection
/// of its own; the write-ahead log grows until it is done.
pub(super) fn back_up(database: &Path, to: &Path, now: u64) -> StorageResult<()> {
    // A dangling link is something, too.
    match fs::symlink_metadata(to) {
        Ok(_) => return Err(StorageError::Exists { id: to.display().to_string() }),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(unavailable(err)),
    }
    let copy = unfinished(to);
    let written = write(database, &copy, now).and_then(|()| {
        fs::rename(&copy, to).map_err(unavailable)?;
        to.parent().map_or(Ok(()), sync_folder).map_err(unavailable)
    });
    if written.is_err() {
        // What was wrong is said; a disk that is full is not left so.
        let _ = fs::remove_file(&copy);
    }
    written
}

fn write(database: &Path, copy: &Path, now: u64) -> StorageResult<()> {
    // Left by a crash. Backups of this host wait for each other.
    match fs::remove_file(copy) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(unavailable(err)),
        _ => {}
    }
    // Before SQLite does, which would let others read it. An empty file is to it
    // as good as none.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    drop(options.open(copy).map_err(unavailable)?);

    let name = copy.to_str().ok_or_else(|| unavailable("the name of the copy is not UTF-8"))?;
    let source = connect(database, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(unavailable)?;
    source.execute("VACUUM INTO ?1", [name])?;
    drop(source);
    let target = connect(copy, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(unavailable)?;
    // A crash leaves a file that nobody takes for a copy: no journal is needed.
    target.pragma_update(None, "journal_mode", "MEMORY")?;
    target.execute("INSERT OR REPLACE INTO backup_mark VALUES (1, ?1)", [to_sql_int(now)])?;
    target.close().map_err(|(_, err)| err)?;
    // Before the rename: the other way round, a power cut could leave half a
    // copy under the final name.
    File::open(copy).and_then(|file| file.sync_all()).map_err(unavailable)
}

pub(super) fn made_at(connection: &Connection) -> StorageResult<Option<u64>> {
    let made_at: Option<i64> = connection
        .prepare_cached("SELECT made_at FROM backup_mark")?
        .query_row([], |row| row.get(0))
        .optional()?;
    made_at
        .map(u64::try_from)
        .transpose()
        .map_err(|err| StorageError::Damaged { id: "backup_mark".to_owned(), source: err.into() })
}

pub(super) fn accept(transaction: &Transaction<'_>) -> StorageResult<()> {
    transaction.execute("DELETE FROM backup_mark", [])?;
    Ok(())
}
