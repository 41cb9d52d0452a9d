//! Secrets that may be revealed again, encrypted under one key of the host.
//!
//! A sealed secret is stored with its key's record; the key-encryption key lives
//! elsewhere, in a file or a variable. Who has only one of them has nothing.
//!
//! # Invariants
//!
//! - A sealed secret opens only under the key id that it was sealed for: moved
//!   to another record, it is damaged.
//! - The format of a sealed secret is fixed by its first byte, so that another
//!   cipher can follow without touching what is stored:
//!   `version (1) ‖ fingerprint of the key-encryption key (4) ‖ nonce (12) ‖
//!   ciphertext and tag`.

use std::{fmt, path::Path};

use aes_gcm::{
    Aes256Gcm, Key, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rand::{
    rand_core::{Rng as _, UnwrapErr},
    rngs::SysRng,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    secret::Secret,
    secret_file::{self, SecretFileError},
};

/// AES-256-GCM as described above.
const VERSION: u8 = 1;

const KEY_BYTES: usize = 32;

/// Enough to tell a handful of key-encryption keys apart, and nothing to guess
/// from. The tag, not this, decides whether a secret opens.
const FINGERPRINT_BYTES: usize = 4;

/// 96 bits, the size that GCM is defined for. Drawn at random for each secret:
/// safe for 2^32 secrets under one key-encryption key, far more than a host has.
const NONCE_BYTES: usize = 12;

const EXPECTED: &str = "a key-encryption key, which is 32 bytes in base64";

/// The key that secrets are encrypted under. Wiped from memory on drop.
///
/// Whoever loses it loses the secrets that are sealed under it, and no key: keys
/// go on working, but can no longer be revealed.
pub struct KeyEncryptionKey(Zeroizing<[u8; KEY_BYTES]>);

impl KeyEncryptionKey {
    /// Makes a new key.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        UnwrapErr(SysRng).fill_bytes(bytes.as_mut());
        Self(bytes)
    }

    /// Reads an operator-supplied key from base64, as it is in a variable or a
    /// file; `None` if it is not 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        // Decoding wants room for three bytes more.
        let mut bytes = Zeroizing::new([0; KEY_BYTES + 3]);
        let text = text.trim();
        let len = BASE64.decode_slice(text, bytes.as_mut()).ok()?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        key.copy_from_slice(bytes.get(..len).filter(|bytes| bytes.len() == KEY_BYTES)?);
        Some(Self(key))
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    ///
    /// A file that other users can read is refused: its key may be known.
    pub fn load(path: &Path) -> Result<Self, SecretFileError> {
        let text = secret_file::read(path, EXPECTED)?;
        Self::from_base64(&text)
            .ok_or_else(|| SecretFileError::Malformed { path: path.to_owned(), expected: EXPECTED })
    }

    /// Writes the key to a new file that only its owner can read.
    ///
    /// Replaces a file of that name: see to it that there is none, as every
    /// secret under the key in it would be lost.
    pub fn save(&self, path: &Path) -> Result<(), SecretFileError> {
        let text = Zeroizing::new(BASE64.encode(self.0.as_slice()));
        secret_file::write(path, &text)
    }

    fn fingerprint(&self) -> [u8; FINGERPRINT_BYTES] {
        let digest = Sha256::new()
            .chain_update(b"wardkey key-encryption key\0")
            .chain_update(self.0.as_slice())
            .finalize();
        let mut fingerprint = [0; FINGERPRINT_BYTES];
        fingerprint.copy_from_slice(&digest[..FINGERPRINT_BYTES]);
        fingerprint
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionKey(…)")
    }
}

/// Why a sealed secret cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The operator has to bring that key back.
    #[error("the secret was sealed under another key-encryption key")]
    OtherKey,
    /// It was changed, cut off, or belongs to another key.
    #[error("the sealed secret is damaged")]
    Damaged,
}

