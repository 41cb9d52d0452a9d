//! What the gate costs over HTTP, its log on, against a bare axum handler and
//! against the same handler with the rules native.
//!
//! `cargo bench --bench gate-cost`. Each server is a process of its own, so that its
//! CPU time is its own; the load comes from this one, over kept connections.
//! The gate also runs with a policy in its shadow: what that costs the requests is
//! the CPU time of all threads but the shadow's own, which runs when nobody else
//! wants to.
//! The servers take turns, several times over; of the figures and of their ratios in
//! each turn, the median counts. The more connections there are, the more requests come
//! together. On a machine with two cores, CPU per request is the steadier figure.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use tokio::{net::TcpListener, sync::watch};
use wardkey::{
    active_policy::{ActivePolicy, STANDARD_POLICY},
    audit::AuditKey,
    clock::Clock,
    credential::presented_secret,
    engine::Engine,
    gate::GateConfig,
    host::{Api, Host, Parts},
    keys::{Actor, Ask, CreateAccount, CreateKey},
    policies::PushPolicy,
    secret::{Digest, Presented},
    server,
    share::Share,
    storage::SqliteStorage,
    trust::Trust,
    vault::{KeyEncryptionKey, Vault},
    verification::{Delivery, Verifier},
};
use wardkey_policy::{Storage, authorize::authorize, contract as native};

const TURNS: usize = 9;
const BODY: &str = r#"{"object":"list","data":[],"has_more":false,"url":"/v1/charges"}"#;

/// As the program has it, and for all servers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, server] = args.as_slice()
        && flag == "--serve"
    {
        return serve(server);
    }
    // What `cargo test --benches` passes: run once, to see that it works.
    let quick = args.iter().any(|arg| arg == "--test");
    let (turns, turn) =
        if quick { (1, Duration::from_millis(100)) } else { (TURNS, Duration::from_secs(2)) };

    let kinds = ["bare", "native", "gate", "shadow-10", "shadow-100"];
    let servers: Vec<Server> = kinds.into_iter().map(Server::start).collect();
    println!("idle memory of the gate's process: {} MB", servers[2].memory_kb() / 1024);
    let mut figures = vec![Vec::new(); ROWS.len()];
    for _ in 0..turns {
        for (row, figures) in ROWS.iter().zip(&mut figures) {
            let server = kinds.iter().position(|kind| *kind == row.server).expect("it runs");
            figures.push(servers[server].load(row.connections, turn));
        }
    }
    println!(
        "{:<11} {:<21} {:>12} {:>8} {:>16} {:>8}",
        "connections", "", "requests/s", "ratio", "CPU/request", "ratio"
    );
    let mut bare = &figures[0];
    for (row, figures) in ROWS.iter().zip(&figures) {
        if row.server == "bare" {
            bare = figures;
        }
        // Turn by turn: the next may find a machine that is half as fast.
        let ratio = |of: fn(&Figure) -> f64| {
            median(figures.iter().zip(bare).map(|(figure, bare)| of(figure) / of(bare)))
        };
        println!(
            "{:<11} {:<21} {:>12.0} {:>7.2}x {:>13.1} µs {:>7.2}x",
            row.connections,
            row.name,
            median(figures.iter().map(|figure| figure.per_second)),
            ratio(|figure| figure.per_second),
            median(figures.iter().map(|figure| figure.cpu_us)),
            ratio(|figure| figure.cpu_us),
        );
    }
}

/// A server under the load of so many connections. The bare handler comes before those
/// that are measured against it.
struct Row {
    connections: usize,
    name: &'static str,
    server: &'static str,
}

const ROWS: &[Row] = &[
    Row { connections: 16, name: "bare handler", server: "bare" },
    Row { connections: 16, name: "native rules", server: "native" },
    Row { connections: 16, name: "gate", server: "gate" },
    Row { connections: 16, name: "with a shadow of 10 %", server: "shadow-10" },
    Row { connections: 16, name: "of 100 %", server: "shadow-100" },
    Row { connections: 1, name: "bare handler", server: "bare" },
    Row { connections: 1, name: "gate", server: "gate" },
    Row { connections: 64, name: "bare handler", server: "bare" },
    Row { connections: 64, name: "gate", server: "gate" },
];

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What one turn of load showed.
#[derive(Clone, Copy)]
struct Figure {
    per_second: f64,
    cpu_us: f64,
}

