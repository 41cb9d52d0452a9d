//! `wardkey policies …`: the rules, and which of them are in force.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use serde_json::{Value, json};

use super::{
    Exit, HostArgs,
    operator::{Filter, Operator, escaped},
    print,
};
use crate::engine::MAX_COMPONENT_BYTES;

/// What people are shown of a policy.
const FIELDS: [&str; 10] = [
    "digest",
    "name",
    "version",
    "revision",
    "state",
    "interfaces",
    "size_bytes",
    "pushed",
    "pushed_by",
    "retired",
];

/// How much of a digest is shown in a list: enough to name the policy by.
const SHORT_DIGEST_CHARS: usize = 16;

#[derive(Subcommand, Debug)]
pub(super) enum PoliciesCommand {
    /// Loads and tries a policy, and keeps it. It is not in force by that.
    Push {
        /// The component.
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        /// What to call it.
        #[arg(long)]
        name: String,
        /// Which version of that.
        #[arg(long)]
        version: String,
        /// A number that goes up with every release. To put a lower one in force
        /// than was before is a rollback.
        #[arg(long)]
        revision: u64,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Lists policies, newest first.
    List {
        #[command(flatten)]
        host: HostArgs,
    },
    /// Shows a policy.
    Show {
        /// Its digest, the first 8 digits or more of that, or `standard`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        digest: String,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Tries a policy once more, and puts it in force.
    Activate {
        /// Its digest, the first 8 digits or more of that, or `standard`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        digest: String,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Puts in force what was before.
    Rollback {
        /// The policy to go back to, by its digest [default: the one before].
        #[arg(long, value_name = "DIGEST", value_parser = NonEmptyStringValueParser::new())]
        to: Option<String>,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Sees to it that a policy is never put in force again.
    Retire {
        /// Its digest, or the first 8 digits or more of that.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        digest: String,
        #[command(flatten)]
        host: HostArgs,
    },
}

pub(super) async fn run(command: PoliciesCommand) -> Result<Exit> {
    match command {
        PoliciesCommand::Push { file, name, version, revision, host } => {
            let bytes = read(&file)?;
            let said = Filter::default()
                .with("name", Some(name))
                .with("version", Some(version))
                .with("revision", Some(revision));
            let operator = Operator::connect(&host).await?;
            pushed(&host, operator.post_component(&said.of("/v2/policies"), bytes).await?)
        }
        PoliciesCommand::List { host } => list(&host).await,
        PoliciesCommand::Show { digest, host } => {
            show(&host, &Operator::connect(&host).await?.get(&path(&digest, "")).await?)
        }
        PoliciesCommand::Activate { digest, host } => {
            swap(&host, &path(&digest, "/activate"), json!({})).await
        }
        PoliciesCommand::Rollback { to, host } => {
            swap(&host, "/v2/policies/rollback", json!({ "to": to })).await
        }
        PoliciesCommand::Retire { digest, host } => {
            let operator = Operator::connect(&host).await?;
            show(&host, &operator.post(&path(&digest, "/retire"), &json!({})).await?)
        }
    }
}

/// Reads a component; of one that is too large only so much that the host says
/// so.
pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAX_COMPONENT_BYTES as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("reading the policy `{}`", file.display()))?;
    Ok(bytes)
}

/// Prints the digest of what was pushed, for a script's variable.
fn pushed(args: &HostArgs, policy: Value) -> Result<Exit> {
    if args.json {
        print::json(&policy)?;
    } else {
        // What was there already keeps the name that it had.
        print::note(format_args!("It is {}.", named(&policy)));
        print::line(print::text(&policy, "digest"))?;
    }
    Ok(Exit::Fine)
}

async fn list(args: &HostArgs) -> Result<Exit> {
    let answer = Operator::connect(args).await?.get("/v2/policies").await?;
    let policies = policies(&answer);
    if args.json {
        print::json(&policies.into())?;
        return Ok(Exit::Fine);
    }
    let row = |policy: &Value| {
        let cells = ["name", "version", "revision", "state", "pushed"];
        let cells = cells.iter().map(|field| print::text(policy, field));
        std::iter::once(short_digest(policy)).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> = policies.iter().map(row).collect();
    print::table(&["DIGEST", "NAME", "VERSION", "REVISION", "STATE", "PUSHED"], &rows)?;
    Ok(Exit::Fine)
}

/// Puts another policy in force, and says which one was.
async fn swap(args: &HostArgs, path: &str, body: Value) -> Result<Exit> {
    let operator = Operator::connect(args).await?;
    let before = policies(&operator.get("/v2/policies").await?);
    let before = before.into_iter().find(is_active);
    let active = operator.post(path, &body).await?;
    if args.json {
        print::json(&json!({ "before": before, "active": active }))?;
        return Ok(Exit::Fine);
    }
    let before = match &before {
        Some(policy) => named(policy),
        // Of a file that the host was started with, or that it watches.
        None => "a policy that is not stored".to_owned(),
    };
    print::field("before", before)?;
    // A host that was started with a file keeps to it.
    match is_active(&active) {
        true => print::field("in force", named(&active))?,
        false => print::field("from the next start", named(&active))?,
    }
    Ok(Exit::Fine)
}

fn show(args: &HostArgs, policy: &Value) -> Result<Exit> {
    if args.json {
        print::json(policy)?;
        return Ok(Exit::Fine);
    }
    for field in FIELDS {
        print::field(field, print::text(policy, field))?;
    }
    Ok(Exit::Fine)
}

fn policies(answer: &Value) -> Vec<Value> {
    answer["data"].as_array().cloned().unwrap_or_default()
}

fn is_active(policy: &Value) -> bool {
    policy["state"] == "active"
}

/// Says which policy it is: `name version, revision 3 (0123456789abcdef)`.
fn named(policy: &Value) -> String {
    let [name, version, revision] =
        ["name", "version", "revision"].map(|field| print::text(policy, field));
    format!("{name} {version}, revision {revision} ({})", short_digest(policy))
}

fn short_digest(policy: &Value) -> String {
    print::text(policy, "digest").chars().take(SHORT_DIGEST_CHARS).collect()
}

fn path(digest: &str, rest: &str) -> String {
    format!("/v2/policies/{}{rest}", escaped(digest))
}
