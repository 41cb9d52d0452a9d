//! Policies that load and then misbehave. Whatever they do, the request is
//! answered with an error, nothing gets through, the host stays up, and it
//! decides again as soon as a good policy is in force.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use wardkey::{
    active_policy::STANDARD_POLICY, decide::MAX_RUNS, engine::Policy, facts::MAX_IDS,
    secret::Secret, storage::Mode,
};

use crate::{
    common::{Options, TestHost, engine, send},
    guest::*,
};

/// A host before an API that counts what reaches it.
struct Place {
    host: TestHost,
    standard: Arc<Policy>,
    secret: Secret,
    reached: Arc<AtomicUsize>,
}

impl Place {
    fn new() -> Self {
        let reached = Arc::new(AtomicUsize::new(0));
        let upstream = Some(upstream(Arc::clone(&reached)));
        let host = TestHost::start_with(Options { upstream, ..Options::default() });
        let secret = host.default_secret("secret", Mode::Test);
        let standard = Arc::new(engine().load(STANDARD_POLICY).unwrap());
        Self { host, standard, secret, reached }
    }

    fn call(&self) -> crate::common::Answer {
        self.host.call("GET", "/v1/charges", self.secret.expose())
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }

    /// Puts a policy in force, asks it, and puts the standard one back.
    #[track_caller]
    fn check(&self, what: &str, guest: &Guest, status: u16, code: &str) {
        let loaded = engine().load(&guest.build()).unwrap_or_else(|err| panic!("{what}: {err}"));
        self.host.host.policy().activate(Arc::new(loaded));
        let before = self.reached();
        for _ in 0..2 {
            let answer = self.call();
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (status, code),
                "{what}: {answer:?}"
            );
            // What went wrong inside is for the log.
            for inside in ["wasm", "trap", "unreachable", "policy", "0x", "utf"] {
                assert!(!answer.body.contains(inside), "{what}: {}", answer.body);
            }
        }
        // Without a key as well.
        let answer = self.host.call_with("GET", "/v1/charges", &[], "");
        assert!(answer.status >= 400, "{what}: {answer:?}");
        assert_eq!(self.reached(), before, "{what}: it got through");
        let alive = send(self.host.internal, "GET", "/healthz", &[], "");
        assert_eq!(alive.status, 200, "{what}");

        self.host.host.policy().activate(Arc::clone(&self.standard));
        assert_eq!(self.call().status, 200, "{what}: the next request");
        assert_eq!(self.reached(), before + 1, "{what}: the next request");
    }

    #[track_caller]
    fn is_failure(&self, what: &str, authorize: impl Into<String>) {
        self.check(what, &Guest::new(authorize), 500, "internal");
    }
}

fn upstream(reached: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            if stream.read(&mut [0; 4096]).is_ok_and(|len| len > 0) {
                reached.fetch_add(1, Ordering::SeqCst);
            }
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    address
}

/// What all others are measured against: the offsets are right, and a policy in
/// eighty lines of text is a policy.
#[test]
fn an_honest_policy_lets_through_and_refuses() {
    let policy = Some(Guest::new(honest()).build());
    let host = TestHost::start_with(Options { policy, ..Options::default() });
    for mode in [Mode::Test, Mode::Live] {
        let secret = host.default_secret("secret", mode);
        assert_eq!(host.call("GET", "/v1/charges", secret.expose()).status, 200);
    }
    let unknown = Secret::generate(None, "sk_test_");
    let refused = host.call("GET", "/v1/charges", unknown.expose());
    assert_eq!((refused.status, refused.message().as_str()), (403, "no"));
    let refused = host.call_with("GET", "/v1/charges", &[], "");
    assert_eq!((refused.status, refused.message().as_str()), (403, "no"));
}

#[test]
fn a_policy_that_never_answers_is_interrupted() {
    let place = Place::new();
    let unavailable = |what: &str, guest: &Guest| place.check(what, guest, 503, "unavailable");
    unavailable("a loop", &Guest::new("(loop $on (br $on)) (i32.const 0)"));
    // Each answer is written over the one before, so that room does not end it.
    let ask_again = Guest {
        realloc: "(i32.const 131072)".into(),
        ..Guest::new(format!("(loop $on {} (br $on)) (i32.const 0)", find_account(0)))
    };
    unavailable("a loop that asks", &ask_again);
    // It is asked for room while the request is handed over.
    let guest = Guest { realloc: "(loop $on (br $on)) (i32.const 0)".into(), ..Guest::new(deny()) };
    unavailable("a loop before it begins", &guest);
    let guest = Guest { more: afterwards("(loop $on (br $on))"), ..Guest::new(honest()) };
    unavailable("a loop once it has answered", &guest);
}

