//! What no client should send. It gets a clear answer or a closed connection,
//! reaches nothing, and leaves the host well.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use wardkey::secret::Secret;

use super::{Ward, base64, bearer, check_refusal, common, outcome};
use common::{Answer, send_raw};

/// A secret's body, put together here so that no scanner finds one.
const BODY: &str = "4eC39HqLyjWDarjtT1zdp7dc";

struct Suite {
    ward: Ward,
    secret: Secret,
}

impl Suite {
    fn start() -> Self {
        let ward = Ward::start();
        let (_, secret) = ward.host.key("restricted", &["charge_read", "charge_write"]);
        ward.check_key(&secret, "GET /v1/charges", "200");
        Self { ward, secret }
    }

    /// Sends bytes, in which `KEY` stands for a good key, and compares what came
    /// of them. Of several outcomes each is as good as another; `closed` is a
    /// connection without an answer.
    #[track_caller]
    fn check(&self, request: &[u8], expected: &str) -> Answer {
        let (before, reads) = (self.ward.api.count(), self.ward.host.host.storage_reads());
        let answer = send_raw(self.ward.host.gate, &self.with_key(request));
        let told = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let came = if answer.status == 0 { "closed".to_owned() } else { outcome(&answer) };
        assert!(expected.split(" or ").any(|one| one == came), "{told:?}: {came}: {answer:?}");
        assert_eq!(self.ward.host.host.storage_reads(), reads, "{told:?} costs a storage read");
        if came != "200" {
            assert_eq!(self.ward.api.count(), before, "{told:?} reached the API");
        }
        // An answer of ours, as opposed to the HTTP library's.
        if answer.headers.contains_key("request-id") && !answer.body.is_empty() && came != "200" {
            check_refusal(&answer);
        }
        assert!(!answer.body.contains(self.secret.expose()), "{told:?}");
        self.check_well();
        answer
    }

    /// The next good request is served.
    #[track_caller]
    fn check_well(&self) {
        self.ward.check_key(&self.secret, "GET /v1/charges", "200");
    }

    fn with_key(&self, request: &[u8]) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut rest = request;
        while let Some(at) = rest.windows(3).position(|three| three == b"KEY") {
            whole.extend_from_slice(&rest[..at]);
            whole.extend_from_slice(self.secret.expose().as_bytes());
            rest = &rest[at + 3..];
        }
        whole.extend_from_slice(rest);
        whole
    }

    /// A request with these lines as its credential.
    #[track_caller]
    fn check_credential(&self, lines: &[u8], expected: &str) -> Answer {
        let request =
            [b"GET /v1/charges HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", lines, b"\r\n"];
        self.check(&request.concat(), expected)
    }
}

