//! Brings a database to the schema that this version of the host works with.
//!
//! `PRAGMA user_version` holds how many migrations a database has seen, and
//! `PRAGMA application_id` says that it is ours.
//!
//! # Invariants
//!
//! - A migration that was released is never edited: a change is a new file.
//! - A database that is not ours, or of a newer host, is not written to.

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

/// All migrations, oldest first.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../../migrations/sqlite/0002_key_life.sql"),
    include_str!("../../../migrations/sqlite/0003_policies.sql"),
    include_str!("../../../migrations/sqlite/0004_canary.sql"),
];

/// Marks a file as a database of ours: `WDKY` in ASCII.
const APPLICATION_ID: i32 = 0x5744_4B59;

/// Checks that the database is ours, or empty, and not newer than we are.
/// Writes nothing.
pub(super) fn check(connection: &Connection) -> Result<(), OpenError> {
    let application = pragma(connection, "application_id")?;
    let found = pragma(connection, "user_version")?;
    if application != i64::from(APPLICATION_ID) {
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if application != 0 || found != 0 || tables != 0 {
            return Err(OpenError::Foreign);
        }
    }
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    Ok(())
}

/// Runs the migrations that the database has not seen.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    run(connection, MIGRATIONS)
}

/// One transaction for all of them, so that a database is either as the old
/// host left it, which can go on using it, or as the new one needs it.
pub(super) fn run(connection: &mut Connection, migrations: &[&str]) -> Result<(), OpenError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let seen = usize::try_from(pragma(&transaction, "user_version")?).unwrap_or(0);
    for migration in migrations.iter().skip(seen) {
        transaction.execute_batch(migration)?;
    }
    if seen < migrations.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    }
    transaction.commit()?;
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_migration_runs_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        let one = "CREATE TABLE one (a INTEGER) STRICT;";
        let two = "CREATE TABLE two (a INTEGER) STRICT; INSERT INTO one VALUES (2);";
        for migrations in [&[one][..], &[one], &[one, two], &[one, two]] {
            run(&mut connection, migrations).unwrap();
            assert_eq!(pragma(&connection, "user_version").unwrap(), migrations.len() as i64);
        }
        let rows: i64 =
            connection.query_row("SELECT count(*) FROM one", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
    }

    #[test]
    fn a_failing_migration_leaves_the_database_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        let good = "CREATE TABLE one (a INTEGER) STRICT;";
        let bad = "CREATE TABLE two (a INTEGER) STRICT; INSERT INTO nowhere VALUES (1);";
        run(&mut connection, &[good, bad]).unwrap_err();
        assert_eq!(tables(&connection), 0);
        assert_eq!(pragma(&connection, "user_version").unwrap(), 0);
    }
}
