//! The program is killed in the middle of making, rotating and ending keys, and
//! started again on the same data directory.
//!
//! What varies is how long after the clients were let go it is killed: from at
//! once to a bit longer than what they do takes. These delays are the one thing
//! here that waits for time. Where a kill fell is told from what is found
//! afterwards, over HTTP alone.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    common::{Answer, parse, send, send_json},
    program::{Folder, Running, token, wait_until},
};

/// How often the program is killed while clients do each of these things.
const KILLS: usize = 52;

/// On how many data directories at once: while one program starts, which is most
/// of the time, the clients of another are at work.
const FOLDERS: usize = 3;

/// How many clients are at work when it is killed. The first two want the same.
const CLIENTS: usize = 4;

/// How many rotations are due at once.
const DUE: usize = 12;

const KEYS: &str = "/v2/iam/api_keys";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    Create,
    Rotate,
    Expire,
    /// The host itself rotates keys whose time has come.
    Due,
}

/// Where a kill fell, for one thing that was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fell {
    BeforeCommit,
    BeforeAnswer,
    AfterAnswer,
}

/// A data directory, and the program that runs on it.
struct Site {
    folder: Folder,
    operator: String,
    running: Option<Running>,
    /// The newest entry of the audit log that was seen: what comes later has to go
    /// through it.
    head: Option<String>,
    /// How many things were done, for names that are used once.
    count: usize,
}

/// A key that a test has made: its id and its secret.
#[derive(Clone, Debug)]
struct Made {
    id: String,
    secret: String,
}

/// What a client asks for, and the whole answer if there was one.
struct Asked {
    path: String,
    body: Value,
    idempotency_key: String,
    /// The key that it is about.
    of: Option<Made>,
    answer: Option<Answer>,
}

impl Site {
    fn new() -> Self {
        let folder = Folder::empty();
        let running = folder.start(&["--verification", "none"]);
        let operator = fs::read_to_string(folder.data().join("operator.secret")).unwrap();
        let operator = operator.trim().to_owned();
        Self { folder, operator, running: Some(running), head: None, count: 0 }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    fn kill(&mut self) {
        let mut running = self.running.take().unwrap();
        running.signal(Signal::KILL);
        assert!(!running.wait().success());
    }

    fn restart(&mut self) {
        self.running = Some(self.folder.start(&["--verification", "none"]));
    }

    fn get(&self, path: &str) -> Value {
        let auth = format!("Bearer {}", self.operator);
        let answer = send(self.running().admin, "GET", path, &[("Authorization", &auth)], "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    fn post(&self, path: &str, body: &Value, idempotency_key: &str) -> Answer {
        let auth = format!("Bearer {}", self.operator);
        let headers = [("Authorization", &*auth), ("Idempotency-Key", idempotency_key)];
        send_json(self.running().admin, "POST", path, &headers, &body.to_string())
    }

    /// Returns a word that was not used before.
    fn word(&mut self) -> String {
        self.count += 1;
        format!("word-{}", self.count)
    }

    /// Does something that nobody interrupts.
    fn done(&mut self, path: &str, body: &Value) -> Value {
        let word = self.word();
        let answer = self.post(path, body, &word);
        assert!(matches!(answer.status, 200 | 201), "{path}: {answer:?}");
        answer.json()
    }

    fn make_key(&mut self, account: &str) -> Made {
        made(&self.done(KEYS, &wanted(account)))
    }

    /// Tells whether the gate lets a request with this secret through.
    fn works(&self, secret: &str) -> bool {
        let answer = self.running().call("GET", "/v1/charges", secret);
        match (answer.status, answer.code().as_str()) {
            (200, _) => true,
            (401, "api_key_expired") => false,
            _ => panic!("{answer:?}"),
        }
    }

    /// Returns the keys of an account by their ids, without their uses: those are
    /// written a moment later.
    fn keys(&self, account: &str) -> BTreeMap<String, Value> {
        let list = self.get(&format!("{KEYS}?account={account}&include_expired=true&limit=100"));
        let mut keys = BTreeMap::new();
        for key in list["data"].as_array().unwrap() {
            let mut key = key.clone();
            key.as_object_mut().unwrap().retain(|name, _| !name.starts_with("last_used"));
            keys.insert(key["id"].as_str().unwrap().to_owned(), key);
        }
        keys
    }

    /// Returns what the audit log has of a key, oldest first.
    fn audit(&self, id: &str) -> Vec<Value> {
        let list = self.get(&format!("/v2/audit_log?target={id}&limit=100"));
        let mut entries = list["data"].as_array().unwrap().clone();
        entries.reverse();
        entries
    }

    /// Checks what has to hold of an account whatever happened.
    fn check(&mut self, account: &str) {
        let keys = self.keys(account);
        for (id, key) in &keys {
            let text = |name: &str| key[name].as_str();
            // Of two that took each other's place, each says so: no key is
            // replaced by none, and none has two successors.
            if let Some(next) = text("replaced_by") {
                assert_eq!(keys[next]["replaces"], **id, "{key}");
            }
            if let Some(earlier) = text("replaces") {
                assert_eq!(keys[earlier]["replaced_by"], **id, "{key}");
            }
            let entries = self.audit(id);
            let count = |action: &str| {
                let is_it =
                    |entry: &&Value| entry["action"] == action && entry["refused"].is_null();
                entries.iter().filter(is_it).count()
            };
            let told = format!("{key}: {entries:?}");
            assert_eq!(count("api_key.created"), 1, "{told}");
            assert_eq!(
                count("api_key.rotated"),
                usize::from(!key["replaced_by"].is_null()),
                "{told}"
            );
            let ended = count("api_key.expired") + count("api_key.ended");
            let is_expired = key["status"] == "expired";
            // What ended by its rotation is told by that.
            let by_rotation = is_expired && count("api_key.rotated") == 1;
            assert!(ended == usize::from(is_expired) || by_rotation && ended == 0, "{told}");
            let changes = entries.iter().filter(|entry| entry["refused"].is_null()).count();
            assert_eq!(key["revision"], changes, "{told}");
            let last = entries.iter().rfind(|entry| entry["refused"].is_null()).unwrap();
            assert_eq!(key["revision"], last["after"]["revision"], "{told}");
        }
        let verified = match &self.head {
            Some(head) => json!({ "head": head }),
            None => json!({}),
        };
        let verified = self.done("/v2/audit_log/verify", &verified);
        assert_eq!(verified["intact"], true, "{verified}");
        self.head = verified["head"].as_str().map(str::to_owned);
    }
}

fn wanted(account: &str) -> Value {
    json!({
        "account": account,
        "kind": "restricted",
        "name": "a key",
        "permissions": ["charge_read"],
    })
}

fn made(key: &Value) -> Made {
    let id = key["id"].as_str().unwrap().to_owned();
    Made { id, secret: token(key).unwrap().to_owned() }
}

/// Sends a request over a connection that is there already, and returns the
/// answer if all of it came.
fn ask(mut stream: TcpStream, operator: &str, asked: &Asked) -> Option<Answer> {
    let body = asked.body.to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer \
         {operator}\r\nIdempotency-Key: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        asked.path,
        asked.idempotency_key,
        body.len()
    );
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).ok()?;
    stream.read_to_end(&mut answer).ok()?;
    let answer = parse(&String::from_utf8_lossy(&answer));
    let length = answer.headers.get("content-length")?.parse::<usize>().ok()?;
    (answer.body.len() == length).then_some(answer)
}

