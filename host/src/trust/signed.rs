//! Detached signatures: what is signed, and the file that it is in.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::key::{MalformedKey, PolicyKey, from_hex, write_hex};
use crate::secret::Digest;

pub(super) const SIGNATURE_BYTES: usize = 64;

/// Keeps our signatures apart from anything else that is ever signed with the
/// same key. The number is that of the format.
const DOMAIN: &str = "wardkey policy v1";

/// The longest signature file that is read, in bytes: ours have less than 600, and
/// a path that was mixed up must not be read to its end.
const MAX_SIGNATURE_FILE_BYTES: u64 = 4096;

/// Returns what is signed.
pub(super) fn statement(digest: Digest, name: &str, revision: u64) -> String {
    format!("{DOMAIN}\n{}\n{revision}\n{name}\n", digest.to_hex())
}

/// An Ed25519 signature. Its text is 128 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PolicySignature([u8; SIGNATURE_BYTES]);

impl PolicySignature {
    /// Takes a signature as it is stored.
    pub fn from_bytes(bytes: [u8; SIGNATURE_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns the signature as it is stored.
    pub fn as_bytes(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.0
    }
}

impl fmt::Display for PolicySignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PolicySignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicySignature({self})")
    }
}

/// A text that is no signature, or no signature file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MalformedSignature(String);

impl FromStr for PolicySignature {
    type Err = MalformedSignature;

    fn from_str(text: &str) -> Result<Self, MalformedSignature> {
        let malformed = || "a signature is 128 lower-case hexadecimal digits".to_owned();
        from_hex(text).map(Self).ok_or_else(|| MalformedSignature(malformed()))
    }
}

/// A detached signature: what goes with a component, as the file beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What the policy is called.
    pub name: String,
    /// Goes up with every release.
    pub revision: u64,
    /// Which component it is for. For people, and to say early that it is for
    /// another one: what is checked is the digest of the bytes.
    pub digest: Digest,
    /// By whom it is. No host believes that: it tries the keys that it has.
    pub key: PolicyKey,
    /// The signature.
    pub signature: PolicySignature,
}

/// The text of a signature file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedText {
    name: String,
    revision: u64,
    digest: String,
    key: String,
    signature: String,
}

/// Why there is no signature in a file.
#[derive(Debug, thiserror::Error)]
pub enum SignatureFileError {
    /// The file cannot be read.
    #[error("cannot read the signature `{}`", path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error("`{}` is no signature as `wardkey policies sign` writes it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: MalformedSignature,
    },
}

impl Signed {
    /// Reads a signature from its file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or holds something else. Whether the signature
    /// is good is another question.
    pub fn read(path: &Path) -> Result<Self, SignatureFileError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_SIGNATURE_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|source| SignatureFileError::Unavailable { path: path.to_owned(), source })?;
        let text = match str::from_utf8(&bytes) {
            Ok(text) if bytes.len() as u64 <= MAX_SIGNATURE_FILE_BYTES => text,
            // Whatever else it is, it is no JSON.
            _ => "",
        };
        text.parse()
            .map_err(|source| SignatureFileError::Malformed { path: path.to_owned(), source })
    }

    /// Returns the name of the file beside a component that holds its signature.
    pub fn beside(component: &Path) -> PathBuf {
        let mut name = component.as_os_str().to_owned();
        name.push(".sig");
        name.into()
    }

    /// Checks that it is for this component, and by the key that it names.
    ///
    /// # Errors
    ///
    /// [`SignedError`] says which of both is not so.
    pub fn check(&self, digest: Digest) -> Result<(), SignedError> {
        if self.digest != digest {
            return Err(SignedError::OtherComponent { signed: self.digest, found: digest });
        }
        let statement = statement(digest, &self.name, self.revision);
        match self.key.has_signed(&statement, self.signature.as_bytes()) {
            true => Ok(()),
            false => Err(SignedError::Damaged),
        }
    }
}

/// Why a signature file is not worth sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// The component was built again since, or it is another one.
    #[error(
        "the signature is for the component `{}`, and this one is `{}`: sign it again",
        signed.to_hex(), found.to_hex()
    )]
    OtherComponent {
        /// What was signed.
        signed: Digest,
        /// What there is.
        found: Digest,
    },
    /// Something in it was changed by hand.
    #[error("the signature is not of the name, the revision and the key beside it: sign it again")]
    Damaged,
}

