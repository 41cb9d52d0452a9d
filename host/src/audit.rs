//! The audit log's chain: each entry is sealed together with all before it.
//!
//! A seal is HMAC-SHA256 under the host's audit key, over the seal before it,
//! the entry's position and its text. Whoever has the database alone, and not
//! that key, can neither change an entry, nor take one out or put one in, nor
//! exchange two: from there on no seal fits any more.
//!
//! What the chain alone does not prove:
//!
//! - That the newest entries are all there. A log that was cut off is a good
//!   log, only shorter: so export the [`AuditHead`] to where the host cannot
//!   write, and give it to the [`ChainVerifier`] later.
//! - Anything against those who have both the database and the audit key: they
//!   can seal a whole new log. They cannot make one in which an exported head
//!   still fits.
//! - That what was written is true. The host that writes it is believed.

use std::{fmt, path::Path, str::FromStr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{key_bytes::KeyBytes, secret_file::SecretFileError, storage::SealedAuditEntry};

/// How long a seal is, in bytes: all that HMAC-SHA256 gives.
pub const SEAL_BYTES: usize = 32;

/// Keeps our seals apart from anything else that is ever authenticated under
/// the same key. The number is that of the format.
const DOMAIN: &[u8] = b"wardkey audit log 1\0";

const EXPECTED: &str = "an audit key, which is 32 bytes in base64";

/// The key that the audit log is sealed under. Wiped from memory on drop.
///
/// Whoever loses it keeps the log, but can no longer prove that it is whole.
pub struct AuditKey(KeyBytes);

impl AuditKey {
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
    /// Replaces a file of that name: see to it that there is none, as the log
    /// that is sealed under the key in it could no longer be verified.
    pub fn save(&self, path: &Path) -> Result<(), SecretFileError> {
        self.0.save(path)
    }

    /// Seals the entry at this position. `previous` is the seal of the one
    /// before it; the first has none.
    pub fn seal(&self, previous: Option<&AuditSeal>, sequence: u64, text: &str) -> AuditSeal {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice())
            .expect("HMAC takes keys of every length");
        mac.update(DOMAIN);
        // Each but the text has its length, so that no two entries are the same
        // bytes.
        mac.update(&previous.map_or([0; SEAL_BYTES], |seal| seal.0));
        mac.update(&sequence.to_be_bytes());
        mac.update(text.as_bytes());
        AuditSeal(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey(…)")
    }
}

/// What seals an entry, and with it all before it. No secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuditSeal([u8; SEAL_BYTES]);

impl AuditSeal {
    /// Takes a seal as it is stored.
    pub fn from_bytes(bytes: [u8; SEAL_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns the seal as it is stored.
    pub fn as_bytes(&self) -> &[u8; SEAL_BYTES] {
        &self.0
    }
}

/// As 64 lowercase hexadecimal digits.
impl fmt::Display for AuditSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AuditSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditSeal({self})")
    }
}

/// A text that is no seal, or no head of an audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the head of an audit log is a position, a colon and 64 hexadecimal digits")]
pub struct MalformedHead;

impl FromStr for AuditSeal {
    type Err = MalformedHead;

    fn from_str(text: &str) -> Result<Self, MalformedHead> {
        let mut seal = [0; SEAL_BYTES];
        let (digits, rest) = text.as_bytes().as_chunks::<2>();
        if digits.len() != SEAL_BYTES || !rest.is_empty() {
            return Err(MalformedHead);
        }
        for (byte, digits) in seal.iter_mut().zip(digits) {
            for digit in digits {
                let value = char::from(*digit).to_digit(16).ok_or(MalformedHead)?;
                // Of two digits, which a byte has room for.
                *byte = *byte << 4 | value as u8;
            }
        }
        Ok(Self(seal))
    }
}

/// The newest entry of an audit log: who keeps it elsewhere can tell later
/// whether the log still goes through it. Its text is `SEQUENCE:SEAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// The entry's position.
    pub sequence: u64,
    /// What seals it.
    pub seal: AuditSeal,
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.seal)
    }
}

impl FromStr for AuditHead {
    type Err = MalformedHead;

    fn from_str(text: &str) -> Result<Self, MalformedHead> {
        let (sequence, seal) = text.split_once(':').ok_or(MalformedHead)?;
        // Parsing numbers takes a sign, which nobody exported.
        if !sequence.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(MalformedHead);
        }
        let sequence = sequence.parse().map_err(|_| MalformedHead)?;
        if sequence == 0 {
            return Err(MalformedHead);
        }
        Ok(Self { sequence, seal: seal.parse()? })
    }
}

