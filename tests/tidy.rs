//! What a compiler cannot check: that things are where they belong, and that
//! what is written about them is true.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Returns the host's sources, by their path below `host/src`, without comments
/// and without their tests.
fn host_sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let folder = root().join("host/src");
    let mut paths = Vec::new();
    walk(&folder, &mut paths);
    assert!(paths.len() > 30, "only {} sources were found", paths.len());
    let tests_only = ["storage/contract.rs", "storage/double.rs", "simulated/tests.rs"];
    paths
        .iter()
        .map(|path| (path.strip_prefix(&folder).unwrap().display().to_string(), path))
        .filter(|(name, _)| !tests_only.contains(&name.as_str()))
        .map(|(name, path)| {
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (name, code.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// Checks that `word` stands in the code of no source but those whose path
/// starts with one of `home`.
#[track_caller]
fn only_in(home: &[&str], word: &str) {
    for (name, code) in host_sources() {
        if !home.iter().any(|start| name.starts_with(start)) {
            let line = code.lines().find(|line| line.contains(word));
            assert_eq!(line, None, "`{word}` in host/src/{name}");
        }
    }
}

#[test]
fn only_the_engine_knows_wasmtime() {
    only_in(&["engine"], "wasmtime");
}

#[test]
fn only_storage_knows_the_database() {
    only_in(&["storage"], "rusqlite");
    only_in(&["storage"], "SELECT ");
}

#[test]
fn only_one_file_picks_the_status_of_an_error() {
    for status in [
        "BAD_REQUEST",
        "UNAUTHORIZED",
        "FORBIDDEN",
        "NOT_FOUND",
        "CONFLICT",
        "PAYLOAD_TOO_LARGE",
        "TOO_MANY_REQUESTS",
        "INTERNAL_SERVER_ERROR",
        "BAD_GATEWAY",
        "SERVICE_UNAVAILABLE",
        "GATEWAY_TIMEOUT",
    ] {
        for (name, code) in host_sources() {
            if name == "error.rs" {
                continue;
            }
            // To read a status is not to pick one.
            let picks = code.lines().find(|line| {
                line.contains(&format!("StatusCode::{status}")) && !line.contains("== ")
            });
            assert_eq!(picks, None, "host/src/{name}");
        }
    }
}

#[test]
fn the_host_holds_no_rule() {
    // The command line has a default for a flag; the simulated API is a table
    // of Stripe's objects.
    let elsewhere = ["cli", "simulated"];
    for word in [
        "\"sk_",
        "\"rk_",
        "\"pk_",
        "whsec",
        "\"restricted\"",
        "\"secret\"",
        "\"publishable\"",
        "\"managed\"",
        "180",
        "charge_",
        "payout",
    ] {
        only_in(&elsewhere, word);
    }
}

#[test]
fn the_readme_of_the_host_lists_every_route() {
    let readme = read("host/README.md");
    for route in wardkey::api::admin::ROUTES {
        let (method, path) = (route.method, route.path);
        assert!(readme.contains(&format!("`{method} {path}`")), "{method} {path}");
    }
    let (_, internal) = host_sources()
        .into_iter()
        .find(|(name, _)| name == "api/internal.rs")
        .expect("the internal listener has moved");
    let mut routes = 0;
    for part in internal.split(".route(\"").skip(1) {
        let path = part.split('"').next().unwrap();
        assert!(readme.contains(&format!(" {path}`")), "{path}");
        routes += 1;
    }
    assert!(routes >= 4, "only {routes} internal routes were found");
}

#[test]
fn the_readme_of_the_host_lists_every_command() {
    let help = |args: &[&str]| {
        let help = Command::new(env!("CARGO_BIN_EXE_wardkey")).args(args).arg("--help").output();
        let help = String::from_utf8(help.unwrap().stdout).unwrap();
        let commands = help.split("\nCommands:\n").nth(1).unwrap_or_default();
        let commands = commands.split("\n\n").next().unwrap_or_default();
        // Their descriptions go on further to the right.
        let lines = commands.lines().filter_map(|line| line.strip_prefix("  "));
        let words = lines.filter_map(|line| line.split(' ').next());
        words.filter(|word| !["", "help"].contains(word)).map(str::to_owned).collect::<Vec<_>>()
    };
    let readme = read("host/README.md");
    let table = readme.split("## Commands").nth(1).unwrap().split("\n## ").next().unwrap();
    let nouns = help(&[]);
    assert!(nouns.len() >= 10, "only {nouns:?} were found");
    for noun in nouns {
        assert!(table.contains(&format!("`wardkey {noun}")), "{noun}");
        for verb in help(&[&noun]) {
            assert!(table.contains(&format!("`wardkey {noun} {verb}")), "{noun} {verb}");
        }
    }
}

#[test]
fn the_readme_of_the_host_lists_every_flag_and_variable() {
    let help = Command::new(env!("CARGO_BIN_EXE_wardkey")).args(["serve", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let words = |text: &str, start: &str| -> BTreeSet<String> {
        text.split(|c: char| c.is_whitespace() || "`[]=,;:.".contains(c))
            .filter(|word| {
                let rest = word.strip_prefix(start).unwrap_or_default();
                rest.starts_with(|c: char| c.is_ascii_alphabetic())
            })
            .map(str::to_owned)
            .collect()
    };
    let readme = read("host/README.md");
    let table = readme.split("## Configuration").nth(1).unwrap().split("\n\n").nth(2).unwrap();
    let mut flags = words(&help, "--");
    flags.remove("--help");
    assert_eq!(words(table, "--"), flags);
    assert_eq!(words(table, "WARDKEY_"), words(&help, "WARDKEY_"));
}

#[test]
fn the_readmes_lead_to_files_that_are_there() {
    for readme in [
        "README.md",
        "host/README.md",
        "policy/README.md",
        "policy/examples/parcels/README.md",
        "tests/README.md",
        "wit/README.md",
    ] {
        let text = read(readme);
        let folder = root().join(readme).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|part| part.split(')').next()) {
            // Behind a `#` is a place in the file; without a file, in this one.
            let file = link.split('#').next().unwrap_or_default();
            if !link.starts_with("http") && !file.is_empty() {
                assert!(folder.join(file).exists(), "{readme} leads to {link}");
            }
        }
    }
}

#[test]
fn no_file_holds_what_a_scanner_would_take_for_a_key() {
    /// As many characters behind the prefix are a key for common scanners.
    const BODY_CHARS: usize = 16;
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let listed = match listed {
        Ok(listed) if listed.status.success() => String::from_utf8(listed.stdout).unwrap(),
        // A copy without git, such as an archive: its files were checked where
        // it came from.
        _ => return println!("skipped: this is no git checkout"),
    };
    let mut files = 0;
    for file in listed.split('\0').filter(|file| !file.is_empty()) {
        let Ok(text) = fs::read_to_string(root().join(file)) else { continue };
        files += 1;
        for kind in ["sk", "rk", "pk", "sk_org"] {
            for mode in ["test", "live"] {
                let prefix = format!("{kind}_{mode}_");
                for body in text.split(&prefix).skip(1) {
                    let chars = body.bytes().take_while(u8::is_ascii_alphanumeric).count();
                    assert!(chars < BODY_CHARS, "{file}: {prefix} and {chars} characters");
                }
            }
        }
    }
    assert!(files > 80, "only {files} files were read");
}
