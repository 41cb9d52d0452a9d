//! The keys that policies are signed with.

use std::{fmt, fs, io, path::Path, str::FromStr};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::signed::{PolicySignature, SIGNATURE_BYTES, Signed, statement};
use crate::{
    key_bytes::{KEY_BYTES, KeyBytes},
    secret::Digest,
    secret_file::SecretFileError,
};

/// How many statements a key is tried with that might be worth nothing. For the
/// worst of those, an eighth of all statements has a signature that everybody
/// knows.
const WEAKNESS_TRIES: u8 = 64;

const EXPECTED: &str = "a private policy key, which is 32 bytes in base64";

/// The public key of somebody who signs policies. Its text is 64 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PolicyKey([u8; KEY_BYTES]);

impl PolicyKey {
    /// Tells whether a signature of this statement is by this key.
    pub(super) fn has_signed(&self, statement: &str, signature: &[u8; SIGNATURE_BYTES]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(statement.as_bytes(), signature).is_ok()
    }

    /// Tells whether anybody could sign for it: it is one of the few points of the
    /// curve that are the end of a short way, of which nobody has a private key.
    /// Zeros, as somebody writes them who has no key yet, are one.
    fn is_weak(&self) -> bool {
        // The neutral point, and nothing added to it.
        let mut signature = [0; SIGNATURE_BYTES];
        signature[0] = 1;
        (0..WEAKNESS_TRIES).any(|n| self.has_signed(&n.to_string(), &signature))
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyKey({self})")
    }
}

/// A text that is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKey {
    /// It is something else.
    #[error(
        "a public policy key is 64 lower-case hexadecimal digits, as `wardkey policies keygen` \
         prints it"
    )]
    Text,
    /// Everything would count as signed.
    #[error("anybody could sign for this key: take one that `wardkey policies keygen` printed")]
    Weak,
}

impl FromStr for PolicyKey {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, MalformedKey> {
        let key = Self(from_hex(text).ok_or(MalformedKey::Text)?);
        match key.is_weak() {
            true => Err(MalformedKey::Weak),
            false => Ok(key),
        }
    }
}

/// The private key of somebody who signs policies.
///
/// Whoever has it decides what every host runs that has its [`PolicyKey`]: it
/// belongs where policies are built, and on no host.
pub struct PolicySigner(KeyBytes);

impl PolicySigner {
    /// Makes a new key.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give.
    pub fn generate() -> Self {
        Self(KeyBytes::generate())
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
    /// # Errors
    ///
    /// If something is there already: a key that was replaced could sign nothing
    /// more.
    pub fn save(&self, path: &Path) -> Result<(), SecretFileError> {
        let unavailable = |source| SecretFileError::Unavailable { path: path.to_owned(), source };
        // A dangling link is something, too.
        match fs::symlink_metadata(path) {
            Ok(_) => {
                let message = "it is there already, and is not replaced";
                return Err(unavailable(io::Error::new(io::ErrorKind::AlreadyExists, message)));
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(unavailable(err)),
        }
        self.0.save(path)
    }

    /// Returns the public key.
    pub fn key(&self) -> PolicyKey {
        let mut key = PolicyKey([0; KEY_BYTES]);
        key.0.copy_from_slice(self.pair().public_key().as_ref());
        key
    }

    /// Signs a component, by its digest, under a name and a revision.
    pub fn sign(&self, digest: Digest, name: &str, revision: u64) -> Signed {
        let signed = self.pair().sign(statement(digest, name, revision).as_bytes());
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(signed.as_ref());
        let signature = PolicySignature::from_bytes(bytes);
        Signed { name: name.to_owned(), revision, digest, key: self.key(), signature }
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(self.0.as_slice()).expect("it has 32 bytes")
    }
}

impl fmt::Debug for PolicySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicySigner(…)")
    }
}

pub(super) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads lower-case hexadecimal digits, two for each byte.
pub(super) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use tempfile::tempdir;

    use super::*;
    use crate::secret_file;

    /// A key that is the same every time.
    pub(in crate::trust) fn signer(byte: u8) -> PolicySigner {
        PolicySigner(KeyBytes::of([byte; KEY_BYTES]))
    }

    #[test]
    fn a_key_is_64_lower_case_digits_that_somebody_has_the_private_key_of() {
        let key = signer(7).key();
        let text = key.to_string();
        assert_eq!((text.len(), text.parse()), (64, Ok(key)));
        assert_eq!(format!("{key:?}"), format!("PolicyKey({text})"));
        let long = format!("{text}0");
        for malformed in ["", &text[1..], &long, &text.to_uppercase(), &text.replace('a', "g")] {
            let refused = malformed.parse::<PolicyKey>();
            assert_eq!(refused, Err(MalformedKey::Text), "{malformed}");
        }
        for malformed in [format!(" {text}"), format!("{text}\n"), format!("+{}", &text[1..])] {
            assert_eq!(malformed.parse::<PolicyKey>(), Err(MalformedKey::Text), "{malformed}");
        }
        // All points of the curve of a small order, in every way to write them.
        let (first, ff) = (|byte: &str| format!("{byte}{}", "0".repeat(62)), "ff".repeat(30));
        let eighth = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc";
        let other_eighth = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03";
        for weak in [
            first("00"),
            first("01"),
            format!("{}80", "0".repeat(62)),
            format!("01{}80", "0".repeat(60)),
            format!("ec{ff}7f"),
            format!("ed{ff}7f"),
            format!("ee{ff}7f"),
            format!("ec{ff}ff"),
            format!("ed{ff}ff"),
            format!("ee{ff}ff"),
            format!("{eighth}05"),
            format!("{eighth}85"),
            format!("{other_eighth}7a"),
            format!("{other_eighth}fa"),
        ] {
            assert_eq!(weak.parse::<PolicyKey>(), Err(MalformedKey::Weak), "{weak}");
        }
    }

    #[test]
    fn a_private_key_is_saved_once_and_shown_never() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("policy.key");
        let signer = PolicySigner::generate();
        assert_ne!(signer.key(), PolicySigner::generate().key());
        signer.save(&path).unwrap();
        assert_eq!(PolicySigner::load(&path).unwrap().key(), signer.key());
        let before = fs::read_to_string(&path).unwrap();
        assert_eq!(format!("{signer:?}"), "PolicySigner(…)");

        let refused = PolicySigner::generate().save(&path).unwrap_err();
        assert!(matches!(refused, SecretFileError::Unavailable { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        #[cfg(unix)]
        {
            use std::os::unix::fs::{PermissionsExt as _, symlink};
            let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600);
            let link = folder.path().join("link");
            symlink(folder.path().join("nowhere"), &link).unwrap();
            assert!(signer.save(&link).is_err(), "a dangling link was replaced");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let refused = PolicySigner::load(&path).unwrap_err();
            assert!(refused.to_string().contains("chmod 600"), "{refused}");
        }
        for text in ["", "short", &signer.key().to_string(), &"A".repeat(44), &before[4..]] {
            let path = folder.path().join("malformed");
            secret_file::write(&path, text).unwrap();
            let refused = PolicySigner::load(&path).unwrap_err();
            assert!(matches!(refused, SecretFileError::Malformed { .. }), "{text}: {refused}");
        }
    }
}
