//! `wardkey audit …`: what was done with keys, and whether that is all of it.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Exit, HostArgs,
    operator::{Filter, Operator},
    print,
};
use crate::audit::AuditHead;

#[derive(Subcommand, Debug)]
pub(super) enum AuditCommand {
    /// Lists what was done with keys and accounts, or refused, newest first.
    List(ListArgs),
    /// Shows the newest entry's place and seal. Keep it where the host cannot
    /// write: with it, `verify` shows whether the log was cut off or made anew.
    Head {
        #[command(flatten)]
        host: HostArgs,
    },
    /// Checks the seals of all entries. Exits with 1 if one was changed or is
    /// missing.
    Verify {
        /// A head that was kept, as `audit head` shows it.
        #[arg(long, value_name = "SEQUENCE:SEAL")]
        head: Option<AuditHead>,
        #[command(flatten)]
        host: HostArgs,
    },
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Only what was done with this key, account or organization.
    #[arg(long, value_name = "ID")]
    target: Option<String>,
    /// Only what they did: `operator`, `platform` (the host itself), or a key's
    /// id.
    #[arg(long)]
    actor: Option<String>,
    /// At most this many.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) async fn run(command: AuditCommand) -> Result<Exit> {
    match command {
        AuditCommand::List(args) => list(args).await,
        AuditCommand::Head { host } => head(host).await,
        AuditCommand::Verify { head, host } => verify(head, host).await,
    }
}

async fn list(args: ListArgs) -> Result<Exit> {
    let operator = Operator::connect(&args.host).await?;
    let filter = Filter::default().with("target", args.target).with("actor", args.actor);
    let entries = operator.list("/v2/audit_log", filter, "sequence", args.limit).await?;
    if args.host.json {
        print::json(&Value::Array(entries))?;
        return Ok(Exit::Fine);
    }
    let row = |entry: &Value| {
        let cell = |field| print::text(entry, field);
        let refused = cell("refused");
        let outcome = if refused.is_empty() { "done".to_owned() } else { refused };
        vec![
            cell("sequence"),
            cell("created"),
            cell("actor"),
            cell("action"),
            cell("target"),
            cell("source"),
            outcome,
            changed(entry),
        ]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    let header = ["ENTRY", "TIME", "ACTOR", "ACTION", "TARGET", "SOURCE", "OUTCOME", "CHANGED"];
    print::table(&header, &rows)?;
    Ok(Exit::Fine)
}

/// Names the fields that changed. How they were and are is in the JSON.
fn changed(entry: &Value) -> String {
    match (entry["before"].as_object(), entry["after"].as_object()) {
        (Some(_), Some(after)) => after.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        // What was made has all of them.
        _ => String::new(),
    }
}

async fn head(args: HostArgs) -> Result<Exit> {
    let answer = Operator::connect(&args).await?.get("/v2/audit_log/head").await?;
    if args.json {
        print::json(&answer)?;
    } else if answer["head"].is_null() {
        print::note("The audit log is empty.");
    } else {
        print::line(print::text(&answer, "head"))?;
    }
    Ok(Exit::Fine)
}

async fn verify(head: Option<AuditHead>, args: HostArgs) -> Result<Exit> {
    let asked = json!({ "head": head.map(|head| head.to_string()) });
    let answer = Operator::connect(&args).await?.post("/v2/audit_log/verify", &asked).await?;
    let is_intact = answer["intact"] == true;
    if args.json {
        print::json(&answer)?;
    } else if is_intact {
        let [entries, newest] = ["entries", "head"].map(|field| print::text(&answer, field));
        print::line(format_args!("The audit log is intact: {entries} entries, up to {newest}"))?;
        if head.is_none() {
            print::note(
                "Whether newer entries were cut off, only a head tells that was kept elsewhere: \
                 `--head`.",
            );
        }
    } else {
        let fault = print::text(&answer, "fault");
        print::note(format_args!("error: the audit log is not intact: {fault}"));
    }
    Ok(if is_intact { Exit::Fine } else { Exit::Failed })
}