#[test]
fn a_credential_that_cannot_be_read_is_refused() {
    let suite = Suite::start();
    let unpadded = base64(format!("{}:", suite.secret.expose()).as_bytes());
    let unpadded = unpadded.trim_end_matches('=');
    for (lines, expected) in [
        ("", "401"),
        ("Authorization: Bearer KEY\r\nAuthorization: Bearer KEY\r\n", "400 authorization_invalid"),
        ("Authorization: Bearer KEY\r\nAuthorization: Basic x\r\n", "400 authorization_invalid"),
        ("Authorization:\r\nAuthorization: Bearer KEY\r\n", "400 authorization_invalid"),
        ("Authorization: Bearer KEY, Bearer KEY\r\n", "401 authorization_invalid"),
        ("Authorization: Bearer KEY KEY\r\n", "401 authorization_invalid"),
        ("Authorization: BearerKEY\r\n", "401 authorization_invalid"),
        ("Authorization: Bearer:KEY\r\n", "401 authorization_invalid"),
        ("Authorization: KEY\r\n", "401 authorization_invalid"),
        ("Authorization: Token KEY\r\n", "401 authorization_invalid"),
        ("Authorization: Digest username=KEY\r\n", "401 authorization_invalid"),
        ("Authorization: Bearer \"KEY\"\r\n", "401"),
        ("Authorization: Basic KEY\r\n", "401 authorization_invalid"),
        ("Authorization: Basic ****\r\n", "401 authorization_invalid"),
        (&format!("Authorization: Basic {}\r\n", base64(b"sk_test_")), "401 authorization_invalid"),
        (
            &format!("Authorization: Basic {}\r\n", base64(b"\xFF\xFE:")),
            "401 authorization_invalid",
        ),
        (&format!("Authorization: Basic {}\r\n", base64(b"a b:")), "401 authorization_invalid"),
        (&format!("Authorization: Basic {}\r\n", base64(b"a\0:")), "401 authorization_invalid"),
        (&format!("Proxy-Authorization: Bearer {}\r\n", suite.secret.expose()), "401"),
        ("X-Api-Key: KEY\r\n", "401"),
        ("Cookie: Authorization=KEY\r\n", "401"),
        ("Authorization : Bearer KEY\r\n", "400"),
    ] {
        suite.check_credential(lines.as_bytes(), expected);
    }
    if !unpadded.len().is_multiple_of(4) {
        let lines = format!("Authorization: Basic {unpadded}\r\n");
        suite.check_credential(lines.as_bytes(), "401 authorization_invalid");
    }
    for lines in [&b"Authorization: Bearer \xFF\xFE\r\n"[..], b"Authorization: Bearer \xC3\xA9\r\n"]
    {
        suite.check_credential(lines, "401 authorization_invalid");
    }
    let folded = b"Authorization: Bearer\r\n KEY\r\n";
    suite.check_credential(folded, "400");
    suite.check_credential(b"Authorization: Bearer KEY\0\r\n", "400");
    suite.check_credential(b"Authorization: Bearer \0\r\n", "400");
}

#[test]
fn a_long_header_is_refused_before_it_costs_anything() {
    let suite = Suite::start();
    for (length, expected) in [
        (512, "401"),
        (513, "401 authorization_invalid"),
        (60_000, "401 authorization_invalid"),
        (1 << 20, "431 or closed"),
    ] {
        let lines = format!("Authorization: Bearer {}\r\n", "a".repeat(length));
        suite.check_credential(lines.as_bytes(), expected);
    }
    let many = "X-Header: a\r\n".repeat(5000);
    suite.check_credential(many.as_bytes(), "431 or closed");
    let name = format!("{}: a\r\n", "x".repeat(100_000));
    suite.check_credential(name.as_bytes(), "431 or 400 or closed");
}

#[test]
fn a_key_with_one_character_changed_costs_no_storage_read() {
    let suite = Suite::start();
    let good = suite.secret.expose();
    for at in 0..good.len() {
        for other in ['0', 'Z', '_', '-', '\u{7f}'] {
            let mut text: Vec<char> = good.chars().collect();
            if text[at] == other {
                continue;
            }
            text[at] = other;
            let text: String = text.into_iter().collect();
            let lines = format!("Authorization: Bearer {text}\r\n");
            suite.check_credential(lines.as_bytes(), "401 or 401 authorization_invalid or 400");
        }
    }
}

