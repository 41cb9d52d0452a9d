//! `wardkey policies try`: whether a component could be put in force. Asks no host,
//! and needs no data directory.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use super::{Exit, policies::read, print};
use crate::{
    clock::Clock,
    engine::{Engine, Policy},
    trial::{cases, try_policy},
};

#[derive(Args, Debug)]
pub(super) struct TryArgs {
    /// The component.
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &TryArgs) -> Result<Exit> {
    let bytes = read(&args.file)?;
    let (policy, cases) = tried(&bytes)
        .with_context(|| format!("the policy `{}` was refused", args.file.display()))?;
    let (digest, interfaces) = (policy.digest().to_hex(), policy.interfaces());
    if args.json {
        print::json(&json!({
            "digest": digest,
            "size_bytes": policy.size_bytes(),
            "interfaces": interfaces,
            "why_anew": policy.why_anew(),
            "cases": cases,
        }))?;
        return Ok(Exit::Fine);
    }
    print::field("digest", digest)?;
    print::field("size_bytes", policy.size_bytes())?;
    print::field("interfaces", interfaces.join(", "))?;
    print::field(
        "instances",
        match policy.why_anew() {
            None => "put back after each request".to_owned(),
            Some(why) => format!("a new one for each request, because {why}"),
        },
    )?;
    print::field("passed", "what every policy has to get right")?;
    cases.iter().try_for_each(|case| print::field("passed", case))?;
    print::field("cases", cases.len())?;
    Ok(Exit::Fine)
}

/// Returns the policy, and the names of its own cases, which it has passed.
fn tried(bytes: &[u8]) -> Result<(Arc<Policy>, Vec<String>)> {
    let engine = Engine::new().map_err(anyhow::Error::from)?;
    let policy = Arc::new(engine.load(bytes)?);
    try_policy(&policy, Clock::system().now())?;
    let cases = policy.cases().map(cases::read).transpose()?.unwrap_or_default();
    Ok((policy, cases.into_iter().map(|case| case.name).collect()))
}
