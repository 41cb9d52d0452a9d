//! A host for tests: real SQLite, the real component, real sockets on the
//! loopback, and a clock that stands still until it is moved.

// Each suite uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each suite is a program of its own, and none uses all of it"
)]

pub mod openapi;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, Request},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};
use tower::ServiceExt as _;
use wardkey::{
    active_policy::{ActivePolicy, STANDARD_POLICY},
    api::{admin::AdminAccess, internal::InternalAccess},
    audit::AuditKey,
    clock::Clock,
    data_dir::DataDir,
    engine::Engine,
    gate::GateConfig,
    host::{Api, Host, Parts},
    keys::{Actor, Ask, CreateAccount, CreateKey},
    secret::Secret,
    server,
    storage::{KeyRecord, LogEntry, LogFilter, Mode, SqliteStorage, Storage},
    trust::Trust,
    vault::{KeyEncryptionKey, Vault},
    verification::{Delivery, Verifier},
};
use wasm_encoder::{ComponentSection as _, CustomSection};

/// When every test begins: 2030-01-01T00:00:00Z.
pub const NOON: u64 = 1_893_456_000;

/// How long a test waits for an answer before it calls it missing. Not what is
/// measured: answers take milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the engine that all tests of a binary share.
pub fn engine() -> &'static Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    ENGINE.get_or_init(|| Arc::new(Engine::new().unwrap()))
}

/// Adds cases to a component that a policy has to pass.
pub fn with_cases(mut component: Vec<u8>, cases: &str) -> Vec<u8> {
    let section = CustomSection { name: "wardkey:cases".into(), data: cases.as_bytes().into() };
    section.append_to_component(&mut component);
    component
}

/// What a test puts between a host and its storage.
pub type Wrap = Box<dyn FnOnce(Arc<dyn Storage>) -> Arc<dyn Storage>>;

/// How a host is started, if not as usual.
pub struct Options {
    /// The component to put in force.
    pub policy: Option<Vec<u8>>,
    /// What is demanded of policies.
    pub trust: Trust,
    /// The API behind the gate.
    pub upstream: Option<SocketAddr>,
    /// What the operator set for the gate.
    pub gate: GateConfig,
    /// After failures for how many accounts it falls back.
    pub fall_back_after: Option<u32>,
    /// Who is sent verification codes.
    pub delivery: Delivery,
    /// For how many days the request log is kept.
    pub log_retention_days: Option<u32>,
    /// Puts something between the host and its storage.
    pub wrap: Wrap,
    /// Where its data directory is made. `None`: where temporary files are.
    pub folder: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: None,
            trust: Trust::default(),
            upstream: None,
            // Suites of bad input fail to authenticate by the thousand.
            gate: GateConfig { max_failed_auth_per_minute: 1_000_000, ..GateConfig::default() },
            fall_back_after: None,
            delivery: Delivery::None,
            log_retention_days: None,
            wrap: Box::new(|storage| storage),
            folder: None,
        }
    }
}

/// A host that serves on the loopback. It stops when it is dropped.
pub struct TestHost {
    /// Where the gate listens.
    pub gate: SocketAddr,
    /// Where verify, metrics and health listen.
    pub internal: SocketAddr,
    /// Where keys are managed.
    pub admin: SocketAddr,
    /// The operator credential.
    pub operator: String,
    /// Its data directory, locked as that of a host that serves.
    pub data_dir: Arc<DataDir>,
    /// The host itself.
    pub host: Arc<Host>,
    /// Its clock.
    pub clock: Clock,
    /// What it keeps, without what a test put before it.
    pub storage: Arc<dyn Storage>,
    /// The account that was made with it.
    pub account: String,
    /// The folder that is its data directory.
    pub dir: tempfile::TempDir,
    runtime: Runtime,
    stop: watch::Sender<bool>,
}

/// What a host is made of where nothing is asked for: keys of its own, and the simulated
/// API.
pub fn parts(storage: Arc<dyn Storage>, policy: Arc<ActivePolicy>, clock: Clock) -> Parts {
    Parts {
        storage,
        engine: Arc::clone(engine()),
        policy,
        is_policy_pinned: false,
        trust: Trust::default(),
        fall_back_after: None,
        vault: Vault::new(&KeyEncryptionKey::generate()),
        audit_key: AuditKey::generate(),
        verifier: Verifier::new(Delivery::None, clock.clone()),
        clock,
        log_retention_days: None,
        gate: GateConfig::default(),
        api: Api::Simulated,
    }
}

