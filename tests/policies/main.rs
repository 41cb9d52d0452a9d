//! Policies that are changed while the lock is in use: what is in force at every
//! step, what comes back after a restart or a crash, what becomes of bad ones,
//! and what the requests see of it that are under way.
//!
//! Policies here are written as text ([`guest`]), so that each is another by one
//! rule that can be seen from outside.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/failing_storage.rs"]
mod failing_storage;
#[expect(dead_code, reason = "another suite asks more of it")]
#[path = "../engine/guest.rs"]
mod guest;
#[path = "../common/program.rs"]
mod program;

mod bad;
mod canary;
mod crash;
mod failing;
mod lossless;
mod overlays;
mod shadow;
mod trust;
mod versions;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use common::{Answer, Options, TestHost, engine, send_raw};
use guest::{Guest, IS_LONG, answer, denial, honest_with, store, store_text};
use serde_json::Value;
use wardkey::{
    active_policy::{ActivePolicy, STANDARD_POLICY},
    error::ApiError,
    host::{Host, Parts},
    secret::{Digest, Secret},
    storage::{AuditEntry, AuditFilter, Mode, Storage},
    trust::Trust,
};

/// Tells a request by the length of its method: `POST` has four letters.
const IS_POST: &str = "(i32.eq (i32.load offset=24 (local.get $request)) (i32.const 4))";

/// `GET` has three.
const IS_GET: &str = "(i32.eq (i32.load offset=24 (local.get $request)) (i32.const 3))";

/// A refusal that can be told from others: its code and its message.
type Refusal = (&'static str, &'static str);

const ONE: Refusal = ("x-name", "no");
const TWO: Refusal = ("account", "wardkey");
const THREE: Refusal = ("acct_1", "Upper");

fn refuse((code, message): Refusal) -> String {
    store(0, 1)
        + &store(denial::CLASS, 2)
        + &store(denial::CODE, 1)
        + &store_text(denial::CODE + 4, code)
        + &store_text(denial::MESSAGE, message)
        + &answer()
}

/// A policy that lets keys in that there are, and refuses everybody else with
/// these words.
fn honest(refusal: Refusal) -> Vec<u8> {
    let text = honest_with("");
    let deny = guest::deny();
    assert_eq!(text.matches(&deny).count(), 1);
    Guest::new(text.replace(&deny, &refuse(refusal))).build()
}

fn digest(bytes: &[u8]) -> String {
    Digest::of_bytes(bytes).to_hex()
}

fn standard() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| digest(STANDARD_POLICY))
}

/// Sends a component to whoever manages policies there.
fn push_to(admin: SocketAddr, credential: &str, query: &str, bytes: &[u8]) -> Answer {
    let head = format!(
        "POST /v2/policies?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {credential}\r\nContent-Type: application/wasm\r\n\
         Content-Length: {}\r\n\r\n",
        bytes.len()
    );
    send_raw(admin, &[head.as_bytes(), bytes].concat())
}

/// Asks whoever manages policies there for something.
fn ask_at(admin: SocketAddr, credential: &str, method: &str, path: &str, body: &str) -> Answer {
    let auth = format!("Bearer {credential}");
    common::send_json(admin, method, path, &[("Authorization", &auth)], body)
}

/// A host whose policies are changed.
struct Place {
    host: TestHost,
    secret: Secret,
}

impl Place {
    fn start() -> Self {
        Self::start_with(Options::default())
    }

    fn start_with(options: Options) -> Self {
        let host = TestHost::start_with(options);
        let secret = host.default_secret("secret", Mode::Test);
        Self { host, secret }
    }

    fn push(&self, bytes: &[u8], revision: u64) -> Answer {
        let query = format!("name=rules&version=1.{revision}&revision={revision}");
        push_to(self.host.admin, &self.host.operator, &query, bytes)
    }

