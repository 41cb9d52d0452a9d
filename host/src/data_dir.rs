//! The folder in which one host keeps everything that outlives it.
//!
//! [`DataDir::create`] makes one, [`DataDir::open`] opens one that is there. The
//! two are apart on purpose: a disk that is not mounted looks like an empty
//! folder, and a host that silently began anew on it would refuse every key.
//!
//! # Invariants
//!
//! - A folder counts as made when its marker is there, which is written last. A
//!   crash before that leaves what a second `create` completes.
//! - Nothing that is there is ever replaced by accident: lost files are reported,
//!   because a new key-encryption key beside an old database would make its
//!   secrets unreadable, and a new audit key its audit log unverifiable.
//! - While the key-encryption key is replaced, the old and the new one are both
//!   in files, from before the first secret is sealed under the new one until
//!   after the last.
//! - Two hosts never work in one folder: the value holds an exclusive lock.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use rand::{
    distr::{Alphanumeric, SampleString},
    rand_core::UnwrapErr,
    rngs::SysRng,
};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{
    audit::AuditKey,
    secret_file::{self, SecretFileError},
    vault::{KeyEncryptionKey, Vault},
};

const DATABASE: &str = "wardkey.db";
const KEY_ENCRYPTION_KEY: &str = "key-encryption.key";
const NEXT_KEY_ENCRYPTION_KEY: &str = "key-encryption.key.next";
const AUDIT_KEY: &str = "audit.key";
const OPERATOR: &str = "operator.secret";
const LOCK: &str = "lock";
const SOCKET: &str = "admin.sock";
const MARKER: &str = "initialized";

/// What a folder may hold before it is made ours: what a crash leaves, and the
/// folder that a fresh ext4 file system has.
const HARMLESS: &[&str] = &[
    DATABASE,
    "wardkey.db-shm",
    "wardkey.db-wal",
    KEY_ENCRYPTION_KEY,
    "key-encryption.key.unfinished",
    AUDIT_KEY,
    "audit.key.unfinished",
    OPERATOR,
    "operator.secret.unfinished",
    LOCK,
    SOCKET,
    "initialized.unfinished",
    "lost+found",
];

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A host works in it. Whoever wants something of it asks at its socket.
    #[error("a wardkey host is using the data directory `{}`", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The socket on which that host listens.
        socket: PathBuf,
    },
    /// There is none yet, or not here.
    #[error(
        "`{}` holds no wardkey data: pass `--init` to make a new data directory there \
         (a disk that is not mounted looks like this too)",
        path.display()
    )]
    NotInitialized {
        /// The folder.
        path: PathBuf,
    },
    /// To make it again would lose what is in it.
    #[error("`{}` is a wardkey data directory already: leave out `--init`", path.display())]
    AlreadyInitialized {
        /// The folder.
        path: PathBuf,
    },
    /// Somebody else's files are in it.
    #[error(
        "`{}` is not empty: it holds `{found}`, which is not wardkey's",
        path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// One of those files.
        found: String,
    },
    /// A file that belongs to the others is gone. Only a backup has it.
    #[error("`{}` is missing from the data directory: restore it from a backup", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A secret is open to others, or not readable.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The folder cannot be read or written.
    #[error("cannot read or write `{}`", path.display())]
    Unavailable {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A data directory that this process alone uses, for as long as it has this.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    operator: OperatorCredential,
    // Released by the operating system when the file is closed: also when the
    // process is killed, which a file that merely exists would not be.
    _lock: File,
}