impl TestHost {
    /// Starts a host as usual.
    pub fn start() -> Self {
        Self::start_with(Options::default())
    }

    /// Starts a host of one's own.
    pub fn start_with(options: Options) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        let dir = tempfile::tempdir_in(options.folder.unwrap_or_else(std::env::temp_dir)).unwrap();
        let data_dir = Arc::new(DataDir::create(dir.path()).unwrap());
        let operator = fs::read_to_string(data_dir.operator_file()).unwrap().trim().to_owned();
        let storage: Arc<dyn Storage> =
            Arc::new(SqliteStorage::open(&data_dir.database()).unwrap());
        let clock = Clock::by_hand(NOON);
        let policy = Arc::new(ActivePolicy::load(engine(), options.policy.as_deref()).unwrap());
        let parts = Parts {
            is_policy_pinned: options.policy.is_some(),
            trust: options.trust,
            fall_back_after: options.fall_back_after,
            verifier: Verifier::new(options.delivery, clock.clone()),
            log_retention_days: options.log_retention_days,
            gate: options.gate,
            api: match options.upstream {
                Some(address) => Api::Upstream(format!("http://{address}").parse().unwrap()),
                None => Api::Simulated,
            },
            ..parts((options.wrap)(Arc::clone(&storage)), policy, clock.clone())
        };
        let (stop, stopped) = watch::channel(false);
        let access = AdminAccess::Credential(Arc::clone(&data_dir));
        let (host, [gate, internal, admin], account) = runtime.block_on(async {
            let host = Host::start(parts).await.unwrap();
            let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = [&gate, &internal, &admin].map(|listener| listener.local_addr().unwrap());
            tokio::spawn(server::serve(gate, host.gate(), stopped.clone()));
            let routes = host.internal_router(InternalAccess::Loopback);
            tokio::spawn(server::serve(internal, routes, stopped.clone()));
            tokio::spawn(server::serve(admin, host.admin_router(access), stopped));
            let made = host.keys().create_account(by_operator(), account_named("Test")).await;
            (host, at, made.unwrap().0.id)
        });
        Self {
            gate,
            internal,
            admin,
            operator,
            data_dir,
            host,
            clock,
            storage,
            account,
            dir,
            runtime,
            stop,
        }
    }

    /// Runs a future to its end.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Makes a test key as its operator would.
    pub fn key(&self, kind: &str, permissions: &[&str]) -> (KeyRecord, Secret) {
        self.key_with(CreateKey {
            kind: kind.to_owned(),
            permissions: permissions.iter().map(|&name| name.to_owned()).collect(),
            ..CreateKey::default()
        })
    }

    /// Makes a key of this account as its operator would.
    pub fn key_with(&self, wanted: CreateKey) -> (KeyRecord, Secret) {
        let wanted = CreateKey {
            account: wanted.account.or_else(|| Some(self.account.clone())),
            name: "a key".to_owned(),
            ..wanted
        };
        let done = self.block_on(self.host.keys().create(by_operator(), wanted)).unwrap();
        (done.key, done.secret.unwrap())
    }

    /// Makes another account as its operator would.
    pub fn make_account(&self, wanted: CreateAccount) -> String {
        self.block_on(self.host.keys().create_account(by_operator(), wanted)).unwrap().0.id
    }

    /// Makes an organization as its operator would.
    pub fn make_organization(&self) -> String {
        let made = self.host.keys().create_organization(by_operator(), "Org".to_owned());
        self.block_on(made).unwrap().id
    }

    /// Returns the secret of a default key, such as (`secret`, test).
    pub fn default_secret(&self, kind: &str, mode: Mode) -> Secret {
        self.block_on(async {
            let filter = wardkey::storage::KeyFilter {
                account: Some(self.account.clone()),
                mode: Some(mode),
                limit: 100,
                ..Default::default()
            };
            let keys = self.storage.list_keys(filter).await.unwrap();
            let key = keys.iter().find(|key| key.kind == kind && key.origin == "platform");
            let done = self.host.keys().reveal(by_operator(), &key.unwrap().id).await;
            done.unwrap().secret.unwrap()
        })
    }

    /// Returns what is in the request log by now, newest first.
    pub fn logged(&self, limit: usize) -> Vec<LogEntry> {
        let found = self.storage.find_log(LogFilter { limit, ..LogFilter::default() });
        self.block_on(found).unwrap().into_iter().map(|(_, entry)| entry).collect()
    }

    /// Sends a request with a key to the gate.
    pub fn call(&self, method: &str, path: &str, secret: &str) -> Answer {
        self.call_with(method, path, &[("Authorization", &format!("Bearer {secret}"))], "")
    }

    /// Sends a request with a form as its body to the gate.
    pub fn call_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        send(self.gate, method, path, headers, body)
    }

    /// Sends a management request as the operator, without a body if that is null.
    /// The answer has to be as `openapi.json` describes it.
    #[track_caller]
    pub fn manage(&self, method: &str, path: &str, body: Value) -> Answer {
        self.manage_as(&self.operator, method, path, body, &[])
    }

    /// Sends a management request with a credential: the operator's or a key.
    #[track_caller]
    pub fn manage_as(
        &self,
        credential: &str,
        method: &str,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let auth = format!("Bearer {credential}");
        let mut all = vec![("Authorization", auth.as_str())];
        all.extend(headers);
        let answer = if body.is_null() {
            send(self.admin, method, path, &all, "")
        } else {
            send_json(self.admin, method, path, &all, &body.to_string())
        };
        openapi::check(method, path, &answer);
        answer
    }

    /// Sends a management request as the command line does: at the socket, where
    /// nobody is asked who they are.
    #[track_caller]
    pub fn manage_at_socket(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let answer = self.block_on(async {
            let routes = self.host.admin_router(AdminAccess::Socket(Arc::clone(&self.data_dir)));
            let (head, body) = routes.oneshot(request).await.unwrap().into_parts();
            let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            let headers = head.headers.iter();
            Answer {
                status: head.status.as_u16(),
                headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
                body: String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap(),
            }
        });
        openapi::check(method, path, &answer);
        answer
    }

    /// Sends a component to `POST /v2/policies`, with this query.
    #[track_caller]
    pub fn push_policy_as(&self, credential: &str, query: &str, component: &[u8]) -> Answer {
        let path = format!("/v2/policies?{query}");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {credential}\r\nContent-Type: application/wasm\r\n\
             Content-Length: {}\r\n\r\n",
            component.len()
        );
        let answer = send_raw(self.admin, &[head.as_bytes(), component].concat());
        openapi::check("POST", &path, &answer);
        answer
    }

    /// Pushes the standard policy with this name in it, which is another policy
    /// with the same rules. Returns its digest.
    #[track_caller]
    pub fn push_policy(&self, name: &str) -> String {
        let query = format!("name={name}&version=1&revision=1");
        let answer = self.push_policy_as(&self.operator, &query, &policy_named(name));
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["digest"].as_str().unwrap().to_owned()
    }

    /// Writes what the host has in memory to its database.
    pub fn finish(&self) {
        self.block_on(self.host.finish()).unwrap();
    }
}