/// Where and how an audit log is not what was once written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// Entries are missing, or in the wrong order.
    #[error("entry {expected} of the audit log is missing: entry {found} is in its place")]
    Gap {
        /// The position that should have come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// The first entry that does not fit its seal and the entries before it.
    #[error("entry {sequence} of the audit log was changed after it was written")]
    Changed {
        /// Its position.
        sequence: u64,
    },
    /// Not one entry fits. In a log of a single entry, a changed one looks the
    /// same.
    #[error(
        "no entry of the audit log fits the audit key: it was sealed under another key, which \
         is in the backup that belongs to this database"
    )]
    OtherKey,
    /// The exported head lies behind the end.
    #[error(
        "the audit log was cut off: it went on to entry {expected} when its head was exported, \
         and now has {found}"
    )]
    CutOff {
        /// The position of the exported head.
        expected: u64,
        /// The position of the last entry; 0: there is none.
        found: u64,
    },
    /// All fits, and yet the log does not go through the exported head: whoever
    /// wrote it had the audit key.
    #[error("entry {sequence} of the audit log is not the one whose head was exported")]
    OtherHead {
        /// The position of the exported head.
        sequence: u64,
    },
}

/// Verifies an audit log entry by entry, oldest first, in constant memory.
#[derive(Debug)]
pub struct ChainVerifier<'a> {
    key: &'a AuditKey,
    expected: Option<AuditHead>,
    last: Option<AuditHead>,
    // The first one found: what follows from it is of no interest.
    fault: Option<AuditFault>,
    any_fits: bool,
}

impl<'a> ChainVerifier<'a> {
    /// Starts at the oldest entry. `expected` is a head that was exported
    /// earlier, and that the log must go through.
    pub fn new(key: &'a AuditKey, expected: Option<AuditHead>) -> Self {
        Self { key, expected, last: None, fault: None, any_fits: false }
    }

    /// Takes the next entry.
    pub fn feed(&mut self, entry: &SealedAuditEntry) {
        let &SealedAuditEntry { sequence, ref text, seal } = entry;
        let expected = self.last.map_or(1, |last| last.sequence.saturating_add(1));
        if sequence != expected {
            self.fault.get_or_insert(AuditFault::Gap { expected, found: sequence });
        }
        // On the seals as they lie there, so that a changed entry does not make
        // all that follow look changed, and can be told from another key.
        let previous = self.last.as_ref().map(|last| &last.seal);
        match self.key.seal(previous, sequence, text) == seal {
            true => self.any_fits = true,
            false => {
                self.fault.get_or_insert(AuditFault::Changed { sequence });
            }
        }
        if self.expected.is_some_and(|head| head.sequence == sequence && head.seal != seal) {
            self.fault.get_or_insert(AuditFault::OtherHead { sequence });
        }
        self.last = Some(AuditHead { sequence, seal });
    }

