//! Policies that are broken, and policies that mean harm: each is refused with a
//! sentence, nothing is kept of it, and requests go on being answered.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use wardkey::engine::MAX_COMPONENT_BYTES;

use crate::{
    guest::{component, deny, find_key, grant},
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

/// One whose compilation takes long: many functions, which nobody calls,
/// in which everything depends on everything.
fn heavy(authorize: String) -> Vec<u8> {
    const FUNCTIONS: u32 = 130;
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
    Guest { more: one.repeat(FUNCTIONS as usize), ..Guest::new(authorize) }.build()
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
    let on_post = "(if (i32.eq (i32.load offset=60 (local.get $request)) (i32.const 4))
        (then unreachable))";
    let grow = "(loop $on (br_if $on (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        unreachable";
    let long = store(0, 1)
        + &store(denial::CLASS, 2)
        + &store(denial::MESSAGE, 65536)
        + &store(denial::MESSAGE + 4, 3 << 20)
        + &answer();
    let chain: String = (1..=3).map(find_key).collect();
    let anonymous =
        store_text(grant::KEY, "key_another") + &store_text(grant::ACCOUNT, "acct_1") + &answer();
    let known_only = format!(
        "(if (i32.ne (i32.load8_u (local.get $request)) (i32.const 2))
            (then (return (block (result i32) {}))))",
        deny()
    );
    let any_key = format!("{known_only} {}", find_key(0) + &anonymous);
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
        ("no exports", text("(component)"), "no exported instance named `wardkey:policy/"),
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
            "does not have export `authorize`",
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
        ("heavy, and open to everybody", heavy(answer()), open),
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
    // The length of the path: one that no trial has.
    let on_long = format!(
        "(if (i32.gt_u (i32.load offset=68 (local.get $request)) (i32.const 30))
            (then unreachable)) {}",
        honest_with("")
    );
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
    let heavy = heavy(deny());
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
