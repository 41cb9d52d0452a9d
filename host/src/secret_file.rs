//! Files that hold a secret: whole or absent, and closed to other users.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// The longest file that is taken for a secret, in bytes: ours have less than a
/// hundred, and a path that was mixed up must not be read to its end.
const MAX_SECRET_FILE_BYTES: u64 = 4096;

/// Why a secret cannot be read from or written to its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Other users of the machine can get at it, and may have.
    #[error(
        "`{path}` is open to other users of this machine: run `chmod {mode} '{path}'`",
        path = path.display()
    )]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// The mode that it should have, in octal.
        mode: &'static str,
    },
    /// Its content is not what it should be.
    #[error("`{}` does not hold {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The file cannot be read or written.
    #[error("cannot read or write `{}`", path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl SecretFileError {
    fn unavailable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unavailable { path: path.to_owned(), source }
    }
}

/// Returns the file's text without surrounding white space.
pub(crate) fn read(
    path: &Path,
    expected: &'static str,
) -> Result<Zeroizing<String>, SecretFileError> {
    let unavailable = SecretFileError::unavailable;
    let file = File::open(path).map_err(unavailable(path))?;
    // Of what was opened, and not of what may be at that path a moment later.
    let metadata = file.metadata().map_err(unavailable(path))?;
    refuse_exposed(path, &metadata, "600")?;
    let malformed = || SecretFileError::Malformed { path: path.to_owned(), expected };
    if metadata.len() > MAX_SECRET_FILE_BYTES {
        return Err(malformed());
    }
    // Room for all of it: growing would leave a copy behind that is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_FILE_BYTES as usize));
    file.take(MAX_SECRET_FILE_BYTES).read_to_end(&mut bytes).map_err(unavailable(path))?;
    let text = str::from_utf8(&bytes).map_err(|_| malformed())?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Writes a new file that only its owner can read. A crash leaves it whole or
/// absent.
///
/// Whoever calls has seen to it that no file is there: it would be replaced.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), SecretFileError> {
    let unfinished = unfinished(path);
    write_and_rename(path, &unfinished, text).map_err(SecretFileError::unavailable(path))
}

/// Returns the name under which a file is written before it has its own.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

fn write_and_rename(path: &Path, unfinished: &Path, text: &str) -> io::Result<()> {
    // Left by a crash, and perhaps with another mode: never written into.
    match fs::remove_file(unfinished) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(unfinished)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    // Before the rename: the other way round, a power cut could leave an empty
    // file under the final name.
    file.sync_all()?;
    fs::rename(unfinished, path)?;
    match path.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // A relative name of one part has an empty parent.
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    // Elsewhere a folder cannot be opened, and names are durable by themselves.
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}

/// Refuses what anybody but its owner can read, write or enter. Only Unix tells.
pub(crate) fn refuse_exposed(
    path: &Path,
    metadata: &fs::Metadata,
    mode: &'static str,
) -> Result<(), SecretFileError> {
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return Err(SecretFileError::Exposed { path: path.to_owned(), mode });
    }
    #[cfg(not(unix))]
    let _ = (path, metadata, mode);
    Ok(())
}
