//! What a secret looks like: making one, and reading one that a caller presents.
//!
//! A secret is `[<brand>_]<prefix><32 random characters><6 characters of
//! checksum>` in base62. Its prefix is named by the policy and its brand by the
//! operator; the rest is ours. [`Secret`] is one that we made, [`Presented`] is
//! text that claims to be one.
//!
//! # Invariants
//!
//! - A secret is never displayed, serialized or copied: whoever needs its text
//!   says [`expose`](Secret::expose), which is easy to search for.
//! - Only a text whose alphabet, length and checksum are right has a [`Digest`],
//!   so a mistyped key never reaches storage.
//! - A [`Masked`] form holds printable ASCII only and is safe in logs.

use std::fmt;
use std::str::FromStr;

use rand::distr::{Alphanumeric, SampleString};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The digits of base62, in the order of their values.
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// How many characters of a secret are random: 190 bits, so that neither
/// guessing nor a collision is worth a thought.
const RANDOM_CHARS: usize = 32;

/// How many characters the checksum takes: the fewest that hold any CRC32.
const CHECKSUM_CHARS: usize = 6;

/// How many characters follow the prefix of every secret.
const BODY_CHARS: usize = RANDOM_CHARS + CHECKSUM_CHARS;

/// How many characters follow the prefix of a public id: 142 bits. Fewer than a
/// secret has, so that [`scrub`](crate::scrub::scrub) can tell the two apart.
pub const PUBLIC_ID_CHARS: usize = 24;

/// The longest prefix that is taken for one. A longer start is not reported at
/// all: a part of it would be a prefix that nobody wrote.
pub const MAX_PREFIX_BYTES: usize = 32;

const MAX_PREFIX_SEGMENTS: usize = 4;

/// The shortest and longest word before an underscore.
const WORD_BYTES: std::ops::RangeInclusive<usize> = 2..=12;

/// How much of a masked form may be legible at its start: brand and prefix.
const MAX_SHOWN_BYTES: usize = *WORD_BYTES.end() + 1 + MAX_PREFIX_BYTES;

/// The room for a masked form, whatever was presented: it is kept for every
/// request. Fits brand, prefix and last characters; asterisks give way.
const MAX_MASKED_BYTES: usize = 64;

/// How many characters at the end of a masked form help to recognise a key.
const LAST_CHARS: usize = 4;

/// How many characters must stay hidden before the last ones are shown. A
/// password typed into the wrong field is shorter, and stays hidden whole.
const MIN_HIDDEN_CHARS: usize = 16;

/// The full text of a key, which is shown once. Wiped from memory on drop.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Makes a secret from the operating system's randomness.
    ///
    /// The prefix is guest-supplied: whoever calls has asked [`is_prefix`], as a
    /// secret with any other prefix could never be presented.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give. A weaker secret would
    /// be worse than none.
    pub fn generate(brand: Option<&Brand>, prefix: &str) -> Self {
        debug_assert!(is_prefix(prefix), "`{prefix}` cannot be a prefix");
        let brand = brand.map_or("", Brand::as_str);
        // Room for all of it: growing would leave a copy behind that is not wiped.
        let capacity = brand.len() + 1 + prefix.len() + BODY_CHARS;
        let mut text = Zeroizing::new(String::with_capacity(capacity));
        if !brand.is_empty() {
            text.push_str(brand);
            text.push('_');
        }
        text.push_str(prefix);
        append_random(&mut text, RANDOM_CHARS);
        for byte in checksum(text.as_bytes()) {
            text.push(char::from(byte));
        }
        Self(text)
    }

    /// Takes a secret that was read back from the vault.
    pub fn from_string(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the full text. It must not outlive the answer it is written to.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns what is stored of this secret.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }

    /// Returns the form that people recognise the key by: the same as that of
    /// the key when it is presented.
    pub fn masked(&self) -> Masked {
        let text = self.0.as_str();
        let (shown, hidden) = text
            .len()
            .checked_sub(BODY_CHARS)
            .and_then(|at| text.split_at_checked(at))
            .filter(|(shown, body)| shown.len() <= MAX_SHOWN_BYTES && is_body(body, text))
            // Damaged in the vault: which part would be the prefix is unknown.
            .unwrap_or(("", text));
        Masked::new(shown, hidden)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// SHA-256 of a secret's full text: what is stored, and looked up.
///
/// Compared in ordinary time. To learn a digest byte by byte from the time of a
/// look-up gains nothing, as no text with that digest can be found. Unsalted and
/// fast for the same reason: a secret is random, not a password.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of a secret's full text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Returns the digest of any bytes: a component, or a request's body.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the digest's 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the digest that has these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 0xF] {
                hex.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        hex
    }

    /// Reads 64 hexadecimal digits of either case; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let hex: &[u8; 64] = hex.as_bytes().try_into().ok()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns the digest as four big-endian words, the first of which is as good as a
    /// random number.
    pub fn to_words(&self) -> (u64, u64, u64, u64) {
        let word = |n: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.0[n * 8..][..8]);
            u64::from_be_bytes(bytes)
        };
        (word(0), word(1), word(2), word(3))
    }

    /// Returns the digest that [`to_words`](Self::to_words) took apart.
    pub fn from_words(words: (u64, u64, u64, u64)) -> Self {
        let mut bytes = [0; 32];
        let words = [words.0, words.1, words.2, words.3];
        for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        Self(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.to_hex())
    }
}

