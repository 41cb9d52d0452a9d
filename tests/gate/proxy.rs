//! What passes between a client and the API behind the gate.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
};

use wardkey::{keys::CreateAccount, storage::Mode};

use super::{Ward, bearer, check_refusal, common, outcome, upstream};
use common::{NOON, Options, TestHost, account_named};
use upstream::{RecordingUpstream, listen, read_chunk, read_head, read_line};

fn before(upstream: SocketAddr) -> TestHost {
    TestHost::start_with(Options { upstream: Some(upstream), ..Options::default() })
}

#[test]
fn the_api_learns_who_calls_and_not_how_they_proved_it() {
    let ward = Ward::start();
    let (key, secret) = ward.host.key("restricted", &["charge_read"]);
    let answer = ward.check_key(&secret, "GET /v1/charges", "200");
    let sent = ward.api.last();
    for (name, value) in [
        ("wardkey-key", &*key.id),
        ("wardkey-account", &ward.host.account),
        ("wardkey-mode", "test"),
        ("wardkey-permissions", "charge_read"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "localhost"),
        ("request-id", &answer.headers["request-id"]),
        ("host", &ward.api.address.to_string()),
    ] {
        assert_eq!(sent.header(name), value, "{name}: {sent:?}");
    }
    assert!(!format!("{sent:?}").contains(secret.expose()), "{sent:?}");
}

#[test]
fn what_could_pass_for_ours_never_arrives() {
    let ward = Ward::start();
    let (key, secret) = ward.host.key("restricted", &["charge_read"]);
    let auth = bearer(&secret);
    for (name, value) in [
        ("wardkey-key", "forged"),
        ("Wardkey-Account", "forged"),
        ("WARDKEY-MODE", "forged"),
        ("wardkey_key", "forged"),
        ("Wardkey_Account", "forged"),
        ("wardkey.account", "forged"),
        ("wardkey-permissions", "forged"),
        ("wardkey-client-secret", "forged"),
        ("wardkey-anything", "forged"),
        ("Cookie", "session=forged"),
        ("Proxy-Authorization", "Basic forged"),
        ("X-HTTP-Method-Override", "forged"),
        ("X-HTTP-Method", "forged"),
        ("X-Method-Override", "forged"),
        ("X_Http_Method_Override", "forged"),
        ("Forwarded", "for=forged"),
        ("X-Forwarded-For", "forged"),
        ("X_Forwarded_For", "forged"),
        ("X-Forwarded-Host", "forged"),
        ("X-Forwarded-Proto", "forged"),
        ("X-Real-IP", "forged"),
        ("Keep-Alive", "forged"),
        ("TE", "forged"),
        ("Trailer", "forged"),
        ("Upgrade", "forged"),
        ("Request-Id", "req_forged"),
    ] {
        let headers = [("Authorization", &*auth), (name, value), (name, value)];
        ward.check("GET /v1/charges", &headers, "200");
        let sent = ward.api.last();
        assert!(!format!("{:?}", sent.headers).contains("forged"), "{name}: {sent:?}");
        assert!(!sent.has("authorization") && !sent.has("cookie"), "{sent:?}");
        assert_eq!(sent.header("wardkey-key"), key.id, "{name}");
        assert_eq!(sent.header("wardkey-account"), ward.host.account, "{name}");
        assert_eq!(sent.header("wardkey-mode"), "test", "{name}");
        assert_eq!(sent.header("x-forwarded-for"), "127.0.0.1", "{name}");
    }
    // Ordinary ones pass.
    let headers = [("Authorization", &*auth), ("Idempotency-Key", "a"), ("Stripe-Version", "b")];
    ward.check("GET /v1/charges", &headers, "200");
    assert_eq!(ward.api.last().header("idempotency-key"), "a");
    assert_eq!(ward.api.last().header("stripe-version"), "b");
}

