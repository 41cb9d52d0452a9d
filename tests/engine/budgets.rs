//! Policies that take long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use wardkey::{
    engine::{
        Engine, EngineError, Policy,
        contract::Request,
        contract::{Credential, Source},
    },
    facts::Facts,
    storage::Mode,
};

use crate::{
    common::{TestHost, engine, send},
    guest::*,
};

const LOOP: &str = "(loop $on (br $on)) (i32.const 0)";

/// The longest that another request may have to wait while every worker is in a
/// loop, as long as the machine gives this process a core now and then. The
/// loops of these tests take 20 ms of CPU each, and a worker runs what is in
/// its queue first.
const MAX_WAIT: Duration = Duration::from_secs(5);

#[test]
fn a_loop_is_interrupted_after_about_two_budgets() {
    check_loop(&engine().load(&Guest::new(LOOP).build()).unwrap());
}

/// Nobody needs an engine once its policies are loaded, but for their time.
#[test]
fn a_loop_is_interrupted_when_its_engine_is_gone() {
    let engine = Engine::new().unwrap();
    let policy = engine.load(&Guest::new(LOOP).build()).unwrap();
    drop(engine);
    check_loop(&policy);
}

#[track_caller]
fn check_loop(policy: &Policy) {
    let request = Request {
        credential: Credential::Absent,
        method: "GET",
        path: "/v1/charges",
        source: Source::Ipv4(0),
        context: None,
        account: None,
        api_version: None,
        now: 0,
        attributes: &[],
    };
    let start = Instant::now();
    let answer = policy.authorize(&request, None, Facts::default()).1;
    let took = start.elapsed();
    println!("{took:?}");
    assert!(matches!(answer, Err(EngineError::OutOfTime)), "{answer:?}");
    assert!(took >= Duration::from_millis(15), "less than its budget: {took:?}");
    assert!(took < MAX_WAIT, "more than the limit by the clock: {took:?}");
}

#[test]
fn loops_on_every_worker_do_not_stop_the_others() {
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    let policy = engine().load(&Guest::new(LOOP).build()).unwrap();
    host.host.policy().activate(Arc::new(policy));
    // The host of these tests has two workers.
    let worst = thread::scope(|scope| {
        let loops: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..4 {
                        let answer = host.call("GET", "/v1/charges", secret.expose());
                        assert_eq!(answer.status, 503);
                        assert_eq!(answer.headers["stripe-should-retry"], "true");
                    }
                })
            })
            .collect();
        let mut worst = Duration::ZERO;
        while !loops.iter().all(thread::ScopedJoinHandle::is_finished) {
            let start = Instant::now();
            assert_eq!(send(host.internal, "GET", "/healthz", &[], "").status, 200);
            worst = worst.max(start.elapsed());
        }
        worst
    });
    println!("the longest wait was {worst:?}");
    assert!(worst < MAX_WAIT, "{worst:?}");
}

/// How many threads serve the host of these tests.
const WORKERS: usize = 2;

/// How often a request has its turn until it is answered: its connection is
/// accepted, it is read and decided, and its answer is written; and one for
/// whatever else wakes a worker.
const TURNS: usize = 4;

/// A policy that loops on some path only. In each of its turns a request waits for
/// the loops that are before it, and there are never more than there are callers:
/// what it waits for is counted in loops, of at most two budgets each, whatever
/// the machine is doing.
#[test]
fn good_requests_are_answered_while_others_loop_on_every_worker() {
    let on_long = format!("(if {IS_LONG} (then (loop $on (br $on)))) {}", honest());
    let host = TestHost::start();
    let secret = host.default_secret("secret", Mode::Test);
    let policy = engine().load(&Guest::new(on_long).build()).unwrap();
    host.host.policy().activate(Arc::new(policy));
    for callers in [WORKERS, 4 * WORKERS] {
        let (stop, loops) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (worst, longest) = thread::scope(|scope| {
            for _ in 0..callers {
                scope.spawn(|| {
                    let path = "/v1/charges/ch_and_so_on_and_so_on";
                    while !stop.load(Ordering::SeqCst) {
                        assert_eq!(host.call("GET", path, secret.expose()).status, 503);
                        loops.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            let _stop = Stop(&stop);
            let (mut worst, mut longest) = (0, Duration::ZERO);
            for _ in 0..20 {
                let (before, start) = (loops.load(Ordering::SeqCst), Instant::now());
                assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);
                worst = worst.max(loops.load(Ordering::SeqCst) - before);
                longest = longest.max(start.elapsed());
            }
            (worst, longest)
        });
        println!(
            "with {callers} callers that loop on {WORKERS} workers, a good request waited for \
             {worst} loops at most, and {longest:?}"
        );
        assert!(worst <= TURNS * callers, "{worst} loops with {callers} callers");
    }
}

/// Stops the loops also where a check has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
