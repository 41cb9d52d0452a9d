//! No spelling of a path leads past the rules, and what is let through is sent
//! on as it came.

use wardkey::{secret::Secret, storage::Mode};

use super::{Ward, bearer, common};
use common::{TestHost, send_raw};

/// Ways to write a piece of a path so that somebody, somewhere, reads another.
fn spellings(text: &str) -> Vec<String> {
    let mut all = vec![
        text.to_uppercase(),
        format!("{text}/"),
        format!("{text}//"),
        format!("/{text}"),
        format!("./{text}"),
        format!("{text}/."),
        format!("{text}/./"),
        format!("{text}/.."),
        format!("{text}/x/.."),
        format!("{text}/%2e%2e"),
        format!("x/../{text}"),
        format!("charges/../{text}"),
        format!("charges/%2e%2e/{text}"),
        format!("charges/%2E%2E/{text}"),
        format!("charges/.%2e/{text}"),
        format!("charges/%2e./{text}"),
        format!("charges/..;/{text}"),
        format!("charges/..;x=y/{text}"),
        format!("charges/..%2f{text}"),
        format!("charges/..%2F{text}"),
        format!("charges/..%5c{text}"),
        format!("charges/..%5C{text}"),
        format!("charges%2f..%2f{text}"),
        format!("charges\\..\\{text}"),
        format!("charges/..\\{text}"),
        format!("charges/%252e%252e/{text}"),
        format!("charges/%25%32%65%25%32%65/{text}"),
        format!("charges/%c0%ae%c0%ae/{text}"),
        format!("charges/%c0%af../{text}"),
        format!("charges/%e0%80%ae%e0%80%ae/{text}"),
        format!("charges/%u002e%u002e/{text}"),
        format!("charges/.../{text}"),
        format!("charges/..%00/{text}"),
        format!("charges/..%0d%0a/{text}"),
        format!("charges/..%09/{text}"),
        format!("charges/..%20/{text}"),
        format!("charges/../../v1/{text}"),
        format!("charges/../../../v1/{text}"),
        format!("../v1/{text}"),
        format!("%2e%2e/v1/{text}"),
        format!("..%2fv1%2f{text}"),
        format!("/v1/{text}"),
        format!("/../v1/{text}"),
        format!(";/{text}"),
        format!("{text};"),
        format!("{text};x"),
        format!("{text};jsessionid=1"),
        format!("{text};/../charges"),
        format!("{text}%3b"),
        format!("{text}%00"),
        format!("{text}%00.json"),
        format!("{text}%20"),
        format!("{text}%0a"),
        format!("{text}%0d"),
        format!("{text}%09"),
        format!("{text}%23"),
        format!("{text}%3f"),
        format!("{text}%2f"),
        format!("{text}%5c"),
        format!("{text}\\"),
        format!("{text}."),
        format!("{text}.."),
        format!("{text}.json"),
        format!("{text}#"),
        format!("{text}#/charges"),
        format!("{text}%"),
        format!("{text}%4"),
        format!("{text}%zz"),
        format!("{text}\u{2215}charges"),
        format!("{text}\u{ff0f}charges"),
        format!("charges\u{ff0f}..\u{ff0f}{text}"),
        format!("charges/\u{2025}/{text}"),
        format!("\u{200b}{text}"),
        format!("%e2%80%8b{text}"),
        format!("{text}\u{0301}"),
        format!("*{text}"),
        format!("({text})"),
        format!("~{text}"),
        format!("{text}~"),
        format!("{text},charges"),
        format!("{text}:charges"),
        format!("{text}@charges"),
        format!("{text}&charges"),
        format!("{text}|"),
        format!("\"{text}\""),
        format!("<{text}>"),
        format!("[{text}]"),
        format!("{{{text}}}"),
        format!("^{text}"),
        format!("`{text}`"),
    ];
    // Each of its characters in each of the ways to write one.
    for (at, char) in text.char_indices() {
        let (before, after) = (&text[..at], &text[at + 1..]);
        let byte = u32::from(char);
        for written in [
            format!("%{byte:02x}"),
            format!("%{byte:02X}"),
            format!("%25{byte:02x}"),
            format!("%u00{byte:02x}"),
            format!("%00{char}"),
            format!("{char}%00"),
            format!("\t{char}"),
            char.to_uppercase().to_string(),
            // Full width, and overlong UTF-8.
            char::from_u32(byte + 0xFEE0).unwrap().to_string(),
            format!("%{:02x}%{:02x}", 0xC0 | byte >> 6, 0x80 | byte & 0x3F),
            format!("%EF%BC%{:02X}", 0x80 | (byte - 0x20) & 0x3F),
        ] {
            all.push(format!("{before}{written}{after}"));
        }
    }
    all
}