#[test]
fn a_connection_header_takes_nothing_of_ours_away() {
    let ward = Ward::start();
    let (_, secret) = ward.host.key("restricted", &["charge_read"]);
    let auth = bearer(&secret);
    let ours = ["wardkey-key", "wardkey-account", "wardkey-mode", "wardkey-permissions"];
    for named in [
        "wardkey-account",
        "Wardkey-Key, wardkey-mode",
        "x-forwarded-for,request-id",
        "host",
        "close, wardkey-permissions,,",
    ] {
        let headers = [("Authorization", &*auth), ("Connection", named)];
        ward.check("GET /v1/charges", &headers, "200");
        let sent = ward.api.last();
        for name in ours.iter().chain(&["x-forwarded-for", "request-id", "host"]) {
            assert!(!sent.header(name).is_empty(), "`Connection: {named}` removed {name}");
        }
    }
}

#[test]
fn what_a_connection_header_names_is_neither_decided_by_nor_sent_on() {
    let ward = Ward::start();
    let secret = ward.host.default_secret("secret", Mode::Test);
    let connected = ward.host.make_account(CreateAccount {
        platform: Some(ward.host.account.clone()),
        ..account_named("C")
    });
    let auth = bearer(&secret);
    for header in ["Stripe-Account", "Stripe-Context"] {
        let named = [("Authorization", &*auth), (header, &*connected)];
        ward.check("GET /v1/charges", &named, "200");
        assert_eq!(ward.api.last().header("wardkey-account"), connected);
        assert_eq!(ward.api.last().header(header), connected);

        let hidden = [named[0], named[1], ("Connection", header)];
        ward.check("GET /v1/charges", &hidden, "200");
        let sent = ward.api.last();
        assert_eq!(sent.header("wardkey-account"), ward.host.account);
        assert!(!sent.has(header) && !sent.has("connection"), "{sent:?}");
    }
    // The length of a body is not up for removal.
    let headers = [("Authorization", &*auth), ("Connection", "content-length, transfer-encoding")];
    let answer = ward.host.call_with("POST", "/v1/charges", &headers, "amount=1");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(ward.api.last().body, b"amount=1");
}

#[test]
fn of_an_answer_its_own_headers_pass_and_none_that_look_like_ours() {
    let api = RecordingUpstream::answering(
        "HTTP/1.1 402 Whatever\r\nWardkey-Key: forged\r\nwardkey_account: forged\r\n\
         Connection: X-Gone\r\nX-Gone: forged\r\nKeep-Alive: forged\r\nRequest-Id: forged\r\n\
         Proxy-Authenticate: forged\r\nSet-Cookie: a=b\r\nX-Stays: yes\r\n",
        "{\"error\": {\"code\": \"card_declined\"}}",
    );
    let host = before(api.address);
    let secret = host.default_secret("secret", Mode::Test);
    let answer = host.call("GET", "/v1/charges", secret.expose());
    assert_eq!(outcome(&answer), "402 card_declined");
    assert_eq!(answer.headers["x-stays"], "yes");
    assert_eq!(answer.headers["set-cookie"], "a=b");
    assert_eq!(answer.headers["request-id"], api.last().header("request-id"));
    assert!(!format!("{:?}", answer.headers).contains("forged"), "{answer:?}");
}

#[test]
fn a_request_body_arrives_as_it_was_sent() {
    let ward = Ward::start();
    let secret = ward.host.default_secret("secret", Mode::Test);
    let auth = bearer(&secret);
    let long = "0123456789abcdef".repeat(200_000);
    for body in ["a=1", "a=%2e%2e&b=\u{e9}&c=", &long] {
        let headers = [("Authorization", &*auth)];
        let answer = ward.host.call_with("POST", "/v1/charges", &headers, body);
        assert_eq!(answer.status, 200);
        assert_eq!(ward.api.last().body.len(), body.len());
        assert_eq!(ward.api.last().body, body.as_bytes());
        assert_eq!(ward.api.last().header("content-length"), body.len().to_string());
    }
}