/// Seals and opens secrets under one key-encryption key.
pub struct Vault {
    cipher: Aes256Gcm,
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl Vault {
    /// Makes a vault. The expanded key is wiped on drop, like the key itself.
    pub fn new(key: &KeyEncryptionKey) -> Self {
        Self {
            cipher: Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&*key.0)),
            fingerprint: key.fingerprint(),
        }
    }

    /// Encrypts a secret, for the record of this key only.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give: a nonce used twice
    /// would give the secrets away.
    pub fn seal(&self, key_id: &str, secret: &Secret) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        UnwrapErr(SysRng).fill_bytes(&mut nonce);
        let payload = Payload { msg: secret.expose().as_bytes(), aad: key_id.as_bytes() };
        let ciphertext = self
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a secret is shorter than the 64 GiB that GCM encrypts");
        [&[VERSION][..], &self.fingerprint, &nonce, &ciphertext].concat()
    }

    /// Decrypts the secret of this key.
    ///
    /// # Errors
    ///
    /// [`OtherKey`](VaultError::OtherKey) if the key-encryption key is not the
    /// one it was sealed under, [`Damaged`](VaultError::Damaged) otherwise.
    pub fn open(&self, key_id: &str, sealed: &[u8]) -> Result<Secret, VaultError> {
        let (&version, rest) = sealed.split_first().ok_or(VaultError::Damaged)?;
        if version != VERSION {
            return Err(VaultError::Damaged);
        }
        let (fingerprint, rest) = rest.split_first_chunk().ok_or(VaultError::Damaged)?;
        if *fingerprint != self.fingerprint {
            return Err(VaultError::OtherKey);
        }
        let (nonce, ciphertext) =
            rest.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::Damaged)?;
        let payload = Payload { msg: ciphertext, aad: key_id.as_bytes() };
        let bytes =
            self.cipher.decrypt(&Nonce::from(*nonce), payload).map_err(|_| VaultError::Damaged)?;
        // Authentic, and so the very text that was sealed.
        let text = String::from_utf8(bytes).map_err(|_| VaultError::Damaged)?;
        Ok(Secret::from_string(text))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = concat!("rk_", "live_0123456789");

    fn vault(byte: u8) -> Vault {
        Vault::new(&KeyEncryptionKey(Zeroizing::new([byte; KEY_BYTES])))
    }

    fn sealed() -> Vec<u8> {
        vault(1).seal("key_1", &Secret::from_string(TEXT.to_owned()))
    }

    #[track_caller]
    fn check(
        key_encryption_key: u8,
        key_id: &str,
        sealed: &[u8],
        expected: Result<&str, VaultError>,
    ) {
        let found = vault(key_encryption_key).open(key_id, sealed);
        let found = found.as_ref().map(Secret::expose);
        assert_eq!(found.map_err(|err| *err), expected, "{key_id}");
    }

    #[test]
    fn a_secret_opens_for_its_key_only() {
        let sealed = sealed();
        check(1, "key_1", &sealed, Ok(TEXT));
        check(1, "key_2", &sealed, Err(VaultError::Damaged));
        check(1, "", &sealed, Err(VaultError::Damaged));
        check(2, "key_1", &sealed, Err(VaultError::OtherKey));
    }

    #[test]
    fn every_bit_counts() {
        let sealed = sealed();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                1..5 => VaultError::OtherKey,
                _ => VaultError::Damaged,
            };
            check(1, "key_1", &flipped, Err(expected));
        }
        for len in 0..sealed.len() {
            check(1, "key_1", &sealed[..len], Err(VaultError::Damaged));
        }
        check(1, "key_1", &[&sealed[..], &[0]].concat(), Err(VaultError::Damaged));
    }

    #[test]
    fn the_same_secret_is_never_sealed_alike() {
        assert_ne!(sealed(), sealed());
        assert!(!sealed().windows(4).any(|part| part == &TEXT.as_bytes()[..4]));
    }

    #[test]
    fn what_was_sealed_in_the_past_still_opens() {
        // Written by this module's first version. If this fails, what is stored
        // at our users is lost.
        let sealed = BASE64.decode(PAST).unwrap();
        check(1, "key_1", &sealed, Ok(TEXT));
    }

    const PAST: &str = "AaJRHNAUczX/5+jlxiHegmC3usDW6HSJaSzDzFVKMaYT6gJKt7VdXtHwxSUVpvN81N/u";

    #[test]
    fn a_key_encryption_key_is_32_bytes_of_base64() {
        let good = BASE64.encode([7; 32]);
        for (text, expected) in [
            (good.clone(), true),
            (format!(" {good}\n"), true),
            (BASE64.encode([7; 31]), false),
            (BASE64.encode([7; 33]), false),
            (BASE64.encode([7; 35]), false),
            (BASE64.encode([7; 64]), false),
            (good.replace('=', "!"), false),
            (String::new(), false),
        ] {
            let key = KeyEncryptionKey::from_base64(&text);
            assert_eq!(key.is_some(), expected, "{text}");
        }
    }

    #[test]
    fn a_saved_key_is_loaded_again_and_stays_silent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let key = KeyEncryptionKey::generate();
        key.save(&path).unwrap();
        let loaded = KeyEncryptionKey::load(&path).unwrap();
        assert_eq!(*loaded.0, *key.0);
        assert_eq!(format!("{key:?}"), "KeyEncryptionKey(…)");
    }

    #[test]
    fn a_file_without_a_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let long = "A".repeat(5_000);
        for (text, expected) in [("", "malformed"), ("short", "malformed"), (&long, "malformed")] {
            secret_file::write(&path, text).unwrap();
            let found = match KeyEncryptionKey::load(&path) {
                Err(SecretFileError::Malformed { .. }) => "malformed",
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected);
        }
        let missing = KeyEncryptionKey::load(&dir.path().join("nothing"));
        assert!(matches!(missing, Err(SecretFileError::Unavailable { .. })));
    }
}
