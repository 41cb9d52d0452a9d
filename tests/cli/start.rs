//! The first start, and starts that must not happen.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::guest::{Guest, answer};
use crate::program::{
    Ended, FREE_PORTS, Folder, Watchdog, assert_no_secret, end, has_tool, listens, wait_until,
};

/// The lowest nine bits: who may do what.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a line in a shell, with the status of the answer below the answer.
fn shell(line: &str) -> Ended {
    let home = tempfile::tempdir().unwrap();
    fs::write(
        home.path().join(".curlrc"),
        "silent\nnoproxy = \"*\"\nwrite-out = \"\\n%{http_code}\"\n",
    )
    .unwrap();
    let mut sh = Command::new("sh");
    // Elsewhere than where the host was started: a person has many terminals.
    sh.args(["-c", line]).current_dir(home.path()).env("CURL_HOME", home.path());
    end(sh, "")
}

#[test]
fn the_first_start_makes_all_it_needs_and_proposes_a_request_that_works() {
    let folder = Folder::empty();
    let mut bare = folder.command(&[]);
    for variable in ["WARDKEY_LISTEN", "WARDKEY_ADMIN_LISTEN", "WARDKEY_INTERNAL_LISTEN"] {
        bare.env(variable, "127.0.0.1:0");
    }
    let host = folder.start_command(bare);

    assert_eq!(mode(&folder.data()), 0o700);
    for entry in fs::read_dir(folder.data()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    host.line("Your first request:");
    let line = host.line("curl ");
    if has_tool("curl") {
        let ended = shell(&line);
        assert!(ended.stdout.ends_with("\n200"), "{line}\n{ended:?}");
        assert!(ended.stdout.contains(r#""object":"balance""#), "{}", ended.stdout);
    }
    let output = host.output();
    assert_no_secret(&output);
    assert!(!output.contains('\x1b'), "colours in a log: {output}");
}

#[test]
fn the_second_start_goes_on_with_what_is_there() {
    let folder = Folder::empty();
    let (id, secret) = {
        let host = folder.start(&[]);
        let made = folder.key(&["--permission", "balance_read"]);
        assert!(host.terminate().success());
        made
    };
    let host = folder.start(&[]);
    host.line("A request:");
    assert_eq!(host.call("GET", "/v1/balance", &secret).status, 200);
    assert_eq!(folder.json(&["keys", "show", &id])["id"], id);
    assert_eq!(folder.json(&["keys", "list"]).as_array().unwrap().len(), 7);
}

#[test]
fn a_folder_with_a_name_that_means_something_to_a_shell_works() {
    let folder = Folder::empty();
    let host = folder.start(&["--data-dir", "it's $HOME; \"a\" folder"]);
    let line = host.line("curl ");
    if has_tool("curl") {
        let ended = shell(&line);
        assert!(ended.stdout.ends_with("\n200"), "{line}\n{ended:?}");
    }
}

#[test]
fn a_terminal_is_shown_the_secret_itself() {
    if !has_tool("script") {
        return;
    }
    let folder = Folder::empty();
    let program = env!("CARGO_BIN_EXE_wardkey");
    let line = format!("echo PID $$; exec '{program}' {}", FREE_PORTS.join(" "));
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).current_dir(folder.path());
    script.env("SHELL", "/bin/sh");
    // Kept open: `script` ends the terminal when its own input ends.
    let (input, _keep_open) = std::io::pipe().unwrap();
    let mut child = script.stdin(input).stdout(Stdio::piped()).spawn().unwrap();
    let _deadline = Watchdog::set(&child);
    let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut pid = None;
    let mut curl = None;
    for line in std::io::BufRead::lines(stdout) {
        let Ok(line) = line else { break };
        let line = line.trim_end();
        if let Some(number) = line.strip_prefix("PID ") {
            pid = rustix::process::Pid::from_raw(number.parse().unwrap());
        }
        if line.contains("curl ") {
            curl = Some(line.to_owned());
            // Ends the output, too.
            let signal = rustix::process::Signal::TERM;
            if has_tool("curl") {
                let ended = shell(line);
                assert!(ended.stdout.ends_with("\n200"), "{line}\n{ended:?}");
            }
            rustix::process::kill_process(pid.unwrap(), signal).unwrap();
        }
    }
    assert!(child.wait().unwrap().success());
    let curl = curl.unwrap();
    assert!(curl.contains("/v1/balance -u sk_test_") && curl.ends_with(':'), "{curl}");
}

#[test]
fn serve_makes_nothing_unless_it_is_told_to() {
    for folder_is_there in [true, false] {
        let folder = Folder::empty();
        if folder_is_there {
            fs::create_dir(folder.path().join("empty")).unwrap();
        }
        let args = ["serve", "--data-dir", "empty"];
        let ended = folder.run(&[&args[..], &FREE_PORTS].concat());
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("--init"), "{}", ended.stderr);
        assert!(ended.stderr.contains("`empty`"), "{}", ended.stderr);
        let left = fs::read_dir(folder.path().join("empty")).map(Iterator::count);
        assert_eq!(left.ok(), folder_is_there.then_some(0));

        let host =
            folder.start_command(folder.command(&[&args[..], &FREE_PORTS, &["--init"]].concat()));
        assert!(host.terminate().success());
        // Now it is there, and `--init` would be a mistake.
        let ended = folder.run(&[&args[..], &FREE_PORTS, &["--init"]].concat());
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains("leave out `--init`"), "{}", ended.stderr);
    }
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let folder = Folder::empty();
    fs::create_dir(folder.data()).unwrap();
    fs::write(folder.data().join("diary.txt"), "today").unwrap();
    let ended = folder.run(&FREE_PORTS);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("`diary.txt`"), "{}", ended.stderr);
    assert_eq!(fs::read_dir(folder.data()).unwrap().count(), 1);
}