/// An operator's mark at the front of every secret, `acme` in `acme_sk_live_…`:
/// keeps our keys out of the leak patterns of other issuers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brand(String);

impl Brand {
    /// Returns the brand without its underscore.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Brand {
    type Err = BrandInvalid;

    fn from_str(text: &str) -> Result<Self, BrandInvalid> {
        let fits = WORD_BYTES.contains(&text.len()) && text.bytes().all(is_word_byte);
        fits.then(|| Self(text.to_owned())).ok_or(BrandInvalid)
    }
}

/// An operator-supplied brand that cannot stand in front of a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a brand is 2 to 12 lower-case letters and digits, like `acme`")]
pub struct BrandInvalid;

/// What a caller presents as a secret, read once at the edge.
///
/// This, and never the text, is what a policy is told.
#[derive(Debug)]
pub enum Presented<'a> {
    /// Not a secret that we made, or one with a typing error.
    Malformed {
        /// The readable start without the brand; empty if there is none.
        prefix: &'a str,
        /// What may be shown and logged of it.
        masked: Masked,
    },
    /// Alphabet, length and checksum are right. Nothing else is known of it.
    WellFormed {
        /// The readable start without the brand; never empty.
        prefix: &'a str,
        /// What may be shown and logged of it.
        masked: Masked,
        /// What it is looked up by.
        digest: Digest,
    },
}

impl<'a> Presented<'a> {
    /// Reads a caller-supplied text, without allocating.
    ///
    /// With a brand configured, secrets without it are still read: those that
    /// were made before the brand was chosen go on working.
    pub fn parse(text: &'a str, brand: Option<&Brand>) -> Self {
        let unbranded = brand
            .and_then(|brand| text.strip_prefix(brand.as_str())?.strip_prefix('_'))
            .unwrap_or(text);
        let (prefix, body) = match prefix_len(unbranded) {
            len if len <= MAX_PREFIX_BYTES => unbranded.split_at(len),
            _ => ("", unbranded),
        };
        let masked = Masked::new(&text[..text.len() - body.len()], body);
        if !prefix.is_empty() && is_body(body, text) {
            let digest = Digest::of(text);
            Self::WellFormed { prefix, masked, digest }
        } else {
            Self::Malformed { prefix, masked }
        }
    }

    /// Returns what the key is looked up by; `None` for what cannot be a secret.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::WellFormed { digest, .. } => Some(*digest),
            Self::Malformed { .. } => None,
        }
    }
}

/// A secret as it may be shown: readable start, asterisks, last four characters.
///
/// Lives on the stack, because every request has one and most are never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    bytes: [u8; MAX_MASKED_BYTES],
    len: usize,
}

impl Masked {
    /// `shown` is brand and prefix, of at most [`MAX_SHOWN_BYTES`]; `hidden` may
    /// be anything.
    fn new(shown: &str, hidden: &str) -> Self {
        let hidden_chars = hidden.chars().count();
        let last = hidden
            .as_bytes()
            .last_chunk::<LAST_CHARS>()
            .filter(|last| last.iter().all(u8::is_ascii_alphanumeric))
            .filter(|_| hidden_chars >= MIN_HIDDEN_CHARS + LAST_CHARS)
            .map_or(&[][..], |last| last);
        let room = MAX_MASKED_BYTES - shown.len() - last.len();
        let stars = (hidden_chars - last.len()).min(room);

        let mut bytes = [b'*'; MAX_MASKED_BYTES];
        bytes[..shown.len()].copy_from_slice(shown.as_bytes());
        bytes[shown.len() + stars..][..last.len()].copy_from_slice(last);
        Self { bytes, len: shown.len() + stars + last.len() }
    }

