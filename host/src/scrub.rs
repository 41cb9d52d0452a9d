//! Takes secrets out of text that is about to be logged or shown.
//!
//! People put keys into paths, queries and header values. [`scrub`] finds them
//! by shape alone, ours and other issuers': the host names no kind of key. The
//! checksum is not asked, because a mistyped secret is still nearly a secret.

use std::borrow::Cow;

use crate::secret::PUBLIC_ID_CHARS;

/// How many base62 characters after `word_` make a secret: one more than public
/// ids have, ours and those of Stripe (`key_…`, `pi_…`), which must stay legible.
const MIN_BODY_AFTER_ONE_WORD: usize = PUBLIC_ID_CHARS + 1;

/// How many make one after `word_word_`, where no public id is: the fewest that
/// issuers use (`sk_test_` and 24 characters).
const MIN_BODY_AFTER_TWO_WORDS: usize = 24;

/// What replaces the hidden part: as many asterisks as one of our own secrets
/// has, whatever the length, so that scrubbing never makes text much longer.
const ASTERISKS: &str = "**********************************";

/// Replaces each secret in `text` by its masked form: the readable start,
/// asterisks, the last four characters.
///
/// Finds them next to anything (`=`, `&`, `/`, quotes, other words) and with any
/// of their characters percent-encoded, once or several times. Takes linear
/// time, and allocates only if something is found.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    // Most text holds nothing as long as a secret, percent-encoded or not.
    let mut parts = bytes.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'%');
    if parts.all(|part| part.len() < MIN_BODY_AFTER_TWO_WORDS) {
        return Cow::Borrowed(text);
    }

    let mut scrubbed = String::new();
    let mut copied = 0;
    let mut run = Run::default();
    let mut at = 0;
    loop {
        // The end of the text ends a run as any character outside base62 does.
        let (byte, len) = if at < bytes.len() { unit(&bytes[at..]) } else { (0, 0) };
        if byte.is_ascii_alphanumeric() {
            run.push(byte);
        } else {
            if run.is_secret() {
                scrubbed.push_str(&text[copied..run.start]);
                scrubbed.push_str(ASTERISKS);
                scrubbed.extend(run.last.to_be_bytes().map(char::from));
                copied = at;
            }
            run = run.next(byte, at + len);
        }
        if len == 0 {
            break;
        }
        at += len;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    scrubbed.push_str(&text[copied..]);
    Cow::Owned(scrubbed)
}

/// The base62 characters since the last one that was something else.
#[derive(Default)]
struct Run {
    /// Where in the text it begins.
    start: usize,
    /// How many characters it has. Not bytes: they may be percent-encoded.
    chars: usize,
    /// How many words, each with its underscore, stand directly before it.
    words: usize,
    /// How many lower-case letters and digits it ends with: the word that an
    /// underscore would complete.
    word_chars: usize,
    /// Its last four characters, one in each byte.
    last: u32,
}

impl Run {
    fn push(&mut self, byte: u8) {
        self.chars += 1;
        self.word_chars = if byte.is_ascii_uppercase() { 0 } else { self.word_chars + 1 };
        self.last = self.last << 8 | u32::from(byte);
    }

    fn is_secret(&self) -> bool {
        match self.words {
            0 => false,
            1 => self.chars >= MIN_BODY_AFTER_ONE_WORD,
            _ => self.chars >= MIN_BODY_AFTER_TWO_WORDS,
        }
    }

    /// The run that begins at `start`, after the `byte` that ended this one.
    fn next(&self, byte: u8, start: usize) -> Self {
        let words = match byte {
            // A long word counts, as its end is a word too: a secret may be
            // glued to what stands before it.
            b'_' if self.word_chars >= 2 => {
                // Only a run that is a word from its start continues the words
                // before it. `AB` in `sk_ABcd_` does not.
                let before = if self.word_chars == self.chars { self.words } else { 0 };
                before + 1
            }
            _ => 0,
        };
        Self { start, words, ..Self::default() }
    }
}