#[test]
fn commands_make_no_data_directory() {
    let folder = Folder::empty();
    for args in [
        &["keys", "list"][..],
        &["keys", "create", "--name", "a"],
        &["verify", "GET /v1/balance"],
        &["permissions", "list"],
    ] {
        let ended = folder.run(args);
        assert_eq!(ended.code, 1, "{args:?}");
        assert!(ended.stderr.contains("`wardkey-data`"), "{}", ended.stderr);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn two_hosts_never_share_a_data_directory() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let ended = folder.run(&FREE_PORTS);
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("a wardkey host is using the data directory `wardkey-data`"),
        "{}",
        ended.stderr
    );
    // The first one has not noticed.
    assert_eq!(folder.run(&["keys", "list"]).code, 0);
    assert!(listens(host.gate));
    assert!(host.terminate().success());
}

#[test]
fn a_port_that_is_taken_is_named_and_nothing_is_served() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--admin-listen", "--internal-listen"] {
        let folder = Folder::ready();
        let mut args = FREE_PORTS;
        let at = args.iter().position(|arg| *arg == flag).unwrap();
        args[at + 1] = &address;
        let ended = folder.run(&args);
        assert_eq!(ended.code, 1, "{flag}");
        assert!(ended.stderr.contains(&format!("{flag} {address}")), "{}", ended.stderr);
        assert!(ended.stderr.contains("in use"), "{}", ended.stderr);
        assert_eq!(ended.stdout, "", "it said that it serves");
        assert!(!folder.data().join("admin.sock").exists());
        // And the folder is free for the next try.
        assert!(folder.start(&[]).terminate().success());
    }
}

#[test]
fn secrets_that_others_can_read_are_refused_with_what_mends_it() {
    let folder = Folder::ready();
    let data = folder.data();
    for (path, exposed, good) in [
        (data.clone(), 0o755, "700"),
        (data.join("operator.secret"), 0o640, "600"),
        (data.join("key-encryption.key"), 0o604, "600"),
    ] {
        let before = mode(&path);
        set_mode(&path, exposed);
        for args in [&FREE_PORTS[..], &["keys", "list"]] {
            let ended = folder.run(args);
            assert_eq!(ended.code, 1, "{}", path.display());
            let name = path.file_name().unwrap().to_str().unwrap();
            let mends = ended.stderr.split("run `").nth(1).unwrap().split('`').next().unwrap();
            assert!(mends.starts_with(&format!("chmod {good} '")), "{}", ended.stderr);
            assert!(mends.contains(name), "{}", ended.stderr);
        }
        // As the message says.
        let ended = folder.run(&["keys", "list"]);
        let line = ended.stderr.split("run `").nth(1).unwrap().split('`').next().unwrap();
        let mut sh = Command::new("sh");
        sh.args(["-c", line]).current_dir(folder.path());
        assert_eq!(end(sh, "").code, 0, "{line}");
        assert_eq!(mode(&path), before);
        assert_eq!(folder.run(&["keys", "list"]).code, 0);
    }
}

#[test]
fn lost_files_are_reported_and_not_made_again() {
    for name in ["wardkey.db", "operator.secret", "key-encryption.key"] {
        let folder = Folder::ready();
        fs::remove_file(folder.data().join(name)).unwrap();
        for args in [&FREE_PORTS[..], &["keys", "list"]] {
            let ended = folder.run(args);
            assert_eq!(ended.code, 1, "{name}");
            assert!(ended.stderr.contains(name), "{}", ended.stderr);
            assert!(ended.stderr.contains("restore it from a backup"), "{}", ended.stderr);
            assert!(!folder.data().join(name).exists());
        }
    }
}

#[test]
fn what_is_no_policy_is_refused_and_named() {
    let folder = Folder::ready();
    fs::write(folder.path().join("garbage.wasm"), "not a component").unwrap();
    fs::write(folder.path().join("empty.wasm"), "").unwrap();
    fs::write(folder.path().join("core.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
    fs::write(folder.path().join("bare.wasm"), wat::parse_str("(component)").unwrap()).unwrap();
    fs::write(folder.path().join("open.wasm"), Guest::new(answer()).build()).unwrap();
    for (file, says) in [
        ("garbage.wasm", "no valid component"),
        ("empty.wasm", "no valid component"),
        ("core.wasm", "component"),
        ("bare.wasm", "does not fit the contract"),
        ("open.wasm", "let a request without a key in when it was tried"),
        ("missing.wasm", "reading the policy"),
    ] {
        let flag = ["--policy", file];
        for args in [&[&FREE_PORTS[..], &flag].concat()[..], &["keys", "list", "--policy", file]] {
            let ended = folder.run(args);
            assert_eq!(ended.code, 1, "{file}");
            assert!(ended.stderr.contains(says), "{file}: {}", ended.stderr);
            assert!(ended.stderr.contains(&format!("`{file}`")), "{}", ended.stderr);
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        }
    }
    // They were all refused before anything was changed.
    let host = folder.start(&[]);
    wait_until("the gate answers", || listens(host.gate));
}