    /// Returns the log's head, or `None` if it is empty: all entries were fed.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub fn finish(self) -> Result<Option<AuditHead>, AuditFault> {
        match self.fault {
            Some(AuditFault::Changed { .. }) if !self.any_fits => return Err(AuditFault::OtherKey),
            Some(fault) => return Err(fault),
            None => {}
        }
        let found = self.last.map_or(0, |last| last.sequence);
        match self.expected {
            Some(AuditHead { sequence: expected, .. }) if found < expected => {
                Err(AuditFault::CutOff { expected, found })
            }
            _ => Ok(self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

    use super::*;
    use crate::secret_file;

    fn key(byte: u8) -> AuditKey {
        AuditKey(KeyBytes::of([byte; 32]))
    }

    /// A log of these texts, sealed as the host does.
    fn log(key: &AuditKey, texts: &[&str]) -> Vec<SealedAuditEntry> {
        let mut previous = None;
        let entries = (1..).zip(texts).map(|(sequence, text)| {
            let seal = key.seal(previous.as_ref(), sequence, text);
            previous = Some(seal);
            SealedAuditEntry { sequence, text: (*text).to_owned(), seal }
        });
        entries.collect()
    }

    fn head(entry: &SealedAuditEntry) -> AuditHead {
        AuditHead { sequence: entry.sequence, seal: entry.seal }
    }

    fn verify(
        byte: u8,
        expected: Option<AuditHead>,
        log: &[SealedAuditEntry],
    ) -> Result<Option<AuditHead>, AuditFault> {
        let key = key(byte);
        let mut verifier = ChainVerifier::new(&key, expected);
        log.iter().for_each(|entry| verifier.feed(entry));
        verifier.finish()
    }

    const TEXTS: [&str; 5] = ["a", "b", "", "d", "e"];

    #[test]
    fn a_whole_log_goes_through_each_of_its_heads() {
        let whole = log(&key(1), &TEXTS);
        for len in 0..=whole.len() {
            let part = &whole[..len];
            assert_eq!(verify(1, None, part), Ok(part.last().map(head)));
            for (index, entry) in whole.iter().enumerate() {
                let expected = match index < len {
                    true => Ok(part.last().map(head)),
                    false => {
                        Err(AuditFault::CutOff { expected: entry.sequence, found: len as u64 })
                    }
                };
                assert_eq!(verify(1, Some(head(entry)), part), expected, "{index} {len}");
            }
        }
    }

    #[test]
    fn a_fault_is_found_where_it_is() {
        use AuditFault::*;
        type Log = Vec<SealedAuditEntry>;
        type Tamper<'a> = &'a dyn Fn(&mut Log);
        let other = key(2);
        let one = key(1);
        let rows: [(&str, Tamper<'_>, AuditFault); 12] = [
            ("another text", &|log| log[2].text = "c".to_owned(), Changed { sequence: 3 }),
            ("the first", &|log| log[0].text = "A".to_owned(), Changed { sequence: 1 }),
            ("the last", &|log| log[4].text.push(' '), Changed { sequence: 5 }),
            ("one out", &|log| drop(log.remove(1)), Gap { expected: 2, found: 3 }),
            ("the first out", &|log| drop(log.remove(0)), Gap { expected: 1, found: 2 }),
            ("two exchanged", &|log| log.swap(1, 2), Gap { expected: 2, found: 3 }),
            ("one twice", &|log| log.insert(1, log[0].clone()), Gap { expected: 2, found: 1 }),
            (
                "one out, and renumbered",
                &|log| {
                    log.remove(1);
                    log[1..].iter_mut().for_each(|entry| entry.sequence -= 1);
                },
                Changed { sequence: 2 },
            ),
            (
                "one put in under another key",
                &|log| {
                    let seal = other.seal(Some(&log[4].seal), 6, "f");
                    log.push(SealedAuditEntry { sequence: 6, text: "f".to_owned(), seal });
                },
                Changed { sequence: 6 },
            ),
            ("another key", &|entries| *entries = log(&other, &TEXTS), OtherKey),
            (
                "a whole other log under our key",
                &|entries| *entries = log(&one, &["a", "b", "", "d", "E"]),
                OtherHead { sequence: 5 },
            ),
            ("cut off", &|log| drop(log.pop()), CutOff { expected: 5, found: 4 }),
        ];
        for (name, tamper, expected) in rows {
            let mut entries = log(&one, &TEXTS);
            let exported = head(&entries[4]);
            tamper(&mut entries);
            assert_eq!(verify(1, Some(exported), &entries), Err(expected), "{name}");
        }
    }

    #[test]
    fn what_was_sealed_in_the_past_still_verifies() {
        // Written by this module's first version. If this fails, no log at our
        // users verifies any more.
        let log = log(&key(1), &["{}", "{}"]);
        assert_eq!(log[1].seal.to_string(), PAST);
    }

    const PAST: &str = "38deef323ea0543c2793821fb84210dec270d375edd84129f03dd419cd087ff8";

    #[test]
    fn a_head_is_read_as_it_is_written() {
        let whole = log(&key(1), &TEXTS);
        let text = head(&whole[4]).to_string();
        assert_eq!(text.parse(), Ok(head(&whole[4])));
        assert_eq!(text.to_uppercase().parse(), Ok(head(&whole[4])));
        let seal = whole[4].seal.to_string();
        assert_eq!(seal.parse(), Ok(whole[4].seal));
        for malformed in [
            String::new(),
            seal.clone(),
            format!(":{seal}"),
            format!("0:{seal}"),
            format!("+5:{seal}"),
            format!("-5:{seal}"),
            format!("5 :{seal}"),
            format!("99999999999999999999:{seal}"),
            format!("5:{seal}0"),
            format!("5:{}", &seal[1..]),
            format!("5:{}g", &seal[1..]),
            format!("5:{}é", &seal[2..]),
        ] {
            assert_eq!(malformed.parse::<AuditHead>(), Err(MalformedHead), "{malformed}");
        }
    }

    #[test]
    fn a_saved_key_is_loaded_again_and_stays_silent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        let key = AuditKey::generate();
        key.save(&path).unwrap();
        assert_eq!(*AuditKey::load(&path).unwrap().0, *key.0);
        assert_eq!(format!("{key:?}"), "AuditKey(…)");
        for text in ["", "short", &BASE64.encode([7; 31]), &BASE64.encode([7; 33])] {
            secret_file::write(&path, text).unwrap();
            let refused = AuditKey::load(&path);
            assert!(matches!(refused, Err(SecretFileError::Malformed { .. })), "{text}");
        }
    }
}
