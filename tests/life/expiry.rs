//! From the answer that a key has ended, or may do less, to the first refusal:
//! no request that starts after that answer is let through.
//!
//! Clients hammer the gate over connections that they keep, and each notes
//! before a request whether the answer was there by then. They go on until each
//! has sent enough that started later.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use wardkey::{keys::CreateKey, secret::Secret, storage::KeyRecord};

use crate::{
    common::{NOON, Options, TestHost},
    failing_storage::Switch,
};

/// How many clients hammer the gate. Each is a thread, and two cores serve them
/// and the host.
const CLIENTS: usize = 12;

/// How many requests each sends that start after the answer.
const AFTER: usize = 100;

/// How many each sends before it, at least.
const BEFORE: usize = 10;

/// How often each way is gone through, with warm and with cold caches.
const TIMES: usize = 3;

/// How long slow storage keeps back what it has read, and that it has written:
/// many times what a request takes.
const SLOW: Duration = Duration::from_millis(4);

/// A way in which a key comes to be refused.
struct Way {
    name: &'static str,
    /// What is asked of the key, and with what; nothing is asked where time passes.
    asked: Option<(&'static str, &'static str)>,
    refusal: &'static str,
}

const WAYS: &[Way] = &[
    Way { name: "expire", asked: Some(("/expire", "{}")), refusal: "401 api_key_expired" },
    Way {
        name: "rotate without overlap",
        asked: Some(("/rotate", r#"{ "expire_current_key_in_minutes": 0 }"#)),
        refusal: "401 api_key_expired",
    },
    Way {
        name: "a narrower allowlist",
        asked: Some(("", r#"{ "ip_allowlist": ["192.0.2.7"] }"#)),
        refusal: "403 ip_not_allowed",
    },
    Way {
        name: "fewer permissions",
        asked: Some(("", r#"{ "permissions": ["customer_read"] }"#)),
        refusal: "403 more_permissions_required",
    },
    Way { name: "its end passes", asked: None, refusal: "401 api_key_expired" },
];

/// A client with a connection that it keeps.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a request, and returns the status and the code answered.
    fn call(&mut self, secret: &Secret) -> String {
        let request = format!(
            "GET /v1/charges HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
            secret.expose()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut status, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "the connection was closed");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            } else if status.is_empty() {
                status = line.split(' ').nth(1).unwrap().to_owned();
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        match body["error"]["code"].as_str() {
            Some(code) => format!("{status} {code}"),
            None => status,
        }
    }
}

/// What was counted in all rounds.
#[derive(Default)]
struct Tried {
    before: AtomicUsize,
    after: AtomicUsize,
}

/// Has all clients use a key while it comes to be refused.
fn hammer(host: &TestHost, clients: &mut [Client], way: &Way, is_warm: bool, tried: &Tried) {
    let now = host.clock.now();
    let expires_at = way
        .asked
        .is_none()
        .then(|| jiff::Timestamp::from_second(i64::try_from(now + 60).unwrap()).unwrap());
    let (key, secret) = host.key_with(CreateKey {
        kind: "restricted".to_owned(),
        permissions: vec!["charge_read".to_owned(), "customer_read".to_owned()],
        expires_at,
        ..CreateKey::default()
    });
    if is_warm {
        assert_eq!(clients[0].call(&secret), "200");
    }
    let (answered, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Where the cache is cold, all want to read the key at once, and its change
    // falls among the reads.
    let start = Barrier::new(clients.len() + 1);
    thread::scope(|scope| {
        for client in clients {
            scope.spawn(|| {
                start.wait();
                let (mut before, mut after) = (0, 0);
                while after < AFTER {
                    let starts_after = answered.load(Ordering::SeqCst);
                    let found = client.call(&secret);
                    if starts_after {
                        after += 1;
                        assert_eq!(found, way.refusal, "{}, warm {is_warm}, after it", way.name);
                    } else {
                        before += 1;
                        let told = format!("{}, warm {is_warm}", way.name);
                        assert!(found == "200" || found == way.refusal, "{told}: {found}");
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                }
                tried.before.fetch_add(before, Ordering::Relaxed);
                tried.after.fetch_add(after, Ordering::Relaxed);
            });
        }
        start.wait();
        let least = if is_warm { CLIENTS * BEFORE } else { 0 };
        while sent.load(Ordering::SeqCst) < least {
            thread::yield_now();
        }
        end(host, &key, way, now);
        answered.store(true, Ordering::SeqCst);
    });
}

/// Has the key refused, and returns when the answer is there.
fn end(host: &TestHost, key: &KeyRecord, way: &Way, now: u64) {
    let Some((verb, body)) = way.asked else { return host.clock.set(now + 60) };
    let body = serde_json::from_str(body).unwrap();
    let answer = host.manage("POST", &format!("/v2/iam/api_keys/{}{verb}", key.id), body);
    assert_eq!(answer.status, 200, "{}: {answer:?}", way.name);
}

/// Goes through all ways at full load. Returns how many requests started before
/// the answers, and how many after.
fn go_through(switch: &Switch, slow: Duration) -> (usize, usize) {
    let before_storage = switch.clone();
    let wrap = Box::new(move |inner| before_storage.wrap(inner));
    let host = TestHost::start_with(Options { wrap, ..Options::default() });
    switch.slow_down(slow);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(host.gate)).collect();
    let (start, tried) = (Instant::now(), Tried::default());
    for way in WAYS {
        for time in 0..TIMES * 2 {
            hammer(&host, &mut clients, way, time % 2 == 0, &tried);
        }
    }
    assert!(host.clock.now() > NOON);
    let (before, after) = (tried.before.into_inner(), tried.after.into_inner());
    let took = start.elapsed().as_secs_f32();
    println!("{before} requests before the answers and {after} after them, in {took:.1} s");
    assert!(after >= WAYS.len() * TIMES * 2 * CLIENTS * AFTER, "{after}");
    (before, after)
}

#[test]
fn no_request_that_starts_after_the_answer_is_let_through() {
    let (before, after) = go_through(&Switch::new(), Duration::ZERO);
    assert!(before + after >= 36_000, "{before} and {after}");
}

#[test]
fn nor_while_storage_is_slow() {
    let (before, after) = go_through(&Switch::new(), SLOW);
    assert!(before + after >= 36_000, "{before} and {after}");
}

/// The narrowest case, held in place: the change falls between what a request has
/// read of storage and its coming to the cache.
#[test]
fn what_was_read_before_the_change_is_no_good_after_its_answer() {
    for way in WAYS.iter().filter(|way| way.asked.is_some()) {
        let switch = Switch::new();
        let before_storage = switch.clone();
        let wrap = Box::new(move |inner| before_storage.wrap(inner));
        let host = TestHost::start_with(Options { wrap, ..Options::default() });
        let (key, secret) = host.key("restricted", &["charge_read"]);
        switch.hold_next();
        thread::scope(|scope| {
            // Began before: either answer is right for it.
            scope.spawn(|| Client::connect(host.gate).call(&secret));
            host.block_on(switch.held());
            end(&host, &key, way, NOON);
            let later = scope.spawn(|| Client::connect(host.gate).call(&secret));
            switch.release();
            assert_eq!(later.join().unwrap(), way.refusal, "{}", way.name);
        });
        assert_eq!(Client::connect(host.gate).call(&secret), way.refusal, "{}", way.name);
    }
}