impl DataDir {
    /// Makes a data directory in a folder that is missing or empty, or completes
    /// one whose making was interrupted.
    pub fn create(path: &Path) -> Result<Self, DataDirError> {
        create_folder(path)?;
        refuse_foreign(path)?;
        let lock = lock(path)?;
        let dir = |name: &str| path.join(name);
        if exists(&dir(MARKER))? {
            return Err(already_initialized(path));
        }

        // A database with something in it was in use, and needs the others.
        let database = dir(DATABASE);
        let in_use = fs::metadata(&database).is_ok_and(|file| file.len() > 0);
        let needs = |path: &Path| -> Result<bool, DataDirError> {
            match (exists(path)?, in_use) {
                (false, true) => Err(DataDirError::Missing { path: path.to_owned() }),
                (is_there, _) => Ok(!is_there),
            }
        };
        let key_encryption_key = dir(KEY_ENCRYPTION_KEY);
        if needs(&key_encryption_key)? {
            KeyEncryptionKey::generate().save(&key_encryption_key)?;
        }
        // A database that was in use may be from before there was an audit log:
        // whether it needs the key is found out when that is read.
        let audit_key = dir(AUDIT_KEY);
        if !in_use && !exists(&audit_key)? {
            AuditKey::generate().save(&audit_key)?;
        }
        let operator = dir(OPERATOR);
        if needs(&operator)? {
            secret_file::write(&operator, &OperatorCredential::generate())?;
        }
        // Empty, which SQLite takes for a new one. It is here before the marker
        // so that a database that was lost can be told from one never made.
        open_private(&database).map_err(unavailable(&database))?;
        let marker = dir(MARKER);
        secret_file::write(&marker, "This folder is a wardkey data directory.")?;

        Self::with_lock(path, lock)
    }

    /// Opens a data directory.
    ///
    /// # Errors
    ///
    /// [`Locked`](DataDirError::Locked) if a host is using it, and
    /// [`NotInitialized`](DataDirError::NotInitialized) if it was never made, or
    /// is somewhere else.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        if !exists(&path.join(MARKER))? {
            return Err(DataDirError::NotInitialized { path: path.to_owned() });
        }
        let lock = lock(path)?;
        Self::with_lock(path, lock)
    }

    fn with_lock(path: &Path, lock: File) -> Result<Self, DataDirError> {
        let metadata = fs::metadata(path).map_err(unavailable(path))?;
        secret_file::refuse_exposed(path, &metadata, "700")?;
        for name in [DATABASE, OPERATOR] {
            let path = path.join(name);
            if !exists(&path)? {
                return Err(DataDirError::Missing { path });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            operator: OperatorCredential::load(&path.join(OPERATOR))?,
            _lock: lock,
        })
    }

    /// Returns the database's file.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Returns the socket on which the host listens for the command line. One
    /// that is there already is left over: who holds this value may remove it.
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Returns the file with the operator credential, to tell a person where it
    /// is.
    pub fn operator_file(&self) -> PathBuf {
        self.path.join(OPERATOR)
    }

    /// Returns what the operator is recognised by.
    pub fn operator(&self) -> &OperatorCredential {
        &self.operator
    }

    /// Reads the key-encryption key from its file. Not asked where a variable
    /// holds it: then the file may be gone.
    pub fn key_encryption_key(&self) -> Result<KeyEncryptionKey, DataDirError> {
        let path = self.path.join(KEY_ENCRYPTION_KEY);
        match exists(&path)? {
            true => Ok(KeyEncryptionKey::load(&path)?),
            false => Err(DataDirError::Missing { path }),
        }
    }

    /// Returns the vault with the key-encryption key from its file. Where a
    /// replacement of that key was interrupted, the vault seals under the new one
    /// and opens under both: whoever starts the host
    /// [goes on](Self::next_key_encryption_key) with it.
    pub fn vault(&self) -> Result<Vault, DataDirError> {
        let current = self.key_encryption_key()?;
        Ok(match self.is_replacing_key()? {
            true => Vault::with_previous(&self.next_key_encryption_key()?, &current),
            false => Vault::new(&current),
        })
    }

    /// Tells whether a replacement of the key-encryption key was begun and is not
    /// finished.
    pub fn is_replacing_key(&self) -> Result<bool, DataDirError> {
        exists(&self.path.join(NEXT_KEY_ENCRYPTION_KEY))
    }

    /// Begins to replace the key-encryption key, or goes on: returns the next
    /// one, which is in a file of its own by then.
    ///
    /// Then [seal under it](Vault::seal_under), seal all secrets in storage
    /// anew, and [finish](Self::finish_key_replacement).
    pub fn next_key_encryption_key(&self) -> Result<KeyEncryptionKey, DataDirError> {
        // A key beside which the current one is lost opens nothing that is stored.
        self.key_encryption_key()?;
        let path = self.path.join(NEXT_KEY_ENCRYPTION_KEY);
        if !exists(&path)? {
            KeyEncryptionKey::generate().save(&path)?;
        }
        // As it will be read after a crash.
        Ok(KeyEncryptionKey::load(&path)?)
    }

    /// Puts the next key-encryption key in the place of the current one, which
    /// is lost: no secret in storage may be sealed under it any more. Only
    /// backups from before need it.
    ///
    /// Without a replacement that was begun, does nothing.
    pub fn finish_key_replacement(&self) -> Result<(), DataDirError> {
        let next = self.path.join(NEXT_KEY_ENCRYPTION_KEY);
        if !exists(&next)? {
            return Ok(());
        }
        // What cannot be read must not take the place of what can.
        KeyEncryptionKey::load(&next)?;
        let current = self.path.join(KEY_ENCRYPTION_KEY);
        fs::rename(&next, &current).map_err(unavailable(&current))?;
        secret_file::sync_folder(&self.path).map_err(unavailable(&self.path))
    }

    /// Reads the audit key from its file.
    ///
    /// A data directory from before there was an audit log has none. It is made
    /// where `log_is_empty` says that nothing was sealed yet.
    ///
    /// # Errors
    ///
    /// [`Missing`](DataDirError::Missing) if it is lost: under a new one, the
    /// log could not be told from one that was tampered with.
    pub fn audit_key(&self, log_is_empty: bool) -> Result<AuditKey, DataDirError> {
        let path = self.path.join(AUDIT_KEY);
        match (exists(&path)?, log_is_empty) {
            (true, _) => {}
            (false, true) => AuditKey::generate().save(&path)?,
            (false, false) => return Err(DataDirError::Missing { path }),
        }
        Ok(AuditKey::load(&path)?)
    }
}

