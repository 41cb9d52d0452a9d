//! Verification codes, as the program is shipped: a person confirms.

use std::process::Command;

use crate::program::{
    Ended, Folder, Running, Terminal, assert_no_secret, codes, end, has_tool, wait_until,
};

const LIVE: [&str; 7] = ["keys", "create", "--name", "mine", "--kind", "secret", "--live"];

/// Starts a host that asks, on its console.
fn start(folder: &Folder) -> Running {
    folder.start(&["--verification", "console"])
}

/// Waits for the newest of so many codes.
fn code(host: &Running, count: usize) -> (String, String) {
    wait_until("the code is on the console", || codes(&host.stderr()).len() >= count);
    codes(&host.stderr()).pop().unwrap()
}

fn live_keys(folder: &Folder) -> usize {
    folder.json(&["keys", "list", "--live"]).as_array().unwrap().len()
}

#[test]
fn where_nobody_sits_the_same_command_goes_on_with_the_code() {
    let folder = Folder::empty();
    let host = start(&folder);
    let asked = folder.run(&LIVE);
    assert_eq!((asked.code, asked.stdout.as_str()), (4, ""), "{}", asked.stderr);
    let (id, digits) = code(&host, 1);
    assert!(asked.stderr.contains(&format!("`--verification {id}:CODE`")), "{}", asked.stderr);
    assert!(!asked.stderr.contains(&digits), "{}", asked.stderr);
    assert_eq!(live_keys(&folder), 3);

    let confirmed = format!("{id}:{digits}");
    let with = |confirmed: &str, args: &[&str]| {
        folder.run(&[args, &["--verification", confirmed]].concat())
    };
    // For something else it is no good.
    let renamed = LIVE.map(|word| if word == "mine" { "yours" } else { word });
    for (args, confirmed) in [
        (&renamed, confirmed.as_str()),
        (&LIVE, &format!("{id}:000000")),
        (&LIVE, "vrf_nobody:123456"),
        (&LIVE, "nonsense"),
        (&LIVE, "é"),
    ] {
        let refused = with(confirmed, args);
        let wrong = confirmed.ends_with(":000000") && digits == "000000";
        assert!(wrong || refused.code == 1, "{confirmed}: {refused:?}");
        assert!(wrong || refused.stdout.is_empty());
    }
    assert_eq!(live_keys(&folder), 3);
    let made = with(&confirmed, &LIVE);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stdout.starts_with("sk_live_"));
    assert_eq!(live_keys(&folder), 4);
    // Once.
    let again = with(&confirmed, &LIVE);
    assert_eq!((again.code, again.stdout.as_str()), (1, ""), "{}", again.stderr);
    assert_eq!(live_keys(&folder), 4);
}

#[test]
fn a_program_is_told_the_id_of_the_code() {
    let folder = Folder::empty();
    let host = start(&folder);
    let asked = folder.run(&[&LIVE[..], &["--json"]].concat());
    assert_eq!(asked.code, 4, "{}", asked.stderr);
    let answer: serde_json::Value = serde_json::from_str(&asked.stdout).unwrap();
    let (id, digits) = code(&host, 1);
    assert_eq!(answer["error"]["verification"]["id"], id.as_str());
    assert!(!asked.stdout.contains(&digits));
}