/// What the operator asks for, without conditions.
pub fn by_operator() -> &'static Ask {
    static ASK: OnceLock<Ask> = OnceLock::new();
    ASK.get_or_init(|| Ask::by(Actor::Operator))
}

/// Returns the standard policy with a name in it: other bytes, the same rules.
pub fn policy_named(name: &str) -> Vec<u8> {
    // A section that nobody reads: its length, the length of its name, its name.
    let length = u8::try_from(name.len()).unwrap();
    assert!(length < 127, "a length of one byte");
    [STANDARD_POLICY, &[0, length + 1, length], name.as_bytes()].concat()
}

/// An account that stands alone.
pub fn account_named(name: &str) -> CreateAccount {
    CreateAccount { name: name.to_owned(), ..CreateAccount::default() }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status; 0 if the connection was closed without one.
    pub status: u16,
    /// The headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body as it came.
    pub body: String,
}

impl Answer {
    /// Returns the body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Returns the error's code; empty if there is none.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the error's message; empty if there is none.
    pub fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends a request whose target goes over the wire byte by byte, as no client
/// library would let it.
pub fn send(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    send_typed(to, method, target, headers, "application/x-www-form-urlencoded", body)
}

/// Sends a request with JSON as its body.
pub fn send_json(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    send_typed(to, method, target, headers, "application/json", body)
}

fn send_typed(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    content_type: &str,
    body: &str,
) -> Answer {
    let mut request =
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!(
            "Content-Type: {content_type}\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    request.push_str("\r\n");
    request.push_str(body);
    send_raw(to, request.as_bytes())
}

/// Sends bytes and reads what comes back until the connection is closed.
pub fn send_raw(to: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The host may answer, and close, before it has read all.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    parse(&String::from_utf8_lossy(&answer))
}

/// Reads what came back over a connection.
pub fn parse(answer: &str) -> Answer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Answer { status: status.unwrap_or_default(), headers, body }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_default();
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size.min(rest.len())]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}
