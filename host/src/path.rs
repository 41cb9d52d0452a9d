//! Refuses paths that two parsers could read differently.
//!
//! The policy authorizes a path and the upstream serves it. Where the two could
//! disagree on what it means, `/v1/public/%2e%2e/secret`, an allowed request is
//! a way to a forbidden one. Such a path is not normalized but refused, for
//! everyone: the very bytes that were authorized are forwarded.

/// The longest path that is read: twenty times the longest route of Stripe, ids
/// included. A longer one would only fill the policy's memory and the log.
pub const MAX_PATH_BYTES: usize = 2048;

/// Returns normally if `path`, without its query, has one reading only.
///
/// # Errors
///
/// The first thing that is wrong with a caller-supplied path.
pub fn check_path(path: &str) -> Result<(), PathInvalid> {
    let bytes = path.as_bytes();
    if bytes.len() > MAX_PATH_BYTES {
        return Err(PathInvalid::TooLong);
    }
    if bytes.first() != Some(&b'/') {
        return Err(PathInvalid::NotAbsolute);
    }
    let mut encoded_utf8 = false;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match CLASSES[usize::from(*byte)] {
            Class::Plain => {}
            Class::Slash => check_segment_start(&bytes[at + 1..])?,
            Class::Percent => {
                encoded_utf8 |= check_escape(&bytes[at + 1..])? >= 0x80;
                at += 2;
            }
            Class::Refused(reason) => return Err(reason),
        }
        at += 1;
    }
    if encoded_utf8 { check_utf8(bytes) } else { Ok(()) }
}

/// Why a path was refused. Each message says what to send instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathInvalid {
    /// Longer than [`MAX_PATH_BYTES`].
    #[error("the path is longer than {MAX_PATH_BYTES} bytes, send long values in the body")]
    TooLong,
    /// Empty, `*`, or a whole URL.
    #[error("the path must start with `/`")]
    NotAbsolute,
    /// `//`, which some servers read as `/`.
    #[error("the path holds `//`, send a single `/`")]
    EmptySegment,
    /// `/./` or `/../`.
    #[error("the path holds a `.` or `..` segment, send the path that it leads to")]
    DotSegment,
    /// `\`, which some servers read as `/`.
    #[error("the path holds a backslash, send `/`")]
    Backslash,
    /// `;`, after which some servers drop the rest of the segment.
    #[error("the path holds a `;`, send it as `%3B`")]
    Semicolon,
    /// `?` or `#`, where the path should have ended.
    #[error("the path holds a `?` or `#`, send it as `%3F` or `%23`")]
    Delimiter,
    /// A space. Some servers end the path at it.
    #[error("the path holds a blank, send it as `%20`")]
    Blank,
    /// A control character.
    #[error("the path holds a control character, send it without")]
    Control,
    /// A character outside ASCII, whose encoding would be a guess.
    #[error("the path holds a character outside ascii, send its utf-8 bytes percent-encoded")]
    NotAscii,
    /// One of ``"<>[]^`{|}``, which no URL may hold and some servers encode.
    #[error("the path holds a character that urls may not, send it percent-encoded")]
    NotUrl,
    /// `%` without two hexadecimal digits.
    #[error("the path holds a `%` without two hexadecimal digits, send `%` only to encode")]
    BadEscape,
    /// An encoded letter, digit, `-`, `.`, `_` or `~`.
    #[error("the path encodes a letter, digit, `-`, `.`, `_` or `~`, send the character itself")]
    EncodedUnreserved,
    /// `%2F` or `%5C`, which some servers decode before they split the path.
    #[error("the path holds an encoded `/` or backslash, send the value in the query or body")]
    EncodedSlash,
    /// `%25`: whoever decodes twice reads another path.
    #[error("the path is percent-encoded twice, encode it once")]
    EncodedPercent,
    /// `%00` and the like.
    #[error("the path holds an encoded control character, send it without")]
    EncodedControl,
    /// Encoded bytes that are not UTF-8. `%C0%AF` is `/` to a lenient decoder.
    #[error("the path holds encoded bytes that are not utf-8, encode the text as utf-8")]
    NotUtf8,
}

/// What to do at a byte.
#[derive(Clone, Copy)]
enum Class {
    Plain,
    Slash,
    Percent,
    Refused(PathInvalid),
}

/// The class of every byte: one look per byte, because every request is read.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = class(byte);
        if byte == u8::MAX {
            break;
        }
        byte += 1;
    }
    classes
};

const fn class(byte: u8) -> Class {
    match byte {
        b'/' => Class::Slash,
        b'%' => Class::Percent,
        b'\\' => Class::Refused(PathInvalid::Backslash),
        b';' => Class::Refused(PathInvalid::Semicolon),
        b'?' | b'#' => Class::Refused(PathInvalid::Delimiter),
        b' ' => Class::Refused(PathInvalid::Blank),
        b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
            Class::Refused(PathInvalid::NotUrl)
        }
        0x80.. => Class::Refused(PathInvalid::NotAscii),
        _ if byte.is_ascii_control() => Class::Refused(PathInvalid::Control),
        _ => Class::Plain,
    }
}

fn check_segment_start(rest: &[u8]) -> Result<(), PathInvalid> {
    match rest {
        [b'/', ..] => Err(PathInvalid::EmptySegment),
        [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..] => {
            Err(PathInvalid::DotSegment)
        }
        _ => Ok(()),
    }
}