/// What the operator is recognised by: the digest of a secret in a file.
pub struct OperatorCredential {
    digest: [u8; 32],
}

impl OperatorCredential {
    const PREFIX: &str = "wk_operator_";

    /// How many random characters follow: 256 bits.
    const RANDOM_CHARS: usize = 43;

    /// Tells whether `presented`, which is caller-supplied, is the credential.
    /// Takes the same time for every text of the same length.
    pub fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        presented.ct_eq(&self.digest).into()
    }

    fn generate() -> Zeroizing<String> {
        // Room for all of it: growing would leave a copy behind that is not wiped.
        let capacity = Self::PREFIX.len() + Self::RANDOM_CHARS;
        let mut text = Zeroizing::new(String::with_capacity(capacity));
        text.push_str(Self::PREFIX);
        Alphanumeric.append_string(&mut UnwrapErr(SysRng), &mut text, Self::RANDOM_CHARS);
        text
    }

    fn load(path: &Path) -> Result<Self, SecretFileError> {
        const EXPECTED: &str = "an operator credential";
        let text = secret_file::read(path, EXPECTED)?;
        let is_whole = text.strip_prefix(Self::PREFIX).is_some_and(|random| {
            random.len() == Self::RANDOM_CHARS
                && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        // An empty or shortened file must not become a credential that can be
        // guessed.
        if !is_whole {
            return Err(SecretFileError::Malformed { path: path.to_owned(), expected: EXPECTED });
        }
        Ok(Self { digest: Sha256::digest(text.as_bytes()).into() })
    }
}

impl fmt::Debug for OperatorCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorCredential(…)")
    }
}