    /// Returns the masked form: printable ASCII, at most 64 bytes.
    pub fn as_str(&self) -> &str {
        // Always ASCII, so that the empty string is never the answer.
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masked({self})")
    }
}

/// Tells whether secrets can begin with `text`: one to four words of 2 to 12
/// lower-case letters and digits, an underscore after each, 32 bytes at most.
pub fn is_prefix(text: &str) -> bool {
    (1..=MAX_PREFIX_BYTES).contains(&text.len()) && prefix_len(text) == text.len()
}

/// Returns the prefix of a readable start of a secret, without its brand; empty
/// if that is none.
pub fn prefix_of<'a>(start: &'a str, brand: Option<&Brand>) -> &'a str {
    let unbranded = brand
        .and_then(|brand| start.strip_prefix(brand.as_str())?.strip_prefix('_'))
        .unwrap_or(start);
    let prefix = &unbranded[..prefix_len(unbranded)];
    if is_prefix(prefix) { prefix } else { "" }
}

/// Makes a public name, `key_` and 24 random characters, that is safe in logs.
///
/// `prefix` is one word and its underscore. With two, the id would have the
/// shape of a secret and be masked wherever it is logged.
///
/// # Panics
///
/// If the operating system has no randomness to give.
pub fn mint_id(prefix: &str) -> String {
    let mut id = String::with_capacity(prefix.len() + PUBLIC_ID_CHARS);
    id.push_str(prefix);
    // Not the system's generator, as for secrets: an id is public, every request
    // gets one, and a system call for each would cost more than its decision.
    Alphanumeric.append_string(&mut rand::rng(), &mut id, PUBLIC_ID_CHARS);
    id
}

fn append_random(text: &mut String, chars: usize) {
    // The system's generator itself: one that is seeded from it lives in our
    // memory, and is copied by a fork. `Alphanumeric` redraws what would bias it.
    Alphanumeric.append_string(&mut UnwrapErr(SysRng), text, chars);
}

/// Returns the length of the longest run of words, each with its underscore,
/// that `text` starts with.
fn prefix_len(text: &str) -> usize {
    let mut len = 0;
    for _ in 0..MAX_PREFIX_SEGMENTS {
        let rest = &text.as_bytes()[len..];
        // One byte more than a word may have: what comes after it must be seen.
        let longest = rest.len().min(WORD_BYTES.end() + 1);
        let word = rest[..longest].iter().take_while(|byte| is_word_byte(**byte)).count();
        if !WORD_BYTES.contains(&word) || rest.get(word) != Some(&b'_') {
            break;
        }
        len += word + 1;
    }
    len
}

/// Tells whether `body`, the end of `text`, is what we put after a prefix.
fn is_body(body: &str, text: &str) -> bool {
    let fits = body.len() == BODY_CHARS && body.bytes().all(|byte| byte.is_ascii_alphanumeric());
    fits && text
        .as_bytes()
        .split_last_chunk()
        .is_some_and(|(before, last)| checksum(before) == *last)
}

/// Returns the CRC32 of `bytes` in base62, padded with zeros on the left.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_CHARS] {
    base62(crc32fast::hash(bytes))
}