#[test]
fn a_policy_that_traps_decides_nothing() {
    let place = Place::new();
    place.is_failure("unreachable", "unreachable");
    place.is_failure("recursion", "(call $authorize (local.get $request))");
    place.is_failure("division", "(i32.div_u (i32.const 1) (i32.const 0))");
    place.is_failure("out of bounds", "(i32.load (i32.const -8))");
    let call = "(call_indirect (type $f) (i32.const 7)) (i32.const 0)";
    let more = "(type $f (func)) (table 1 funcref)".to_owned();
    place.check("no such function", &Guest { more, ..Guest::new(call) }, 500, "internal");
    let guest = Guest { realloc: "unreachable".into(), ..Guest::new(deny()) };
    place.check("no room for the request", &guest, 500, "internal");
    let guest = Guest { realloc: "(i32.const -8)".into(), ..Guest::new(deny()) };
    place.check("room where there is none", &guest, 500, "internal");
    let guest = Guest { realloc: "(i32.const 3)".into(), ..Guest::new(deny()) };
    place.check("room that is not aligned", &guest, 500, "internal");
    let guest = Guest {
        more: r#"(func (export "cabi_post_wardkey:policy/authorizer@0.1.0#authorize") (param i32)
            unreachable)"#
            .into(),
        ..Guest::new(honest())
    };
    place.check("a trap once it has answered", &guest, 500, "internal");
}

/// It counts in all that it has, and would trap when it is asked the third time.
#[test]
fn a_trap_on_a_later_call_never_comes() {
    const CALLS: u32 = 100;
    let count = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store (i32.const 40000) (i32.add (i32.load (i32.const 40000)) (i32.const 1)))
        (if (i32.or (i32.gt_u (global.get $calls) (i32.const 2))
                    (i32.gt_u (i32.load (i32.const 40000)) (i32.const 2)))
            (then unreachable))";
    let counting = |times: usize| Guest {
        more: "(global $calls (mut i32) (i32.const 0))".into(),
        pages: 2,
        ..Guest::new(format!("{} {}", count.repeat(times), honest()))
    };
    let place = Place::new();
    let counts = engine().load(&counting(1).build()).unwrap();
    place.host.host.policy().activate(Arc::new(counts));
    for _ in 0..CALLS {
        assert_eq!(place.call().status, 200);
    }
    // The trap is there: within one call, it comes.
    place.check("counted to three", &counting(3), 500, "internal");
}

#[test]
fn a_policy_gets_four_mebibytes_and_no_more() {
    let place = Place::new();
    // Grows until it is refused, and then loops if it has got what it may have:
    // the status tells which it was.
    let grow = "(loop $on (br_if $on (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
        (if (i32.eq (memory.size) (i32.const 64)) (then (loop $on (br $on))))
        unreachable";
    place.check("page by page", &Guest::new(grow), 503, "unavailable");
    let grow = "(if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then
            (if (i32.eq (memory.size) (i32.const 4)) (then (loop $on (br $on))))))
        unreachable";
    place.check("all at once", &Guest::new(grow), 503, "unavailable");
}

#[test]
fn an_answer_that_does_not_parse_decides_nothing() {
    let place = Place::new();
    place.is_failure("an answer out of bounds", "(i32.const -72)");
    place.is_failure("an answer at the edge", "(i32.const 262140)");
    place.is_failure("an answer that is not aligned", "(i32.const 1025)");
    place.is_failure("neither allow nor deny", store(0, 7) + &answer());
    let denial = |stores: String| store(0, 1) + &stores + &answer();
    place.is_failure("no such class", denial(store(denial::CLASS, 200)));
    place.is_failure("neither some nor none", denial(store(denial::CODE, 2)));
    place.is_failure(
        "a text out of bounds",
        denial(store(denial::MESSAGE, 0xffff_fff0) + &store(denial::MESSAGE + 4, 16)),
    );
    place.is_failure(
        "a text over the edge",
        denial(store(denial::MESSAGE, 262_140) + &store(denial::MESSAGE + 4, 5)),
    );
    place.is_failure("no UTF-8", denial(store_text(denial::MESSAGE, b"\xff\xfe")));
    place.is_failure("no such mode", honest_with(&store(grant::MODE, 9)));
    place.is_failure("no such option", honest_with(&store(grant::ENDPOINT, 3)));
    place.is_failure(
        "a list out of bounds",
        honest_with(&(store(grant::NOTICES, 8) + &store(grant::NOTICES + 4, 0x0fff_ffff))),
    );
    place.is_failure(
        "a list that is not aligned",
        honest_with(&(store(grant::NOTICES, 1026) + &store(grant::NOTICES + 4, 1))),
    );
}