/// Every spelling of the way to the payouts.
fn targets() -> Vec<String> {
    let mut targets: Vec<String> =
        spellings("payouts").iter().map(|text| format!("/v1/{text}")).collect();
    targets.extend(spellings("v1").iter().map(|text| format!("/{text}/payouts")));
    targets.extend(spellings("v1/payouts").iter().map(|text| format!("/{text}")));
    targets.extend(spellings("payouts").iter().map(|text| format!("/v1/charges/{text}")));
    targets.extend(spellings("payouts").iter().map(|text| format!("http://localhost/v1/{text}")));
    targets.extend(
        ["/v1/payouts?", "/v1/payouts??", "/v1/payouts?/../charges", "/v1/payouts"]
            .map(str::to_owned),
    );
    targets
}

fn request(method: &str, target: &str, secret: &Secret) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: {}\r\n\r\n",
        bearer(secret)
    )
    .into_bytes()
}

/// What lenient servers make of a path: everything is decoded, again and again,
/// backslashes are slashes, parameters are dropped, dots are resolved, and case
/// does not matter.
fn leniently(target: &str) -> String {
    let path = target.strip_prefix("http://localhost").unwrap_or(target);
    let path = path.split(['?', '#']).next().unwrap();
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..4 {
        let mut decoded = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let hex = bytes.get(at + 1..at + 3).and_then(|hex| str::from_utf8(hex).ok());
            match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                Some(byte) if bytes[at] == b'%' => {
                    decoded.push(byte);
                    at += 3;
                }
                _ => {
                    decoded.push(bytes[at]);
                    at += 1;
                }
            }
        }
        bytes = decoded;
    }
    let text = String::from_utf8_lossy(&bytes).to_lowercase().replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        let segment = segment
            .split(';')
            .next()
            .unwrap()
            .trim_matches(|c: char| c.is_control() || c.is_whitespace() || c == '\u{200b}');
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

#[test]
fn no_spelling_of_a_path_gets_a_limited_key_past_the_rules() {
    let ward = Ward::start();
    let (_, secret) = ward.host.key("restricted", &["charge_read", "charge_write"]);
    let mut let_through = 0;
    for target in targets() {
        for method in ["GET", "POST"] {
            let before = ward.api.count();
            let answer = send_raw(ward.host.gate, &request(method, &target, &secret));
            let served = ward.api.count() - before;
            assert_eq!(served, usize::from(answer.status == 200), "{method} {target}: {answer:?}");
            if served == 0 {
                assert!((400..500).contains(&answer.status), "{method} {target}: {answer:?}");
                continue;
            }
            let_through += 1;
            // What got through is a charge to the strict and to the lenient.
            let sent = ward.api.last().line;
            let read = leniently(sent.split(' ').nth(1).unwrap());
            assert!(read.starts_with("v1/charges/"), "{method} {target} was sent on as {sent}");
            // A fragment is dropped by who reads HTTP, before anybody decides.
            let target = target.trim_start_matches("http://localhost");
            let target = target.split('#').next().unwrap();
            assert_eq!(sent, format!("{method} {target} HTTP/1.1"));
            assert_eq!(ward.api.last().header("wardkey-permissions"), {
                if method == "GET" { "charge_read" } else { "charge_write" }
            });
        }
    }
    // Odd ids are ids all the same: not everything is refused.
    assert!(let_through > 0);
}

