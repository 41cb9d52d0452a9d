//! `wardkey policies …`: the rules, and which of them are in force.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{Subcommand, builder::NonEmptyStringValueParser};
use serde_json::{Value, json};

use super::{
    Exit, HostArgs,
    operator::{Filter, Operator, escaped},
    print,
    trial::{self, TryArgs},
};
use crate::engine::MAX_COMPONENT_BYTES;

mod sign;

/// What people are shown of a policy.
const FIELDS: [&str; 13] = [
    "digest",
    "name",
    "version",
    "revision",
    "state",
    "overlays",
    "interfaces",
    "size_bytes",
    "pushed",
    "pushed_by",
    "retired",
    "signed",
    "signed_by",
];

/// How much of a digest is shown in a list: enough to name the policy by.
const SHORT_DIGEST_CHARS: usize = 16;

#[derive(Subcommand, Debug)]
pub(super) enum PoliciesCommand {
    /// Makes a private key to sign policies with. Prints the public key, which
    /// hosts are started with.
    Keygen(sign::KeygenArgs),
    /// Signs a component, for hosts that are started with --policy-key. Asks no
    /// host.
    Sign(sign::SignArgs),
    /// Loads and tries a policy, and keeps it. It is not in force by that.
    Push {
        /// The component.
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        /// What to call it [default: what was signed].
        #[arg(long, required_unless_present = "signature")]
        name: Option<String>,
        /// Which version of that.
        #[arg(long)]
        version: String,
        /// A number that goes up with every release. To put a lower one in force
        /// than was before is a rollback [default: what was signed].
        #[arg(long, required_unless_present = "signature")]
        revision: Option<u64>,
        /// Its signature, as `wardkey policies sign` writes it.
        #[arg(long, value_name = "FILE")]
        signature: Option<PathBuf>,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Loads a policy and tries it, with its own cases too, as a host does that it
    /// is pushed to. Needs no host, and keeps nothing.
    Try(TryArgs),
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
    /// Shows what is in force, and how it has fared since.
    Status {
        #[command(flatten)]
        host: HostArgs,
    },
    /// Tries a policy once more, and puts it in force for all.
    Activate {
        /// Its digest, the first 8 digits or more of that, or `standard`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        digest: String,
        /// A policy that narrows what this one allows. Repeat it: they are asked in
        /// this order [default: those in force].
        #[arg(long, value_name = "DIGEST", value_parser = NonEmptyStringValueParser::new())]
        overlay: Vec<String>,
        /// Takes away the overlays in force.
        #[arg(long, conflicts_with = "overlay")]
        no_overlays: bool,
        /// The lowest revision that the host may fall back to by itself from it
        /// [default: as it is for the one in force].
        #[arg(long, value_name = "REVISION")]
        min_revision: Option<u64>,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Has a policy decide for a share of the accounts or keys. Again with another
    /// share, it raises or lowers it; to put it in force for all, activate it.
    Canary {
        /// Its digest, the first 8 digits or more of that, or `standard`.
        #[arg(value_parser = NonEmptyStringValueParser::new(), required_unless_present = "end")]
        digest: Option<String>,
        /// How many it decides for, in percent, with at most two decimals.
        #[arg(long, required_unless_present = "end")]
        percent: Option<f64>,
        /// Of what: all keys of an account are decided by the same policy, or each
        /// key for itself.
        #[arg(long, value_parser = ["account", "key"], default_value = "account")]
        by: String,
        /// Ends it: the policy that decides for the others decides for all.
        #[arg(long, conflicts_with_all = ["digest", "percent"])]
        end: bool,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Has a policy decide beside the one in force, for comparison only. Without a
    /// policy, shows what it has found.
    Shadow {
        /// Its digest, the first 8 digits or more of that, or `standard`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        digest: Option<String>,
        /// How many requests it decides about, in percent, with at most two
        /// decimals.
        #[arg(long, default_value_t = 10.0, requires = "digest")]
        percent: f64,
        /// A policy that narrows what this one allows. Repeat it [default: those in
        /// force].
        #[arg(long, value_name = "DIGEST", requires = "digest")]
        overlay: Vec<String>,
        /// Shows what it has found, and ends it.
        #[arg(long, conflicts_with_all = ["digest", "percent"])]
        end: bool,
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
        PoliciesCommand::Keygen(args) => sign::keygen(&args),
        PoliciesCommand::Sign(args) => sign::sign(&args),
        PoliciesCommand::Push { file, name, version, revision, signature, host } => {
            let bytes = read(&file)?;
            let signed = match &signature {
                Some(signature) => Some(sign::read_signature(signature, &bytes)?),
                None => None,
            };
            let (name, revision) = sign::said(name, revision, signed.as_ref())?;
            let said = Filter::default()
                .with("name", name)
                .with("version", Some(version))
                .with("revision", revision)
                .with("signature", signed.map(|signed| signed.signature));
            let operator = Operator::connect(&host).await?;
            pushed(&host, operator.post_component(&said.of("/v2/policies"), bytes).await?)
        }
        PoliciesCommand::Try(args) => trial::run(&args),
        PoliciesCommand::List { host } => list(&host).await,
        PoliciesCommand::Show { digest, host } => {
            show(&host, &Operator::connect(&host).await?.get(&path(&digest, "")).await?)
        }
        PoliciesCommand::Status { host } => {
            let in_force = Operator::connect(&host).await?.get("/v2/policies/in_force").await?;
            status(&host, &in_force)
        }
        PoliciesCommand::Activate { digest, overlay, no_overlays, min_revision, host } => {
            let overlays = (no_overlays || !overlay.is_empty()).then_some(overlay);
            let body = json!({ "overlays": overlays, "min_revision": min_revision });
            swap(&host, &path(&digest, "/activate"), body).await
        }
        PoliciesCommand::Canary { digest, percent, by, end: _, host } => match digest {
            Some(digest) => {
                let body = json!({ "percent": percent, "by": by });
                swap(&host, &path(&digest, "/canary"), body).await
            }
            None => swap(&host, "/v2/policies/canary/end", json!({})).await,
        },
        PoliciesCommand::Shadow { digest, percent, overlay, end, host } => {
            let operator = Operator::connect(&host).await?;
            if !operator.is_of_a_host_that_runs() {
                bail!("no host runs on this data directory, and a shadow is a part of one");
            }
            let found = match digest {
                Some(digest) => {
                    let overlays = (!overlay.is_empty()).then_some(overlay);
                    let body = json!({ "percent": percent, "overlays": overlays });
                    operator.post(&path(&digest, "/shadow"), &body).await?
                }
                None if end => operator.post("/v2/policies/shadow/end", &json!({})).await?,
                None => operator.get("/v2/policies/shadow").await?,
            };
            differences(&host, &found)
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
        if let Some(cases) = policy["cases"].as_u64() {
            print::note(format_args!("Cases of its own that it has passed: {cases}."));
        }
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
    match print::text(&active, "state").as_str() {
        "active" => print::field("in force", named(&active))?,
        "canary" => print::field("for a share", named(&active))?,
        // A host that was started with a file keeps to it.
        _ => print::field("from the next start", named(&active))?,
    }
    for overlay in active["overlays"].as_array().into_iter().flatten() {
        print::field("narrowed by", overlay.as_str().unwrap_or_default())?;
    }
    Ok(Exit::Fine)
}

/// Prints what is in force.
fn status(args: &HostArgs, in_force: &Value) -> Result<Exit> {
    if args.json {
        print::json(in_force)?;
        return Ok(Exit::Fine);
    }
    print::field("in force", print::text(in_force, "policy"))?;
    for overlay in in_force["overlays"].as_array().into_iter().flatten() {
        print::field("narrowed by", overlay.as_str().unwrap_or_default())?;
    }
    print::field("decisions", decisions(&in_force["decisions"]))?;
    let canary = &in_force["canary"];
    if canary.is_object() {
        let share = format!("{} % of the {}s", canary["percent"], print::text(canary, "by"));
        print::field("canary", format!("{}, for {share}", print::text(canary, "policy")))?;
        print::field("its decisions", decisions(&canary["decisions"]))?;
    }
    for field in ["shadow", "number", "since", "actor", "reason", "min_revision"] {
        print::field(field, print::text(in_force, field))?;
    }
    Ok(Exit::Fine)
}

fn decisions(counts: &Value) -> String {
    format!(
        "{} allowed, {} denied, {} failed",
        counts["allowed"], counts["denied"], counts["failed"]
    )
}

/// Prints what a shadow has found.
fn differences(args: &HostArgs, found: &Value) -> Result<Exit> {
    if args.json {
        print::json(found)?;
        return Ok(Exit::Fine);
    }
    for field in ["digest", "percent", "started", "compared", "agreed", "dropped", "skipped"] {
        print::field(field, print::text(found, field))?;
    }
    let found = found["differences"].as_array().cloned().unwrap_or_default();
    if found.is_empty() {
        return Ok(Exit::Fine);
    }
    let row = |difference: &Value| {
        let example = &difference["examples"][0];
        let cells = ["count", "from", "to", "code"];
        let cells = cells.iter().map(|field| print::text(difference, field));
        let request =
            format!("{} {}", print::text(example, "method"), print::text(example, "path"));
        cells.chain([print::text(example, "key"), request]).collect()
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    print::line("")?;
    print::table(&["COUNT", "FROM", "TO", "CODE", "KEY", "FOR EXAMPLE"], &rows)?;
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