#[test]
fn an_answer_that_is_too_long_decides_nothing() {
    let place = Place::new();
    let guest = |stores: String| Guest { pages: 64, ..Guest::new(stores) };
    let long = |len| {
        store(0, 1)
            + &store(denial::CLASS, 2)
            + &store(denial::MESSAGE, 65536)
            + &store(denial::MESSAGE + 4, len)
            + &answer()
    };
    place.check("a text of three mebibytes", &guest(long(3 << 20)), 500, "internal");
    place.check("a text one byte too long", &guest(long((256 << 10) + 1)), 500, "internal");
    // Each notice is empty, so that only their number counts.
    let many =
        |count| honest_with(&(store(grant::NOTICES, 65536) + &store(grant::NOTICES + 4, count)));
    place.check("half a million notices", &guest(many(500_000)), 500, "internal");
    let ids = "(call $find_accounts (i32.const 65536) (i32.const 500000) (i32.const 1024))";
    place.check("half a million ids", &guest(format!("{ids} unreachable")), 500, "internal");
}

#[test]
fn nobody_is_let_through_as_somebody_else() {
    let place = Place::new();
    // The page is full of zeros: allowed, as nobody.
    place.is_failure("allow everybody", answer());
    place.is_failure("allow as another key", honest_with(&store_text(grant::KEY, "key_another")));
    place.is_failure("allow as no key", honest_with(&store(grant::KEY + 4, 0)));
    place.is_failure("allow in the other mode", honest_with(&store(grant::MODE, 1)));
    let anonymous =
        store_text(grant::KEY, "key_another") + &store_text(grant::ACCOUNT, "acct_1") + &answer();
    place.is_failure("allow without a key", anonymous);
}

#[test]
fn a_grant_that_would_break_a_header_decides_nothing() {
    let place = Place::new();
    let row = |what: &str, more: String| place.is_failure(what, honest_with(&more));
    let injection = "a\r\nset-cookie:b";
    row("a line break in a value", attribute("x-name", injection));
    row("the host's own word on the key", attribute("key", "key_another"));
    row("the host's own word on the account", attribute("account", "acct_1"));
    row("a line break in a name", attribute("wardkey\r\n", "no"));
    row("capitals in a name", attribute("Upper", "no"));
    row("a blank in a name", attribute("no key_another", "no"));
    row("other than ASCII in a value", attribute("x-name", "é"));
    row("other than ASCII in a name", attribute("é", "no"));
    row("a line break in the account", store_text(grant::ACCOUNT, injection));
    row("a line break in the permissions", store_text(grant::PERMISSIONS, injection));
}

#[test]
fn a_policy_that_is_never_satisfied_decides_nothing() {
    let place = Place::new();
    // Each run gets as far as what the runs before it have read.
    let chain = |length: u32| (0..length).map(find_account).collect::<String>();
    let runs = u32::try_from(MAX_RUNS).unwrap();
    let ids = u32::try_from(MAX_IDS).unwrap();
    place.is_failure("a new account in each run", chain(runs) + &honest());
    place.is_failure("a hundred accounts", chain(100) + &honest());
    place.is_failure("too many accounts at once", accounts(ids + 1) + &honest());

    // One less of each is what the contract allows.
    for satisfied in [chain(runs - 1), accounts(ids)] {
        let loaded = engine().load(&Guest::new(satisfied + &honest()).build()).unwrap();
        place.host.host.policy().activate(Arc::new(loaded));
        assert_eq!(place.call().status, 200);
    }
}

/// Asks for that many accounts in one call. The page in which the list lies is
/// full of digits, so that each id is another.
fn accounts(count: u32) -> String {
    const LIST: u32 = 131_072;
    let mut asks = String::new();
    for n in 0..count {
        let (entry, id) = (LIST + 8 * n, LIST + 8192 + 8 * n);
        let letters = two_letters(n);
        for (at, value) in [(entry, id), (entry + 4, 2), (id, letters)] {
            asks.push_str(&format!("(i32.store (i32.const {at}) (i32.const {value}))\n"));
        }
    }
    asks + &format!(
        "(call $find_accounts (i32.const {LIST}) (i32.const {count}) (i32.const {FOUND}))\n"
    )
}

/// What a policy wants to do once its answer was taken.
fn afterwards(code: &str) -> String {
    let name = "cabi_post_wardkey:policy/authorizer@0.1.0#authorize";
    format!("(func (export \"{name}\") (param i32) {code})")
}

