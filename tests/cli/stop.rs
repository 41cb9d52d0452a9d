//! The end, asked for or not.

use std::thread;

use rustix::process::Signal;

use crate::program::{FREE_PORTS, Folder, SlowUpstream, end, listens, wait_until};

/// The statuses that the request log has for a path, oldest first.
fn logged(folder: &Folder, path: &str) -> Vec<i64> {
    let database = rusqlite::Connection::open(folder.data().join("wardkey.db")).unwrap();
    let mut rows =
        database.prepare("SELECT status FROM request_log WHERE path = ?1 ORDER BY seq").unwrap();
    rows.query_map([path], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_request_that_runs_is_finished_and_what_is_in_memory_is_written() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = Folder::empty();
        let upstream = SlowUpstream::start();
        let mut host = folder.start(&["--upstream", &upstream.url]);
        let (id, secret) = folder.key(&["--permission", "balance_read"]);
        let gate = host.gate;
        let waiting = {
            let authorization = format!("Bearer {secret}");
            thread::spawn(move || {
                let headers = [("Authorization", authorization.as_str())];
                crate::common::send(gate, "GET", "/v1/balance", &headers, "")
            })
        };
        assert!(upstream.arrived().contains("GET /v1/balance"));
        host.signal(signal);
        wait_until("nothing new is taken", || !listens(gate));
        assert!(!waiting.is_finished());
        upstream.answer();
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "slow"));
        assert_eq!(host.wait().code(), Some(0), "{}", host.stderr());

        assert!(!folder.data().join("admin.sock").exists());
        assert_eq!(logged(&folder, "/v1/balance"), [200]);
        let shown = folder.json(&["keys", "show", &id]);
        assert!(shown["last_used"].is_string(), "{shown}");
        let shown = folder.start(&[]);
        assert!(folder.json(&["keys", "show", &id])["last_used"].is_string());
        drop(shown);
    }
}

#[test]
fn who_comes_while_a_host_finishes_waits_for_it() {
    let folder = Folder::empty();
    let upstream = SlowUpstream::start();
    let mut host = folder.start(&["--upstream", &upstream.url]);
    let (_, secret) = folder.key(&["--permission", "balance_read"]);
    let gate = host.gate;
    let waiting = thread::spawn(move || {
        let authorization = format!("Bearer {secret}");
        crate::common::send(gate, "GET", "/v1/balance", &[("Authorization", &authorization)], "")
    });
    upstream.arrived();
    host.signal(Signal::TERM);
    wait_until("nothing new is taken", || !listens(gate));
    let next = folder.spawn(folder.command(&FREE_PORTS));
    let command = folder.command(&["keys", "list"]);
    let command = thread::spawn(move || end(command, ""));
    upstream.answer();
    assert_eq!(waiting.join().unwrap().status, 200);
    assert!(host.wait().success());
    let next = next.ready();
    let ended = command.join().unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(next.terminate().success());
}

#[test]
fn a_host_that_is_killed_leaves_what_the_next_one_goes_on_with() {
    let folder = Folder::empty();
    let mut host = folder.start(&[]);
    let (_, secret) = folder.key(&["--permission", "customer_write"]);
    assert_eq!(host.call("POST", "/v1/customers", &secret).status, 200);
    host.signal(Signal::KILL);
    assert_eq!(host.wait().code(), None);
    // The socket of the dead is still there, and misleads nobody.
    assert!(folder.data().join("admin.sock").exists());
    assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 7);

    let host = folder.start(&[]);
    let customers = host.call("GET", "/v1/customers", &secret);
    assert_eq!(customers.status, 200);
    assert_eq!(customers.json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 7);
    assert!(host.terminate().success());
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let _idle = std::net::TcpStream::connect(host.gate).unwrap();
    let begun = std::time::Instant::now();
    assert!(host.terminate().success());
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}