#[test]
fn an_answer_streams() {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let api = listen(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        stream.write_all(head).unwrap();
        // The rest is sent once the client has the first chunk.
        may_go.lock().unwrap().recv().unwrap();
        stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
    });
    let host = before(api);
    let secret = host.default_secret("secret", Mode::Test);
    let mut stream = TcpStream::connect(host.gate).unwrap();
    write!(
        stream,
        "GET /v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n",
        bearer(&secret)
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    while !read_line(&mut reader).unwrap().is_empty() {}
    assert_eq!(read_chunk(&mut reader).unwrap(), b"first");
    go.send(()).unwrap();
    assert_eq!(read_chunk(&mut reader).unwrap(), b"second");
    assert_eq!(read_chunk(&mut reader), None);
}

#[test]
fn a_request_body_streams() {
    let (saw, seen) = mpsc::channel();
    let api = listen(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let head = read_head(&mut reader).unwrap();
        assert_eq!(head.header("transfer-encoding"), "chunked");
        while let Some(chunk) = read_chunk(&mut reader) {
            saw.send(chunk).unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    });
    let host = before(api);
    let secret = host.default_secret("secret", Mode::Test);
    let mut stream = TcpStream::connect(host.gate).unwrap();
    write!(
        stream,
        "POST /v1/charges HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        bearer(&secret)
    )
    .unwrap();
    for part in ["first", "second"] {
        write!(stream, "{:x}\r\n{part}\r\n", part.len()).unwrap();
        assert_eq!(seen.recv().unwrap(), part.as_bytes(), "before the body is whole");
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn no_connection_is_turned_into_another_protocol() {
    let ward = Ward::start();
    let secret = ward.host.default_secret("secret", Mode::Test);
    let auth = bearer(&secret);
    for protocol in ["websocket", "h2c", "TLS/1.0"] {
        let headers = [
            ("Authorization", &*auth),
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", protocol),
            ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ];
        ward.check("GET /v1/charges", &headers, "200");
        let sent = ward.api.last();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert!(!sent.has(name), "{protocol}: {sent:?}");
        }
    }
}

#[test]
fn an_api_that_is_not_there_or_answers_nonsense_is_a_502() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut apis = vec![("nobody", nobody.local_addr().unwrap())];
    drop(nobody);
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\n",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 99999 OK\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ] {
        apis.push((
            answer,
            listen(move |mut stream| {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                read_head(&mut reader);
                stream.write_all(answer.as_bytes()).unwrap();
            }),
        ));
    }
    for (what, api) in apis {
        let host = before(api);
        let secret = host.default_secret("secret", Mode::Test);
        let auth = bearer(&secret);
        for (method, path) in [("GET", "/v1/charges"), ("POST", "/v1/payouts")] {
            let headers = [("Authorization", &*auth)];
            let answer = host.call_with(method, path, &headers, "");
            assert_eq!(outcome(&answer), "502 upstream_unavailable", "{what:?}: {answer:?}");
            check_refusal(&answer);
            assert!(!answer.body.contains(&api.port().to_string()), "{answer:?}");
        }
        // A payout that may not have been made restarts no clock.
        host.clock.set(NOON + 180 * 24 * 60 * 60 + 1);
        let answer = host.call("POST", "/v1/payouts", secret.expose());
        assert_eq!(outcome(&answer), "403 access_limited", "{what:?}");
    }
}

#[test]
fn only_money_that_the_api_moved_restarts_the_clock() {
    for (head, restarts) in [
        ("HTTP/1.1 200 OK\r\n", true),
        ("HTTP/1.1 201 Created\r\n", true),
        ("HTTP/1.1 302 Found\r\n", false),
        ("HTTP/1.1 400 Bad Request\r\n", false),
        ("HTTP/1.1 402 Payment Required\r\n", false),
        ("HTTP/1.1 500 Internal Server Error\r\n", false),
    ] {
        let api = RecordingUpstream::answering(head, "{}");
        let host = before(api.address);
        let secret = host.default_secret("secret", Mode::Test);
        host.clock.set(NOON + 1);
        host.call("POST", "/v1/transfers", secret.expose());
        host.clock.set(NOON + 180 * 24 * 60 * 60 + 1);
        let limited = host.call("POST", "/v1/transfers", secret.expose()).status == 403;
        assert_eq!(limited, !restarts, "{head}");
        assert_eq!(api.count(), if restarts { 2 } else { 1 }, "{head}");
    }
}

