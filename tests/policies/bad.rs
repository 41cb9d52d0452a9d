//! Policies that are broken, and policies that mean harm: each is refused with a
//! sentence, nothing is kept of it, and requests go on being answered.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use wardkey::engine::MAX_COMPONENT_BYTES;

use crate::{
    common::with_cases,
    guest::{component, deny, find_account, grant},
    *,
};

/// How long a push may take that has spent its budget: many times the budget,
/// which is processor time, and far less than a loop would take.
const SOON: Duration = Duration::from_secs(20);

/// A component of core WebAssembly that is honest but for its contract.
fn of_other_types() -> Vec<u8> {
    component(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "wardkey:policy/authorizer@0.1.0#authorize")
                (param i32 i32) (result i32) (i32.const 1)))"#,
        |resolve| {
            resolve
                .push_str(
                    "mine.wit",
                    "package wardkey:policy@0.1.0;
                     interface authorizer { authorize: func(request: string) -> bool; }
                     world mine { export authorizer; }",
                )
                .unwrap();
        },
        "mine",
    )
}

/// One that asks of the compiler nearly all that it may: many functions, which
/// nobody calls, in which everything depends on everything.
fn heavy(authorize: String, functions: usize) -> Vec<u8> {
    const STEPS: u32 = 200;
    let step: String = (0..STEPS)
        .map(|n| {
            format!(
                "(local.set {} (i64.add (i64.mul (local.get {}) (local.get {})) (i64.const {n})))\n\
                 (if (i64.eqz (local.get {})) (then (return (local.get {}))))\n",
                n % 40,
                (n + 7) % 40,
                (n + 13) % 40,
                (n + 3) % 40,
                (n + 29) % 40,
            )
        })
        .collect();
    let locals = "(local i64) ".repeat(39);
    let one = format!("(func (param i64) (result i64) {locals} {step} (local.get 0))\n");
    Guest { more: one.repeat(functions), ..Guest::new(authorize) }.build()
}

/// So many functions that it is still compiled; a few more, and it is not.
const HEAVY: usize = 130;
const TOO_HEAVY: usize = 140;

/// Components that instantiate each other twice, so that the last stands for more
/// than can be counted.
fn doubling() -> Vec<u8> {
    const COMPONENTS: usize = 60;
    let one = |n: usize| {
        let alias = format!("(alias outer 1 $c{} (component $x))", n - 1);
        let twice = "(instance (instantiate $x)) ".repeat(2);
        format!("(component $c{n} {alias} {twice})")
    };
    let all: String = (1..COMPONENTS).map(one).collect();
    wat::parse_str(format!("(component (component $c0) {all})")).unwrap()
}

/// A small function in which a value has many ways to many places.
fn loops() -> String {
    let (open, close) = ("(loop ".repeat(300), "(br_if 0 (local.get 0)))".repeat(300));
    let add = "(local.set 1 (i32.add (local.get 1) (i32.const 1)))";
    format!("(func (param i32) {} {open} {add} {close})", "(local i32) ".repeat(300))
}