/// Has the clients do their things at once, and kills the program after `delay`,
/// if there is one. Returns how long they took.
fn at_once(site: &mut Site, asked: &mut [Asked], delay: Option<Duration>) -> Duration {
    let (admin, operator): (SocketAddr, _) = (site.running().admin, site.operator.clone());
    let start = Barrier::new(asked.len() + 1);
    let mut started = Instant::now();
    thread::scope(|scope| {
        for one in asked.iter_mut() {
            // There before the start, so that the delay is of what is done.
            let stream = TcpStream::connect(admin).unwrap();
            let (start, operator) = (&start, &operator);
            scope.spawn(move || {
                start.wait();
                one.answer = ask(stream, operator, one);
            });
        }
        start.wait();
        started = Instant::now();
        if let Some(delay) = delay {
            thread::sleep(delay);
            site.kill();
        }
    });
    started.elapsed()
}

/// Returns what the clients ask for, in an account of its own.
fn prepare(site: &mut Site, doing: Doing) -> (String, Vec<Asked>) {
    let account = site.done("/v2/accounts", &json!({ "name": "An account" }));
    let account = account["id"].as_str().unwrap().to_owned();
    let mut asked: Vec<Asked> = Vec::new();
    for client in 0..CLIENTS {
        let of = match (doing, client) {
            (Doing::Create, _) => None,
            // The first two fight over one key.
            (_, 1) => asked[0].of.clone(),
            _ => Some(site.make_key(&account)),
        };
        let path = |verb| format!("{KEYS}/{}/{verb}", of.as_ref().unwrap().id);
        // With an overlap every other time.
        let minutes = if client % 2 == 0 { 0 } else { 10 };
        let (path, body) = match doing {
            Doing::Create => (KEYS.to_owned(), wanted(&account)),
            Doing::Rotate => (path("rotate"), json!({ "expire_current_key_in_minutes": minutes })),
            Doing::Expire => (path("expire"), json!({})),
            Doing::Due => unreachable!("the host does it by itself"),
        };
        let idempotency_key = site.word();
        asked.push(Asked { path, body, idempotency_key, of, answer: None });
    }
    (account, asked)
}