#[test]
fn an_answer_that_breaks_off_is_not_made_whole() {
    let requests = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&requests);
    let api = listen(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader);
        *counted.lock().unwrap() += 1;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").unwrap();
    });
    let host = before(api);
    let secret = host.default_secret("secret", Mode::Test);
    let answer = host.call("GET", "/v1/charges", secret.expose());
    assert_eq!((answer.status, &*answer.body), (200, "part"), "{answer:?}");
    assert_eq!(answer.headers["content-length"], "100", "who reads it sees that it is cut off");
    assert_eq!(*requests.lock().unwrap(), 1, "a request that was served is not repeated");
}

#[test]
fn what_follows_a_body_is_no_place_for_our_headers() {
    let (saw, seen) = mpsc::channel();
    let api = listen(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader);
        while let Some(line) = read_line(&mut reader) {
            let is_end = line.is_empty();
            saw.send(line).unwrap();
            if is_end {
                break;
            }
        }
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: wardkey-key\r\n\r\n\
                      0\r\nwardkey-key: forged\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let host = before(api);
    let secret = host.default_secret("secret", Mode::Test);
    let mut stream = TcpStream::connect(host.gate).unwrap();
    write!(
        stream,
        "POST /v1/charges HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\n\
         Authorization: {}\r\nTrailer: wardkey-account\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\na=1\r\n0\r\nwardkey-account: forged\r\nStripe-Account: forged\r\n\r\n",
        bearer(&secret)
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("forged"), "{answer}");
    assert_eq!(seen.iter().take(4).collect::<Vec<_>>(), ["3", "a=1", "0", ""]);
}

#[test]
fn each_request_on_a_connection_is_decided_by_itself() {
    let ward = Ward::start();
    let (_, charges) = ward.host.key("restricted", &["charge_read"]);
    let (_, payouts) = ward.host.key("restricted", &["payout_read"]);
    let (charges, payouts) = (bearer(&charges), bearer(&payouts));
    let mut stream = TcpStream::connect(ward.host.gate).unwrap();
    let rows = [
        ("/v1/charges", &*charges, "200"),
        ("/v1/charges", "", "401"),
        ("/v1/charges", &payouts, "403"),
        ("/v1/payouts", &payouts, "200"),
        ("/v1/payouts", &charges, "403"),
        ("/v1/charges", &charges, "200"),
    ];
    for (path, auth, _) in rows {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {auth}\r\n\r\n").unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let statuses: Vec<&str> =
        answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, rows.map(|(_, _, status)| status), "{answers}");
    assert_eq!(ward.api.count(), 3);
}

#[test]
fn the_body_of_a_refused_request_is_not_the_next_request() {
    let ward = Ward::start();
    let secret = ward.host.default_secret("secret", Mode::Test);
    let inner = format!(
        "GET /v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\r\n",
        bearer(&secret)
    );
    for (padding, target) in
        [(0, "/v1/charges"), (0, "/v1//charges"), (0, "/"), (300_000, "/v1/charges")]
    {
        for chunked in [false, true] {
            let body = format!("{}{inner}", "\r\n".repeat(padding / 2));
            let (framing, body) = if chunked {
                let body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
                ("Transfer-Encoding: chunked".to_owned(), body)
            } else {
                (format!("Content-Length: {}", body.len()), body)
            };
            let request = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}");
            let mut stream = TcpStream::connect(ward.host.gate).unwrap();
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answers = Vec::new();
            let _ = stream.read_to_end(&mut answers);
            let answers = String::from_utf8_lossy(&answers);
            assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{target}: {answers}");
            assert_eq!(ward.api.count(), 0, "{target} {framing}: the body was served");
        }
    }
}
