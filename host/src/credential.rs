//! Finds the secret that a request presents in its `Authorization` header.
//!
//! Both ways in which HTTP clients send an API key are read: `Bearer <secret>`,
//! and Basic authentication with the secret as the user name.

use std::fmt;
use std::ops::Deref;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

/// The longest credential that is looked at, without its scheme. Our own
/// secrets have at most 83 bytes and those that other issuers made up to about
/// 200; the rest is for Base64 and a password. A longer one is refused before it
/// costs a digest or a decoding.
pub const MAX_CREDENTIAL_BYTES: usize = 512;

/// Returns the secret in `headers`, or `None` if the caller presents nothing.
///
/// # Errors
///
/// If there is a credential but no one reading of it. To go on without it would
/// serve the caller as someone else than it says it is.
pub fn presented_secret(
    headers: &HeaderMap,
) -> Result<Option<PresentedSecret<'_>>, CredentialError> {
    match authorization(headers)? {
        Some(value) => secret_in(value),
        None => Ok(None),
    }
}

/// Returns the one header that [`secret_in`] reads. A clone of it shares its
/// bytes: for who changes the headers while the secret is still needed.
///
/// # Errors
///
/// If there are several.
pub fn authorization(headers: &HeaderMap) -> Result<Option<&HeaderValue>, CredentialError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(CredentialError::Repeated);
    }
    Ok(value)
}

/// Returns the secret in an `Authorization` header, as [`presented_secret`] does.
///
/// # Errors
///
/// If there is a credential but no one reading of it.
pub fn secret_in(value: &HeaderValue) -> Result<Option<PresentedSecret<'_>>, CredentialError> {
    let value = value.as_bytes().trim_ascii();
    let scheme_len = value.iter().position(|byte| is_blank(*byte)).unwrap_or(value.len());
    let (scheme, rest) = value.split_at(scheme_len);
    let credential = rest.trim_ascii_start();
    if credential.len() > MAX_CREDENTIAL_BYTES {
        return Err(CredentialError::TooLong);
    }
    if scheme.eq_ignore_ascii_case(b"bearer") {
        let token = visible(credential)?;
        Ok((!token.is_empty()).then_some(PresentedSecret::Borrowed(token)))
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        basic_user(credential)
    } else if scheme.is_empty() {
        Ok(None)
    } else {
        Err(CredentialError::UnknownScheme)
    }
}

/// The text that a caller presents as its secret. Not known to be one, but to
/// be treated like one: `Debug` is silent, and what was decoded is wiped.
pub enum PresentedSecret<'a> {
    /// A part of the header. The path that nearly every request takes.
    Borrowed(&'a str),
    /// Decoded from Basic authentication.
    Decoded(Zeroizing<String>),
}

impl Deref for PresentedSecret<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Decoded(text) => text,
        }
    }
}

impl fmt::Debug for PresentedSecret<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedSecret(…)")
    }
}

/// Why the `Authorization` header could not be read.
///
/// No message repeats any of it: what is wrong may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// More than one header, of which the upstream might choose another.
    #[error("send one `authorization` header, not several")]
    Repeated,
    /// Neither of the two schemes, or a key without a scheme.
    #[error("use `authorization: Bearer <key>`, or basic authentication with the key as user name")]
    UnknownScheme,
    /// No key is as long.
    #[error("the credential is longer than {MAX_CREDENTIAL_BYTES} bytes")]
    TooLong,
    /// Blanks, control characters or anything outside ASCII.
    #[error("the key may hold visible ascii characters only, and no blanks")]
    NotVisible,
    /// Basic authentication that does not decode.
    #[error("the credential of basic authentication must be base64, padded with `=`")]
    BadBase64,
    /// Basic authentication without a password, not even an empty one.
    #[error("basic authentication needs a colon after the key, like `<key>:`")]
    NoColon,
}

/// Returns the user name in a credential of Basic authentication. The password
/// is not looked at, and wiped with the rest.
fn basic_user(credential: &[u8]) -> Result<Option<PresentedSecret<'_>>, CredentialError> {
    if credential.is_empty() {
        return Ok(None);
    }
    // Room for all of it at once, because `decode` leaves its buffer unwiped
    // when it fails half-way.
    let mut decoded = Zeroizing::new([0; MAX_CREDENTIAL_BYTES]);
    let len = STANDARD
        .decode_slice(credential, decoded.as_mut_slice())
        .map_err(|_| CredentialError::BadBase64)?;
    let mut parts = decoded[..len].splitn(2, |byte| *byte == b':');
    let (Some(user), Some(_password)) = (parts.next(), parts.next()) else {
        return Err(CredentialError::NoColon);
    };
    let user = visible(user)?;
    Ok((!user.is_empty()).then(|| PresentedSecret::Decoded(Zeroizing::new(user.to_owned()))))
}

