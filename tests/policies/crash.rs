//! A host that is killed while policies are pushed, put in force and taken back.
//! Whatever it has answered is true after the restart, and of what it has not
//! answered, either all or nothing was done.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use crate::{
    program::{Folder, Running},
    *,
};

const KILLS: u32 = 60;

const REFUSALS: [Refusal; 3] = [ONE, TWO, THREE];

/// What is asked of a host.
#[derive(Clone, Debug)]
enum Step {
    Push(Vec<u8>),
    /// Of one that was pushed.
    Activate(String),
    RollBack,
}

/// What a host has promised.
#[derive(Default)]
struct Promised {
    /// Those that were pushed, and how each refuses.
    kept: BTreeMap<String, Refusal>,
    /// Those that were in force, the last one behind.
    history: Vec<String>,
}

impl Promised {
    fn active(&self) -> &str {
        self.history.last().map_or(standard(), String::as_str)
    }

    /// Returns what a rollback goes back to.
    fn before(&self) -> Option<&str> {
        let all = [standard()].into_iter().chain(self.history.iter().map(String::as_str));
        all.rev().find(|digest| *digest != self.active())
    }

    /// Returns what a step puts in force.
    fn target(&self, step: &Step) -> Option<String> {
        match step {
            Step::Push(_) => None,
            Step::Activate(digest) => Some(digest.clone()),
            Step::RollBack => self.before().map(str::to_owned),
        }
    }
}

/// Makes the number a part of a component, so that it is another by its digest.
fn numbered(number: u32) -> (Vec<u8>, Refusal) {
    let refusal = REFUSALS[number as usize % REFUSALS.len()];
    let mut bytes = honest(refusal);
    // A custom section of 6 bytes: the name `n`, and the number.
    bytes.extend([0, 6, 1, b'n']);
    bytes.extend(number.to_le_bytes());
    (bytes, refusal)
}

/// Sends a request to a host that may be gone. `None`: there was no answer, or
/// not all of it.
fn send(admin: SocketAddr, operator: &str, step: &Step) -> Option<Answer> {
    let (path, body): (String, &[u8]) = match step {
        Step::Push(bytes) => ("/v2/policies?name=n&version=1&revision=1".to_owned(), bytes),
        Step::Activate(digest) => (format!("/v2/policies/{digest}/activate"), b""),
        Step::RollBack => ("/v2/policies/rollback".to_owned(), b""),
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {operator}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let answer = common::parse(&answer);
    // What is cut off has promised nothing.
    answer.json().is_object().then_some(answer)
}

/// Asks for one thing after another until there is no answer. Returns the step
/// that had none.
fn drive(
    admin: SocketAddr,
    operator: &str,
    promised: &mut Promised,
    number: &mut u32,
    begins: &Sender<u32>,
) -> Step {
    for turn in 0.. {
        let step = match turn % 4 {
            0 => {
                *number += 1;
                Step::Push(numbered(*number).0)
            }
            1 | 3 => Step::Activate(promised.kept.keys().next_back().unwrap().clone()),
            _ => Step::RollBack,
        };
        // Nobody may wait for it any more.
        let _ = begins.send(turn);
        let Some(answer) = send(admin, operator, &step) else { return step };
        assert!(matches!(answer.status, 200 | 201), "{step:?}: {answer:?}");
        match &step {
            Step::Push(bytes) => {
                promised.kept.insert(digest(bytes), numbered(*number).1);
            }
            Step::Activate(_) | Step::RollBack => {
                promised.history.extend(promised.target(&step));
                assert_eq!(answer.json()["digest"], promised.active(), "{step:?}");
            }
        }
    }
    unreachable!("it was never killed")
}

#[test]
fn after_a_crash_one_policy_is_in_force_and_it_was_promised() {
    let folder = Folder::empty();
    let mut host = folder.start(&[]);
    let operator = fs::read_to_string(folder.data().join("operator.secret")).unwrap();
    let operator = operator.trim();
    let mut promised = Promised::default();
    let (mut number, mut done_unanswered, mut by_step) = (0, 0, [0; 3]);
    for kill in 0..KILLS {
        let (begins, begun) = mpsc::channel();
        let lost = thread::scope(|scope| {
            let (admin, promised, number) = (host.admin, &mut promised, &mut number);
            let driver = scope.spawn(move || drive(admin, operator, promised, number, &begins));
            // Each kind of step in turn, and a little later each time.
            let turn = 4 + kill % 4;
            while begun.recv().is_ok_and(|begins| begins < turn) {}
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(u64::from(kill) * 700) {
                thread::yield_now();
            }
            host.signal(rustix::process::Signal::KILL);
            driver.join().unwrap()
        });
        host.wait();
        host = folder.start(&[]);

        let answer = ask_at(host.admin, operator, "GET", "/v2/policies", "");
        let list = answer.json()["data"].as_array().unwrap().clone();
        let name = |policy: &Value| policy["digest"].as_str().unwrap().to_owned();
        let active: Vec<_> =
            list.iter().filter(|policy| policy["state"] == "active").map(name).collect();
        let told = format!("kill {kill}, in the middle of {}", shown(&lost));
        assert_eq!(active.len(), 1, "{told}: {list:?}");
        let mut kept: Vec<_> = list.iter().map(name).filter(|name| name != standard()).collect();
        kept.sort_unstable();
        match &lost {
            Step::Push(bytes) => {
                by_step[0] += 1;
                assert_eq!(active[0], promised.active(), "{told}");
                if kept.contains(&digest(bytes)) {
                    done_unanswered += 1;
                    promised.kept.insert(digest(bytes), numbered(number).1);
                }
            }
            step @ (Step::Activate(_) | Step::RollBack) => {
                by_step[if matches!(step, Step::RollBack) { 2 } else { 1 }] += 1;
                if active[0] != promised.active() {
                    done_unanswered += 1;
                    assert_eq!(Some(&active[0]), promised.target(step).as_ref(), "{told}");
                    promised.history.push(active[0].clone());
                }
            }
        }
        assert!(kept.iter().eq(promised.kept.keys()), "{told}: {kept:?}");
        let refused = common::send(host.gate, "GET", "/v1/charges", &[], "");
        match promised.kept.get(&active[0]) {
            Some((_, message)) => assert_eq!(refused.message(), *message, "{told}"),
            None => assert_eq!(refused.status, 401, "{told}"),
        }
    }
    let [pushes, activations, rollbacks] = by_step;
    println!(
        "{KILLS} kills: in {pushes} pushes, {activations} activations, {rollbacks} rollbacks; \
         {done_unanswered} were done and not answered"
    );
    assert!(by_step.iter().all(|count| *count > 0), "{by_step:?}");
    let verified = folder_verified(&host, operator);
    assert_eq!(verified.status, 200, "{verified:?}");
    assert!(host.terminate().success());
}

fn shown(step: &Step) -> String {
    match step {
        Step::Push(bytes) => format!("the push of {}", digest(bytes)),
        step => format!("{step:?}"),
    }
}

/// The audit log is one chain through all of it.
fn folder_verified(host: &Running, operator: &str) -> Answer {
    ask_at(host.admin, operator, "POST", "/v2/audit_log/verify", "{}")
}