/// A server in a process of its own.
struct Server {
    process: Child,
    address: SocketAddr,
    secret: String,
}

impl Server {
    fn start(name: &str) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut process = Command::new(program)
            .args(["--serve", name])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = process.stdout.as_mut().expect("its output is ours");
        BufReader::new(stdout).read_line(&mut line).expect("the server says where it listens");
        let (address, secret) = line.trim().split_once(' ').expect("an address and a key");
        Self { address: address.parse().expect("an address"), secret: secret.to_owned(), process }
    }

    fn load(&self, connections: usize, turn: Duration) -> Figure {
        let request = format!(
            "GET /v1/charges?limit=3 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Stripe-Version: 2026-10-28.endive\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n",
            self.secret
        );
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
                let (address, request) = (self.address, request.clone());
                thread::spawn(move || client(address, request.as_bytes(), &stop, &count))
            })
            .collect();
        let (cpu, start) = (self.cpu(), Instant::now());
        let before = count.load(Ordering::Relaxed);
        thread::sleep(turn);
        let served = (count.load(Ordering::Relaxed) - before) as f64;
        let (cpu, elapsed) = (self.cpu() - cpu, start.elapsed());
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("every request was answered 200");
        }
        Figure {
            per_second: served / elapsed.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / served,
        }
    }

    /// Returns the CPU time that the process has used, without its shadow's.
    fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.id()));
        let nanoseconds = |thread: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
            let thread = thread.ok()?.path();
            let name = std::fs::read_to_string(thread.join("comm")).ok()?;
            if name.trim_end() == "policy-shadow" {
                return None;
            }
            // The first is the time on a processor.
            let spent = std::fs::read_to_string(thread.join("schedstat")).ok()?;
            spent.split(' ').next()?.parse().ok()
        };
        let threads = threads.expect("the server runs");
        Duration::from_nanos(threads.filter_map(nanoseconds).sum())
    }

    fn memory_kb(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn client(address: SocketAddr, request: &[u8], stop: &AtomicBool, count: &AtomicU64) {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("the socket takes options");
    let mut answer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(request).expect("the server reads");
        let mut read = 0;
        // Every server answers with the same body, at the end of its answer.
        while !answer[..read].ends_with(BODY.as_bytes()) {
            let more = stream.read(&mut answer[read..]).expect("the server answers");
            assert!(more > 0, "{}", String::from_utf8_lossy(&answer[..read]));
            read += more;
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "a request was refused");
        count.fetch_add(1, Ordering::Relaxed);
    }
}

async fn handler() -> Response {
    ([("content-type", "application/json")], BODY).into_response()
}

