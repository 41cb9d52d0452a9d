//! Secrets that may be revealed again, encrypted under one key of the host.
//!
//! A sealed secret is stored with its key's record; the key-encryption key lives
//! elsewhere, in a file or a variable. Who has only one of them has nothing.
//!
//! That key can be replaced while the host runs: a vault seals under one and
//! opens under several, so that secrets can be sealed anew one after the other.
//!
//! # Invariants
//!
//! - A sealed secret opens only under the key id that it was sealed for: moved
//!   to another record, it is damaged.
//! - The format of a sealed secret is fixed by its first byte, so that another
//!   cipher can follow without touching what is stored:
//!   `version (1) ‖ fingerprint of the key-encryption key (4) ‖ nonce (12) ‖
//!   ciphertext and tag`.

use std::{fmt, path::Path, sync::Arc};

use aes_gcm::{
    Aes256Gcm, Key, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use arc_swap::ArcSwap;
use rand::{
    rand_core::{Rng as _, UnwrapErr},
    rngs::SysRng,
};
use sha2::{Digest as _, Sha256};

use crate::{key_bytes::KeyBytes, secret::Secret, secret_file::SecretFileError};

/// AES-256-GCM as described above.
const VERSION: u8 = 1;

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
pub struct KeyEncryptionKey(KeyBytes);

impl KeyEncryptionKey {
    /// Makes a new key.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    pub fn generate() -> Self {
        Self(KeyBytes::generate())
    }

    /// Reads an operator-supplied key from base64, as it is in a variable or a
    /// file; `None` if it is not 32 bytes.
    pub fn from_base64(text: &str) -> Option<Self> {
        KeyBytes::from_base64(text).map(Self)
    }

    /// Reads the key from its file.
    ///
    /// # Errors
    ///
    /// A file that other users can read is refused: its key may be known.
    pub fn load(path: &Path) -> Result<Self, SecretFileError> {
        KeyBytes::load(path, EXPECTED).map(Self)
    }

    /// Writes the key to a new file that only its owner can read.
    ///
    /// Replaces a file of that name: see to it that there is none, as every
    /// secret under the key in it would be lost.
    pub fn save(&self, path: &Path) -> Result<(), SecretFileError> {
        self.0.save(path)
    }

    /// Returns what tells this key from all others, and does not give it away.
    fn digest(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"wardkey key-encryption key\0")
            .chain_update(self.0.as_slice())
            .finalize()
            .into()
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

/// The database and the key-encryption key do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key-encryption key is not the one that this database's secrets are sealed under: bring \
     back the one that belongs to this database, from the same backup; to replace it, the host \
     needs both until all secrets are sealed anew"
)]
pub struct WrongKeyEncryptionKey;

/// Seals secrets under one key-encryption key, and opens what was sealed under
/// that or an earlier one.
pub struct Vault {
    // Read at each use, and exchanged whole: who seals during a replacement does
    // it under one key or the other.
    ring: ArcSwap<Ring>,
}

/// The newest key first.
struct Ring(Vec<Arc<Sealer>>);

struct Sealer {
    cipher: Aes256Gcm,
    // Of the key. Its start is the fingerprint.
    digest: [u8; 32],
}

impl Sealer {
    fn new(key: &KeyEncryptionKey) -> Arc<Self> {
        Arc::new(Self {
            cipher: Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&*key.0)),
            digest: key.digest(),
        })
    }

    fn fingerprint(&self) -> &[u8] {
        &self.digest[..FINGERPRINT_BYTES]
    }

    fn seal(&self, key_id: &str, secret: &Secret) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        UnwrapErr(SysRng).fill_bytes(&mut nonce);
        let payload = Payload { msg: secret.expose().as_bytes(), aad: key_id.as_bytes() };
        let ciphertext = self
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a secret is shorter than the 64 GiB that GCM encrypts");
        [&[VERSION][..], self.fingerprint(), &nonce, &ciphertext].concat()
    }
}

impl Ring {
    /// Returns the secret, and whether the newest key opened it.
    fn open(&self, key_id: &str, sealed: &[u8]) -> Result<(Secret, bool), VaultError> {
        let (&version, rest) = sealed.split_first().ok_or(VaultError::Damaged)?;
        if version != VERSION {
            return Err(VaultError::Damaged);
        }
        let (fingerprint, rest) =
            rest.split_first_chunk::<FINGERPRINT_BYTES>().ok_or(VaultError::Damaged)?;
        let mut found = Err(VaultError::OtherKey);
        for (age, sealer) in self.0.iter().enumerate() {
            // Two keys may have the same fingerprint: the tag decides.
            if fingerprint != sealer.fingerprint() {
                continue;
            }
            let (nonce, ciphertext) =
                rest.split_first_chunk::<NONCE_BYTES>().ok_or(VaultError::Damaged)?;
            let payload = Payload { msg: ciphertext, aad: key_id.as_bytes() };
            found = Err(VaultError::Damaged);
            if let Ok(bytes) = sealer.cipher.decrypt(&Nonce::from(*nonce), payload) {
                // Authentic, and so the very text that was sealed.
                let text = String::from_utf8(bytes).map_err(|_| VaultError::Damaged)?;
                return Ok((Secret::from_string(text), age == 0));
            }
        }
        found
    }
}

impl Vault {
    /// Makes a vault. The expanded key is wiped on drop, like the key itself.
    pub fn new(key: &KeyEncryptionKey) -> Self {
        Self { ring: ArcSwap::from_pointee(Ring(vec![Sealer::new(key)])) }
    }

    /// Makes a vault in the middle of a replacement: seals under `key`, and opens
    /// what was sealed under `previous` as well.
    pub fn with_previous(key: &KeyEncryptionKey, previous: &KeyEncryptionKey) -> Self {
        let vault = Self::new(previous);
        vault.seal_under(key);
        vault
    }

