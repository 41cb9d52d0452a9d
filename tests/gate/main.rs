//! The gate as its callers meet it: real sockets, real storage, the real
//! component, and an API behind it that remembers every byte it was sent.
//!
//! A test is rows for its module's `check`. Whoever is refused must also not
//! have reached the API, so that every `check` asks the API as well.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/failing_storage.rs"]
mod failing_storage;

mod bad_input;
mod decisions;
mod internal;
mod log;
mod money;
mod paths;
mod proxy;
mod secrets;
mod simulated;
mod storage_failure;
mod upstream;

use common::{Answer, Options, TestHost};
use upstream::RecordingUpstream;
use wardkey::secret::Secret;

/// A host before an API that remembers what it was sent.
struct Ward {
    host: TestHost,
    api: RecordingUpstream,
}

impl Ward {
    fn start() -> Self {
        Self::start_with(Options::default())
    }

    fn start_with(options: Options) -> Self {
        let api = RecordingUpstream::start();
        let host = TestHost::start_with(Options { upstream: Some(api.address), ..options });
        Self { host, api }
    }

    /// Sends a request such as `GET /v1/charges` and compares what came of it,
    /// such as `200` or `403 ip_not_allowed`.
    #[track_caller]
    fn check(&self, request: &str, headers: &[(&str, &str)], expected: &str) -> Answer {
        let (method, target) = request.split_once(' ').unwrap();
        let before = self.api.count();
        let answer = self.host.call_with(method, target, headers, "");
        let told = format!("{request} {headers:?}: {}", answer.body);
        assert_eq!(outcome(&answer), expected, "{told}");
        assert!(answer.headers["request-id"].starts_with("req_"), "{told}");
        if answer.status < 400 {
            assert_eq!(self.api.count(), before + 1, "{told}");
            let sent = self.api.last();
            assert_eq!(sent.line, format!("{method} {target} HTTP/1.1"));
            assert_eq!(sent.header("request-id"), answer.headers["request-id"]);
        } else {
            assert_eq!(self.api.count(), before, "the refused request reached the API: {told}");
            check_refusal(&answer);
        }
        answer
    }

    /// The same with a key.
    #[track_caller]
    fn check_key(&self, secret: &Secret, request: &str, expected: &str) -> Answer {
        self.check(request, &[("Authorization", &bearer(secret))], expected)
    }
}

/// What every refusal looks like, whoever refused.
#[track_caller]
fn check_refusal(answer: &Answer) {
    let error = &answer.json()["error"];
    let kind = match (answer.status, answer.code().as_str()) {
        (401, "api_key_expired") => "authentication_error",
        (500.., _) => "api_error",
        _ => "invalid_request_error",
    };
    assert_eq!(error["type"], kind, "{answer:?}");
    assert!(error["message"].as_str().is_some_and(|text| text.len() > 10), "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/json", "{answer:?}");
    let retry = if matches!(answer.status, 429 | 503) { "true" } else { "false" };
    assert_eq!(answer.headers["stripe-should-retry"], retry, "{answer:?}");
    assert_eq!(answer.headers.contains_key("retry-after"), retry == "true", "{answer:?}");
    assert_eq!(answer.headers.contains_key("www-authenticate"), answer.status == 401);
}

/// Returns the status and, if there is one, the code.
fn outcome(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.code()).trim_end().to_owned()
}

fn bearer(secret: &Secret) -> String {
    format!("Bearer {}", secret.expose())
}

/// Encodes as Basic authentication does.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() {
                '='
            } else {
                char::from(DIGITS[usize::try_from(value).unwrap()])
            });
        }
    }
    text
}

/// Returns every byte of a text percent-encoded.
fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