/// Returns `bytes` as text if each is a visible ASCII character.
fn visible(bytes: &[u8]) -> Result<&str, CredentialError> {
    if !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(CredentialError::NotVisible);
    }
    str::from_utf8(bytes).map_err(|_| CredentialError::NotVisible)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::CredentialError::*;
    use super::*;

    /// `expected` is the secret, and empty if the caller presents none.
    #[track_caller]
    fn check(values: &[&[u8]], expected: Result<&str, CredentialError>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        let found = presented_secret(&headers)
            .map(|secret| secret.map_or(String::new(), |secret| secret.to_owned()));
        assert_eq!(found.as_deref().map_err(|err| *err), expected, "{values:?}");
    }

    #[track_caller]
    fn check_basic(decoded: &[u8], expected: Result<&str, CredentialError>) {
        check(&[format!("Basic {}", STANDARD.encode(decoded)).as_bytes()], expected);
    }

    #[test]
    fn a_bearer_credential_is_the_secret() {
        check(&[b"Bearer sk_live_1"], Ok("sk_live_1"));
        check(&[b"bearer sk_live_1"], Ok("sk_live_1"));
        check(&[b"BEARER \t  sk_live_1 "], Ok("sk_live_1"));
        check(&[b"Bearer ************"], Ok("************"));
        check(&[b"Bearer x"], Ok("x"));
    }

    #[test]
    fn basic_authentication_has_the_secret_as_user_name() {
        check_basic(b"sk_live_1:", Ok("sk_live_1"));
        check_basic(b"sk_live_1:password:x", Ok("sk_live_1"));
        check_basic(b"sk_live_1:\xFF\0", Ok("sk_live_1"));
        check(&[b"bASIC   c2tfOg=="], Ok("sk_"));
    }

    #[test]
    fn an_empty_credential_is_none() {
        check(&[], Ok(""));
        check(&[b""], Ok(""));
        check(&[b" "], Ok(""));
        check(&[b"Bearer"], Ok(""));
        check(&[b"Bearer   "], Ok(""));
        check(&[b"Basic"], Ok(""));
        check_basic(b"", Ok(""));
        check_basic(b":", Ok(""));
        check_basic(b":sk_live_1", Ok(""));
    }

    #[test]
    fn a_credential_with_two_readings_is_refused() {
        check(&[b"Bearer a", b"Bearer a"], Err(Repeated));
        check(&[b"", b"Bearer a"], Err(Repeated));
        check(&[b"Bearer a, Bearer b"], Err(NotVisible));
        check(&[b"Bearer a b"], Err(NotVisible));
        check(&[b"Bearer a\tb"], Err(NotVisible));
    }

    #[test]
    fn only_two_schemes_are_known() {
        check(&[b"sk_live_1"], Err(UnknownScheme));
        check(&[b"x"], Err(UnknownScheme));
        check(&[b"Token sk_live_1"], Err(UnknownScheme));
        check(&[b"Bearer:sk_live_1"], Err(UnknownScheme));
        check(&[b"Bearersk_live_1"], Err(UnknownScheme));
        check(&["Bearér a".as_bytes()], Err(UnknownScheme));
    }

    #[test]
    fn a_credential_that_is_not_visible_ascii_is_refused() {
        check(&["Bearer sk_é".as_bytes()], Err(NotVisible));
        check(&[b"Bearer sk_\xFF"], Err(NotVisible));
        check_basic("sk_é:".as_bytes(), Err(NotVisible));
        check_basic(b"sk_\0:", Err(NotVisible));
        check_basic(b"sk_\xFF:", Err(NotVisible));
        check_basic(b"sk live:", Err(NotVisible));
    }

    #[test]
    fn basic_authentication_is_base64_with_a_colon() {
        check_basic(b"sk_live_1", Err(NoColon));
        check_basic(b"\0", Err(NoColon));
        for wrong in ["Basic *", "Basic sk_live_1:", "Basic c2tfOg", "Basic c2tfOg= =", "Basic é"]
        {
            check(&[wrong.as_bytes()], Err(BadBase64));
        }
        // The last bits of `h` are lost in decoding: another text, same meaning.
        check(&[b"Basic c2tfOh=="], Err(BadBase64));
    }

    #[test]
    fn a_credential_has_512_bytes_at_most() {
        let longest = "a".repeat(MAX_CREDENTIAL_BYTES);
        check(&[format!("Bearer {longest}").as_bytes()], Ok(&longest));
        check(&[format!("Bearer {longest}a").as_bytes()], Err(TooLong));
        check(&[format!("Bearer {}", "é".repeat(5_000)).as_bytes()], Err(TooLong));
        check(&[format!("Bearer{}x", " ".repeat(10_000)).as_bytes()], Ok("x"));
        let longest = format!("{}:", "a".repeat(MAX_CREDENTIAL_BYTES / 4 * 3 - 1));
        check_basic(longest.as_bytes(), Ok(longest.trim_end_matches(':')));
        check_basic(format!("{longest}x").as_bytes(), Err(TooLong));
    }

    #[test]
    fn neither_messages_nor_debug_output_hold_the_secret() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer sk_live_1"));
        assert_eq!(format!("{:?}", presented_secret(&headers)), "Ok(Some(PresentedSecret(…)))");
        headers.insert(AUTHORIZATION, HeaderValue::from_static("sk_live_1"));
        assert!(!presented_secret(&headers).unwrap_err().to_string().contains("sk_live"));
    }
}
