//! `wardkey policies …`, and `wardkey serve --watch`.

use std::{fs, io::Write as _};

use serde_json::{Value, json};
use wardkey::{active_policy::STANDARD_POLICY, engine::MAX_COMPONENT_BYTES};

use crate::{
    common::{policy_named, with_cases},
    guest::{Guest, answer, deny},
    program::{Folder, Running, wait_until, with_and_without_a_host},
};

/// Pushes the file `policy.wasm` with these bytes, and returns its digest.
#[track_caller]
fn push(folder: &Folder, bytes: &[u8], name: &str, revision: &str) -> String {
    fs::write(folder.path().join("policy.wasm"), bytes).unwrap();
    let said = ["--name", name, "--version", "1.0", "--revision", revision];
    let ended = folder.run(&[&["policies", "push", "policy.wasm"], &said[..]].concat());
    assert_eq!(ended.code, 0, "{ended:?}");
    // The digest alone is for a script's variable.
    assert_eq!(ended.stdout.trim_end().len(), 64, "{ended:?}");
    assert!(ended.stderr.starts_with(&format!("It is {name} 1.0, revision ")), "{ended:?}");
    ended.stdout.trim_end().to_owned()
}

/// Returns the name and the state of every policy.
fn states(folder: &Folder) -> Vec<(String, String)> {
    let policies = folder.json(&["policies", "list"]);
    let text = |policy: &Value, field: &str| policy[field].as_str().unwrap().to_owned();
    let policies = policies.as_array().unwrap().iter();
    policies.map(|policy| (text(policy, "name"), text(policy, "state"))).collect()
}

#[track_caller]
pub(crate) fn check_states(folder: &Folder, expected: &[(&str, &str)]) {
    let expected: Vec<(String, String)> =
        expected.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
    assert_eq!(states(folder), expected);
}

/// Runs a command that puts another policy in force, and compares the two that
/// it names.
#[track_caller]
pub(crate) fn check_swap(folder: &Folder, args: &[&str], before: &str, in_force: &str) {
    let ended = folder.run(&[&["policies"], args].concat());
    assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
    let names: Vec<Vec<&str>> =
        ended.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(names[0][..2], ["before", before], "{args:?}: {}", ended.stdout);
    assert_eq!(names[1][..3], ["in", "force", in_force], "{args:?}: {}", ended.stdout);
}

