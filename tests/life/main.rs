//! The life of keys as people and programs meet it: the management listener and
//! the gate of a running host, what is promised at every step, and what is left
//! of it after a crash.
//!
//! A test of the routes is rows for [`Life::check`]. What is refused must not have
//! changed anything, so that every `check` looks at what is stored as well.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/failing_storage.rs"]
mod failing_storage;
#[expect(dead_code, reason = "another suite asks more of it")]
#[path = "../engine/guest.rs"]
mod guest;
#[path = "../common/program.rs"]
mod program;
#[path = "../policy/random.rs"]
mod random;
#[expect(dead_code, reason = "another suite asks more of it")]
#[path = "../gate/upstream.rs"]
mod upstream;

mod crash;
mod due;
mod expiry;
mod items;
mod matrix;
mod model;
mod openapi;
mod records;
mod requests;
mod throttling;

use std::collections::BTreeMap;

use common::{Answer, NOON, Options, TestHost, send_json};
use serde_json::{Value, json};
use wardkey::{
    gate::GateConfig,
    storage::{Activation, AuditEntry, AuditFilter, KeyFilter, KeyRecord, Mode, PolicyRecord},
};

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

const KEYS: &str = "/v2/iam/api_keys";

/// A host whose clients may say from which address they come.
struct Life {
    host: TestHost,
}

/// All that a management request can change.
#[derive(Debug, PartialEq)]
struct State {
    keys: BTreeMap<String, KeyRecord>,
    accounts: Vec<wardkey::storage::AccountRecord>,
    policies: Vec<PolicyRecord>,
    activations: Vec<Activation>,
    /// What the audit log says was done, word by word.
    done: Vec<String>,
}

impl Life {
    fn start() -> Self {
        Self::start_with(Options::default())
    }

    fn start_with(options: Options) -> Self {
        let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        let gate = GateConfig { trusted_proxies, ..options.gate };
        Self { host: TestHost::start_with(Options { gate, ..options }) }
    }

    /// Sends a management request such as `POST /v2/iam/api_keys`, and compares
    /// what came of it, such as `201` or `403 secret_shown_once`.
    #[track_caller]
    fn check_as(
        &self,
        credential: &str,
        request: &str,
        body: Value,
        headers: &[(&str, &str)],
        expected: &str,
    ) -> Answer {
        let (method, path) = request.split_once(' ').unwrap();
        let told = format!("{request} {body} {headers:?}");
        self.check_sent(&told, expected, || {
            self.host.manage_as(credential, method, path, body, headers)
        })
    }

    /// The same with a request that is sent otherwise.
    #[track_caller]
    fn check_sent(&self, what: &str, expected: &str, send: impl FnOnce() -> Answer) -> Answer {
        let before = self.state();
        let answer = send();
        let told = format!("{what}: {}", answer.body);
        assert_eq!(outcome(&answer), expected, "{told}");
        assert!(answer.headers["request-id"].starts_with("req_"), "{told}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{told}");
        if answer.status >= 400 {
            assert_eq!(self.state(), before, "a refused request has changed something: {told}");
            assert!(answer.message().len() > 10, "{told}");
        }
        answer
    }

    /// The same as the operator. Returns the body.
    #[track_caller]
    fn check(&self, request: &str, body: Value, expected: &str) -> Value {
        let operator = self.host.operator.clone();
        self.check_as(&operator, request, body, &[], expected).json()
    }

    /// The same with one key: `rotate` is `POST /v2/iam/api_keys/{id}/rotate`.
    #[track_caller]
    fn check_key(&self, id: &str, verb: &str, body: Value, expected: &str) -> Value {
        self.check(&on(id, verb), body, expected)
    }

    /// Makes a key of the host's account as its operator, with the name `a key`
    /// unless it is given another one.
    #[track_caller]
    fn make(&self, mut wanted: Value) -> Made {
        if wanted["name"].is_null() {
            wanted["name"] = "a key".into();
        }
        if wanted["account"].is_null() {
            wanted["account"] = self.host.account.clone().into();
        }
        Made::from(self.check(&format!("POST {KEYS}"), wanted, "201"))
    }

    /// Makes a key of this kind and mode.
    #[track_caller]
    fn make_kind(&self, kind: &str, live: bool) -> Made {
        self.make(json!({ "kind": kind, "livemode": live }))
    }

    /// Returns the default key of this kind and mode, as it is shown.
    #[track_caller]
    fn default_key(&self, kind: &str, live: bool) -> Value {
        let list = self.list(&format!("account={}&livemode={live}", self.host.account));
        let found = list.iter().find(|key| key["kind"] == kind && key["origin"] == "platform");
        found.unwrap_or_else(|| panic!("no default {kind} key: {list:?}")).clone()
    }

    /// Returns the secret of a default key, as its operator reveals it.
    #[track_caller]
    fn default_secret(&self, kind: &str, live: bool) -> Made {
        let id = text(&self.default_key(kind, live)["id"]);
        Made::from(self.check_key(&id, "reveal", Value::Null, "200"))
    }

