//! `wardkey logs …`: what keys were used for.

use anyhow::Result;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Exit, HostArgs, ModeArgs,
    operator::{Filter, Operator},
    print,
};

#[derive(Subcommand, Debug)]
pub(super) enum LogsCommand {
    /// Lists requests at the gate, newest first.
    List(ListArgs),
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Only requests with this key.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only requests on this account, or with keys of it.
    #[arg(long, value_name = "ID")]
    account: Option<String>,
    #[command(flatten)]
    mode: ModeArgs,
    /// Only requests from this time on, such as 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Only requests before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only answers with this status, such as 403, or of this class, such as 4xx.
    #[arg(long)]
    status: Option<String>,
    /// Only answers with this error code, such as more_permissions_required.
    #[arg(long)]
    code: Option<String>,
    /// Only requests for this endpoint, such as "POST /v1/refunds".
    #[arg(long)]
    endpoint: Option<String>,
    /// At most this many.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) async fn run(command: LogsCommand) -> Result<Exit> {
    let LogsCommand::List(args) = command;
    let operator = Operator::connect(&args.host).await?;
    let filter = Filter::default()
        .with("key", args.key)
        .with("account", args.account)
        .with("livemode", args.mode.live())
        .with("from", args.from)
        .with("until", args.until)
        .with("status", args.status)
        .with("code", args.code)
        .with("endpoint", args.endpoint);
    let entries = operator.list("/v2/request_logs", filter, "position", args.limit).await?;
    if args.host.json {
        print::json(&Value::Array(entries))?;
        return Ok(Exit::Fine);
    }
    let fields = ["created", "status", "method", "path", "key", "account", "source", "code", "id"];
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| fields.iter().map(|field| print::text(entry, field)).collect())
        .collect();
    let header =
        ["TIME", "STATUS", "METHOD", "PATH", "KEY", "ACCOUNT", "SOURCE", "CODE", "REQUEST"];
    print::table(&header, &rows)?;
    Ok(Exit::Fine)
}