/// Checks that all of it was done or nothing, that what was answered was done, and
/// that asking again ends well. Returns where the kill fell, for each client.
fn settle(site: &mut Site, doing: Doing, account: &str, asked: &[Asked]) -> Vec<Fell> {
    site.check(account);
    let mut fell = Vec::new();
    for one in asked {
        let before = site.keys(account);
        let refused = |answer: &Answer| {
            let code = answer.code();
            matches!(&*code, "key_replaced" | "key_ended" | "resource_changed" | "conflict")
        };
        let again = site.post(&one.path, &one.body, &one.idempotency_key);
        let was_done = again.headers.get("idempotent-replayed").is_some_and(|told| told == "true");
        let after = site.keys(account);
        if was_done {
            // Its answer, without its secret, and nothing is done twice.
            assert_eq!(before, after, "{again:?}");
            assert_eq!(token(&again.json()), None, "{again:?}");
        }
        match &one.answer {
            Some(answer) if refused(answer) => {
                // The other of the two who wanted the same was faster, and that
                // was on the disk.
                assert!(refused(&again), "{answer:?}, again {again:?}");
                continue;
            }
            Some(answer) => {
                assert!(matches!(answer.status, 200 | 201), "{answer:?}");
                assert!(was_done, "{answer:?} was lost: {again:?}");
                let (first, again) = (answer.json(), again.json());
                assert_eq!(first["id"], again["id"]);
                assert_eq!(first["revision"], again["revision"]);
                if doing != Doing::Expire {
                    assert!(site.works(token(&first).unwrap()), "{first}");
                    assert_eq!(again["secret_shown"], true, "{again}");
                }
                fell.push(Fell::AfterAnswer);
            }
            None if was_done => fell.push(Fell::BeforeAnswer),
            // It, or the other one, was done now.
            None if refused(&again) => continue,
            None => {
                assert!(matches!(again.status, 200 | 201), "{again:?}");
                if doing != Doing::Expire {
                    assert!(site.works(token(&again.json()).unwrap()), "{again:?}");
                }
                fell.push(Fell::BeforeCommit);
            }
        }
        // Now it is done, once, whoever did it.
        if let Some(of) = &one.of {
            let key = &after[&of.id];
            let overlaps = one.body["expire_current_key_in_minutes"].as_u64().unwrap_or(0) > 0;
            assert_eq!(site.works(&of.secret), overlaps, "{key}");
            assert_eq!(key["replaced_by"].is_null(), doing == Doing::Expire, "{key}");
        }
    }
    site.check(account);
    let made = asked.iter().filter(|one| one.of.is_some()).count();
    let keys = site.keys(account).len();
    let due = match doing {
        Doing::Create => 6 + CLIENTS,
        Doing::Rotate => 6 + 2 * (made - 1),
        Doing::Expire | Doing::Due => 6 + made - 1,
    };
    assert_eq!(keys, due, "keys of {account}");
    fell
}

/// One kill while clients do something.
fn kill_among_clients(site: &mut Site, doing: Doing, delay: Duration) -> Vec<Fell> {
    let (account, mut asked) = prepare(site, doing);
    at_once(site, &mut asked, Some(delay));
    site.restart();
    settle(site, doing, &account, &asked)
}

/// Returns how long clients take for it when nobody is killed: the middle one of
/// some times.
fn duration(site: &mut Site, doing: Doing) -> Duration {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let (account, mut asked) = prepare(site, doing);
            let took = at_once(site, &mut asked, None);
            settle(site, doing, &account, &asked);
            took
        })
        .collect();
    times.sort_unstable();
    times[2]
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// Schedules rotations that are due when the program starts next, and stops it
/// as a crash does: what was answered is there afterwards.
fn schedule(site: &mut Site) -> (String, Vec<Made>) {
    let account = site.done("/v2/accounts", &json!({ "name": "An account" }));
    let account = account["id"].as_str().unwrap().to_owned();
    let keys: Vec<Made> = (0..DUE).map(|_| site.make_key(&account)).collect();
    let at = now_ms() / 1000 + 2;
    for (place, key) in keys.iter().enumerate() {
        let overlap = if place % 2 == 0 { 0 } else { 10 };
        let body = json!({
            "at": jiff::Timestamp::from_second(i64::try_from(at).unwrap()).unwrap().to_string(),
            "every_days": 30,
            "expire_current_key_in_minutes": overlap,
        });
        site.done(&format!("{KEYS}/{}/schedule_rotation", key.id), &body);
    }
    site.kill();
    wait_until("the rotations are due", || now_ms() > at * 1000);
    (account, keys)
}