/// Returns the byte that the digits after a `%` stand for.
fn check_escape(rest: &[u8]) -> Result<u8, PathInvalid> {
    let byte = escaped_byte(rest).ok_or(PathInvalid::BadEscape)?;
    match byte {
        b'/' | b'\\' => Err(PathInvalid::EncodedSlash),
        b'%' => Err(PathInvalid::EncodedPercent),
        b'-' | b'.' | b'_' | b'~' => Err(PathInvalid::EncodedUnreserved),
        _ if byte.is_ascii_alphanumeric() => Err(PathInvalid::EncodedUnreserved),
        _ if byte.is_ascii_control() => Err(PathInvalid::EncodedControl),
        _ => Ok(byte),
    }
}

fn escaped_byte(rest: &[u8]) -> Option<u8> {
    let [high, low, ..] = rest else {
        return None;
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Off the straight line: few paths hold encoded characters outside ASCII.
#[cold]
fn check_utf8(path: &[u8]) -> Result<(), PathInvalid> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let escaped = if *byte == b'%' { escaped_byte(&path[at + 1..]) } else { None };
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    str::from_utf8(&decoded).map(drop).map_err(|_| PathInvalid::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::PathInvalid::*;
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Result<(), PathInvalid>) {
        assert_eq!(check_path(path), expected, "`{path}`");
    }

    #[test]
    fn a_path_with_one_reading_passes() {
        for path in [
            "/",
            "/v1/charges",
            "/v1/charges/",
            "/v1/customers/cus_123/sources",
            "/v1/a-b.c_d~e!$&'()*+,=:@f",
            "/v1/...",
            "/v1/.well-known/a..b/..a/a..",
            "/v1/a%20b%3Bc%3Fd%23e%2Bf%2bg%3A",
            "/v1/caf%C3%A9/%e2%82%ac",
            "/************",
        ] {
            check(path, Ok(()));
        }
    }

    #[test]
    fn a_path_starts_with_a_slash() {
        for path in ["", "v", "*", "v1/charges", "http://example.com/", "?", "é", "\\", "%2F"] {
            check(path, Err(NotAbsolute));
        }
    }

    #[test]
    fn an_escape_has_two_hexadecimal_digits() {
        for path in ["/%", "/%6", "/%zz", "/%6g", "/%%61", "/% 6", "/%u0061", "/%é", "/%+1", "/%/a"]
        {
            check(path, Err(BadEscape));
        }
    }

    #[test]
    fn an_unreserved_character_is_never_encoded() {
        for path in ["/%61", "/%41", "/%30", "/%2D", "/%2d", "/%2E%2E/", "/%2e", "/%5F", "/%7e"] {
            check(path, Err(EncodedUnreserved));
        }
    }

    #[test]
    fn an_escape_that_is_decoded_early_or_twice_is_refused() {
        for path in ["/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb", "/%2f"] {
            check(path, Err(EncodedSlash));
        }
        for path in ["/%25", "/%2561", "/%252F", "/%25%25"] {
            check(path, Err(EncodedPercent));
        }
        for path in ["/%00", "/a%0d%0ab", "/%09", "/%1F", "/%7F"] {
            check(path, Err(EncodedControl));
        }
    }

    #[test]
    fn encoded_bytes_are_utf8() {
        for path in ["/%C0%AF", "/%E0%80%AF", "/%FF", "/%80", "/caf%E9", "/%C3/%A9", "/%ED%A0%80"] {
            check(path, Err(NotUtf8));
        }
    }

    #[test]
    fn segments_are_neither_empty_nor_dots() {
        for path in ["//", "//v1", "/v1//charges", "/v1/charges//"] {
            check(path, Err(EmptySegment));
        }
        for path in ["/.", "/..", "/./", "/../", "/v1/./a", "/v1/../a", "/v1/a/.", "/v1/a/.."] {
            check(path, Err(DotSegment));
        }
    }

    #[test]
    fn characters_that_servers_disagree_on_are_refused() {
        for (path, expected) in [
            ("/v1\\charges", Backslash),
            ("/v1/charges;a=b", Semicolon),
            ("/;", Semicolon),
            ("/v1/charges?a=b", Delimiter),
            ("/v1/charges#a", Delimiter),
            ("/v1/a b", Blank),
            ("/v1/a\tb", Control),
            ("/v1/a\nb", Control),
            ("/\0", Control),
            ("/\u{7F}", Control),
            ("/é", NotAscii),
            ("/v1/／", NotAscii),
        ] {
            check(path, Err(expected));
        }
        for character in "\"<>[]^`{|}".chars() {
            check(&format!("/v1/{character}"), Err(NotUrl));
        }
    }

    #[test]
    fn a_path_has_2048_bytes_at_most() {
        let longest = format!("/{}", "a".repeat(MAX_PATH_BYTES - 1));
        check(&longest, Ok(()));
        check(&format!("{longest}a"), Err(TooLong));
        check(&"é".repeat(5_000), Err(TooLong));
    }

    #[test]
    fn every_byte_that_passes_may_stand_in_a_url() {
        for byte in 0..=0x7F_u8 {
            let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte);
            let path = format!("/a{}a", char::from(byte));
            assert_eq!(check_path(&path).is_ok(), plain || byte == b'/', "`{path}`");
        }
    }
}
