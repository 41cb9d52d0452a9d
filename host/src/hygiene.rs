//! Which headers may pass between client and upstream.
//!
//! An upstream believes what its headers say of the caller. So whatever a client
//! could pass off as ours is removed first, and ours are added after.
//!
//! # Invariants
//!
//! - No client-supplied `wardkey-*` or forwarding header reaches the upstream,
//!   however it is spelled. Names are compared as CGI and its descendants see
//!   them, where `Wardkey_Key` and `wardkey-key` are the same variable.
//! - A client cannot take away a header that we add, because `Connection` is
//!   read here and ours are added after.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};

/// The longest name that is removed is shorter. What a longer one begins with
/// is enough to tell.
const MAX_COMPARED_BYTES: usize = 32;

/// Removes from a client's request what must not reach the upstream: headers of
/// this connection, the credential, and whatever could pass for ours.
///
/// Run it before the policy is asked, on the headers that it is told of, and
/// after the credential and the client address are taken. Otherwise a client
/// names a header in `Connection` and is authorized with it but served without.
pub fn clean_request_headers(headers: &mut HeaderMap) {
    remove(headers, |name, spelled| {
        is_hop_by_hop(spelled)
            || is_ours(spelled)
            || is_private(spelled)
            || is_forwarding(spelled)
            || is_override(spelled)
            || is_look_alike(name)
    });
}

/// Removes from an upstream's response what must not reach the client: headers
/// of that connection, and whatever could pass for ours.
pub fn clean_response_headers(headers: &mut HeaderMap) {
    remove(headers, |_, spelled| is_hop_by_hop(spelled) || is_ours(spelled));
}

/// Headers of one connection only. The connection to the other side has its own.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn is_ours(name: &str) -> bool {
    name.starts_with("wardkey-")
}

/// What proves to us who the caller is. The upstream is told who, not how.
fn is_private(name: &str) -> bool {
    matches!(name, "authorization" | "cookie")
}

