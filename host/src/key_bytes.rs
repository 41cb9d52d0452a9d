//! The 32 random bytes that every key of the host's own is, and its file.

use std::{ops::Deref, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rand::{
    rand_core::{Rng as _, UnwrapErr},
    rngs::SysRng,
};
use zeroize::Zeroizing;

use crate::secret_file::{self, SecretFileError};

/// How many bytes a key has: those of AES-256, of HMAC-SHA256 and of Ed25519.
pub(crate) const KEY_BYTES: usize = 32;

/// The bytes of a key. Wiped from memory on drop.
pub(crate) struct KeyBytes(Zeroizing<[u8; KEY_BYTES]>);

impl KeyBytes {
    /// Makes new ones.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    pub(crate) fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        UnwrapErr(SysRng).fill_bytes(bytes.as_mut());
        Self(bytes)
    }

    /// Reads base64, as it is in a variable or a file; `None` if it is not
    /// [`KEY_BYTES`].
    pub(crate) fn from_base64(text: &str) -> Option<Self> {
        // Decoding wants room for three bytes more.
        let mut bytes = Zeroizing::new([0; KEY_BYTES + 3]);
        let len = BASE64.decode_slice(text.trim(), bytes.as_mut()).ok()?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key.copy_from_slice(bytes.get(..len).filter(|bytes| bytes.len() == KEY_BYTES)?);
        Some(Self(key))
    }

    /// Reads them from their file; `expected` says what it should hold.
    ///
    /// # Errors
    ///
    /// A file that other users can read is refused: its key may be known.
    pub(crate) fn load(path: &Path, expected: &'static str) -> Result<Self, SecretFileError> {
        let text = secret_file::read(path, expected)?;
        Self::from_base64(&text)
            .ok_or_else(|| SecretFileError::Malformed { path: path.to_owned(), expected })
    }

    /// Writes them to a new file that only its owner can read. Replaces a file of
    /// that name.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<(), SecretFileError> {
        secret_file::write(path, &Zeroizing::new(BASE64.encode(self.0.as_slice())))
    }

    /// Returns a key that a test knows.
    #[cfg(test)]
    pub(crate) fn of(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Deref for KeyBytes {
    type Target = [u8; KEY_BYTES];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