#[test]
fn a_mangled_key_costs_no_storage_read() {
    let suite = Suite::start();
    let good = suite.secret.expose();
    let rows = [
        format!("{good}_"),
        format!("_{good}"),
        format!("{good}{good}"),
        format!("{good}0"),
        good[..good.len() - 1].to_owned(),
        good[1..].to_owned(),
        good.to_uppercase(),
        good.to_lowercase(),
        good.replace("rk_", "sk_"),
        good.replace("_test_", "_live_"),
        good.replace("rk_test_", ""),
        good.replace('_', "%5F"),
        good.replace('_', "-"),
        good.chars().rev().collect(),
        // Other issuers' secrets, and texts that only look like one.
        ["ghp", BODY, "abcdefghijkl"].join("_"),
        ["github", "pat", BODY, BODY].join("_"),
        ["xoxb", "1234567890", BODY].join("-"),
        format!("AKIA{}", &BODY[..16]),
        format!("eyJ{BODY}.eyJ{BODY}.{BODY}"),
        ["sk", "live", BODY].join("_"),
        ["sk", "proj", BODY].join("-"),
        "sk_test_".to_owned(),
        "____".to_owned(),
        "null".to_owned(),
        "undefined".to_owned(),
        "*".to_owned(),
        "' OR 1=1 --".replace(' ', "+"),
        "../../etc/passwd".to_owned(),
        "{{key}}".to_owned(),
        "%s%n%x".to_owned(),
    ];
    for text in rows {
        let lines = format!("Authorization: Bearer {text}\r\n");
        let answer = suite.check_credential(lines.as_bytes(), "401");
        // What is shown of it does not help who finds the log.
        assert!(text.len() < 20 || !answer.body.contains(&text), "{answer:?}");
    }
}

#[test]
fn a_key_in_the_wrong_place_is_no_key() {
    let suite = Suite::start();
    for target in [
        "/v1/charges?api_key=KEY",
        "/v1/charges?key=KEY&authorization=Bearer%20KEY",
        "/v1/charges/KEY",
        "/v1/KEY",
        "/KEY",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        suite.check(request.as_bytes(), "401 or 404");
    }
    // With a key as well, a key in the path is named in no answer.
    for target in ["/v1/KEY", "/v1/charges/KEY/KEY", "/KEY"] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
             Authorization: Bearer KEY\r\n\r\n"
        );
        suite.check(request.as_bytes(), "404");
    }
}

#[test]
fn a_method_that_the_endpoint_lacks_is_refused() {
    let suite = Suite::start();
    for (method, expected) in [
        ("PUT", "404"),
        ("PATCH", "404"),
        ("DELETE", "404"),
        ("OPTIONS", "404"),
        // Refused like the others, without a body to say why.
        ("HEAD", "404"),
        ("TRACE", "404"),
        ("get", "404"),
        ("Get", "404"),
        ("GETT", "404"),
        ("PROPFIND", "404"),
        ("X-CUSTOM", "404"),
        ("PRI", "404 or 400"),
        ("G\tET", "400"),
        ("G(T", "400"),
        ("", "400"),
    ] {
        let request = format!(
            "{method} /v1/charges HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
             Authorization: Bearer KEY\r\n\r\n"
        );
        suite.check(request.as_bytes(), expected);
    }
    for target in ["api.example.com:443", "*", "http://a/v1/payouts", "v1/charges", ""] {
        for method in ["CONNECT", "OPTIONS", "GET"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                 Authorization: Bearer KEY\r\n\r\n"
            );
            suite.check(request.as_bytes(), {
                "400 or 400 path_invalid or 404 or 403 more_permissions_required or closed"
            });
        }
    }
}

#[test]
fn a_request_that_is_too_much_for_the_rules_is_the_clients_fault() {
    let suite = Suite::start();
    let long = "A".repeat(60_000);
    let key = "Authorization: Bearer KEY\r\n";
    for (line, headers) in [
        (format!("{long} /v1/charges"), String::new()),
        (format!("GET /v1/charges/{long}"), String::new()),
        (format!("GET /v1/{}", "a/".repeat(1000)), String::new()),
        (format!("GET /v1/charges{}", "/a".repeat(1000)), String::new()),
        ("GET /v1/charges".to_owned(), format!("Stripe-Context: {long}\r\n")),
        ("GET /v1/charges".to_owned(), format!("Stripe-Account: {long}\r\n")),
        ("GET /v1/charges".to_owned(), format!("Stripe-Version: {long}\r\n")),
        ("GET /v1/charges".to_owned(), format!("Stripe-Context: {}\r\n", "/".repeat(256))),
    ] {
        let request =
            format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{key}{headers}\r\n");
        suite.check(request.as_bytes(), {
            "400 or 400 path_invalid or 400 parameter_invalid or 400 context_invalid or 404"
        });
    }
}