/// Returns when each of these keys was rotated, in milliseconds since 1970.
fn rotated_at(site: &Site, keys: &[Made]) -> Vec<u64> {
    let rotated = |key: &Made| {
        let entries = site.audit(&key.id);
        let entry = entries.iter().find(|entry| entry["action"] == "api_key.rotated");
        entry.map(|entry| entry["at_ms"].as_u64().unwrap())
    };
    let mut found = Vec::new();
    wait_until("all that is due is done", || {
        found = keys.iter().filter_map(rotated).collect();
        found.len() == keys.len()
    });
    found
}

/// One kill while the host carries out rotations that are due. It begins with
/// them as soon as it serves.
fn kill_among_rotations(site: &mut Site, delay: Duration) -> Vec<Fell> {
    let (account, keys) = schedule(site);
    site.restart();
    thread::sleep(delay);
    site.kill();
    let killed = now_ms();
    site.restart();
    let at = rotated_at(site, &keys);
    site.check(&account);
    let all = site.keys(&account);
    assert_eq!(all.len(), 6 + 2 * DUE, "a rotation was done twice, or a key was lost");
    for (place, key) in keys.iter().enumerate() {
        assert_eq!(site.works(&key.secret), place % 2 == 1, "{}", all[&key.id]);
        let next = all[&key.id]["replaced_by"].as_str().unwrap();
        assert!(all[next]["replaced_by"].is_null(), "{}", all[next]);
        assert_eq!(all[next]["rotation"]["every_days"], 30, "{}", all[next]);
        // Nobody has seen its secret yet, and it is not lost.
        let shown = site.done(&format!("{KEYS}/{next}/reveal"), &json!({}));
        assert!(site.works(token(&shown).unwrap()), "{shown}");
    }
    // Nobody was waiting for an answer.
    at.iter()
        .map(|&at| if at <= killed { Fell::BeforeAnswer } else { Fell::BeforeCommit })
        .collect()
}

/// Returns how long all that is due takes from when the host serves.
fn duration_due(site: &mut Site) -> Duration {
    let (_, keys) = schedule(site);
    site.restart();
    let start = now_ms();
    let last = rotated_at(site, &keys).into_iter().max().unwrap();
    Duration::from_millis(last.saturating_sub(start) + 5)
}

#[test]
fn a_kill_at_any_moment_leaves_all_of_a_change_or_nothing() {
    let start = Instant::now();
    let (kills, counts) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for folder in 0..FOLDERS {
            let (kills, counts) = (&kills, &counts);
            scope.spawn(move || {
                let mut site = Site::new();
                for doing in [Doing::Create, Doing::Rotate, Doing::Expire, Doing::Due] {
                    let most = match doing {
                        Doing::Due => duration_due(&mut site),
                        _ => duration(&mut site, doing),
                    };
                    // From at once to a bit more than it takes, in even steps.
                    for step in (folder..KILLS).step_by(FOLDERS) {
                        let part = 1.2 * step as f64 / (KILLS - 1) as f64;
                        let delay = most.mul_f64(part);
                        let fell = match doing {
                            Doing::Due => kill_among_rotations(&mut site, delay),
                            _ => kill_among_clients(&mut site, doing, delay),
                        };
                        kills.fetch_add(1, Ordering::Relaxed);
                        let mut counts = counts.lock().unwrap();
                        for fell in fell {
                            *counts.entry((doing, fell)).or_insert(0) += 1;
                        }
                    }
                }
            });
        }
    });
    let (kills, counts) = (kills.into_inner(), counts.into_inner().unwrap());
    let took = start.elapsed().as_secs_f32();
    println!("{kills} kills in {took:.1} s: {counts:#?}");
    assert!(kills >= 200, "{kills}");
    for doing in [Doing::Create, Doing::Rotate, Doing::Expire, Doing::Due] {
        let count = |fell| counts.get(&(doing, fell)).copied().unwrap_or(0);
        assert!(count(Fell::BeforeCommit) > 0, "{doing:?}");
        // By itself the host answers nobody.
        assert!(count(Fell::AfterAnswer) > 0 || doing == Doing::Due, "{doing:?}");
    }
    let count = |fell| -> usize {
        counts.iter().filter(|((_, found), _)| *found == fell).map(|(_, count)| count).sum()
    };
    assert!(count(Fell::BeforeAnswer) > 0, "no kill fell between a commit and its answer");
}
