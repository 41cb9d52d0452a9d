//! Runs the program in a folder of its own.

// Each suite uses a part of it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each suite is a program of its own, and none uses all of it"
)]

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::common::{Answer, send};

/// How long to wait for what takes well under a second. Only a failure waits
/// this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Any free port, three times.
pub(crate) const FREE_PORTS: [&str; 6] = [
    "--listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
    "--internal-listen",
    "127.0.0.1:0",
];

/// What every secret of this program looks like, wherever it turns up.
const SECRET_STARTS: &[&str] = &["sk_test_", "sk_live_", "rk_test_", "rk_live_", "wk_operator_"];

/// And what may stand in front-end code.
const PUBLISHABLE_STARTS: &[&str] = &["pk_test_", "pk_live_"];

/// A folder to run the program in. Its data directory is the default one.
pub(crate) struct Folder {
    dir: tempfile::TempDir,
    starts: Cell<u32>,
}

impl Folder {
    /// Makes an empty one.
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), starts: Cell::new(0) }
    }

    /// Makes one with a data directory in it, which no host uses.
    pub(crate) fn ready() -> Self {
        let folder = Self::empty();
        assert!(folder.start(&[]).terminate().success());
        folder
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("wardkey-data")
    }

    /// Returns the program, ready to be run here and without any variable of
    /// whoever runs the tests.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardkey"));
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Most tests are about something else. `codes.rs` has it as it is shipped.
        command.env("WARDKEY_VERIFICATION", "none");
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        end(self.command(args), "")
    }

    /// Runs a command that asks, and returns what it printed as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let ended = self.run(&[args, &["--json"]].concat());
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.stderr);
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// Makes a key, and returns its id and its secret.
    #[track_caller]
    pub(crate) fn key(&self, args: &[&str]) -> (String, String) {
        let key = self.json(&[&["keys", "create", "--name", "a key"], args].concat());
        (key["id"].as_str().unwrap().to_owned(), token(&key).unwrap().to_owned())
    }

    /// Returns a key that came with the account, as `keys list` shows it.
    pub(crate) fn default_key(&self, kind: &str, mode: &str) -> Value {
        let keys = self.json(&["keys", "list", mode]);
        let found = keys
            .as_array()
            .unwrap()
            .iter()
            .find(|key| key["kind"] == kind && key["origin"] == "platform");
        found.unwrap().clone()
    }

    /// Starts a host as bare `wardkey` does, on free ports.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        self.start_command(self.command(&[&FREE_PORTS, args].concat()))
    }

    /// Starts a host, and waits until it serves.
    pub(crate) fn start_command(&self, command: Command) -> Running {
        self.spawn(command).ready()
    }

    /// Starts a host, and does not wait for it.
    pub(crate) fn spawn(&self, mut command: Command) -> Running {
        self.starts.set(self.starts.get() + 1);
        let log = self.dir.path().join(format!("stderr-{}", self.starts.get()));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || read_lines(stdout, &sender));
        Running {
            child,
            log,
            lines,
            printed: RefCell::default(),
            gate: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            internal: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

fn read_lines(stdout: impl BufRead, to: &Sender<String>) {
    for line in stdout.lines() {
        let Ok(line) = line else { return };
        if to.send(line).is_err() {
            return;
        }
    }
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end.
pub(crate) fn end(mut command: Command, stdin: &str) -> Ended {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who refuses the command line does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let deadline = Watchdog::set(&child);
    let output = child.wait_with_output().unwrap();
    drop(deadline);
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Kills a process that does not end in time.
pub(crate) struct Watchdog {
    _called_off: Sender<()>,
}

impl Watchdog {
    pub(crate) fn set(child: &Child) -> Self {
        let (called_off, wait) = mpsc::channel::<()>();
        let process = rustix::process::Pid::from_child(child);
        thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        });
        Self { _called_off: called_off }
    }
}

/// A host that serves. It is killed when it is dropped.
pub(crate) struct Running {
    pub(crate) gate: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) internal: SocketAddr,
    child: Child,
    log: PathBuf,
    lines: Receiver<String>,
    printed: RefCell<String>,
}

impl Running {
    /// Waits until it serves.
    pub(crate) fn ready(mut self) -> Self {
        self.gate = self.address("  gate ");
        self.admin = self.address("  admin ");
        self.internal = self.address("  internal ");
        // The last of the lines that are always there.
        self.line("  operator ");
        self
    }