#[tokio::main]
async fn serve(server: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (_stop, stopped) = watch::channel(false);
    match server {
        "bare" => {
            println!("{address} none");
            let router = Router::new().fallback(handler);
            axum::serve(listener, router).await.expect("it serves");
        }
        "native" => {
            let key = native_key();
            let secret = wardkey::secret::Secret::generate(None, "rk_test_");
            println!("{address} {}", secret.expose());
            let rules = Arc::new(Rules { digest: secret.digest(), key });
            let router = Router::new().fallback(native_gate).with_state(rules);
            axum::serve(listener, router).await.expect("it serves");
        }
        _ => {
            let dir = tempfile::tempdir().expect("a folder");
            let storage = SqliteStorage::open(&dir.path().join("wardkey.db")).expect("storage");
            let engine = Engine::new().expect("the engine starts");
            let host = Host::start(Parts {
                storage: Arc::new(storage),
                policy: Arc::new(ActivePolicy::load(&engine, None).expect("the policy loads")),
                engine: Arc::new(engine),
                is_policy_pinned: false,
                trust: Trust::default(),
                fall_back_after: None,
                vault: Vault::new(&KeyEncryptionKey::generate()),
                audit_key: AuditKey::generate(),
                verifier: Verifier::new(Delivery::None, Clock::system()),
                clock: Clock::system(),
                log_retention_days: None,
                gate: GateConfig::default(),
                api: Api::Router(Router::new().fallback(handler)),
            });
            let host = host.await.expect("storage answers");
            let operator = Ask::by(Actor::Operator);
            let account = CreateAccount { name: "Bench".to_owned(), ..CreateAccount::default() };
            host.keys().create_account(&operator, account).await.expect("an account");
            let wanted = CreateKey {
                kind: "restricted".to_owned(),
                name: "bench".to_owned(),
                permissions: vec!["charge_read".to_owned()],
                ..CreateKey::default()
            };
            let done = host.keys().create(&operator, wanted).await.expect("a key");
            let secret = done.secret.expect("it was just made");
            if let Some(percent) = server.strip_prefix("shadow-") {
                let share = percent.parse().ok().and_then(Share::of_percent).expect("a share");
                shadow(&host, &operator, share).await;
            }
            println!("{address} {}", secret.expose());
            server::serve(listener, host.gate(), stopped).await;
        }
    }
}

/// Puts the standard policy under another digest in the host's shadow.
async fn shadow(host: &Host, operator: &Ask, share: Share) {
    // A section that nobody reads.
    let bytes = [STANDARD_POLICY, &[0, 2, 1, b'b']].concat();
    let wanted = PushPolicy {
        name: "bench".to_owned(),
        version: "1".to_owned(),
        revision: 1,
        signature: None,
        bytes: bytes.into(),
    };
    let pushed = host.policies().push(operator, wanted).await.expect("it is a policy");
    let digest = pushed.record.digest.to_hex();
    host.policies().shadow(operator, &digest, None, share).await.expect("it is in the shadow");
}

/// The rules natively behind one handler: what isolation is measured against.
struct Rules {
    digest: Digest,
    key: native::Key,
}

impl Storage for Rules {
    fn find_accounts(&self, _: &[String]) -> Vec<Option<native::Account>> {
        Vec::new()
    }
}

async fn native_gate(State(rules): State<Arc<Rules>>, request: Request) -> Response {
    let Ok(Some(secret)) = presented_secret(request.headers()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let presented = Presented::parse(&secret, None);
    let key = presented.digest().filter(|digest| *digest == rules.digest).map(|_| &rules.key);
    let credential = match presented {
        Presented::WellFormed { prefix, masked, .. } => {
            native::Credential::WellFormed(native::PresentedCredential {
                prefix: prefix.to_owned(),
                masked: masked.as_str().to_owned(),
            })
        }
        Presented::Malformed { .. } => native::Credential::Absent,
    };
    let question = native::Request {
        credential,
        method: request.method().as_str().to_owned(),
        path: request.uri().path().to_owned(),
        source: native::Source::Ipv4(0),
        context: None,
        account: None,
        api_version: None,
        now: 1_893_456_000,
        attributes: Vec::new(),
    };
    match authorize(&question, key, &*rules) {
        native::Decision::Allow(_) => handler().await,
        native::Decision::Deny(_) => StatusCode::FORBIDDEN.into_response(),
    }
}

fn native_key() -> native::Key {
    native::Key {
        id: "key_0123456789abcdefghijklmn".to_owned(),
        account: "acct_0123456789abcdefghijklmn".to_owned(),
        mode: native::Mode::Test,
        kind: "restricted".to_owned(),
        origin: "user".to_owned(),
        created_at: 1_893_456_000,
        ends_at: None,
        restored_at: None,
        money_moved_at: None,
        permissions: "charge_read".to_owned(),
        connect_permissions: String::new(),
        ipv4_nets: Vec::new(),
        attributes: Vec::new(),
    }
}