#[test]
fn a_policy_is_pushed_put_in_force_taken_back_and_retired() {
    with_and_without_a_host(|folder| {
        check_states(folder, &[("standard", "active")]);
        let first = push(folder, &policy_named("first"), "first", "1");
        let second = push(folder, &policy_named("second"), "second", "2");
        // What is there already stays as it was.
        assert_eq!(push(folder, &policy_named("second"), "second", "9"), second);
        check_states(folder, &[("second", "ready"), ("first", "ready"), ("standard", "active")]);
        let shown = folder.json(&["policies", "show", &second[..8]]);
        assert_eq!(shown["digest"], *second);
        assert_eq!((&shown["revision"], &shown["pushed_by"]), (&json!(2), &json!("operator")));
        let shown = folder.run(&["policies", "show", "standard"]).stdout;
        assert!(shown.contains("state                active\n"), "{shown}");
        let table = folder.run(&["policies", "list"]).stdout;
        assert!(table.starts_with("DIGEST "), "{table}");
        assert!(table.contains(&second[..16]) && !table.contains(&second), "{table}");

        check_swap(folder, &["activate", &second[..16]], "standard", "second");
        check_states(folder, &[("second", "active"), ("first", "ready"), ("standard", "ready")]);
        let refused = folder.run(&["policies", "activate", &first]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
        assert!(refused.stderr.contains("to go back is a rollback"), "{}", refused.stderr);
        check_swap(folder, &["rollback", "--to", &first], "second", "first");
        // What was gone back from is gone: on to what was before it.
        check_swap(folder, &["rollback"], "first", "standard");
        check_swap(folder, &["activate", &second], "standard", "second");
        let swapped = folder.json(&["policies", "rollback", "--to", "standard"]);
        assert_eq!(swapped["before"]["digest"], *second);
        assert_eq!(swapped["active"]["name"], "standard");

        let retired = folder.run(&["policies", "retire", &first]);
        assert_eq!(retired.code, 0, "{retired:?}");
        assert!(retired.stdout.contains("state                retired\n"), "{}", retired.stdout);
        for args in [
            &["policies", "activate", &first][..],
            &["policies", "rollback", "--to", &first],
            &["policies", "retire", "standard"],
            &["policies", "show", "00000000"],
            &["policies", "activate", "nothing"],
        ] {
            let refused = folder.run(args);
            assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{args:?}");
            assert!(refused.stderr.starts_with("error: "), "{args:?}: {}", refused.stderr);
        }
        check_states(folder, &[("second", "ready"), ("first", "retired"), ("standard", "active")]);
    });
}

#[test]
fn what_is_no_policy_is_not_kept() {
    with_and_without_a_host(|folder| {
        fs::write(folder.path().join("garbage.wasm"), "not a component").unwrap();
        fs::write(folder.path().join("large.wasm"), vec![0; MAX_COMPONENT_BYTES + 2]).unwrap();
        // It would let in whoever comes.
        fs::write(folder.path().join("open.wasm"), Guest::new(answer()).build()).unwrap();
        let said = ["--name", "a", "--version", "1", "--revision", "1"];
        for (file, name, says) in [
            ("garbage.wasm", "a", "no valid component"),
            ("large.wasm", "a", "at most 8388608 are read"),
            ("open.wasm", "a", "when it was tried"),
            ("missing.wasm", "a", "reading the policy `missing.wasm`"),
            ("garbage.wasm", "a\nb", "name: use 1 to 100"),
        ] {
            let mut args = [&["policies", "push", file], &said[..]].concat();
            args[4] = name;
            let refused = folder.run(&args);
            assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{file}: {refused:?}");
            assert!(refused.stderr.to_lowercase().contains(says), "{file}: {}", refused.stderr);
        }
        check_states(folder, &[("standard", "active")]);
    });
}

#[test]
fn rules_are_tried_without_a_host_and_without_a_folder() {
    let folder = Folder::empty();
    let file = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    file("good.wasm", STANDARD_POLICY);
    let tried = folder.run(&["policies", "try", "good.wasm"]);
    assert_eq!((tried.code, tried.stderr.as_str()), (0, ""), "{tried:?}");
    assert!(tried.stdout.contains("\npassed               nobody gets in without a key\n"));
    assert!(tried.stdout.contains("\ninstances            put back after each request\n"));
    let json = folder.run(&["policies", "try", "good.wasm", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let cases = json["cases"].as_array().unwrap().len();
    assert!(tried.stdout.ends_with(&format!("cases                {cases}\n")), "{tried:?}");
    assert!(cases >= 36, "{cases}");
    assert_eq!(json["size_bytes"], STANDARD_POLICY.len());
    assert_eq!(json.get("why_anew"), Some(&Value::Null));

    // No cases are none that fail.
    file("silent.wasm", &Guest::new(deny()).build());
    let tried = folder.run(&["policies", "try", "silent.wasm"]);
    assert!(tried.code == 0 && tried.stdout.ends_with("cases                0\n"), "{tried:?}");
    // Its memory begins with 256 KiB.
    let why = "a new one for each request, because its memory begins with more than 131072 bytes";
    assert!(tried.stdout.contains(&format!("\ninstances            {why}\n")), "{tried:?}");

    let case = |expect: &str| {
        let request = r#"{"method": "GET", "path": "/"}"#;
        let cases =
            format!(r#"[{{"name": "it is open", "request": {request}, "expect": {expect}}}]"#);
        with_cases(Guest::new(deny()).build(), &cases)
    };
    file("wrong.wasm", &case(r#"{"allow": {}}"#));
    file("cases.wasm", &case(r#"{"maybe": {}}"#));
    file("open.wasm", &Guest::new(answer()).build());
    file("garbage.wasm", b"not a component");
    file("large.wasm", &vec![0; MAX_COMPONENT_BYTES + 2]);
    let functions = Guest { more: "(func)".repeat(10_001), ..Guest::new(deny()) };
    file("heavy.wasm", &functions.build());
    for (file, says) in [
        ("wrong.wasm", "does not pass its case `it is open`: expected was that the request is"),
        ("cases.wasm", "the policy's cases cannot be read: unknown variant `maybe`"),
        ("open.wasm", "let a request without a key in"),
        ("garbage.wasm", "no valid component"),
        ("large.wasm", "at most 8388608 are read"),
        ("heavy.wasm", "functions, and at most 10000 are accepted"),
        ("missing.wasm", "reading the policy `missing.wasm`"),
    ] {
        let refused = folder.run(&["policies", "try", file]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{file}: {refused:?}");
        assert!(refused.stderr.contains(says), "{file}: {}", refused.stderr);
        assert!(refused.stderr.starts_with("error: "), "{file}: {}", refused.stderr);
    }
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left = left.filter(|name| !name.to_string_lossy().ends_with(".wasm"));
    assert_eq!(left.count(), 0, "it has left something behind");
}

/// Returns what a key is answered at the gate.
pub(crate) fn status(host: &Running, secret: &str) -> u16 {
    host.call("GET", "/v1/balance", secret).status
}

#[test]
fn rules_are_replaced_while_the_host_runs_and_stay_so() {
    let folder = Folder::empty();
    let host = folder.start(&[]);
    let (_, secret) = folder.key(&["--kind", "secret"]);
    let closed = push(&folder, &Guest::new(deny()).build(), "closed", "1");
    assert_eq!(status(&host, &secret), 200, "it was put in force by the push");
    check_swap(&folder, &["activate", &closed], "standard", "closed");
    assert_eq!(status(&host, &secret), 403);
    assert!(host.terminate().success());
    // As it was left.
    let host = folder.start(&[]);
    assert_eq!(status(&host, &secret), 403);
    check_swap(&folder, &["rollback"], "closed", "standard");
    assert_eq!(status(&host, &secret), 200);
    assert!(host.terminate().success());
    // Also by a command that no host is there for.
    check_swap(&folder, &["activate", &closed], "standard", "closed");
    let host = folder.start(&[]);
    assert_eq!(status(&host, &secret), 403);
    assert!(host.terminate().success());
    // A file is in force whatever is stored, and stays so.
    fs::write(folder.path().join("mine.wasm"), policy_named("mine")).unwrap();
    let host = folder.start(&["--policy", "mine.wasm"]);
    assert_eq!(status(&host, &secret), 200);
    let refused = folder.run(&["policies", "activate", &closed]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("`--policy`"), "{}", refused.stderr);
    // What is stored is taken back for the next start without the file.
    let back = folder.run(&["policies", "rollback"]);
    assert_eq!(back.code, 0, "{}", back.stderr);
    assert!(back.stdout.contains("from the next start"), "{}", back.stdout);
    assert_eq!(status(&host, &secret), 200);
    assert!(host.terminate().success());
    let host = folder.start(&[]);
    assert_eq!(status(&host, &secret), 200);
}

#[test]
fn a_policy_that_is_being_written_is_in_force_as_soon_as_it_is_good() {
    let folder = Folder::ready();
    let (_, secret) = folder.key(&["--kind", "secret"]);
    let file = folder.path().join("policy.wasm");
    let closed = Guest::new(deny()).build();
    fs::write(&file, STANDARD_POLICY).unwrap();
    let host = folder.start(&["--policy", "policy.wasm", "--watch"]);
    assert_eq!(status(&host, &secret), 200);
    let waits_for = |expected: u16| {
        wait_until("another policy is in force", || status(&host, &secret) == expected);
    };
    let is_told = |what: &str| wait_until(what, || host.stderr().contains(what));

    fs::write(&file, &closed).unwrap();
    waits_for(403);
    is_told("the policy `policy.wasm` is in force");
    // Half of it is there, and then the rest.
    let (half, rest) = STANDARD_POLICY.split_at(STANDARD_POLICY.len() / 2);
    let mut writing = fs::File::create(&file).unwrap();
    writing.write_all(half).unwrap();
    is_told("the policy `policy.wasm` was refused");
    assert_eq!(status(&host, &secret), 403, "what was in force is no more");
    writing.write_all(rest).unwrap();
    waits_for(200);
    // Loads, and does not pass.
    fs::write(&file, Guest::new(answer()).build()).unwrap();
    is_told("when it was tried");
    assert_eq!(status(&host, &secret), 200);
    // As some tools do that write a file anew.
    fs::remove_file(&file).unwrap();
    is_told("reading the policy `policy.wasm`");
    assert_eq!(status(&host, &secret), 200);
    fs::write(&file, &closed).unwrap();
    waits_for(403);
    // It is the host's own affair, and nothing that is stored.
    check_states(&folder, &[("standard", "ready")]);
    assert!(host.terminate().success());
}

#[test]
fn a_policy_is_looked_at_in_the_shadow_and_raised_as_a_canary() {
    let folder = Folder::empty();
    let _host = folder.start(&[]);
    let next = push(&folder, &policy_named("next"), "next", "1");
    let run = |args: &[&str]| {
        let ended = folder.run(&[&["policies"], args].concat());
        assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
        ended.stdout
    };
    let found = run(&["shadow", &next, "--percent", "50"]);
    assert!(found.contains("percent              50.0\n"), "{found}");
    assert!(run(&["status"]).contains(&format!("shadow               {next}")));
    assert_eq!(folder.json(&["policies", "shadow"])["digest"], next);
    assert!(run(&["shadow", "--end"]).contains(&next));
    assert_eq!(folder.run(&["policies", "shadow"]).code, 1);

    for percent in ["0.5", "20"] {
        let said = run(&["canary", &next[..16], "--percent", percent, "--by", "key"]);
        assert!(said.contains("for a share          next 1.0, revision 1"), "{said}");
        let status = run(&["status"]);
        let share = format!("canary               {next}, for {percent}");
        assert!(status.contains(&share) && status.contains("% of the keys"), "{status}");
    }
    check_states(&folder, &[("next", "canary"), ("standard", "active")]);
    check_swap(&folder, &["canary", "--end"], "standard", "standard");
    check_states(&folder, &[("next", "ready"), ("standard", "active")]);

    for (args, says) in [
        (&["canary"][..], "required arguments were not provided"),
        (&["canary", &next], "--percent <PERCENT>"),
        (&["canary", &next, "--percent", "5", "--end"], "cannot be used with"),
        (&["canary", &next, "--percent", "5", "--by", "ip"], "invalid value 'ip'"),
        (&["shadow", "--percent", "5"], "required arguments were not provided"),
        (&["activate", &next, "--overlay", &next, "--no-overlays"], "cannot be used with"),
    ] {
        let ended = folder.run(&[&["policies"], args].concat());
        assert_eq!(ended.code, 2, "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn an_overlay_is_put_on_a_policy_and_taken_away() {
    with_and_without_a_host(|folder| {
        let overlay = push(folder, &Guest::new(deny()).build(), "narrow", "1");
        let ended = folder.run(&["policies", "activate", "standard", "--overlay", &overlay]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.stdout.contains(&format!("narrowed by          {overlay}")), "{ended:?}");
        check_states(folder, &[("narrow", "overlay"), ("standard", "active")]);
        // Where nobody says otherwise, it stays.
        check_swap(folder, &["activate", "standard"], "standard", "standard");
        check_states(folder, &[("narrow", "overlay"), ("standard", "active")]);
        check_swap(folder, &["activate", "standard", "--no-overlays"], "standard", "standard");
        check_states(folder, &[("narrow", "ready"), ("standard", "active")]);
    });
}
