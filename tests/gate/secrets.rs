//! No secret is found where it does not belong, wherever its owner put it.

use std::fs;

use wardkey::{secret::Secret, storage::Mode};

use super::{Options, TestHost, Ward, base64, bearer, common, percent_encoded};
use common::{Answer, send};

/// All that was said and kept, to be searched.
#[derive(Default)]
struct Kept {
    texts: Vec<(String, Vec<u8>)>,
}

impl Kept {
    fn add(&mut self, what: &str, text: impl Into<Vec<u8>>) {
        self.texts.push((what.to_owned(), text.into()));
    }

    fn add_answer(&mut self, what: &str, answer: &Answer) {
        self.add(what, format!("{:?} {}", answer.headers, answer.body));
    }

    /// The files that a host leaves, its log, and its metrics.
    fn add_host(&mut self, host: &TestHost) {
        self.add_answer("/metrics", &send(host.internal, "GET", "/metrics", &[], ""));
        host.finish();
        let log = host.logged(10_000);
        assert!(!log.is_empty());
        self.add("the request log", format!("{log:?}"));
        for file in fs::read_dir(host.dir.path()).unwrap() {
            let path = file.unwrap().path();
            self.add(&path.display().to_string(), fs::read(path).unwrap());
        }
    }

    #[track_caller]
    fn check_without(&self, secret: &str) {
        // Its random part is enough of it; and the ways to write it.
        let body = &secret[secret.len() - 38..];
        for spelling in [
            body.to_owned(),
            percent_encoded(body),
            percent_encoded(body).to_lowercase(),
            percent_encoded(&percent_encoded(body)),
            base64(format!("{secret}:").as_bytes()),
            base64(secret.as_bytes()),
            body.chars().rev().collect(),
            // All but its end.
            body[..30].to_owned(),
        ] {
            for (what, text) in &self.texts {
                let found = text.windows(spelling.len()).any(|part| part == spelling.as_bytes());
                assert!(!found, "a secret is in {what}, as {spelling}");
            }
        }
    }
}

/// Puts a secret wherever people put secrets.
fn put_everywhere(host: &TestHost, secret: &Secret, kept: &mut Kept) {
    let text = secret.expose();
    let auth = bearer(secret);
    let basic = format!("Basic {}", base64(format!("{text}:").as_bytes()));
    let encoded = percent_encoded(text);
    let some = text.replace('_', "%5F");
    let context = format!("acct_1/{text}");
    let targets = [
        "/v1/charges".to_owned(),
        "/v1/nothing".to_owned(),
        format!("/v1/{text}"),
        format!("/{text}"),
        format!("/v1/charges/{text}"),
        format!("/v1/charges/{text}/refunds"),
        format!("/v1/customers/{text}"),
        format!("/v1/customers/x{text}x"),
        format!("/v1/charges?api_key={text}"),
        format!("/v1/charges?api_key={encoded}"),
        format!("/v1/customers?limit={text}"),
        format!("/v1/customers?{text}=1"),
        format!("/v1/{encoded}"),
        format!("/v1/{some}"),
        format!("/v1/{}", percent_encoded(&encoded)),
        format!("/v1//{text}"),
        format!("/v1/../{text}"),
        format!("/v1/charges/a%20{text}"),
        format!("/v1/charges/%C3%A9{text}"),
        format!("/v1/charges/{}", &text[..text.len() - 1]),
        format!("/v1/charges/ch_{text}"),
    ];
    let headers: [&[(&str, &str)]; 11] = [
        &[("Authorization", &auth)],
        &[("Authorization", &basic)],
        &[("Authorization", text)],
        &[("Authorization", &auth), ("Authorization", &auth)],
        &[],
        &[("Authorization", &auth), ("Referer", text), ("User-Agent", text), ("Origin", text)],
        &[("Authorization", &auth), ("Stripe-Context", text), ("Stripe-Version", text)],
        &[("Authorization", &auth), ("Stripe-Context", &context), ("Stripe-Version", "1")],
        &[("Authorization", &auth), ("Stripe-Account", text)],
        &[("Authorization", &auth), ("X-Forwarded-For", text), ("Cookie", text)],
        &[("Authorization", &auth), ("Idempotency-Key", "a"), (text, "1")],
    ];
    for target in &targets {
        for headers in headers {
            let answer = host.call_with("GET", target, headers, "");
            let mut answer = answer;
            // Said back as it was sent: it is the client's own.
            answer.headers.remove("stripe-version");
            kept.add_answer(&format!("the answer to {target} {headers:?}"), &answer);
        }
    }
    for (method, body) in [
        ("POST", format!("description={text}&{text}=1")),
        (text, String::new()),
        (&*text.to_uppercase(), String::new()),
    ] {
        for headers in [headers[0], headers[4]] {
            let answer = host.call_with(method, "/v1/charges/x/y", headers, &body);
            kept.add_answer("the answer to a method or body", &answer);
        }
    }
}

/// Every kind of secret that a caller may hold: good, limited, ended, strange.
fn secrets(host: &TestHost) -> Vec<Secret> {
    vec![
        host.key("restricted", &["charge_read"]).1,
        host.key("restricted", &[]).1,
        host.default_secret("secret", Mode::Live),
        host.default_secret("restricted", Mode::Test),
        Secret::generate(None, "sk_live_"),
        Secret::generate(None, "whsec_"),
    ]
}

#[test]
fn no_secret_is_kept_or_told_by_the_simulated_api() {
    let host = TestHost::start();
    let secrets = secrets(&host);
    let mut kept = Kept::default();
    for secret in &secrets {
        put_everywhere(&host, secret, &mut kept);
    }
    kept.add_host(&host);
    for secret in &secrets {
        kept.check_without(secret.expose());
    }
}

#[test]
fn no_secret_is_kept_or_told_before_an_api_of_ones_own() {
    let ward = Ward::start();
    let secrets = secrets(&ward.host);
    let mut kept = Kept::default();
    for secret in &secrets {
        put_everywhere(&ward.host, secret, &mut kept);
    }
    kept.add_host(&ward.host);
    for sent in ward.api.all() {
        // Paths and ordinary headers go on as they came; credentials do not.
        let credentials = ["authorization", "cookie", "x-forwarded-for"];
        for (name, value) in &sent.headers {
            let ours = name.to_ascii_lowercase();
            if credentials.contains(&&*ours) || ours.starts_with("wardkey") {
                kept.add(&format!("what the API was sent as {name}"), value.as_bytes());
            }
        }
    }
    for secret in &secrets {
        kept.check_without(secret.expose());
    }
}

#[test]
fn no_secret_is_told_when_everything_fails() {
    let switch = super::failing_storage::Switch::new();
    let wrapped = switch.clone();
    let wrap = Box::new(move |storage| wrapped.wrap(storage));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = Some(nobody.local_addr().unwrap());
    drop(nobody);
    let host = TestHost::start_with(Options { wrap, upstream, ..Options::default() });
    let secrets = secrets(&host);
    let mut kept = Kept::default();
    put_everywhere(&host, &secrets[0], &mut kept);
    switch.set(super::failing_storage::Health::Failing);
    for secret in &secrets {
        put_everywhere(&host, secret, &mut kept);
    }
    switch.set(super::failing_storage::Health::Well);
    kept.add_host(&host);
    for secret in &secrets {
        kept.check_without(secret.expose());
    }
}
