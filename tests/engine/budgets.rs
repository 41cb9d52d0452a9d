//! Policies that take long.

use std::{
    sync::Arc,
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
    let answer = policy.authorize(&request, Facts::default()).1;
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
