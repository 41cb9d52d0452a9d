//! `wardkey verify` and `wardkey permissions`: what the rules say.

use std::{io::Read as _, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Exit, HostArgs, operator::Operator, print};
use crate::api::internal::Verify;

/// The longest file that is read for a secret, in bytes. A secret has about 50.
const MAX_KEY_FILE_BYTES: u64 = 4096;

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The request: a method and a path, such as "POST /v1/refunds".
    request: String,
    /// The file that holds the key's secret; `-` for standard input. Never an
    /// argument: those are visible to every user of the machine.
    #[arg(long, value_name = "FILE", default_value = "-")]
    key_file: PathBuf,
    /// The address that the request comes from.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    source: IpAddr,
    /// The `Stripe-Context` header.
    #[arg(long)]
    context: Option<String>,
    /// The `Stripe-Account` header.
    #[arg(long)]
    account: Option<String>,
    /// The `Stripe-Version` header.
    #[arg(long)]
    api_version: Option<String>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Subcommand, Debug)]
pub(super) enum PermissionsCommand {
    /// Says which permissions a key needs for these requests.
    For {
        /// Each a method and a path, such as "POST /v1/refunds".
        #[arg(required = true)]
        requests: Vec<String>,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Lists all permissions.
    List {
        #[command(flatten)]
        host: HostArgs,
    },
}

pub(super) async fn permissions(command: PermissionsCommand) -> Result<Exit> {
    match command {
        PermissionsCommand::For { requests, host } => permissions_for(&host, requests).await,
        PermissionsCommand::List { host } => list_permissions(&host).await,
    }
}

pub(super) async fn verify(args: VerifyArgs) -> Result<Exit> {
    let Some((method, path)) = args.request.split_once(' ') else {
        print::note(
            "error: write the request as a method and a path, such as \"POST /v1/refunds\"",
        );
        return Ok(Exit::Misused);
    };
    let mut key = Zeroizing::new(String::new());
    let read = if args.key_file.as_os_str() == "-" {
        std::io::stdin().take(MAX_KEY_FILE_BYTES).read_to_string(&mut key)
    } else {
        std::fs::File::open(&args.key_file)
            .and_then(|file| file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut key))
    };
    read.context("reading the key")?;
    let asked = Verify {
        key: Some(key.trim().to_owned()),
        method: method.to_ascii_uppercase(),
        path: path.trim().to_owned(),
        source: args.source,
        context: args.context,
        account: args.account,
        api_version: args.api_version,
        explain: true,
    };
    let answer = Operator::connect(&args.host).await?.post("/verify", &asked).await?;
    let allowed = answer["allowed"] == true;
    if args.host.json {
        print::json(&answer)?;
    } else {
        for step in answer["steps"].as_array().into_iter().flatten() {
            let mark = if step["passed"] == true { "ok" } else { "NO" };
            print::line(format_args!(
                "{mark}  {:<24} {}",
                print::text(step, "rule"),
                print::text(step, "detail")
            ))?;
        }
        if allowed {
            print::line(format_args!("allowed: {} on {}", answer["key"], answer["account"]))?;
        } else {
            print::line(format_args!(
                "denied: {} {}",
                answer["status"],
                print::text(&answer["error"], "message")
            ))?;
        }
    }
    Ok(if allowed { Exit::Fine } else { Exit::Denied })
}

async fn permissions_for(args: &HostArgs, requests: Vec<String>) -> Result<Exit> {
    let asked = json!({ "endpoints": requests });
    let operator = Operator::connect(args).await?;
    let answer = operator.post("/v2/iam/permissions/resolve", &asked).await?;
    let unresolved = answer["unresolved_endpoints"].as_array().cloned().unwrap_or_default();
    if args.json {
        print::json(&answer)?;
    } else {
        for name in answer["permissions"].as_array().into_iter().flatten() {
            print::line(name.as_str().unwrap_or_default())?;
        }
        for one in &unresolved {
            let [endpoint, reason] = ["endpoint", "reason"].map(|field| print::text(one, field));
            print::note(format_args!("{endpoint}: {reason}"));
        }
    }
    Ok(if unresolved.is_empty() { Exit::Fine } else { Exit::Failed })
}

async fn list_permissions(args: &HostArgs) -> Result<Exit> {
    let answer = Operator::connect(args).await?.get("/v2/iam/permissions").await?;
    let permissions = answer["data"].as_array().cloned().unwrap_or_default();
    if args.json {
        print::json(&Value::Array(permissions))?;
        return Ok(Exit::Fine);
    }
    let cell = |one: &Value, field| print::text(one, field);
    let rows: Vec<Vec<String>> = permissions
        .iter()
        .map(|one| vec![cell(one, "name"), cell(one, "category"), cell(one, "title")])
        .collect();
    print::table(&["NAME", "CATEGORY", "TITLE"], &rows)?;
    Ok(Exit::Fine)
}