/// As JSON.
impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = SignedText {
            name: self.name.clone(),
            revision: self.revision,
            digest: self.digest.to_hex(),
            key: self.key.to_string(),
            signature: self.signature.to_string(),
        };
        f.write_str(&serde_json::to_string_pretty(&text).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Signed {
    type Err = MalformedSignature;

    fn from_str(text: &str) -> Result<Self, MalformedSignature> {
        let malformed = |what: String| MalformedSignature(what);
        let text: SignedText =
            serde_json::from_str(text).map_err(|err| malformed(err.to_string()))?;
        let digest = Digest::from_hex(&text.digest);
        let no_digest = || "a digest is 64 hexadecimal digits".to_owned();
        Ok(Self {
            name: text.name,
            revision: text.revision,
            digest: digest.ok_or_else(|| malformed(no_digest()))?,
            key: text.key.parse().map_err(|err: MalformedKey| malformed(err.to_string()))?,
            signature: text.signature.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::tempdir;

    use super::{super::key::tests::signer, *};

    /// Of the text that is documented, by OpenSSL 3 with a key of 32 bytes that are
    /// 7: its public key and its signature.
    const OPENSSL: [&str; 2] = [
        "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
        "564952be657e871753ed57b6a3b6ce10f454eada033c1b5531878f1af7bcd284\
         4ec18662c420a50be29866549aa782d62558d946a541adcb3c0007add7f05203",
    ];

    fn digest() -> Digest {
        Digest::of_bytes(b"a component")
    }

    #[test]
    fn what_is_signed_is_the_text_that_is_documented() {
        let hex = "0".repeat(64);
        assert_eq!(
            statement(Digest::from_bytes([0; 32]), "my rules", 12),
            format!("wardkey policy v1\n{hex}\n12\nmy rules\n")
        );
        let signed = signer(7).sign(Digest::from_bytes([0; 32]), "my rules", 12);
        assert_eq!([signed.key.to_string(), signed.signature.to_string()], OPENSSL);
    }

    #[test]
    fn a_signature_file_comes_back_as_it_was_written() {
        let signed = signer(7).sign(digest(), "my \"rules\"", u64::MAX);
        let text = signed.to_string();
        assert_eq!(text.parse(), Ok(signed.clone()));
        // An editor's last line feed is none of the file's meaning.
        assert_eq!(format!("{text}\n").parse(), Ok(signed.clone()));
        assert!(text.len() as u64 + 100 < MAX_SIGNATURE_FILE_BYTES);

        let folder = tempdir().unwrap();
        let path = folder.path().join("policy.wasm.sig");
        assert_eq!(path, Signed::beside(&folder.path().join("policy.wasm")));
        let missing = Signed::read(&path).unwrap_err();
        assert!(matches!(missing, SignatureFileError::Unavailable { .. }), "{missing}");
        fs::write(&path, &text).unwrap();
        assert_eq!(Signed::read(&path).unwrap(), signed);
        let spaces = " ".repeat(4096);
        for (name, malformed) in [
            ("nothing", String::new()),
            ("something else", "not a signature".to_owned()),
            ("half of it", text[..text.len() / 2].to_owned()),
            ("twice", format!("{text}{text}")),
            ("a field more", text.replacen('{', "{ \"version\": \"1\",", 1)),
            ("a field less", text.replace("\"name\"", "\"title\"")),
            ("a field twice", text.replacen('{', "{ \"revision\": 1,", 1)),
            ("a negative revision", text.replace(&u64::MAX.to_string(), "-1")),
            ("a revision as text", text.replace(&u64::MAX.to_string(), "\"1\"")),
            ("a short digest", text.replace(&digest().to_hex(), "abc")),
            ("a short key", text.replace(&signed.key.to_string(), "abc")),
            ("a key of nobody", text.replace(&signed.key.to_string(), &"0".repeat(64))),
            ("a short signature", text.replace(&signed.signature.to_string(), "abc")),
            ("more than is read", format!("{text}{spaces}")),
        ] {
            fs::write(&path, malformed).unwrap();
            let refused = Signed::read(&path).unwrap_err();
            assert!(matches!(refused, SignatureFileError::Malformed { .. }), "{name}: {refused}");
        }
        fs::write(&path, b"\xFF").unwrap();
        assert!(matches!(Signed::read(&path), Err(SignatureFileError::Malformed { .. })));
    }

    #[test]
    fn a_signature_file_is_checked_by_the_key_that_it_names() {
        let signed = signer(7).sign(digest(), "rules", 7);
        assert_eq!(signed.check(digest()), Ok(()));
        let other = Digest::of_bytes(b"another component");
        assert_eq!(
            signed.check(other),
            Err(SignedError::OtherComponent { signed: digest(), found: other })
        );
        for changed in [
            Signed { name: "other".to_owned(), ..signed.clone() },
            Signed { revision: 8, ..signed.clone() },
            Signed { key: signer(8).key(), ..signed.clone() },
            Signed { signature: signer(8).sign(digest(), "rules", 7).signature, ..signed },
        ] {
            assert_eq!(changed.check(digest()), Err(SignedError::Damaged), "{changed}");
        }
    }
}