fn base62(mut value: u32) -> [u8; CHECKSUM_CHARS] {
    let mut digits = [b'0'; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(value % 62) as usize];
        value /= 62;
    }
    digits
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what was made of `text`: `ok` or `bad`, the prefix, the masked form,
    /// in which `<n>` stands for so many asterisks.
    #[track_caller]
    fn check(text: &str, brand: &str, expected: &str) {
        let brand = brand.parse().ok();
        let found = match Presented::parse(text, brand.as_ref()) {
            Presented::Malformed { prefix, masked } => format!("bad `{prefix}` {masked}"),
            Presented::WellFormed { prefix, masked, digest } => {
                assert_eq!(digest, Digest::of(text));
                format!("ok `{prefix}` {masked}")
            }
        };
        assert_eq!(found, with_asterisks(expected), "`{text}`");
    }

    fn with_asterisks(expected: &str) -> String {
        let Some((before, rest)) = expected.split_once('<') else {
            return expected.to_owned();
        };
        let (count, after) = rest.split_once('>').unwrap();
        format!("{before}{}{after}", "*".repeat(count.parse().unwrap()))
    }

    /// A well-formed secret, and its last four characters.
    fn secret(start: &str) -> (String, String) {
        let mut text = format!("{start}{}", "0a".repeat(RANDOM_CHARS / 2));
        let digits = checksum(text.as_bytes());
        text.extend(digits.map(char::from));
        let last = text[text.len() - LAST_CHARS..].to_owned();
        (text, last)
    }

    #[test]
    fn the_checksum_has_the_digits_of_its_vectors() {
        assert_eq!(base62(0), *b"000000");
        assert_eq!(base62(61), *b"00000z");
        assert_eq!(base62(62), *b"000010");
        assert_eq!(base62(u32::MAX), *b"4gfFC3");
        assert_eq!(checksum(b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ"), *b"0mLq17");
    }

    #[test]
    fn a_generated_secret_is_well_formed() {
        for (brand, start) in [("", ""), ("acme", "acme_")] {
            for prefix in ["pk_", "sk_live_", "sk_org_test_", "aa_bb_cc_dd_"] {
                let secret = Secret::generate(brand.parse().ok().as_ref(), prefix);
                let last = &secret.expose()[start.len() + prefix.len() + 34..];
                let masked = with_asterisks(&format!("{start}{prefix}<34>{last}"));
                check(secret.expose(), brand, &format!("ok `{prefix}` {masked}"));
                assert_eq!(secret.masked().as_str(), masked);
                assert_eq!(secret.digest(), Digest::of(secret.expose()));
            }
        }
        let [one, other] = [(); 2].map(|()| Secret::generate(None, "sk_").digest());
        assert_ne!(one, other);
    }

    #[test]
    fn an_id_draws_from_the_whole_alphabet() {
        let ids: Vec<String> = (0..200).map(|_| mint_id("key_")).collect();
        for id in &ids {
            assert!(id.starts_with("key_") && id.len() == "key_".len() + PUBLIC_ID_CHARS, "`{id}`");
        }
        let drawn: String = ids.iter().map(|id| &id["key_".len()..]).collect();
        for character in BASE62.map(char::from) {
            assert!(drawn.contains(character), "`{character}`");
        }
    }

    #[test]
    fn debug_output_holds_nothing_of_a_secret() {
        let secret = Secret::generate(None, "sk_live_");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let shown = format!("{:?}", Presented::parse(secret.expose(), None));
        assert!(!shown.contains(&secret.expose()[8..14]), "{shown}");
    }

    #[test]
    fn a_well_formed_secret_has_the_prefix_that_its_policy_named() {
        for (start, brand, prefix) in [
            ("sk_live_", "", "sk_live_"),
            ("acme_sk_live_", "acme", "sk_live_"),
            // Made before the brand was configured.
            ("sk_live_", "acme", "sk_live_"),
            // The brand of someone else is a word of the prefix.
            ("acme_sk_live_", "", "acme_sk_live_"),
            ("acme_aa_bb_cc_dd_", "acme", "aa_bb_cc_dd_"),
            // Only the first is the brand.
            ("acme_acme_", "acme", "acme_"),
        ] {
            let (text, last) = secret(start);
            check(&text, brand, &format!("ok `{prefix}` {start}<34>{last}"));
        }
        let prefix = "abcdefghijkl_abcdefghijkl_abcde_";
        let (text, last) = secret(&format!("branded4ever_{prefix}"));
        let masked = format!("branded4ever_{prefix}<15>{last}");
        check(&text, "branded4ever", &format!("ok `{prefix}` {masked}"));
        assert_eq!(Secret::from_string(text).masked().as_str(), with_asterisks(&masked));
    }

    #[test]
    fn a_mistyped_secret_is_malformed() {
        let (good, _) = secret("sk_live_");
        for at in 8..good.len() {
            let mut wrong = good.clone();
            wrong.replace_range(at..=at, if &good[at..=at] == "x" { "y" } else { "x" });
            check(&wrong, "", &format!("bad `sk_live_` sk_live_<34>{}", &wrong[42..]));
        }
        let longer = format!("{good}0");
        check(&longer, "", &format!("bad `sk_live_` sk_live_<35>{}", &longer[43..]));
        let other_mode = good.replace("live", "test");
        check(&other_mode, "", &format!("bad `sk_test_` sk_test_<34>{}", &good[42..]));
        // Nothing that we make is without a prefix.
        let (bare, last) = secret("");
        check(&bare, "", &format!("bad `` <34>{last}"));
    }

    #[test]
    fn a_prefix_is_one_to_four_words() {
        check("sk_live_x", "", "bad `sk_live_` sk_live_*");
        check("sk_live_", "", "bad `sk_live_` sk_live_");
        check("sk_live", "", "bad `sk_` sk_<4>");
        check("s_live_", "", "bad `` <7>");
        check("_sk_", "", "bad `` <4>");
        check("Sk_live_", "", "bad `` <8>");
        check("abcdefghijkl_", "", "bad `abcdefghijkl_` abcdefghijkl_");
        check("abcdefghijklm_", "", "bad `` <14>");
        check("a1_b2_c3_d4_e5_", "", "bad `a1_b2_c3_d4_` a1_b2_c3_d4_<3>");
        let longest = "abcdefghijkl_abcdefghijkl_abcde_";
        check(longest, "", &format!("bad `{longest}` {longest}"));
        check(&format!("x{longest}"), "", "bad `` <33>");
        check("aaaaaaaaaa_bbbbbbbbbb_cccccccccc_", "", "bad `` <33>");
        check("acme_", "acme", "bad `` acme_");
        check("acme", "acme", "bad `` <4>");
    }

    #[test]
    fn a_malformed_text_shows_its_end_only_if_enough_stays_hidden() {
        check("", "", "bad `` ");
        check("x", "", "bad `` *");
        check("abcdefghijklmnopqrs", "", "bad `` <19>");
        check("abcdefghijklmnopqrst", "", "bad `` <16>qrst");
        check("abcdefghijklmnopq-st", "", "bad `` <20>");
        check(concat!("sk_", "live_abcdefghijklmnopqrs"), "", "bad `sk_live_` sk_live_<19>");
        // Counted in characters: ten of them are not twenty.
        check("ééééééabcd", "", "bad `` <10>");
        check("éééééééééééééééééé\u{0}\n", "", "bad `` <20>");
        check("********************", "", "bad `` <20>");
        check(&"é".repeat(10_000), "", "bad `` <64>");
        check(&format!("sk_{}", "a".repeat(10_000)), "", "bad `sk_` sk_<57>aaaa");
    }

    #[test]
    fn a_damaged_secret_from_the_vault_shows_no_prefix() {
        for (text, expected) in [("", ""), ("my_password", "<11>"), (&"é".repeat(30), "<30>")] {
            let masked = Secret::from_string(text.to_owned()).masked();
            assert_eq!(masked.as_str(), with_asterisks(expected), "`{text}`");
        }
    }

    #[test]
    fn a_digest_survives_hex_and_words() {
        let digest = Digest::of("abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_hex(), hex);
        assert_eq!(format!("{digest:?}"), format!("Digest({hex})"));
        assert_eq!(Digest::from_hex(hex), Some(digest));
        assert_eq!(Digest::from_hex(&hex.to_uppercase()), Some(digest));
        assert_eq!(digest.to_words().0, 0xba78_16bf_8f01_cfea);
        assert_eq!(Digest::from_words(digest.to_words()), digest);
        let (longer, not_hex, unicode) = (format!("{hex}0"), hex.replace('b', "g"), "é".repeat(32));
        for wrong in ["", "ba", &hex[1..], &longer, &not_hex, &unicode] {
            assert_eq!(Digest::from_hex(wrong), None, "`{wrong}`");
        }
    }

    #[test]
    fn a_brand_is_one_short_word() {
        for text in ["ab", "acme", "4you", "a1b2c3d4e5f6"] {
            assert_eq!(text.parse::<Brand>().unwrap().as_str(), text);
        }
        for text in ["", "a", "abcdefghijklm", "Acme", "ac_me", "acme_", "äcme", "ac me"] {
            assert_eq!(text.parse::<Brand>(), Err(BrandInvalid), "`{text}`");
        }
    }

    #[test]
    fn a_policy_may_name_only_prefixes_that_can_be_read_back() {
        for text in ["sk_", "sk_org_live_", "a1_b2_c3_d4_", "abcdefghijkl_abcdefghijkl_abcde_"] {
            assert!(is_prefix(text), "`{text}`");
        }
        for text in ["", "_", "sk", "sk_live", "SK_", "sk__", "é_", "a1_b2_c3_d4_e5_"] {
            assert!(!is_prefix(text), "`{text}`");
        }
        assert!(!is_prefix("aaaaaaaaaa_bbbbbbbbbb_cccccccccc_"));
    }
}