/// Where a request comes from. We know that better.
fn is_forwarding(name: &str) -> bool {
    matches!(name, "forwarded" | "x-forwarded" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// Overrides of what was authorized: a permitted `POST` would be served as a
/// `DELETE`, or under another path.
fn is_override(name: &str) -> bool {
    matches!(
        name,
        "x-http-method-override"
            | "x-http-method"
            | "x-method-override"
            | "x-original-url"
            | "x-rewrite-url"
    )
}

/// An upstream that reads headers as CGI does takes these for the ones that were
/// decided by, or that we add. Those pass, so here the spelling is what counts.
fn is_look_alike(name: &HeaderName) -> bool {
    matches!(name.as_str(), "stripe_account" | "stripe_context" | "stripe_version" | "request_id")
}

/// Removes the headers that `refuses` by their name and its spelling, and those
/// that `Connection` names.
fn remove(headers: &mut HeaderMap, refuses: impl Fn(&HeaderName, &str) -> bool) {
    let mut refused: Vec<HeaderName> = headers
        .keys()
        .filter(|name| with_spelling(name, |spelled| refuses(name, spelled)))
        .cloned()
        .collect();
    refused.extend(
        headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // Caller-supplied: without these two the other side would read
            // another body, or serve another host, than we did.
            .filter(|name| *name != CONTENT_LENGTH && *name != HOST),
    );
    // Of the two, `Transfer-Encoding` was believed. It goes, and the length that
    // was not true must not be all that is left.
    if headers.contains_key(TRANSFER_ENCODING) {
        refused.push(CONTENT_LENGTH);
    }
    for name in refused {
        headers.remove(name);
    }
}

/// Asks `refuses` for `name` as CGI spells it: everything but letters and digits
/// is the same character there, and is `-` here.
fn with_spelling(name: &HeaderName, refuses: impl Fn(&str) -> bool) -> bool {
    let mut spelled = [b'-'; MAX_COMPARED_BYTES];
    // Lower-case already: `HeaderName` sees to it.
    for (to, from) in spelled.iter_mut().zip(name.as_str().bytes()) {
        if from.is_ascii_alphanumeric() {
            *to = from;
        }
    }
    let len = name.as_str().len().min(MAX_COMPARED_BYTES);
    str::from_utf8(&spelled[..len]).is_ok_and(refuses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    type Clean = fn(&mut HeaderMap);

    /// Headers are given as `name: value`; `expected` names those that are left.
    #[track_caller]
    fn check(clean: Clean, headers: &[&str], expected: &[&str]) {
        let mut map = HeaderMap::new();
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap_or((header, "x"));
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        clean(&mut map);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, expected, "{headers:?}");
    }

    #[track_caller]
    fn check_removed(clean: Clean, name: &str) {
        check(clean, &[name, "accept"], &["accept"]);
        // All of several, not only the first.
        check(clean, &[name, name, "accept"], &["accept"]);
    }

    const BOTH: [Clean; 2] = [clean_request_headers, clean_response_headers];

    #[test]
    fn ordinary_headers_pass() {
        let names =
            ["a", "accept", "content-length", "content-type", "date", "host", "stripe-account"];
        for clean in BOTH {
            check(clean, &[], &[]);
            check(clean, &names, &names);
        }
        let response = ["set-cookie", "www-authenticate"];
        check(clean_response_headers, &response, &response);
    }

    #[test]
    fn headers_of_one_connection_end_with_it() {
        for name in [
            "Connection",
            "Keep-Alive",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "Proxy-Connection",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Transfer_Encoding",
            "Upgrade",
        ] {
            BOTH.iter().for_each(|clean| check_removed(*clean, name));
        }
    }

    #[test]
    fn headers_that_connection_names_are_removed() {
        for clean in BOTH {
            check(clean, &["connection: close, X-A ,\tx-b", "x-a", "x-b", "x-c"], &["x-c"]);
            check(clean, &["connection: x-a", "connection: x-b", "x-a", "x-b"], &[]);
            check(clean, &["connection: x-a", "x-a", "x-a"], &[]);
            for garbage in ["", ",", "x a", "é", "*", "\"x-a\""] {
                check(clean, &[&format!("connection: {garbage}"), "x-a"], &["x-a"]);
            }
            check(clean, &[&format!("connection: {}", "é,".repeat(5_000)), "x-a"], &["x-a"]);
            check(clean, &[&format!("connection: {}x-a", "x-b,".repeat(2_500)), "x-a"], &[]);
        }
    }

    #[test]
    fn connection_takes_away_neither_length_nor_host() {
        for clean in BOTH {
            let named = "connection: Content-Length, Host";
            check(clean, &[named, "content-length: 3", "host"], &["content-length", "host"]);
        }
    }

    #[test]
    fn a_length_beside_a_transfer_encoding_is_removed() {
        for clean in BOTH {
            check(clean, &["content-length: 3", "transfer-encoding: chunked"], &[]);
        }
    }

    #[test]
    fn nobody_else_speaks_in_our_name() {
        let long = format!("wardkey-{}", "a".repeat(10_000));
        for name in [
            "wardkey-key",
            "Wardkey_Key",
            "WARDKEY-ACCOUNT",
            "wardkey_",
            "wardkey-",
            "wardkey.key",
            &long,
        ] {
            BOTH.iter().for_each(|clean| check_removed(*clean, name));
        }
        let others = ["wardkeys-a", "x-wardkey-key"];
        BOTH.iter().for_each(|clean| check(*clean, &others, &others));
    }

    #[test]
    fn a_client_cannot_take_away_what_is_added_after() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("wardkey-key, x-forwarded-for"));
        clean_request_headers(&mut headers);
        headers.insert("wardkey-key", HeaderValue::from_static("key_1"));
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a_request_loses_credentials_addresses_and_overrides() {
        for name in [
            "Authorization",
            "Cookie",
            "Forwarded",
            "X-Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X_Forwarded_For",
            "x-forwarded_proto",
            "x-forwarded-",
            "X-Real-IP",
            "X_Real_IP",
            "X-HTTP-Method-Override",
            "X_HTTP_Method_Override",
            "X-HTTP-Method",
            "X-HTTP_Method",
            "X-Method-Override",
            "X_Method_Override",
            "X-Original-URL",
            "X_Rewrite_URL",
            "Stripe_Account",
            "Stripe_Context",
            "Request_Id",
        ] {
            check_removed(clean_request_headers, name);
        }
        let others = ["x-forward", "x-http-method-overrides", "x-real-ip-address"];
        check(clean_request_headers, &others, &others);
    }
}