#[test]
fn no_spelling_of_a_path_makes_a_payout_in_the_simulated_api() {
    let host = TestHost::start();
    let (_, secret) = host.key("restricted", &["charge_read", "charge_write"]);
    for target in targets() {
        let answer = send_raw(host.gate, &request("POST", &target, &secret));
        assert!((400..500).contains(&answer.status), "{target} was served: {answer:?}");
    }
    let unlimited = host.default_secret("secret", Mode::Test);
    let list = host.call("GET", "/v1/payouts", unlimited.expose());
    assert_eq!(list.json()["data"].as_array().map(Vec::len), Some(0), "{list:?}");
}

#[test]
fn a_path_with_two_readings_is_refused_for_everyone() {
    let ward = Ward::start();
    let secret = ward.host.default_secret("secret", Mode::Test);
    let auth = bearer(&secret);
    for target in [
        "/v1/%63harges",
        "/v1/charge%73",
        "/v1/charges/ch%5F1",
        "/v1/charges/ch%2D1",
        "/v1/charges/ch%2E1",
        "/v1/charges/%7Ech",
        "/v1/charges%2Fch_1",
        "/v1/charges%2fch_1",
        "/v1/charges%5Cch_1",
        "/v1/charges/%2e%2e/payouts",
        "/v1/charges/%2E/ch_1",
        "/v1/charges/ch_1%00",
        "/v1/charges/%0a",
        "/v1/charges/%7F",
        "/v1/charges/%C0%AF",
        "/v1/charges/%FF",
        "/v1/charges/%25",
        "/v1/charges/%252e",
        "/v1/charges/%",
        "/v1/charges/%2",
        "/v1/charges/%GG",
        "/v1/./charges",
        "/v1/../v1/charges",
        "/v1/charges/.",
        "/v1/charges/..",
        "/v1//charges",
        "//v1/charges",
        "/v1/charges//ch_1",
        "/v1/charges;x",
        "/v1/charges/ch_1;x=y",
        "/v1\\charges",
    ] {
        // Whoever asks: no key is looked at.
        for headers in [&[("Authorization", &*auth)][..], &[]] {
            ward.check(&format!("GET {target}"), headers, "400 path_invalid");
        }
    }
    let long = format!("GET /v1/charges/{}", "a".repeat(2048));
    ward.check(&long, &[("Authorization", &auth)], "400 path_invalid");
}

#[test]
fn the_bytes_that_were_authorized_are_the_bytes_that_are_sent() {
    let ward = Ward::start();
    let secret = ward.host.default_secret("secret", Mode::Test);
    for target in [
        "/v1/charges",
        "/v1/charges?",
        "/v1/charges?limit=3",
        "/v1/charges?a=%2e%2e/&b=//&c=%00&d=a%20b+c",
        "/v1/charges?expand[]=data.customer&created[gte]=1",
        "/v1/charges?x=?/../..;/\\",
        "/v1/charges?&&&==",
        "/v1/charges/%C3%A9",
        "/v1/charges/a%20b",
        "/v1/charges/a%3Bb%3F",
        "/v1/charges/a+b,c:d@e!f$g&h'i(j)k*l=m",
        "/v1/charges/-._~",
        "/v1/charges/...",
        "/v1/charges/CH_1",
    ] {
        ward.check_key(&secret, &format!("GET {target}"), "200");
    }
    let target = format!("/v1/charges/{}", "a".repeat(2048 - 12));
    ward.check_key(&secret, &format!("GET {target}?{}", "q".repeat(10_000)), "200");
    assert_eq!(ward.api.last().header("host"), ward.api.address.to_string());
}
