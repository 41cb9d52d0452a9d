//! What one decision costs: natively, in an instance that is put back afterwards, and
//! in a new one.
//!
//! `cargo bench --bench decision`. Times are the least of many batches, in
//! microseconds; what counts is the ratio to the native rules in the same run.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use wardkey::{
    active_policy::STANDARD_POLICY,
    engine::{
        Engine,
        contract::{Credential, Ipv4Net, Key, Mode, PresentedCredential, Request, Source},
    },
    facts::Facts,
};
use wardkey_policy::{Storage, authorize::authorize, contract as native};

const NOW: u64 = 1_893_456_000;
const BATCHES: u32 = 200;
const CALLS: u32 = 500;

/// A key, and its name in the table.
struct Case {
    name: &'static str,
    permissions: String,
    networks: u32,
}

fn main() {
    // What `cargo test --benches` passes: run once, to see that it works.
    let batches = if std::env::args().any(|arg| arg == "--test") { 1 } else { BATCHES };
    let engine = Engine::new().expect("the engine starts");
    let start = Instant::now();
    let policy = engine.load(STANDARD_POLICY).expect("the standard policy loads");
    println!(
        "standard policy: {} bytes, compiled in {:.0} ms",
        policy.size_bytes(),
        start.elapsed().as_secs_f64() * 1e3
    );

    let permissions = policy.permissions().expect("the policy lists its permissions");
    let mut many: Vec<&str> = permissions.iter().map(|one| one.name.as_str()).take(149).collect();
    many.push("charge_read");
    many.sort_unstable();
    many.dedup();
    let cases = [
        Case { name: "small key", permissions: "charge_read".to_owned(), networks: 0 },
        Case { name: "150 permissions, 20 networks", permissions: many.join(" "), networks: 20 },
    ];
    println!("{:<30} {:>10} {:>10} {:>10} {:>10}", "", "native", "put back", "new", "new/native");
    for case in &cases {
        let (key, request) = (key(case), request());

        let (native_key, native_request) = (native_key(&key), native_request());
        let native = least(batches, || {
            black_box(authorize(black_box(&native_request), Some(&native_key), &NoAccounts));
        });

        let measured = |is_new: bool| {
            least(batches, || {
                let facts = Facts::default();
                let (_, answer) = if is_new {
                    policy.authorize_anew(&request, Some(&key), facts)
                } else {
                    policy.authorize(&request, Some(&key), facts)
                };
                black_box(answer).expect("the policy decides");
            })
        };
        let put_back = measured(false);
        let new = measured(true);
        println!(
            "{:<30} {:>7.2} µs {:>7.2} µs {:>7.2} µs {:>9.1}x",
            case.name,
            native.as_secs_f64() * 1e6,
            put_back.as_secs_f64() * 1e6,
            new.as_secs_f64() * 1e6,
            new.as_secs_f64() / native.as_secs_f64(),
        );
    }
}

/// Returns the time of one call, in the batch that was disturbed least.
fn least(batches: u32, mut call: impl FnMut()) -> Duration {
    let batch = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        start.elapsed() / CALLS
    };
    (0..batches).map(|_| batch(&mut call)).min().unwrap_or_default()
}

fn key(case: &Case) -> Key {
    Key {
        id: "key_0123456789abcdefghijklmn".to_owned(),
        account: "acct_0123456789abcdefghijklmn".to_owned(),
        mode: Mode::Test,
        kind: "restricted".to_owned(),
        origin: "user".to_owned(),
        created_at: NOW - 1000,
        ends_at: None,
        restored_at: None,
        money_moved_at: None,
        permissions: case.permissions.clone(),
        connect_permissions: String::new(),
        // The caller's is the last: the longest way.
        ipv4_nets: (0..case.networks)
            .map(|n| Ipv4Net { address: 0x0A00_0000 + case.networks - 1 - n, prefix_length: 32 })
            .collect(),
        attributes: Vec::new(),
    }
}

fn request() -> Request<'static> {
    Request {
        credential: Credential::WellFormed(PresentedCredential {
            prefix: "rk_test_",
            masked: "rk_test_**********************************abcd",
        }),
        method: "GET",
        path: "/v1/charges/ch_0123456789abcdefghijklmn",
        source: Source::Ipv4(0x0A00_0000),
        context: None,
        account: None,
        api_version: Some("2026-10-28.endive"),
        now: NOW,
        attributes: &[],
    }
}

struct NoAccounts;

impl Storage for NoAccounts {
    fn find_accounts(&self, _: &[String]) -> Vec<Option<native::Account>> {
        Vec::new()
    }
}

fn native_key(key: &Key) -> native::Key {
    native::Key {
        id: key.id.clone(),
        account: key.account.clone(),
        mode: native::Mode::Test,
        kind: key.kind.clone(),
        origin: key.origin.clone(),
        created_at: key.created_at,
        ends_at: key.ends_at,
        restored_at: key.restored_at,
        money_moved_at: key.money_moved_at,
        permissions: key.permissions.clone(),
        connect_permissions: key.connect_permissions.clone(),
        ipv4_nets: key
            .ipv4_nets
            .iter()
            .map(|net| native::Ipv4Net { address: net.address, prefix_length: net.prefix_length })
            .collect(),
        attributes: Vec::new(),
    }
}

fn native_request() -> native::Request {
    let request = request();
    native::Request {
        credential: native::Credential::WellFormed(native::PresentedCredential {
            prefix: "rk_test_".to_owned(),
            masked: "rk_test_**********************************abcd".to_owned(),
        }),
        method: request.method.to_owned(),
        path: request.path.to_owned(),
        source: native::Source::Ipv4(0x0A00_0000),
        context: None,
        account: None,
        api_version: request.api_version.map(str::to_owned),
        now: request.now,
        attributes: Vec::new(),
    }
}