    /// Pushes a policy that is fine, and returns its digest.
    #[track_caller]
    fn pushed(&self, bytes: &[u8], revision: u64) -> String {
        let answer = self.push(bytes, revision);
        assert_eq!(answer.status, 201, "{answer:?}");
        digest(bytes)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        ask_at(self.host.admin, &self.host.operator, method, path, body)
    }

    fn activate(&self, name: &str) -> Answer {
        self.ask("POST", &format!("/v2/policies/{name}/activate"), "")
    }

    fn retire(&self, name: &str) -> Answer {
        self.ask("POST", &format!("/v2/policies/{name}/retire"), "")
    }

    fn roll_back(&self, to: Option<&str>) -> Answer {
        let body = to.map(|to| serde_json::json!({ "to": to }).to_string());
        self.ask("POST", "/v2/policies/rollback", &body.unwrap_or_default())
    }

    fn list(&self) -> Vec<Value> {
        let answer = self.ask("GET", "/v2/policies", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["data"].as_array().unwrap().clone()
    }

    /// Returns the digests that are listed with a state.
    fn listed_as(&self, state: &str) -> Vec<String> {
        let list = self.list();
        let found = list.iter().filter(|policy| policy["state"] == state);
        found.map(|policy| policy["digest"].as_str().unwrap().to_owned()).collect()
    }

    /// Checks what is in force by everything that can tell: the next request, and
    /// the list.
    #[track_caller]
    fn in_force(&self, bytes: &[u8], refusal: Option<Refusal>) {
        let refused = self.host.call_with("GET", "/v1/charges", &[], "");
        match refusal {
            Some((code, message)) => {
                assert_eq!((refused.code().as_str(), refused.message().as_str()), (code, message));
                assert_eq!(refused.status, 403);
            }
            // The standard policy.
            None => assert_eq!(refused.status, 401, "{refused:?}"),
        }
        assert_eq!(self.listed_as("active"), [digest(bytes)]);
        assert_eq!(self.host.host.policy().get().digest(), Digest::of_bytes(bytes));
    }

    /// Returns what the audit log says of policies, the oldest first.
    fn audit(&self) -> Vec<AuditEntry> {
        let filter = AuditFilter { after: Some(0), limit: usize::MAX, ..AuditFilter::default() };
        let all = self.host.block_on(self.host.storage.list_audit(filter)).unwrap();
        let entries = all.iter().map(|entry| serde_json::from_str(&entry.text).unwrap());
        entries.filter(|entry: &AuditEntry| entry.action.starts_with("policy.")).collect()
    }

    /// Starts another host over what this one keeps, as after a restart.
    fn restarted(&self, policy: Option<&[u8]>) -> Result<Arc<Host>, ApiError> {
        self.restarted_with(policy, Trust::default())
    }

    /// The same with other demands.
    fn restarted_with(&self, policy: Option<&[u8]>, trust: Trust) -> Result<Arc<Host>, ApiError> {
        let active = Arc::new(ActivePolicy::load(engine(), policy).unwrap());
        let storage: Arc<dyn Storage> = Arc::clone(&self.host.storage);
        self.host.block_on(Host::start(Parts {
            is_policy_pinned: policy.is_some(),
            trust,
            ..common::parts(storage, active, self.host.clock.clone())
        }))
    }

    /// Checks what a restart would come back to.
    #[track_caller]
    fn comes_back(&self, bytes: &[u8]) {
        let host = self.restarted(None).unwrap();
        assert_eq!(host.policy().get().digest(), Digest::of_bytes(bytes));
    }
}

/// Checks a refusal: its status, its code, and what its sentence says.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, says: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert!(says_so(answer, says), "`{says}` is not in: {}", answer.message());
}

/// Tells whether a sentence says this: it begins with a capital, wherever that
/// comes from.
fn says_so(answer: &Answer, says: &str) -> bool {
    answer.message().to_lowercase().contains(&says.to_lowercase())
}
