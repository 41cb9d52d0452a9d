//! Every decision leaves one entry in the request log, and it says what was
//! decided.

use std::{
    io::{BufReader, Write as _},
    net::TcpStream,
    sync::{Mutex, mpsc},
};

use wardkey::storage::{LogEntry, Mode};

use super::{Options, TestHost, Ward, bearer, outcome, upstream};
use upstream::{listen, read_head};

/// Returns all that was logged, oldest first.
fn entries(host: &TestHost) -> Vec<LogEntry> {
    host.finish();
    let mut log = host.logged(1000);
    log.reverse();
    log
}

#[test]
fn every_request_leaves_one_entry_that_says_what_was_decided() {
    let ward = Ward::start();
    let host = &ward.host;
    let (key, secret) = host.key("restricted", &["charge_read", "transfer_write"]);
    let secret = bearer(&secret);
    let id = Some(key.id.as_str());
    let rows = [
        ("GET /v1/charges", &*secret, id, "/v1/charges", "200", true),
        ("GET /v1/charges/ch_1?limit=1", &secret, id, "/v1/charges/:id", "200", true),
        ("POST /v1/transfers", &secret, id, "/v1/transfers", "200", true),
        ("GET /v1/payouts/po_1/", &secret, id, "/v1/payouts/po_1/", "404", true),
        ("POST /v1/payouts", &secret, id, "/v1/payouts", "403 more_permissions_required", true),
        ("GET /v1/nothing/x", &secret, id, "/v1/nothing/x", "404", true),
        ("GET /v2/iam/api_keys/self", &secret, id, "/v2/iam/api_keys/self", "200", true),
        ("GET /v1/charges", "", None, "/v1/charges", "401", true),
        ("GET /v1/charges", "Bearer x", None, "/v1/charges", "401", true),
        ("GET /v1/charges", "x", None, "/v1/charges", "401 authorization_invalid", false),
        ("GET /v1//charges", &secret, None, "(invalid)", "400 path_invalid", false),
        ("GET /elsewhere", &secret, None, "/elsewhere", "404", false),
    ];
    let answers: Vec<_> = rows
        .iter()
        .map(|(request, auth, ..)| {
            let (method, target) = request.split_once(' ').unwrap();
            host.call_with(method, target, &[("Authorization", auth)], "")
        })
        .collect();
    let log = entries(host);
    assert_eq!(log.len(), rows.len(), "{log:#?}");
    let policy = host.host.policy().get().digest();
    for ((row, answer), entry) in rows.iter().zip(&answers).zip(&log) {
        let (request, _, key_id, path, expected, decided) = row;
        assert_eq!(outcome(answer), *expected, "{request}");
        assert_eq!(entry.request_id, answer.headers["request-id"], "{request}");
        assert_eq!(entry.key_id.as_deref(), *key_id, "{request}");
        assert_eq!(entry.method, request.split_once(' ').unwrap().0);
        assert_eq!(entry.path, *path, "{request}");
        assert_eq!(entry.status, answer.status, "{request}");
        let code = Some(answer.code()).filter(|code| !code.is_empty());
        assert_eq!(entry.code, code, "{request}");
        assert_eq!(entry.source.to_string(), "127.0.0.1");
        assert_eq!(entry.at_ms, host.clock.now_ms());
        assert_eq!(entry.policy, decided.then_some(policy), "{request}");
        let account = entry.account.as_deref().unwrap_or_default();
        assert_eq!(account, if answer.status == 200 { &*host.account } else { "" }, "{request}");
    }
}

#[test]
fn a_client_that_goes_away_still_leaves_an_entry() {
    for (rest, is_whole) in [("\r\n", true), ("Content-Length: 100\r\n\r\na=1", false)] {
        let (came, has_come) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let api = listen(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            read_head(&mut reader);
            came.send(()).unwrap();
            // Answers when the client is gone, and not before its body is whole.
            may_go.lock().unwrap().recv().unwrap();
            if is_whole {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
            }
        });
        let host = TestHost::start_with(Options { upstream: Some(api), ..Options::default() });
        let secret = host.default_secret("secret", Mode::Test);
        let mut client = TcpStream::connect(host.gate).unwrap();
        let auth = bearer(&secret);
        let head = "POST /v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization:";
        write!(client, "{head} {auth}\r\n{rest}").unwrap();
        has_come.recv().unwrap();
        drop(client);
        go.send(()).unwrap();
        let entry = wait_for_entry(&host);
        assert_eq!((&*entry.method, &*entry.path), ("POST", "/v1/charges"), "{entry:?}");
        assert!(entry.key_id.is_some() && entry.policy.is_some(), "{entry:?}");
        assert_eq!(entry.status == 200, is_whole, "{entry:?}");
    }
}

/// Asks for the log until it holds something. The host notices in its own time
/// that a client is gone.
fn wait_for_entry(host: &TestHost) -> LogEntry {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::time::Instant::now() < end {
        let log = host.logged(10);
        if let [entry] = log.as_slice() {
            return entry.clone();
        }
        std::thread::yield_now();
    }
    panic!("a client that goes away leaves no entry");
}