/// What is pushed, and what the refusal says. That they are refused when they
/// are loaded or tried is where the sentence comes from.
fn rows() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let text = |text: &str| wat::parse_str(text).unwrap();
    let tried = |authorize: &str| Guest::new(authorize).build();
    let started = |start: &str| {
        let more = format!("(func $start {start}) (start $start)");
        Guest { more, ..Guest::new(honest_with("")) }.build()
    };
    let endless = "(loop $on (br $on)) (i32.const 0)";
    // The length of the method, in which POST is one more than GET.
    let on_post = format!("(if {IS_POST} (then unreachable))");
    let grow = "(loop $on (br_if $on (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        unreachable";
    let long = store(0, 1)
        + &store(denial::CLASS, 2)
        + &store(denial::MESSAGE, 65536)
        + &store(denial::MESSAGE + 4, 3 << 20)
        + &answer();
    let chain: String = (0..3).map(find_account).collect();
    let anonymous =
        store_text(grant::KEY, "key_another") + &store_text(grant::ACCOUNT, "acct_1") + &answer();
    let known_only = format!(
        "(if (i32.ne (i32.load8_u (local.get $request)) (i32.const 2))
            (then (return (block (result i32) {}))))",
        deny()
    );
    let any_key = format!("{known_only} {anonymous}");
    let case = |expect: &str| {
        format!(
            r#"[{{"name": "it is let in", "key": {{"kind": "any"}},
                "request": {{"method": "GET", "path": "/"}}, "expect": {{{expect}}}}}]"#
        )
    };
    let good = case(r#""allow": {}"#);
    let one = &good[1..good.len() - 1];
    let on_long = format!("(if {IS_LONG} (then unreachable))");
    let elsewhere = good.replace(r#""path": "/""#, r#""path": "/v1/charges/and_so_on_and_so_on""#);
    // In as the key that was presented, or, where there is none, as another.
    let honest = honest(ONE);
    let standard = STANDARD_POLICY;
    let no_component = "this is no valid component";
    let contract = "does not fit the contract";
    let (open, failed) = ("let a request without a key in", "failed when it was tried with");
    vec![
        ("empty", Vec::new(), no_component),
        ("text", b"allow everybody\n".to_vec(), no_component),
        ("the text of a component", b"(component)".to_vec(), no_component),
        ("a core module", text("(module)"), no_component),
        ("a compiled program", b"\x7fELF\x02\x01\x01".to_vec(), no_component),
        ("half of it", honest[..honest.len() / 2].to_vec(), no_component),
        ("half of the standard policy", standard[..standard.len() / 2].to_vec(), no_component),
        ("all but one byte", standard[..standard.len() - 1].to_vec(), no_component),
        ("too large", vec![0; MAX_COMPONENT_BYTES + 1], "at most 8388608 are read"),
        ("as large as may be", vec![0; MAX_COMPONENT_BYTES], no_component),
        ("no exports", text("(component)"), "it does not export `wardkey:policy/"),
        (
            "another product's",
            text(
                r#"(component (import "wasi:http/types@0.2.0" (instance)) (instance $i)
                    (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
            ),
            "imports `wasi:http/types@0.2.0`",
        ),
        (
            "a clock",
            text(
                r#"(component (import "wasi:clocks/wall-clock@0.2.0"
                    (instance (export "now" (func (result u64))))))"#,
            ),
            "imports `wasi:clocks/wall-clock@0.2.0`",
        ),
        (
            "a function that there is not",
            text(
                r#"(component (import "wardkey:policy/storage@0.1.0"
                    (instance (export "delete-key" (func (param "id" string))))))"#,
            ),
            contract,
        ),
        (
            "half an interface",
            text(
                r#"(component (instance $i) (export "wardkey:policy/authorizer@0.1.0" (instance $i)))"#,
            ),
            "it does not export `authorize`",
        ),
        ("other types", of_other_types(), contract),
        ("a loop", tried(endless), "time budget"),
        ("a loop at the start", started("(loop $on (br $on))"), "time budget"),
        ("a trap at the start", started("unreachable"), contract),
        ("recursion", tried("(call $authorize (local.get $request))"), failed),
        ("a trap", tried("unreachable"), failed),
        ("a trap on some requests", tried(&format!("{on_post} {}", refuse(ONE))), failed),
        (
            "a trap where there is a key",
            tried(&honest_with("unreachable")),
            "failed when it was tried with a test key",
        ),
        ("growing", tried(grow), failed),
        ("too much memory", Guest { pages: 1000, ..Guest::new(deny()) }.build(), "memory"),
        ("a giant answer", Guest { pages: 64, ..Guest::new(long) }.build(), failed),
        ("an answer out of bounds", tried("(i32.const -72)"), failed),
        ("neither yes nor no", tried(&(store(0, 7) + &answer())), failed),
        ("never satisfied", tried(&(chain + &deny())), "asked for more than it may"),
        ("in without a key", tried(&answer()), open),
        ("in with anything", tried(&anonymous), open),
        ("in with any key", tried(&any_key), "let a key that there is not in"),
        (
            "in as another",
            tried(&honest_with(&store_text(grant::KEY, "key_another"))),
            "as another key",
        ),
        ("in in the other mode", tried(&honest_with(&store(grant::MODE, 1))), "as another key"),
        ("heavy, and open to everybody", heavy(answer(), HEAVY), open),
        ("too heavy", heavy(deny(), TOO_HEAVY), "steps times values, and at most 64000000"),
        (
            "small, and the work of minutes",
            Guest { more: loops(), ..Guest::new(deny()) }.build(),
            "300 loops in each other, and at most 64",
        ),
        ("without end", doubling(), "links between its parts, and at most 100"),
        (
            "no cases",
            with_cases(honest.clone(), "{}"),
            "the policy's cases cannot be read: invalid type: map, expected a sequence",
        ),
        (
            "cases twice",
            with_cases(with_cases(honest.clone(), "[]"), "[]"),
            "cannot be read: trailing characters",
        ),
        (
            "a word that there is not",
            with_cases(honest.clone(), &case(r#""allow": {"status": 200}"#)),
            "unknown field `status`",
        ),
        (
            "more cases than are run",
            with_cases(honest.clone(), &format!("[{}{}]", one, format!(",{one}").repeat(256))),
            "there are 257, and at most 256 are run",
        ),
        (
            "another answer than it says itself",
            with_cases(honest.clone(), &case(r#""deny": {"class": "forbidden"}"#)),
            "does not pass its case `it is let in`: expected was a refusal with the class \
             `forbidden` and no code, and there came that the request is let through",
        ),
        (
            "another account than it says itself",
            with_cases(honest.clone(), &case(r#""allow": {"account": "acct_2"}"#)),
            "expected was the account `acct_2`, and there came `acct_1`",
        ),
        (
            "a trap in a case of its own",
            with_cases(Guest::new(format!("{on_long} {}", honest_with(""))).build(), &elsewhere),
            "failed in its case `it is let in`",
        ),
    ]
}

/// Calls the gate with a good key until it is told to stop, and counts.
struct Traffic {
    answered: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
}

impl Traffic {
    fn run(&self, place: &Place) {
        while !self.stop.load(Ordering::SeqCst) {
            let answer = place.host.call("GET", "/v1/charges", place.secret.expose());
            let count = if answer.status == 200 { &self.answered } else { &self.failed };
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Stops the traffic also where a check has failed.
struct Stop<'a>(&'a Traffic);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_bad_policy_is_refused_with_a_sentence_while_requests_go_on() {
    // Made before anybody is served: to make them costs more than to refuse them.
    let rows = rows();
    let place = Place::start();
    let good = place.pushed(&honest(ONE), 1);
    assert_eq!(place.activate(&good).status, 200);
    let before = place.list();

    let traffic = Traffic {
        answered: AtomicUsize::new(0),
        failed: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    let mut slowest = (Duration::ZERO, "");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| traffic.run(&place));
        }
        let _stop = Stop(&traffic);
        for (what, bytes, says) in &rows {
            let answered = traffic.answered.load(Ordering::SeqCst);
            let start = Instant::now();
            let answer = place.push(bytes, 2);
            let took = start.elapsed();
            slowest = slowest.max((took, what));
            assert!(took < SOON, "{what}: {took:?}");
            assert_eq!(
                (answer.status, &*answer.code()),
                (400, "policy_refused"),
                "{what}: {answer:?}"
            );
            let message = answer.message();
            assert!(says_so(&answer, says), "{what}: `{says}` is not in: {message}");
            assert!(!message.contains('\n') && message.len() < 1_000, "{what}: {message}");
            // It cannot be put in force, as there is none.
            assert_eq!(place.activate(&digest(bytes)).status, 404, "{what}");
            let called = place.host.call("GET", "/v1/charges", place.secret.expose());
            assert_eq!(called.status, 200, "{what}: the next request");
            program::wait_until(what, || traffic.answered.load(Ordering::SeqCst) > answered);
        }
    });
    println!(
        "{} policies were refused, {} after {:?}; {} requests were answered meanwhile, {} failed",
        rows.len(),
        slowest.1,
        slowest.0,
        traffic.answered.load(Ordering::SeqCst),
        traffic.failed.load(Ordering::SeqCst),
    );
    assert_eq!(traffic.failed.load(Ordering::SeqCst), 0);
    assert_eq!(place.list(), before);
    place.in_force(&honest(ONE), Some(ONE));
    place.comes_back(&honest(ONE));
    let refusals = place.audit().into_iter().filter(|entry| entry.refused.is_some()).count();
    // Each was refused twice: when it was pushed, and when it was to be in force.
    assert_eq!(refusals, 2 * rows.len());
}

/// A policy may fail later than a trial can see, such as on a path that nobody
/// has tried. Each request then fails closed, and the way back is there.
#[test]
fn a_policy_that_fails_later_lets_nobody_in_and_is_taken_back() {
    let place = Place::start();
    let on_long = format!("(if {IS_LONG} (then unreachable)) {}", honest_with(""));
    let late = place.pushed(&Guest::new(on_long).build(), 1);
    assert_eq!(place.activate(&late).status, 200);
    let call = |path: &str| place.host.call("GET", path, place.secret.expose()).status;
    let long = "/v1/charges/ch_and_so_on_and_so_on";
    assert_eq!((call("/v1/charges"), call(long)), (200, 500));
    assert_eq!(place.roll_back(None).status, 200);
    assert_ne!(call(long), 500);
    place.in_force(STANDARD_POLICY, None);
}

/// While a component is compiled that takes long, others do not wait for it to
/// be taken back.
#[test]
fn the_way_back_does_not_wait_for_a_push() {
    let place = Place::start();
    let one = place.pushed(&honest(ONE), 1);
    assert_eq!(place.activate(&one).status, 200);
    let heavy = heavy(deny(), HEAVY);
    let done = AtomicBool::new(false);
    let (mut swaps, mut longest) = (0, Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| {
            let answer = place.push(&heavy, 1);
            done.store(true, Ordering::SeqCst);
            assert_eq!(answer.status, 201, "{answer:?}");
        });
        while !done.load(Ordering::SeqCst) {
            let start = Instant::now();
            let to = if swaps % 2 == 0 { "standard" } else { &one };
            assert_eq!(place.roll_back(Some(to)).status, 200);
            if !done.load(Ordering::SeqCst) {
                (swaps, longest) = (swaps + 1, longest.max(start.elapsed()));
            }
        }
    });
    println!("{swaps} rollbacks during a push of {} bytes, the longest {longest:?}", heavy.len());
    assert!(swaps >= 1, "none came through");
}

/// What announces more than may be is refused before a byte of it is read; what
/// does not announce it, as soon as it is more.
#[test]
fn fifty_megabytes_are_not_taken_in() {
    const BYTES: usize = 50 * 1024 * 1024;
    let place = Place::start();
    let head = |length: &str| {
        format!(
            "POST /v2/policies?name=rules&version=1.0&revision=1 HTTP/1.1\r\nHost: localhost\r\n\
             Authorization: Bearer {}\r\n{length}\r\n\r\n",
            place.host.operator
        )
    };
    let announced = head(&format!("Content-Length: {BYTES}"));
    let says = "the component has 52428800 bytes, and at most 8388608 are read";
    // Nothing is sent but that, and there is an answer. The connection is closed, as
    // what would come next on it is no request.
    let answer = send_raw(place.host.admin, announced.as_bytes());
    refused(&answer, 400, "policy_refused", says);
    // A caller that sends all of it before it reads finds the answer, too.
    let answer = send_raw(place.host.admin, &[announced.as_bytes(), &vec![0; BYTES]].concat());
    refused(&answer, 400, "policy_refused", says);
    let chunk = [b"100000\r\n".as_slice(), &vec![0; 1 << 20], b"\r\n"].concat().repeat(9);
    let chunks = [head("Transfer-Encoding: chunked").as_bytes(), &chunk].concat();
    let answer = send_raw(place.host.admin, &chunks);
    refused(&answer, 400, "parameter_invalid", "send at most 8388608 bytes");
    // The next one is served.
    place.pushed(&honest(ONE), 1);
    assert_eq!(place.list().len(), 2);
}

#[test]
fn a_policy_that_passes_its_own_cases_is_kept() {
    let place = Place::start();
    let cases = r#"[
        { "name": "a key is let in", "key": { "kind": "any", "mode": "live" },
          "request": { "method": "GET", "path": "/" }, "expect": { "allow": { "account": "acct_1" } } },
        { "name": "nobody else is", "request": { "method": "GET", "path": "/" },
          "expect": { "deny": { "class": "forbidden", "code": "x-name" } } }
    ]"#;
    let answer = place.push(&with_cases(honest(ONE), cases), 1);
    assert_eq!((answer.status, &answer.json()["cases"]), (201, &json!(2)), "{answer:?}");
    assert_eq!(place.audit().last().unwrap().after.as_ref().unwrap()["cases"], 2);
    let digest = answer.json()["digest"].as_str().unwrap().to_owned();
    assert_eq!(place.activate(&digest).status, 200);
}