#[test]
fn older_and_other_versions_of_http_do_no_harm() {
    let suite = Suite::start();
    let key = "Authorization: Bearer KEY\r\n\r\n";
    suite.check(format!("GET /v1/charges HTTP/1.0\r\n{key}").as_bytes(), "200");
    suite.check(format!("GET /v1/payouts HTTP/1.0\r\n{key}").as_bytes(), {
        "403 more_permissions_required"
    });
    for version in ["HTTP/2.0", "HTTP/3", "HTTP/0.9", "HTTPS/1.1", "http/1.1", "HTTP/1.1 x", ""] {
        let request = format!("GET /v1/charges {version}\r\nConnection: close\r\n{key}");
        suite.check(request.as_bytes(), "400 or 505 or closed");
    }
    suite.check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 or 505 or closed");
    suite.check(b"GET /v1/charges\r\n\r\n", "400 or closed");
    suite.check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a client that speaks TLS\r\n", {
        "400 or closed"
    });
}

#[test]
fn a_body_whose_length_is_disputed_is_refused() {
    let suite = Suite::start();
    let post = "POST /v1/charges HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                Authorization: Bearer KEY\r\n";
    for (rest, expected) in [
        ("Content-Length: -1\r\n\r\n", "400"),
        ("Content-Length: 1e3\r\n\r\n", "400"),
        ("Content-Length: 0x1\r\n\r\na", "400"),
        ("Content-Length: 99999999999999999999999\r\n\r\n", "400"),
        ("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"),
        ("Content-Length: 3, 4\r\n\r\nabcd", "400"),
        ("Content-Length: \r\n\r\n", "400"),
        ("Content-Length: +3\r\n\r\nabc", "400"),
        ("Transfer-Encoding: identity\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", "400 or 502 upstream_unavailable"),
    ] {
        suite.check(format!("{post}{rest}").as_bytes(), expected);
    }
}

#[test]
fn a_request_smuggled_in_a_body_is_not_served() {
    let suite = Suite::start();
    let (_, stranger) = suite.ward.host.key("restricted", &["payout_read"]);
    let smuggled = format!(
        "GET /v1/payouts HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n",
        bearer(&stranger)
    );
    let key = bearer(&suite.secret);
    for (headers, body) in [
        // Both: one server would go by the length, another by the chunks.
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 500\r\n".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding:\x0bchunked\r\n".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n".to_owned(), "0\r\n\r\n"),
        (format!("Content-Length: {}\r\n", smuggled.len()), ""),
    ] {
        let request = format!(
            "POST /v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n{headers}\r\n{body}"
        );
        let before = suite.ward.api.count();
        let answers = raw(&suite.ward, format!("{request}{smuggled}").as_bytes());
        let served = suite.ward.api.all().split_off(before);
        // What the API read is what the gate read: at most the first request,
        // and the second only as a request of its own, decided on its own.
        for request in &served {
            let key_of_the_path = request.line.starts_with("GET /v1/payouts");
            assert!(request.has("wardkey-key"), "{headers:?}: {request:?}");
            assert!(
                !(request.has("content-length") && request.has("transfer-encoding")),
                "{headers:?}: {request:?}"
            );
            if key_of_the_path {
                assert_eq!(request.header("wardkey-permissions"), "payout_read", "{headers:?}");
            }
        }
        assert_eq!(
            answers.matches("HTTP/1.1 200").count(),
            served.len(),
            "{headers:?}: {answers} for {served:?}"
        );
        suite.check_well();
    }
}