fn create_folder(path: &Path) -> Result<(), DataDirError> {
    if exists(path)? {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(unavailable(path))?;
    match path.parent() {
        Some(parent) => secret_file::sync_folder(parent).map_err(unavailable(parent)),
        None => Ok(()),
    }
}

/// Refuses a folder that holds anything but what we or a fresh disk leave there,
/// and closes it to other users: before there is a secret in it.
fn refuse_foreign(path: &Path) -> Result<(), DataDirError> {
    let unavailable = unavailable(path);
    let entries: Vec<_> = match fs::read_dir(path).and_then(Iterator::collect) {
        Ok(entries) => entries,
        Err(err) => return Err(unavailable(err)),
    };
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == MARKER {
            return Err(already_initialized(path));
        }
        if !HARMLESS.contains(&name.as_str()) {
            return Err(DataDirError::NotEmpty { path: path.to_owned(), found: name });
        }
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(path, mode).map_err(unavailable)?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let file_path = path.join(LOCK);
    let file = open_private(&file_path).map_err(unavailable(&file_path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(DataDirError::Locked { path: path.to_owned(), socket: path.join(SOCKET) })
        }
        Err(TryLockError::Error(err)) => Err(unavailable(&file_path)(err)),
    }
}

/// Opens a file for writing, and makes it if it is missing.
fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn exists(path: &Path) -> Result<bool, DataDirError> {
    path.try_exists().map_err(unavailable(path))
}

fn already_initialized(path: &Path) -> DataDirError {
    DataDirError::AlreadyInitialized { path: path.to_owned() }
}

fn unavailable(path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Unavailable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tempfile::TempDir;

    use super::*;

    fn temp() -> (TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        (temp, path)
    }

    fn created() -> (TempDir, PathBuf) {
        let (temp, path) = temp();
        drop(DataDir::create(&path).unwrap());
        (temp, path)
    }

    /// Everything in the folder, by name.
    fn content(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(path).unwrap().map(|file| file.unwrap());
        files
            .map(|file| {
                let name = file.file_name().into_string().unwrap();
                (name, fs::read(file.path()).unwrap())
            })
            .collect()
    }

    fn describe(result: Result<DataDir, DataDirError>) -> &'static str {
        match result {
            Ok(_) => "ok",
            Err(DataDirError::Locked { .. }) => "locked",
            Err(DataDirError::NotInitialized { .. }) => "not initialized",
            Err(DataDirError::AlreadyInitialized { .. }) => "already initialized",
            Err(DataDirError::NotEmpty { .. }) => "not empty",
            Err(DataDirError::Missing { .. }) => "missing",
            Err(DataDirError::Secret(SecretFileError::Exposed { .. })) => "exposed",
            Err(DataDirError::Secret(SecretFileError::Malformed { .. })) => "malformed",
            Err(DataDirError::Secret(SecretFileError::Unavailable { .. })) => "secret unavailable",
            Err(DataDirError::Unavailable { .. }) => "unavailable",
        }
    }

    #[test]
    fn what_was_created_is_opened_again() {
        let (_temp, path) = temp();
        let dir = DataDir::create(&path).unwrap();
        let key = dir.key_encryption_key().unwrap();
        let credential = fs::read_to_string(dir.operator_file()).unwrap();
        drop(dir);

        let dir = DataDir::open(&path).unwrap();
        assert!(dir.operator().matches(credential.trim()));
        let sealed = crate::vault::Vault::new(&key)
            .seal("key_1", &crate::secret::Secret::from_string("text".to_owned()));
        let key = dir.key_encryption_key().unwrap();
        crate::vault::Vault::new(&key).open("key_1", &sealed).unwrap();
        crate::storage::SqliteStorage::open(&dir.database()).unwrap();
    }

    #[test]
    fn only_the_whole_credential_matches() {
        let (_temp, path) = created();
        let dir = DataDir::open(&path).unwrap();
        let text = fs::read_to_string(dir.operator_file()).unwrap();
        let text = text.trim();
        assert_eq!(text.len(), "wk_operator_".len() + 43);
        for (presented, expected) in [
            (text.to_owned(), true),
            (text.to_lowercase(), false),
            (text[..text.len() - 1].to_owned(), false),
            (format!("{text}\n"), false),
            ("wk_operator_".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(dir.operator().matches(&presented), expected, "{presented}");
        }
        assert_eq!(format!("{:?}", dir.operator()), "OperatorCredential(…)");
        assert!(!format!("{dir:?}").contains(&text[12..]));
    }

    #[test]
    fn a_second_opener_learns_where_to_ask() {
        let (_temp, path) = temp();
        let first = DataDir::create(&path).unwrap();
        match DataDir::open(&path) {
            Err(DataDirError::Locked { socket, .. }) => assert_eq!(socket, first.socket()),
            other => panic!("{other:?}"),
        }
        assert_eq!(describe(DataDir::create(&path)), "already initialized");
        drop(first);
        assert_eq!(describe(DataDir::open(&path)), "ok");
    }

    #[test]
    fn a_folder_that_is_not_ours_is_neither_opened_nor_taken() {
        let rows: [(&str, &[&str], &str, &str); 6] = [
            ("an empty folder", &[], "not initialized", "ok"),
            ("a fresh disk", &["lost+found/"], "not initialized", "ok"),
            ("a crash", &["lock", "operator.secret.unfinished"], "not initialized", "ok"),
            ("a home", &["diary.txt"], "not initialized", "not empty"),
            ("a mixture", &["lock", "diary.txt"], "not initialized", "not empty"),
            ("our own", &["initialized", "lock"], "missing", "already initialized"),
        ];
        for (name, files, opened, made) in rows {
            let (_temp, path) = temp();
            fs::create_dir(&path).unwrap();
            restrict(&path, 0o700);
            for file in files {
                match file.strip_suffix('/') {
                    Some(folder) => fs::create_dir(path.join(folder)).unwrap(),
                    None => fs::write(path.join(file), "something").unwrap(),
                }
            }
            assert_eq!(describe(DataDir::open(&path)), opened, "{name}");
            assert_eq!(describe(DataDir::create(&path)), made, "{name}");
        }
        let (_temp, path) = temp();
        let message = DataDir::open(&path).unwrap_err().to_string();
        assert!(message.contains("--init") && message.contains("not mounted"), "{message}");
        assert!(!path.exists(), "opening makes nothing");
    }

    /// The files in the order in which they are written: a crash may come before
    /// each of them.
    const ORDER: [&str; 6] = [LOCK, KEY_ENCRYPTION_KEY, AUDIT_KEY, OPERATOR, DATABASE, MARKER];

    #[test]
    fn an_interrupted_create_is_completed_by_a_second_one() {
        for written in 0..ORDER.len() {
            let (_temp, path) = created();
            for lost in &ORDER[written..] {
                fs::remove_file(path.join(lost)).unwrap();
            }
            let before = content(&path);
            assert_eq!(describe(DataDir::open(&path)), "not initialized", "{written}");
            assert_eq!(describe(DataDir::create(&path)), "ok", "{written}");
            let after = content(&path);
            for (name, bytes) in &before {
                assert_eq!(after.get(name), Some(bytes), "{written}: {name} is kept");
            }
            let names: Vec<_> = after.keys().map(String::as_str).collect();
            let mut expected = ORDER;
            expected.sort_unstable();
            assert_eq!(names, expected, "{written}");
        }
    }

    #[test]
    fn a_lost_file_is_reported_and_not_made_anew() {
        for (lost, opened, made_without_marker) in [
            (DATABASE, "missing", "ok"),
            (OPERATOR, "missing", "missing"),
            (KEY_ENCRYPTION_KEY, "ok", "missing"),
            (AUDIT_KEY, "ok", "ok"),
        ] {
            let (_temp, path) = created();
            fs::write(path.join(DATABASE), "in use").unwrap();
            fs::remove_file(path.join(lost)).unwrap();
            assert_eq!(describe(DataDir::open(&path)), opened, "{lost}");
            fs::remove_file(path.join(MARKER)).unwrap();
            assert_eq!(describe(DataDir::create(&path)), made_without_marker, "{lost}");
        }
        let (_temp, path) = created();
        fs::remove_file(path.join(KEY_ENCRYPTION_KEY)).unwrap();
        let dir = DataDir::open(&path).unwrap();
        let key = dir.key_encryption_key();
        assert!(matches!(key, Err(DataDirError::Missing { .. })), "{key:?}");
    }

    #[test]
    fn an_audit_key_is_made_only_where_nothing_was_sealed() {
        let seal = |dir: &DataDir, log_is_empty| {
            let key = dir.audit_key(log_is_empty);
            key.map(|key| key.seal(None, 1, "{}").to_string())
        };
        let (_temp, path) = created();
        let dir = DataDir::open(&path).unwrap();
        let first = seal(&dir, true).unwrap();
        assert_eq!(seal(&dir, false).unwrap(), first, "it is there from the beginning");
        fs::remove_file(path.join(AUDIT_KEY)).unwrap();
        for _ in 0..2 {
            let lost = seal(&dir, false);
            assert!(matches!(lost, Err(DataDirError::Missing { .. })), "{lost:?}");
        }
        let second = seal(&dir, true).unwrap();
        assert_ne!(second, first);
        assert_eq!(seal(&dir, false).unwrap(), second);
        assert_eq!(seal(&dir, true).unwrap(), second);
    }

    #[test]
    fn an_interrupted_replacement_of_the_key_goes_on() {
        let secret = || crate::secret::Secret::from_string("text".to_owned());
        let (_temp, path) = created();
        let dir = DataDir::open(&path).unwrap();
        dir.finish_key_replacement().unwrap();
        let vault = dir.vault().unwrap();
        let old = vault.seal("key_1", &secret());
        assert!(!dir.is_replacing_key().unwrap());

        vault.seal_under(&dir.next_key_encryption_key().unwrap());
        let new = vault.seal("key_2", &secret());
        // The host is killed before it is done; another one goes on.
        drop((vault, dir));
        let dir = DataDir::open(&path).unwrap();
        assert!(dir.is_replacing_key().unwrap());
        let vault = dir.vault().unwrap();
        vault.seal_under(&dir.next_key_encryption_key().unwrap());
        let resealed = vault.reseal("key_1", &old).unwrap().unwrap();
        assert_eq!(vault.reseal("key_2", &new), Ok(None));
        dir.finish_key_replacement().unwrap();
        vault.forget_previous();

        for _ in 0..2 {
            assert!(!dir.is_replacing_key().unwrap());
            let vault = dir.vault().unwrap();
            assert_eq!(vault.reseal("key_1", &resealed), Ok(None));
            assert_eq!(vault.reseal("key_2", &new), Ok(None));
            vault.open("key_1", &old).unwrap_err();
            dir.finish_key_replacement().unwrap();
        }
        let mut names = ORDER;
        names.sort_unstable();
        assert_eq!(content(&path).keys().collect::<Vec<_>>(), names, "nothing is left");
    }

    #[test]
    fn a_key_is_not_replaced_where_one_of_both_is_lost() {
        let (_temp, path) = created();
        let dir = DataDir::open(&path).unwrap();
        dir.next_key_encryption_key().unwrap();
        let current = path.join(KEY_ENCRYPTION_KEY);
        let before = fs::read(&current).unwrap();
        fs::write(path.join(NEXT_KEY_ENCRYPTION_KEY), "short").unwrap();
        assert!(dir.finish_key_replacement().is_err());
        assert!(dir.vault().is_err());
        assert_eq!(fs::read(&current).unwrap(), before);

        fs::remove_file(&current).unwrap();
        fs::remove_file(path.join(NEXT_KEY_ENCRYPTION_KEY)).unwrap();
        assert!(dir.next_key_encryption_key().is_err());
        assert!(!dir.is_replacing_key().unwrap());
    }

    #[test]
    fn a_credential_that_could_be_guessed_is_refused() {
        for text in ["", "wk_operator_", "hunter2", "wk_operator_abc"] {
            let (_temp, path) = created();
            fs::write(path.join(OPERATOR), text).unwrap();
            assert_eq!(describe(DataDir::open(&path)), "malformed", "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_others_can_read_is_refused_with_the_line_that_mends_it() {
        let open = |path: &Path| DataDir::open(path).map(drop);
        let key = |path: &Path| DataDir::open(path)?.key_encryption_key().map(drop);
        type Use<'a> = &'a dyn Fn(&Path) -> Result<(), DataDirError>;
        let audit = |path: &Path| DataDir::open(path)?.audit_key(false).map(drop);
        let rows: [(&str, u32, Use<'_>, &str); 7] = [
            ("", 0o750, &open, "chmod 700 '"),
            ("", 0o701, &open, "chmod 700 '"),
            (OPERATOR, 0o640, &open, "chmod 600 '"),
            (OPERATOR, 0o602, &open, "chmod 600 '"),
            (KEY_ENCRYPTION_KEY, 0o644, &key, "chmod 600 '"),
            (KEY_ENCRYPTION_KEY, 0o604, &key, "chmod 600 '"),
            (AUDIT_KEY, 0o604, &audit, "chmod 600 '"),
        ];
        for (name, mode, action, expected) in rows {
            let (_temp, path) = created();
            action(&path).unwrap();
            restrict(&path.join(name), mode);
            let message = action(&path).unwrap_err().to_string();
            let file = match name {
                "" => path.clone(),
                name => path.join(name),
            };
            let expected = format!("{expected}{}'", file.display());
            assert!(message.contains(&expected), "{name} {mode:o}: {message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_new_folder_and_its_files_are_closed_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_temp, path) = temp();
        fs::create_dir(&path).unwrap();
        restrict(&path, 0o755);
        drop(DataDir::create(&path).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for name in ORDER {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
    }

    fn restrict(path: &Path, mode: u32) {
        #[cfg(unix)]
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        #[cfg(not(unix))]
        let _ = (path, mode);
    }
}