/// Traps on what another request has left behind, leaves it behind itself, and decides.
fn leaves_behind(found: &str, leave: &str, then: &str) -> Guest {
    Guest {
        more: "(global $seen (mut i32) (i32.const 0))
            (data $words \"abcd\") (table $t 2 funcref) (elem $e func $nothing)
            (func $nothing)"
            .to_owned()
            + &afterwards(""),
        pages: 2,
        ..Guest::new(format!("(if {found} (then unreachable)) {leave} {then}"))
    }
}

#[test]
fn nothing_is_left_of_one_request_for_the_next() {
    // In a global, low in memory, high in it, in its size, and behind its end.
    let global = ("(global.get $seen)", "(global.set $seen (i32.const 1))");
    let low = ("(i32.load (i32.const 40000))", "(i32.store (i32.const 40000) (i32.const 1))");
    let high = ("(i32.load (i32.const 131068))", "(i32.store (i32.const 131068) (i32.const 1))");
    let grown = (
        "(i32.ne (memory.size) (i32.const 2))",
        "(drop (memory.grow (i32.const 1))) (i32.store (i32.const 140000) (i32.const 1))",
    );
    let table = (
        "(i32.eqz (ref.is_null (table.get $t (i32.const 0))))",
        "(table.set $t (i32.const 0) (ref.func $nothing))",
    );
    let initialised = (
        "(i32.eqz (ref.is_null (table.get $t (i32.const 0))))",
        "(table.init $t $e (i32.const 0) (i32.const 0) (i32.const 1))",
    );
    // Traps by itself once the segment is gone.
    let word = "(memory.init $words (i32.const 30000) (i32.const 0) (i32.const 4)) (i32.const 0)";
    let dropped = (&*format!("(block (result i32) {word})"), "(data.drop $words)");

    let place = Place::new();
    let unknown = Secret::generate(None, "sk_test_");
    for (what, (found, leave), is_anew) in [
        ("a global", global, false),
        ("low in memory", low, false),
        ("high in memory", high, false),
        ("more memory", grown, false),
        ("a table", table, true),
        ("a table by a segment", initialised, true),
        ("a segment that is gone", dropped, true),
    ] {
        let check = |how: &str, guest: &Guest| {
            let policy = Arc::new(engine().load(&guest.build()).unwrap());
            assert_eq!(policy.why_anew().is_some(), is_anew, "{what}: {:?}", policy.why_anew());
            place.host.host.policy().activate(policy);
            for _ in 0..50 {
                assert_eq!(place.call().status, 200, "{what}, {how}");
                // This one is refused, and may leave as much behind.
                let refused = place.host.call("GET", "/v1/charges", unknown.expose());
                assert_eq!(refused.status, 403, "{what}, {how}");
            }
        };
        check("after an answer", &leaves_behind(found, leave, &honest()));
        // The first run ends in the middle, as this account was not read yet.
        let cut_short = leaves_behind(found, leave, &(find_account(0) + &honest()));
        check("after a run that was cut short", &cut_short);

        // Without a key it traps, having left something behind.
        let trap = "(if (i32.eqz (i32.load8_u (local.get $request))) (then unreachable))";
        let traps = leaves_behind(found, leave, &(trap.to_owned() + &honest()));
        place.host.host.policy().activate(Arc::new(engine().load(&traps.build()).unwrap()));
        for _ in 0..5 {
            assert_eq!(place.call().status, 200, "{what}, before a trap");
            let trapped = place.host.call_with("GET", "/v1/charges", &[], "");
            assert_eq!(trapped.status, 500, "{what}");
            assert_eq!(place.call().status, 200, "{what}, after a trap");
        }
    }
    // It would have trapped: within one run, what is left behind is found.
    let twice = global.1.to_owned() + "(if (global.get $seen) (then unreachable))" + &honest();
    place.check("left within a run", &leaves_behind(global.0, &twice, ""), 500, "internal");
}

/// The host puts an instance back where a policy would free what it has handed over.
#[test]
fn what_a_policy_does_once_it_has_answered_is_not_done_where_it_is_put_back() {
    let place = Place::new();
    for (memory, is_anew) in [(2, false), (3, true)] {
        let more = afterwards("unreachable");
        let guest = Guest { more, pages: memory, ..Guest::new(honest()) };
        let policy = engine().load(&guest.build()).unwrap();
        assert_eq!(policy.why_anew().is_some(), is_anew, "{:?}", policy.why_anew());
        place.host.host.policy().activate(Arc::new(policy));
        for _ in 0..5 {
            assert_eq!(place.call().status, if is_anew { 500 } else { 200 });
        }
    }
    // One that does nothing then is not put back.
    let guest = Guest { pages: 2, ..Guest::new(honest()) };
    let policy = engine().load(&guest.build()).unwrap();
    assert!(policy.why_anew().is_some_and(|why| why.contains("post-return")));
}

#[test]
fn the_standard_policy_is_put_back_and_not_made_anew() {
    assert_eq!(Place::new().standard.why_anew(), None);
}