/// Sends bytes and returns all that came back, several answers perhaps.
fn raw(ward: &Ward, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(ward.host.gate).unwrap();
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let suite = Suite::start();
    for request in [
        &b"GET /v1/charges\0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"[..],
        b"GET /v1/\xFF\xFE HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /v1/charges HTTP/1.1\r\nHost: a\r\nX-\0: b\r\n\r\n",
        b"GET /v1/charges HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        b"GET /v1/charges HTTP/1.1\r\n: nameless\r\n\r\n",
        b"GET /v1/charges HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/charges HTTP/1.1\r\n\x01: b\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"{\"method\": \"GET\"}\r\n\r\n",
        &[0xFF; 1000],
        &[b'A'; 100_000],
    ] {
        // Some of it may be the start of a head: the client says that it is all.
        let answers = raw(&suite.ward, request);
        let refused = answers.is_empty() || answers.starts_with("HTTP/1.1 4");
        assert!(refused, "{:?}: {answers}", String::from_utf8_lossy(request));
        assert_eq!(answers.matches("HTTP/1.1").count(), usize::from(!answers.is_empty()));
        suite.check_well();
    }
}

#[test]
fn garbage_behind_a_good_request_ends_the_connection_and_not_the_host() {
    let suite = Suite::start();
    let good = format!(
        "GET /v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n",
        bearer(&suite.secret)
    );
    for garbage in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "}}}}}}\r\n\r\n", "\u{fffd}\r\n\r\n"] {
        let answers = raw(&suite.ward, format!("{good}{good}{garbage}").as_bytes());
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{garbage:?}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{garbage:?}: {answers}");
        suite.check_well();
    }
}

#[test]
fn a_client_that_leaves_half_way_costs_nobody_anything() {
    let suite = Suite::start();
    let whole = format!(
        "POST /v1/charges HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\
         Authorization: {}\r\n\r\nabc",
        bearer(&suite.secret)
    );
    for length in (0..whole.len()).step_by(7).chain([whole.len()]) {
        let mut stream = TcpStream::connect(suite.ward.host.gate).unwrap();
        stream.write_all(&whole.as_bytes()[..length]).unwrap();
        drop(stream);
    }
    // One who stays silent after half a head holds up nobody else.
    let mut slow = TcpStream::connect(suite.ward.host.gate).unwrap();
    slow.write_all(&whole.as_bytes()[..40]).unwrap();
    let served = || suite.ward.host.call("GET", "/v1/charges", suite.secret.expose()).status;
    assert_eq!(served(), 200);
    drop(slow);
    assert_eq!(served(), 200);
}

#[test]
fn a_body_that_is_too_large_or_cut_off_makes_nothing() {
    let host = common::TestHost::start();
    let secret = host.default_secret("secret", wardkey::storage::Mode::Test);
    let post = |length: usize, body: &[u8]| {
        let head = format!(
            "POST /v1/customers HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n",
            bearer(&secret)
        );
        [head.as_bytes(), body].concat()
    };
    let name = |length: usize| format!("name={}", "a".repeat(length - 5));
    let huge = name((1 << 20) + 1);
    let answer = send_raw(host.gate, &post(huge.len(), huge.as_bytes()));
    assert_eq!(answer.status, 413, "{answer:?}");
    // Said to be huge, and not even sent.
    let answer = send_raw(host.gate, &post(usize::MAX / 2, &vec![b'a'; (1 << 20) + 1]));
    assert!(matches!(answer.status, 413 | 400), "{answer:?}");

    let mut stream = TcpStream::connect(host.gate).unwrap();
    stream.write_all(&post(100, b"name=x")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");

    for body in [&b"name=\xFF\xFE"[..], b"\0", b"a[b][c][d][e][f][g][h][i][j]=1", b"[]=1&=&&%"] {
        let answer = send_raw(host.gate, &post(body.len(), body));
        assert!(matches!(answer.status, 400), "{answer:?}");
    }
    let list = host.call("GET", "/v1/customers", secret.expose());
    assert_eq!(list.json()["data"].as_array().map(Vec::len), Some(0), "{list:?}");
}