    /// Returns the key as it is shown.
    #[track_caller]
    fn show(&self, id: &str) -> Value {
        self.check(&format!("GET {KEYS}/{id}"), Value::Null, "200")
    }

    /// Returns up to 100 keys.
    #[track_caller]
    fn list(&self, query: &str) -> Vec<Value> {
        let list = self.check(&format!("GET {KEYS}?limit=100&{query}"), Value::Null, "200");
        list["data"].as_array().unwrap().clone()
    }

    /// Returns what came of a use of the key at the gate, from an address. Every
    /// key may ask what it is.
    fn used_from(&self, secret: &str, address: &str) -> String {
        let auth = format!("Bearer {secret}");
        let headers = [("Authorization", auth.as_str()), ("X-Forwarded-For", address)];
        outcome(&self.host.call_with("GET", "/v2/iam/api_keys/self", &headers, ""))
    }

    fn used(&self, secret: &str) -> String {
        self.used_from(secret, "192.0.2.1")
    }

    /// Returns what came of a request at the gate.
    fn call(&self, secret: &str, request: &str) -> String {
        outcome(&self.ask(secret, request))
    }

    /// Sends a request to the gate. A `POST` has an amount and a currency, as most
    /// of those that move money want them.
    fn ask(&self, secret: &str, request: &str) -> Answer {
        let (method, path) = request.split_once(' ').unwrap();
        let auth = format!("Bearer {secret}");
        let body = if method == "POST" { "amount=100&currency=usd" } else { "" };
        self.host.call_with(method, path, &[("Authorization", auth.as_str())], body)
    }

    /// Moves the clock and does what has become due by then.
    #[track_caller]
    fn wait_until(&self, now: u64) {
        self.host.clock.set(now);
        let seen = self.host.block_on(self.host.host.run_due()).unwrap();
        assert_eq!(seen.failed, 0, "what was due could not be done");
    }

    /// Returns the key as it is stored.
    #[track_caller]
    fn stored(&self, id: &str) -> KeyRecord {
        self.host.block_on(self.host.storage.find_key(id)).unwrap().unwrap()
    }

    fn state(&self) -> State {
        self.host.block_on(async {
            let storage = &self.host.storage;
            let all = KeyFilter { limit: 100_000, ..KeyFilter::default() };
            let keys = storage.list_keys(all).await.unwrap();
            let mut done = self.audit_texts().await;
            // No text in an entry holds these characters in a row. To read all
            // entries would take longer than everything else here.
            done.retain(|text| !text.contains(r#""refused":""#));
            State {
                keys: keys
                    .into_iter()
                    // Uses are noted in their own time, and are no changes.
                    .map(|key| KeyRecord { last_use: None, money_moved_at: None, ..key })
                    .map(|key| (key.id.clone(), key))
                    .collect(),
                accounts: storage.list_accounts(None, 100_000).await.unwrap(),
                policies: storage.list_policies().await.unwrap(),
                activations: storage.list_activations(100_000).await.unwrap(),
                done,
            }
        })
    }

    async fn audit_texts(&self) -> Vec<String> {
        let all = AuditFilter { limit: 100_000, ..AuditFilter::default() };
        let entries = self.host.storage.list_audit(all).await.unwrap();
        entries.into_iter().map(|entry| entry.text).collect()
    }

    /// Returns the whole audit log, oldest first.
    async fn audit(&self) -> Vec<AuditEntry> {
        let texts = self.audit_texts().await;
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// Returns the newest entry of the audit log.
    fn last_audit(&self) -> AuditEntry {
        self.host.block_on(self.audit()).pop().unwrap()
    }
}

/// A key that an answer has shown with its secret.
#[derive(Clone, Debug)]
struct Made {
    id: String,
    secret: String,
    shown: Value,
}

impl From<Value> for Made {
    #[track_caller]
    fn from(shown: Value) -> Self {
        let secret = token(&shown).unwrap_or_else(|| panic!("without its secret: {shown}"));
        Self { id: text(&shown["id"]), secret, shown }
    }
}

/// Returns the secret that is in a key as it is shown.
fn token(key: &Value) -> Option<String> {
    let held = ["secret_key", "publishable_key"].map(|field| key[field]["token"].as_str());
    held.into_iter().flatten().next().map(str::to_owned)
}

/// Returns the request to do something with a key; with an empty verb, to change
/// it.
fn on(id: &str, verb: &str) -> String {
    match verb {
        "" => format!("POST {KEYS}/{id}"),
        _ => format!("POST {KEYS}/{id}/{verb}"),
    }
}

/// Returns the status and, if there is one, the code.
fn outcome(answer: &Answer) -> String {
    format!("{} {}", answer.status, answer.code()).trim_end().to_owned()
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Returns a time as the API writes it.
fn time(seconds: u64) -> String {
    jiff::Timestamp::from_second(seconds.cast_signed()).unwrap().to_string()
}

fn has_mode(key: &KeyRecord, live: bool) -> bool {
    (key.mode == Mode::Live) == live
}
