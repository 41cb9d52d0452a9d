//! Requests while policies are swapped: none fails, none is decided by two, and
//! each is decided by one that was in force while it was under way.
//!
//! `WARDKEY_LOSSLESS_SECONDS` says for how long; a few seconds without it.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use wardkey::storage::LogFilter;

use crate::{overlays::no_posts, *};

const CLIENTS: usize = 4;

/// How often policies are swapped, in swaps per second.
const SWAPS_PER_SECOND: u32 = 10;

/// The fewest swaps per second that are a test of anything, on a machine that is
/// busy with others.
const FEWEST_SWAPS_PER_SECOND: u64 = 2;

/// A connection that is kept, as clients keep theirs.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) fn to(gate: SocketAddr) -> Self {
        let stream = TcpStream::connect(gate).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, read: Vec::new() }
    }

    /// Sends a request, and returns what came back; nothing, if the connection
    /// was closed first.
    pub(crate) fn send(&mut self, request: &str) -> Option<Answer> {
        self.stream.write_all(request.as_bytes()).ok()?;
        self.read.clear();
        let mut more = [0; 4096];
        loop {
            if let Some(answer) = whole(&self.read) {
                return Some(answer);
            }
            match self.stream.read(&mut more) {
                Ok(length @ 1..) => self.read.extend_from_slice(&more[..length]),
                Ok(0) | Err(_) => return None,
            }
        }
    }
}

/// Returns an answer, once all of it is there.
fn whole(read: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(read).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    (body.len() >= length.unwrap_or(0)).then(|| common::parse(text))
}

/// A request that was answered.
struct Seen {
    id: String,
    start: Instant,
    end: Instant,
    /// Which policy it was by its words.
    by: usize,
    is_allowed: bool,
    is_swapping: bool,
}

/// A policy that was put in force: which one, when that was asked for, and when
/// it was answered.
struct Swap {
    to: usize,
    asked: Instant,
    answered: Instant,
}

/// Stores a list of one notice in a grant.
fn notice(words: &str) -> String {
    const ENTRY: u32 = 768;
    let (at, len) = guest::text(words);
    store(guest::grant::NOTICES, guest::ANSWER + ENTRY)
        + &store(guest::grant::NOTICES + 4, 1)
        + &store(ENTRY, at)
        + &store(ENTRY + 4, len)
}

/// A policy that says in every answer which one it is: in a refusal, and in a notice
/// to those whom it lets through.
fn telling(refusal: Refusal) -> Vec<u8> {
    let text = honest_with(&notice(refusal.1)).replace(&guest::deny(), &refuse(refusal));
    Guest::new(text).build()
}

/// Sends requests until it is told to stop: those that are let through by every
/// policy, and those that each refuses. Each answer says by which policy it is.
fn call(
    place: &Place,
    refusals: &[Refusal; 2],
    stop: &AtomicBool,
    swapping: &AtomicBool,
) -> Vec<Seen> {
    let good = format!("Authorization: Bearer {}\r\n", place.secret.expose());
    let unknown = Secret::generate(None, "sk_test_");
    let unknown = format!("Authorization: Bearer {}\r\n", unknown.expose());
    let headers = [good.as_str(), "", good.as_str(), unknown.as_str()];
    let mut connection = Connection::to(place.host.gate);
    let mut seen = Vec::new();
    for header in headers.iter().cycle() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let request = format!("GET /v1/charges HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        let is_swapping = swapping.load(Ordering::SeqCst);
        let start = Instant::now();
        let answer = connection.send(&request).expect("a request was not answered");
        let end = Instant::now();
        let is_allowed = *header == good;
        let by = if is_allowed {
            assert_eq!(answer.status, 200, "{answer:?}");
            let said = answer.headers.get("stripe-notice");
            refusals.iter().position(|one| said.is_some_and(|said| said == one.1))
        } else {
            assert_eq!(answer.status, 403, "{answer:?}");
            let said = (answer.code(), answer.message());
            refusals.iter().position(|one| (one.0, one.1) == (&*said.0, &*said.1))
        };
        let by = by.unwrap_or_else(|| panic!("decided by nobody, or by both: {answer:?}"));
        let id = answer.headers["request-id"].clone();
        seen.push(Seen { id, start, end, by, is_allowed, is_swapping });
        if answer.headers.get("connection").is_some_and(|value| value == "close") {
            connection = Connection::to(place.host.gate);
        }
    }
    seen
}

