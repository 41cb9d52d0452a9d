//! What people are told when they are asked to confirm.
//!
//! The text holds names that callers have chosen. They are cleaned once, here,
//! so that none of them can break out of its line, hide a part of it, or carry a
//! secret.

use std::fmt::Write as _;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::code::Code;
use crate::scrub::scrub;

/// How long the description of an operation may be, in characters: what a person
/// reads before typing a code, and a few times the longest name of a key. The
/// rest is cut off.
pub(super) const MAX_ACTION_CHARS: usize = 300;

/// How long the name of a caller may be, in characters. The rest is cut off.
pub(super) const MAX_CALLER_CHARS: usize = 100;

/// A code on its way to a person.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) id: &'a str,
    pub(super) code: &'a Code,
    /// Cleaned: see [`for_people`].
    pub(super) action: &'a str,
    /// Cleaned, too.
    pub(super) caller: &'a str,
    /// Seconds since 1970.
    pub(super) now: u64,
    pub(super) expires_at: Timestamp,
}

impl Message<'_> {
    /// Returns the text of a mail.
    pub(super) fn text(&self) -> Zeroizing<String> {
        let Self { id, code, action, caller, expires_at, .. } = self;
        let code = code.expose();
        let mut text = with_room();
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "Somebody asks to {action}.\n\
             \n\
             Code:        {code}\n\
             Asked by:    {caller}\n\
             Valid until: {expires_at}, once, and for this operation only\n\
             Reference:   {id}\n\
             \n\
             To confirm it, enter the code where you asked for the operation.\n\
             Nobody else needs it.\n\
             \n\
             If this was not you: somebody has your operator credential. Keep the\n\
             code to yourself, and replace the credential.\n"
        );
        text
    }

    /// Returns the text for the console of a host under development.
    pub(super) fn console_text(&self) -> Zeroizing<String> {
        let Self { id, code, action, caller, expires_at, .. } = self;
        let code = code.expose();
        let mut text = with_room();
        let _ = write!(
            text,
            "\n\
             ======================== VERIFICATION CODE ========================\n\
             \n\
             {code}  to {action}\n\
             \n\
             Asked by {caller}, {id}; valid until {expires_at}, once.\n\
             \n\
             Codes come to the console because that is the default for\n\
             development: whoever reads this log can confirm everything. In\n\
             production set --verification smtp, with --smtp-url, --smtp-from and\n\
             --verification-to, or --verification webhook.\n\
             ====================================================================\n\
             \n"
        );
        text
    }
}

/// Room for all of a message: growing would leave a copy of the code behind that
/// is not wiped.
fn with_room() -> Zeroizing<String> {
    const FRAME_BYTES: usize = 1024;
    let names = (MAX_ACTION_CHARS + MAX_CALLER_CHARS + 2) * char::MAX.len_utf8();
    Zeroizing::new(String::with_capacity(FRAME_BYTES + names))
}

/// Cleans a caller-supplied text: one line of at most `max_chars`, without
/// secrets and without what would show it otherwise than it is.
pub(super) fn for_people(text: &str, max_chars: usize) -> String {
    // Before the search for secrets: what is left out must not hide one.
    let line: String = text
        .chars()
        .filter(|c| !is_invisible(*c))
        .map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c })
        .collect();
    let line = scrub(line.trim());
    match line.char_indices().nth(max_chars) {
        None => line.into_owned(),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

/// Whether a character shows nothing itself but changes how others are shown:
/// the order of letters, joints, and marks that editors leave behind.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{AD}'
            | '\u{61C}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(action: &str, caller: &str, read: impl FnOnce(&Message<'_>) -> T) -> T {
        read(&Message {
            id: "vrf_1",
            code: &Code::parse("012345").unwrap(),
            action,
            caller,
            now: 1_000,
            expires_at: Timestamp::from_second(1_600).unwrap(),
        })
    }

    #[test]
    fn names_stay_in_their_line_and_keep_no_secret() {
        let secret = crate::secret::Secret::generate(None, "sk_live_");
        let split = secret.expose().replacen("live", "li\u{200B}ve", 1);
        let masked = secret.masked().to_string();
        for (text, expected) in [
            ("create a key named 'x'", "create a key named 'x'"),
            ("naïve ünïcödé 東京", "naïve ünïcödé 東京"),
            ("'x\r\nBcc: mallory@example.com'", "'x  Bcc: mallory@example.com'"),
            ("a\nb\u{0}c\u{1b}[2Kd\u{85}e\u{2028}f\u{2029}g", "a b c [2Kd e f g"),
            ("'\u{202E}tset\u{202C}'", "'tset'"),
            ("\u{FEFF}a\u{200B}b\u{AD}c", "abc"),
            (" \t a \n", "a"),
            ("", ""),
            (&format!("show {}", secret.expose()), &format!("show {masked}")),
            (&format!("show {split}"), &format!("show {masked}")),
        ] {
            assert_eq!(for_people(text, MAX_ACTION_CHARS), expected, "`{text:?}`");
        }
    }

    #[test]
    fn a_long_name_is_cut_off() {
        for (chars, expected) in [(299, 299), (300, 300), (301, 301), (10_000, 301)] {
            let found = for_people(&"é".repeat(chars), MAX_ACTION_CHARS);
            assert_eq!(found.chars().count(), expected, "{chars}");
            assert_eq!(found.ends_with('…'), chars > MAX_ACTION_CHARS, "{chars}");
        }
    }

    #[test]
    fn a_message_says_what_by_whom_until_when_and_what_to_do_otherwise() {
        for text in [
            message("create a key", "the operator", |message| message.text()),
            message("create a key", "the operator", |message| message.console_text()),
        ] {
            for part in ["012345", "create a key", "the operator", "1970-01-01T00:26:40Z", "vrf_1"]
            {
                assert!(text.contains(part), "`{part}` is not in {}", *text);
            }
        }
        let mail = message("create a key", "the operator", |message| message.text());
        assert!(mail.contains("If this was not you: somebody has your operator credential"));
        let console = message("create a key", "the operator", |message| message.console_text());
        for flag in ["--verification smtp", "--smtp-url", "--smtp-from", "--verification-to"] {
            assert!(console.contains(flag), "{flag}");
        }
    }

    #[test]
    fn the_longest_message_fits_the_room_for_it() {
        let long = |max| for_people(&"\u{10348}".repeat(max + 1), max);
        let (action, caller) = (long(MAX_ACTION_CHARS), long(MAX_CALLER_CHARS));
        for text in [
            message(&action, &caller, |message| message.text()),
            message(&action, &caller, |message| message.console_text()),
        ] {
            assert_eq!(text.capacity(), with_room().capacity());
        }
    }

    #[test]
    fn a_message_does_not_print_its_code() {
        let printed = message("create a key", "the operator", |message| format!("{message:?}"));
        assert!(!printed.contains("012345"), "{printed}");
    }
}