    /// Waits for a line with this in it.
    #[track_caller]
    pub(crate) fn line(&self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.printed.borrow_mut().push_str(&line);
                    self.printed.borrow_mut().push('\n');
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with `{part}`: {}", self.stderr()),
            }
        }
    }

    #[track_caller]
    fn address(&self, part: &str) -> SocketAddr {
        let line = self.line(part);
        let address = line.split("http://").nth(1).unwrap();
        let end = address.find(['/', ' ']).unwrap();
        address[..end].parse().unwrap()
    }

    /// Calls the gate with a key.
    pub(crate) fn call(&self, method: &str, path: &str, secret: &str) -> Answer {
        send(self.gate, method, path, &[("Authorization", &format!("Bearer {secret}"))], "")
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let _deadline = Watchdog::set(&self.child);
        self.child.wait().unwrap()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Stops it, and returns all that it has printed.
    pub(crate) fn output(mut self) -> String {
        self.signal(rustix::process::Signal::TERM);
        assert!(self.wait().success(), "{}", self.stderr());
        let mut printed = self.printed.take();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            printed.push_str(&line);
            printed.push('\n');
        }
        printed + &self.stderr()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command in a terminal, where it can ask. Needs the tool `script`.
pub(crate) struct Terminal {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    shown: String,
    stdout: PathBuf,
    _deadline: Watchdog,
}

impl Terminal {
    /// Runs a command there. Its standard output goes to a file, as into a
    /// script's variable: what is shown is what a person is asked and told.
    pub(crate) fn run(folder: &Folder, args: &[&str]) -> Self {
        let words = [&[env!("CARGO_BIN_EXE_wardkey")], args].concat();
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let stdout = folder.path().join("stdout");
        let line = format!("exec {} > '{}'", words.join(" "), stdout.display());
        let mut child = Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Watchdog::set(&child);
        let (sender, output) = mpsc::channel();
        let mut from = child.stdout.take().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Self { child, input, output, shown: String::new(), stdout, _deadline: deadline }
    }

    /// Waits until this is shown, after what was waited for before.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> &mut Self {
        self.read_until(text);
        self
    }

    /// Does the same, and returns what was shown before it.
    #[track_caller]
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        while !self.shown.contains(text) {
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("no `{text}`: {}", self.shown),
            }
        }
        let at = self.shown.find(text).unwrap();
        let before = self.shown[..at].to_owned();
        self.shown.drain(..at + text.len());
        before
    }

    /// Types a line.
    pub(crate) fn enter(&mut self, line: &str) -> &mut Self {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        self
    }

    /// Waits for its end. What was not waited for is in `stderr`.
    pub(crate) fn end(mut self) -> Ended {
        while let Ok(bytes) = self.output.recv_timeout(PATIENCE) {
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        // Kept open until now: `script` ends the terminal when its own input ends.
        let status = self.child.wait().unwrap();
        drop(self.input.take());
        Ended {
            code: status.code().unwrap_or(-1),
            stdout: fs::read_to_string(&self.stdout).unwrap(),
            stderr: self.shown,
        }
    }
}

/// Returns the verification codes that were written to a console, by their ids.
pub(crate) fn codes(console: &str) -> Vec<(String, String)> {
    let mut codes = Vec::new();
    let mut code = None;
    for line in console.lines() {
        let (start, _) = line.split_at_checked(6).unwrap_or_default();
        if start.len() == 6 && start.bytes().all(|byte| byte.is_ascii_digit()) {
            code = Some(start.to_owned());
        }
        let id = line.split([' ', ';']).find(|word| word.starts_with("vrf_"));
        if let (Some(id), true) = (id, line.starts_with("Asked by")) {
            codes.push((id.to_owned(), code.take().unwrap()));
        }
    }
    codes
}

/// Runs a test twice: where the command line asks a host over its socket, and
/// where it is its own.
pub(crate) fn with_and_without_a_host(test: impl Fn(&Folder)) {
    let folder = Folder::ready();
    test(&folder);
    let folder = Folder::empty();
    let host = folder.start(&[]);
    test(&folder);
    assert!(host.terminate().success());
}

/// Returns the secret in a key as `--json` shows it.
pub(crate) fn token(key: &Value) -> Option<&str> {
    ["secret_key", "publishable_key"].into_iter().find_map(|shape| key[shape]["token"].as_str())
}

/// Fails if there is a secret in `text`. Its start alone is fine: masked forms
/// have it.
#[track_caller]
pub(crate) fn assert_no_secret(text: &str) {
    assert_none_of(SECRET_STARTS.iter().chain(PUBLISHABLE_STARTS), text);
}

/// Does the same, where publishable keys are shown whole: they are no secret.
#[track_caller]
pub(crate) fn assert_no_secret_key(text: &str) {
    assert_none_of(SECRET_STARTS.iter(), text);
}

#[track_caller]
fn assert_none_of<'a>(starts: impl Iterator<Item = &'a &'static str>, text: &str) {
    for start in starts {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            let length = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
            assert!(length < 10, "a secret in {text}");
        }
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

/// Tells whether somebody listens there.
pub(crate) fn listens(at: SocketAddr) -> bool {
    TcpStream::connect(at).is_ok()
}

/// An API behind the gate. It says when a request has come, and answers when it
/// is told to.
pub(crate) struct SlowUpstream {
    pub(crate) url: String,
    arrived: Receiver<String>,
    answer: Sender<()>,
}

impl SlowUpstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (arrives, arrived) = mpsc::channel();
        let (answer, may_answer) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                if arrives.send(head).is_err() || may_answer.recv().is_err() {
                    return;
                }
                let answer =
                    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow";
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url, arrived, answer }
    }

    /// Waits for a request, and returns its head.
    pub(crate) fn arrived(&self) -> String {
        self.arrived.recv_timeout(PATIENCE).unwrap()
    }

    pub(crate) fn answer(&self) {
        self.answer.send(()).unwrap();
    }
}

/// Tells whether a tool is there that a test needs. On a developer's machine a
/// test may go without; in CI nothing is left out.
pub(crate) fn has_tool(name: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join(name).is_file());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "`{name}` is not installed");
        eprintln!("SKIPPED: `{name}` is not installed");
    }
    found
}