/// Tells whether a policy was in force at some moment of a request. It may be
/// from when it was asked for, and until the next one was answered.
fn was_in_force(swaps: &[Swap], policy: usize, request: &Seen) -> bool {
    let until = |index: usize| swaps.get(index + 1).map(|next| next.answered);
    let first = swaps.partition_point(|swap| swap.answered < request.start).saturating_sub(1);
    (first..swaps.len()).take_while(|&index| swaps[index].asked <= request.end).any(|index| {
        swaps[index].to == policy && until(index).is_none_or(|until| until >= request.start)
    })
}

fn percentiles(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: {} requests, p50 {:?}, p99 {:?}, p99.9 {:?}",
        took.len(),
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

#[test]
fn no_request_is_lost_or_decided_by_two_while_policies_are_swapped() {
    let seconds = std::env::var("WARDKEY_LOSSLESS_SECONDS").ok();
    check(seconds.map_or(4, |seconds| seconds.parse().unwrap()), [&[], &[]]);
}

#[test]
fn no_request_is_decided_by_one_policy_and_the_overlay_of_another() {
    check(2, [&[no_posts(ONE)], &[no_posts(TWO), no_posts(THREE)]]);
}

/// Swaps two policies for so many seconds, each with its overlays, all of which let
/// through what is asked here.
fn check(seconds: u64, overlays: [&[Vec<u8>]; 2]) {
    let place = Place::start();
    let refusals = [ONE, TWO];
    let policies = refusals.map(telling);
    let names = [0, 1].map(|index| place.pushed(&policies[index], 1));
    let overlays = overlays.map(|overlays| {
        let pushed = overlays.iter().map(|bytes| place.pushed(bytes, 1));
        pushed.collect::<Vec<String>>()
    });
    let (stop, swapping) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut swaps = Vec::new();
    let mut swap = |to: usize| {
        let asked = Instant::now();
        let overlays: Vec<&str> = overlays[to].iter().map(String::as_str).collect();
        let answer = place.activate_with(&names[to], &overlays);
        assert_eq!(answer.status, 200, "{answer:?}");
        swaps.push(Swap { to, asked, answered: Instant::now() });
        let pace = Duration::from_secs(1) / SWAPS_PER_SECOND;
        thread::park_timeout(pace.saturating_sub(asked.elapsed()));
    };
    swap(0);
    // Both halves of the time in turn, so that whatever else the machine does
    // falls on both.
    let slices = 8.max(seconds / 5);
    let slice = Duration::from_secs(seconds) / u32::try_from(slices).unwrap();
    let mut swapped = Duration::ZERO;
    let seen: Vec<Seen> = thread::scope(|scope| {
        let work = || call(&place, &refusals, &stop, &swapping);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        let mut to = 0;
        for number in 0..slices {
            let start = Instant::now();
            swapping.store(number % 2 == 0, Ordering::SeqCst);
            while start.elapsed() < slice && !clients.iter().any(|client| client.is_finished()) {
                if number % 2 == 0 {
                    to = 1 - to;
                    swap(to);
                } else {
                    thread::park_timeout(slice.saturating_sub(start.elapsed()));
                }
            }
            swapped += if number % 2 == 0 { start.elapsed() } else { Duration::ZERO };
        }
        stop.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });

    println!(
        "{} requests in {seconds} s, {} swaps in {swapped:?} of them: {:.0} a second",
        seen.len(),
        swaps.len() - 1,
        (swaps.len() - 1) as f64 / swapped.as_secs_f64()
    );
    for (what, is_swapping) in [("with swaps", true), ("without", false)] {
        let of_it = seen.iter().filter(|request| request.is_swapping == is_swapping);
        percentiles(what, of_it.map(|request| request.end - request.start).collect());
    }
    let floor = FEWEST_SWAPS_PER_SECOND * swapped.as_secs();
    assert!(swaps.len() as u64 > floor, "{} swaps", swaps.len());
    assert!(seen.len() as u64 > 100 * seconds, "{} requests", seen.len());

    // What was said, and what the log says, are the same policy, and that was in
    // force.
    place.host.finish();
    let digests = [0, 1].map(|index| Digest::of_bytes(&policies[index]));
    let logged = logged(&place);
    let mut missing = 0;
    for request in &seen {
        let by = request.by;
        match logged.get(&request.id) {
            Some((digest, asked)) => {
                assert_eq!(*digest, Some(digests[by]), "{} was by another", request.id);
                // Overlays are asked about what the policy has allowed.
                let expected = if request.is_allowed { &*overlays[by] } else { &[] };
                let asked: Vec<String> = asked.iter().map(Digest::to_hex).collect();
                assert_eq!(asked, expected, "{}: by policy {by}", request.id);
            }
            None => missing += 1,
        }
        let since = swaps[0].answered;
        assert!(
            was_in_force(&swaps, by, request),
            "{} was by policy {by}, from {:?} to {:?}",
            request.id,
            request.start - since,
            request.end - since,
        );
    }
    println!("{} entries in the log, {missing} not", logged.len());
    // The log keeps the newest million, and may drop entries where storage is slow,
    // and says how many.
    let kept = seen.len().min(1_000_000);
    assert!(logged.len() * 10 > kept * 9, "{} of {kept} are in the log", logged.len());
}

/// Returns the policy of each request in the log, and the overlays that were asked.
fn logged(place: &Place) -> HashMap<String, (Option<Digest>, Vec<Digest>)> {
    let mut found = HashMap::new();
    let mut before = None;
    loop {
        let filter = LogFilter { before, limit: 10_000, ..LogFilter::default() };
        let page = place.host.block_on(place.host.storage.find_log(filter)).unwrap();
        let Some((position, _)) = page.last() else { return found };
        before = Some(*position);
        found.extend(
            page.into_iter().map(|(_, entry)| (entry.request_id, (entry.policy, entry.overlays))),
        );
    }
}

/// How long it takes from asking for a policy until it is in force.
#[test]
fn the_standard_policy_is_in_force_soon() {
    let place = Place::start();
    let one = place.pushed(&honest(ONE), 0);
    let mut took = Vec::new();
    for _ in 0..10 {
        assert_eq!(place.activate(&one).status, 200);
        let start = Instant::now();
        assert_eq!(place.roll_back(Some("standard")).status, 200);
        took.push(start.elapsed());
        place.in_force(STANDARD_POLICY, None);
    }
    took.sort_unstable();
    println!("in force after {:?}, at most {:?}", took[took.len() / 2], took[took.len() - 1]);
}

/// How long it takes from sending the bytes of a policy until it is in force, and
/// how long a host takes to start that has twenty of them.
#[test]
fn a_policy_is_in_force_soon_after_it_was_sent_and_many_do_not_slow_a_start() {
    const POLICIES: usize = 20;
    let place = Place::start();
    let mut took = Vec::new();
    for number in 0..POLICIES {
        // Other bytes each time, so that each is compiled.
        let bytes = common::policy_named(&format!("number-{number}"));
        let start = Instant::now();
        let digest = place.pushed(&bytes, 1);
        let pushed = start.elapsed();
        assert_eq!(place.activate(&digest).status, 200);
        took.push((start.elapsed(), pushed));
        place.in_force(&bytes, None);
    }
    took.sort_unstable();
    let (all, pushed) = took[POLICIES / 2];
    println!("in force {all:?} after it was sent, of which the push took {pushed:?}");
    assert_eq!(place.list().len(), POLICIES + 1);

    let start = Instant::now();
    let host = place.restarted(None).unwrap();
    println!("a host with {POLICIES} policies starts in {:?}", start.elapsed());
    assert_eq!(host.policy().get().digest(), place.host.host.policy().get().digest());
}