#[test]
fn every_command_that_shows_a_live_secret_is_confirmed() {
    let folder = Folder::empty();
    let host = start(&folder);
    let key = folder.default_key("secret", "--live");
    let id = key["id"].as_str().unwrap();
    let digest = "ab".repeat(32);
    for (count, args) in [
        &["keys", "reveal", id][..],
        &["keys", "rotate", id, "--expire-in", "1h"],
        &[
            "keys",
            "import",
            "--name",
            "a",
            "--live",
            "--digest",
            &digest,
            "--redacted",
            "k****abcd",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let asked = folder.run(args);
        assert_eq!((asked.code, asked.stdout.as_str()), (4, ""), "{args:?}: {}", asked.stderr);
        let (challenge, digits) = code(&host, count + 1);
        let confirmed = format!("{challenge}:{digits}");
        let done = folder.run(&[args, &["--verification", &confirmed]].concat());
        assert_eq!(done.code, 0, "{args:?}: {}", done.stderr);
    }
    // What shows no secret, or none that is secret, is not.
    for args in [
        &["keys", "create", "--name", "a", "--kind", "secret"][..],
        &["keys", "create", "--name", "a", "--kind", "publishable", "--live"],
        &["keys", "update", id, "--note", "b"],
        &["keys", "expire", id, "--yes"],
    ] {
        let done = folder.run(args);
        assert_eq!(done.code, 0, "{args:?}: {}", done.stderr);
    }
    assert_eq!(codes(&host.stderr()).len(), 3);
}

#[test]
fn a_person_is_asked_for_the_code() {
    if !has_tool("script") {
        return;
    }
    let folder = Folder::empty();
    let host = start(&folder);
    let mut terminal = Terminal::run(&folder, &LIVE);
    terminal.wait_for("was sent to the host's console").wait_for("Code: ");
    let (_, digits) = code(&host, 1);
    // A slip of the finger is forgiven.
    let wrong = if digits == "123456" { "123457" } else { "123456" };
    terminal.enter(wrong).wait_for("is wrong").wait_for("Code: ").enter(&digits);
    let made = terminal.end();
    assert_eq!(made.code, 0, "{}", made.stderr);
    // In a script's variable is the secret, and not what was said meanwhile.
    assert!(made.stdout.starts_with("sk_live_") && made.stdout.lines().count() == 1);
    assert_no_secret(&made.stderr);
    assert_eq!(live_keys(&folder), 4);
}

#[test]
fn a_person_without_a_code_makes_nothing() {
    if !has_tool("script") {
        return;
    }
    let folder = Folder::empty();
    let host = start(&folder);
    let mut terminal = Terminal::run(&folder, &LIVE);
    terminal.wait_for("Code: ").enter("");
    let ended = terminal.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (4, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("--verification vrf_"), "{}", ended.stderr);

    let mut terminal = Terminal::run(&folder, &LIVE);
    terminal.wait_for("Code: ");
    let (_, digits) = code(&host, 2);
    let wrong = if digits == "123456" { "123457" } else { "123456" };
    for _ in 0..3 {
        terminal.enter(wrong).wait_for("is wrong");
    }
    let ended = terminal.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{}", ended.stderr);
    assert_eq!(live_keys(&folder), 3);
}

/// Runs a command where no host runs and nobody sits.
fn alone(folder: &Folder, set: impl FnOnce(&mut Command)) -> Ended {
    let mut command = folder.command(&LIVE);
    command.env_remove("WARDKEY_VERIFICATION");
    set(&mut command);
    end(command, "")
}

#[test]
fn without_a_host_a_code_is_good_in_a_terminal_only() {
    let folder = Folder::ready();
    let asked = alone(&folder, |_| {});
    assert_eq!((asked.code, asked.stdout.as_str()), (4, ""), "{}", asked.stderr);
    assert!(asked.stderr.contains("no host runs that could wait"), "{}", asked.stderr);
    assert!(!asked.stderr.contains("--verification vrf_"), "{}", asked.stderr);
    let (id, digits) = codes(&asked.stderr).pop().unwrap();
    let again = alone(&folder, |command| {
        command.args(["--verification", &format!("{id}:{digits}")]);
    });
    assert_eq!((again.code, again.stdout.as_str()), (1, ""), "{}", again.stderr);
    assert_eq!(live_keys(&folder), 3);

    // Whoever has others that confirm says so, as to `serve`.
    let made = alone(&folder, |command| {
        command.env("WARDKEY_VERIFICATION", "none");
    });
    assert_eq!(made.code, 0, "{}", made.stderr);
    let wrong = alone(&folder, |command| {
        command.env("WARDKEY_VERIFICATION", "pigeon");
    });
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("pigeon"), "{}", wrong.stderr);
    assert_eq!(live_keys(&folder), 4);

    if !has_tool("script") {
        return;
    }
    let mut terminal = Terminal::run(&folder, &LIVE);
    // Its own console is this terminal.
    let digits = terminal.read_until("  to create a live secret key");
    let digits = digits.lines().last().unwrap().trim().to_owned();
    terminal.wait_for("Code: ").enter(&digits);
    let made = terminal.end();
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stdout.starts_with("sk_live_"));
    assert_eq!(live_keys(&folder), 5);
}