/// Reads one character, percent-encoded or not, and the bytes that it takes.
///
/// `%5F` and `%255F` are both an underscore: what is logged may have been
/// encoded by more than one program.
fn unit(bytes: &[u8]) -> (u8, usize) {
    let Some(mut rest) = bytes.strip_prefix(b"%") else {
        return (bytes[0], 1);
    };
    while let Some(deeper) = rest.strip_prefix(b"25") {
        rest = deeper;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let decoded = match rest {
        [high, low, ..] => digit(high).zip(digit(low)).map(|(high, low)| high << 4 | low),
        _ => None,
    };
    match decoded.and_then(|decoded| u8::try_from(decoded).ok()) {
        Some(byte) => (byte, bytes.len() - rest.len() + 2),
        None => (b'%', 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "4eC39HqLyjWDarjtT1zdp7dc4eC39HqLyjWXyZ";

    /// `SECRET` stands for a body of ours and `MASKED` for its masked form.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let text = text.replace("SECRET", BODY);
        let expected = expected.replace("MASKED", &format!("{ASTERISKS}WXyZ"));
        let scrubbed = scrub(&text);
        assert_eq!(scrubbed, expected, "`{text}`");
        assert_eq!(matches!(scrubbed, Cow::Borrowed(_)), text == expected, "`{text}`");
    }

    #[track_caller]
    fn check_untouched(text: &str) {
        check(text, text);
    }

    #[test]
    fn a_secret_is_masked_whatever_it_is_glued_to() {
        for (before, after) in [
            ("", ""),
            ("/v1/charges/", "/capture"),
            ("?key=", "&limit=3"),
            ("{\"key\":\"", "\"}"),
            ("Bearer ", " "),
            ("%22", "%22"),
            ("KEY", "-"),
            ("é", "é"),
            ("my", "_x"),
            ("100%", "%"),
            ("x_", "\u{0}"),
        ] {
            check(
                &format!("{before}sk_live_SECRET{after}"),
                &format!("{before}sk_live_MASKED{after}"),
            );
        }
        check("pk_SECRET", "pk_MASKED");
        check("acme_sk_org_test_SECRET", "acme_sk_org_test_MASKED");
        check("a1_b2_c3_d4_e5_f6_SECRET", "a1_b2_c3_d4_e5_f6_MASKED");
    }

    #[test]
    fn each_of_several_secrets_is_masked() {
        check("sk_live_SECRET,rk_test_SECRET", "sk_live_MASKED,rk_test_MASKED");
        let glued = format!("sk_live_{ASTERISKS}yZsk_live_MASKED");
        check("sk_live_SECRETsk_live_SECRET", &glued);
    }

    #[test]
    fn percent_encoding_hides_no_secret() {
        check("sk%5Flive%5FSECRET", "sk%5Flive%5FMASKED");
        check("sk%5flive%5fSECRET", "sk%5flive%5fMASKED");
        check("sk%255Flive%25255FSECRET", "sk%255Flive%25255FMASKED");
        check("%73k_live_SECRET", "%73k_live_MASKED");
        let encoded: String = BODY.bytes().map(|byte| format!("%{byte:02x}")).collect();
        check(&format!("sk_live_{encoded}&a=%5F"), "sk_live_MASKED&a=%5F");
    }

    /// A text with the shape of a secret, put together here so that no scanner
    /// takes this file for a leak.
    fn fake(prefix: &str, words: usize) -> String {
        format!("{prefix}{}", "Fake".repeat(words))
    }

    #[test]
    fn secrets_of_other_issuers_are_masked() {
        let masked = |last: &str| format!("{ASTERISKS}{last}");
        check(&fake("sk_test_", 6), &format!("sk_test_{}", masked("Fake")));
        check(&fake("ghp_", 9), &format!("ghp_{}", masked("Fake")));
        check("whsec_SECRET", "whsec_MASKED");
        check(
            &fake("pi_FakeFakeFakeFakeFakeFake_secret_", 6),
            &format!("pi_FakeFakeFakeFakeFakeFake_secret_{}", masked("Fake")),
        );
    }

    #[test]
    fn public_ids_and_ordinary_text_stay_legible() {
        for text in [
            "",
            "a",
            "_",
            "%",
            "%5",
            "%5F",
            "/v1/payment_intents/pi_FakeFakeFakeFakeFakeFake/capture",
            "/v1/treasury/inbound_transfers?starting_after=key_FakeFakeFakeFakeFakeFake",
            "sk_live_",
            "sk_live_**********************************7dcZ",
            concat!("sk_", "live_FakeFakeFakeFakeFakeFak"),
            "a_SECRETX",
            "naïve_ünïcödé_text",
        ] {
            check_untouched(&text.replace("SECRETX", BODY));
        }
        check_untouched(&crate::secret::mint_id("key_"));
        check_untouched(BODY);
    }

    #[test]
    fn what_is_scrubbed_is_clean() {
        for text in ["sk_live_SECRET", "a=sk%5Flive%5FSECRET", "pk_SECRET,sk_SECRET"] {
            let once = scrub(&text.replace("SECRET", BODY)).into_owned();
            check_untouched(&once);
            assert!(!once.contains(&BODY[..8]), "`{once}`");
        }
    }

    #[test]
    fn every_secret_that_we_make_is_found() {
        for prefix in ["pk_", "sk_live_", "sk_org_test_"] {
            let secret = crate::secret::Secret::generate(None, prefix);
            let text = format!("/v1/x?k={}&l=1", secret.expose());
            assert_eq!(scrub(&text), format!("/v1/x?k={}&l=1", secret.masked()));
        }
    }

    #[test]
    fn long_text_takes_linear_time() {
        for part in ["a", "_", "aa_", "%25", "%", "*", "é", "sk_live_"] {
            let text = part.repeat(1_000_000 / part.len());
            // Quadratic time would be minutes here.
            assert!(!scrub(&text).is_empty());
        }
        let text = "sk_live_SECRET&".repeat(200);
        check(&text, &"sk_live_MASKED&".repeat(200));
    }
}