    /// From now on seals under another key, and still opens what was sealed under
    /// those before it. If it is the newest one already, nothing changes.
    ///
    /// What another thread is about to seal may still be sealed under the key
    /// before it, and stored later: whoever replaces a key looks for such secrets
    /// until there are none.
    pub fn seal_under(&self, key: &KeyEncryptionKey) {
        let newest = Sealer::new(key);
        self.ring.rcu(|ring| {
            // A key that comes twice, as when a replacement goes on, is no other key.
            let earlier = ring.0.iter().filter(|earlier| earlier.digest != newest.digest);
            Ring([&newest].into_iter().chain(earlier).cloned().collect())
        });
    }

    /// Opens only what is sealed under the newest key from now on: once all
    /// secrets are, the others are of no more use but to a thief.
    pub fn forget_previous(&self) {
        self.ring.rcu(|ring| Ring(ring.0[..1].to_vec()));
    }

    /// Encrypts a secret, for the record of this key only.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give: a nonce used twice
    /// would give the secrets away.
    pub fn seal(&self, key_id: &str, secret: &Secret) -> Vec<u8> {
        self.ring.load().0[0].seal(key_id, secret)
    }

    /// Decrypts the secret of this key.
    ///
    /// # Errors
    ///
    /// [`OtherKey`](VaultError::OtherKey) if it was sealed under none of the
    /// vault's key-encryption keys, [`Damaged`](VaultError::Damaged) otherwise.
    pub fn open(&self, key_id: &str, sealed: &[u8]) -> Result<Secret, VaultError> {
        self.ring.load().open(key_id, sealed).map(|(secret, _)| secret)
    }

    /// Encrypts the secret of this key anew, under the newest key-encryption key.
    /// `None`: it is already.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open): such a secret stays as it is, and the key
    /// that would open it is still needed.
    pub fn reseal(&self, key_id: &str, sealed: &[u8]) -> Result<Option<Vec<u8>>, VaultError> {
        let ring = self.ring.load();
        match ring.open(key_id, sealed)? {
            (_, true) => Ok(None),
            (secret, false) => Ok(Some(ring.0[0].seal(key_id, &secret))),
        }
    }

    /// Checks at the start, with any sealed secret of the database, whether the
    /// key-encryption key belongs to it: better than when somebody asks for a
    /// secret that nobody can open, and new ones are sealed under another key.
    ///
    /// A secret that is damaged says nothing about the key.
    ///
    /// # Errors
    ///
    /// It does not; the error says what to do.
    pub fn check(&self, key_id: &str, sealed: &[u8]) -> Result<(), WrongKeyEncryptionKey> {
        match self.open(key_id, sealed) {
            Err(VaultError::OtherKey) => Err(WrongKeyEncryptionKey),
            Ok(_) | Err(VaultError::Damaged) => Ok(()),
        }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

    use super::*;
    use crate::secret_file;

    const TEXT: &str = concat!("rk_", "live_0123456789");

    fn vault(byte: u8) -> Vault {
        Vault::new(&key(byte))
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

    fn key(byte: u8) -> KeyEncryptionKey {
        KeyEncryptionKey(KeyBytes::of([byte; 32]))
    }

    #[test]
    fn a_replacement_goes_from_one_key_to_the_next() {
        let vault = vault(1);
        let old = vault.seal("key_1", &Secret::from_string(TEXT.to_owned()));
        assert_eq!(vault.reseal("key_1", &old), Ok(None));
        // Twice, as when a replacement was interrupted and goes on.
        for _ in 0..2 {
            vault.seal_under(&key(2));
            assert_eq!(vault.open("key_1", &old).unwrap().expose(), TEXT);
        }
        let new = vault.reseal("key_1", &old).unwrap().unwrap();
        assert_eq!(vault.reseal("key_1", &new), Ok(None));
        assert_eq!(vault.open("key_1", &new).unwrap().expose(), TEXT);
        check(2, "key_1", &new, Ok(TEXT));
        check(1, "key_1", &new, Err(VaultError::OtherKey));
        assert_eq!(vault.reseal("key_2", &old), Err(VaultError::Damaged));
        assert_eq!(vault.reseal("key_1", &old[..9]), Err(VaultError::Damaged));

        vault.forget_previous();
        assert_eq!(vault.reseal("key_1", &old), Err(VaultError::OtherKey));
        assert_eq!(vault.open("key_1", &new).unwrap().expose(), TEXT);

        let both = Vault::with_previous(&key(2), &key(1));
        check(2, "key_1", &both.seal("key_1", &Secret::from_string(TEXT.to_owned())), Ok(TEXT));
        check(2, "key_1", &both.reseal("key_1", &old).unwrap().unwrap(), Ok(TEXT));
    }

    #[test]
    fn a_key_that_is_not_the_databases_is_noticed() {
        let sealed = sealed();
        let rows = [
            (vault(1), &sealed[..], Ok(())),
            (vault(2), &sealed, Err(WrongKeyEncryptionKey)),
            (Vault::with_previous(&key(2), &key(1)), &sealed, Ok(())),
            (Vault::with_previous(&key(2), &key(3)), &sealed, Err(WrongKeyEncryptionKey)),
            // Damage is another matter.
            (vault(1), &sealed[..20], Ok(())),
            (vault(2), &[], Ok(())),
        ];
        for (number, (vault, sealed, expected)) in rows.into_iter().enumerate() {
            assert_eq!(vault.check("key_1", sealed), expected, "{number}");
        }
        let message = WrongKeyEncryptionKey.to_string();
        let start = "the key-encryption key is not the one that this database's secrets are \
                     sealed under: ";
        assert!(message.starts_with(start), "{message}");
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
