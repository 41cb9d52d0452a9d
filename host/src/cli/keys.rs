//! `wardkey keys …`.

use anyhow::Result;
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use serde_json::Value;

use super::{
    Exit, HostArgs, ModeArgs,
    operator::{Filter, Operator, escaped},
    print,
};

mod change;
mod make;
mod rotate;

#[derive(Subcommand, Debug)]
pub(super) enum KeysCommand {
    /// Lists keys, newest first. Never shows a secret.
    List(ListArgs),
    /// Shows a key, without its secret.
    Show(OneKeyArgs),
    /// Makes a key and shows its secret. The secret of a live secret or
    /// restricted key is shown this once, and needs a verification code.
    Create(Box<make::CreateArgs>),
    /// Takes in a key whose secret was made elsewhere: its digest only.
    Import(Box<make::ImportArgs>),
    /// Changes what a key is called and may do. Its secret stays.
    Update(Box<change::UpdateArgs>),
    /// Ends a key at once. It cannot be brought back.
    Expire(change::ExpireArgs),
    /// Puts another key in the place of one, with the same properties, and shows
    /// its secret.
    Rotate(rotate::RotateArgs),
    /// Has the host rotate a key by itself at a set time.
    ScheduleRotation(rotate::ScheduleArgs),
    /// Takes a scheduled rotation off a key.
    CancelRotation(OneKeyArgs),
    /// Shows a key's secret, if it was kept.
    Reveal(make::RevealArgs),
    /// Gives a key back what was limited because it had not been used for it.
    Restore(OneKeyArgs),
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Only keys of this account or organization.
    #[arg(long)]
    account: Option<String>,
    #[command(flatten)]
    mode: ModeArgs,
    /// Keys that have ended, too.
    #[arg(long)]
    include_expired: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Flags of the commands that are about one key and need nothing else.
#[derive(Args, Debug)]
pub(super) struct OneKeyArgs {
    /// The key's id, `key_…`.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) async fn run(command: KeysCommand) -> Result<Exit> {
    match command {
        KeysCommand::List(args) => list(args).await,
        KeysCommand::Show(args) => {
            let key = Operator::connect(&args.host).await?.get(&path(&args.id, "")).await?;
            show(&args.host, &key)
        }
        KeysCommand::Create(args) => make::create(*args).await,
        KeysCommand::Import(args) => make::import(*args).await,
        KeysCommand::Update(args) => change::update(*args).await,
        KeysCommand::Expire(args) => change::expire(args).await,
        KeysCommand::Rotate(args) => rotate::rotate(args).await,
        KeysCommand::ScheduleRotation(args) => rotate::schedule(args).await,
        KeysCommand::CancelRotation(args) => change::plainly(args, "/cancel_rotation").await,
        KeysCommand::Reveal(args) => make::reveal(args).await,
        KeysCommand::Restore(args) => change::plainly(args, "/restore").await,
    }
}

async fn list(args: ListArgs) -> Result<Exit> {
    let operator = Operator::connect(&args.host).await?;
    let filter = Filter::default()
        .with("account", args.account)
        .with("livemode", args.mode.live())
        .with("include_expired", args.include_expired.then_some(true));
    let keys = operator.list("/v2/iam/api_keys", filter, "id", usize::MAX).await?;
    if args.host.json {
        print::json(&Value::Array(keys))?;
        return Ok(Exit::Fine);
    }
    let row = |key: &Value| {
        let cell = |field| print::text(key, field);
        vec![
            cell("id"),
            cell("kind"),
            print::mode(key).to_owned(),
            status(key),
            print::masked(key),
            cell("name"),
            cell("expires_at"),
            print::text(&key["rotation"], "at"),
            print::last_use(key),
        ]
    };
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    let header = ["ID", "KIND", "MODE", "STATUS", "KEY", "NAME", "ENDS", "ROTATES", "LAST USED"];
    print::table(&header, &rows)?;
    Ok(Exit::Fine)
}

fn status(key: &Value) -> String {
    let status = print::text(key, "status");
    if key["limited_access"] == true { format!("{status}, limited") } else { status }
}

/// Prints a key as it is now.
fn show(args: &HostArgs, key: &Value) -> Result<Exit> {
    if args.json {
        print::json(key)?;
        return Ok(Exit::Fine);
    }
    let plain = |fields: &[&str]| {
        fields.iter().try_for_each(|field| print::field(field, print::text(key, field)))
    };
    plain(&["id", "kind"])?;
    print::field("status", status(key))?;
    print::field("mode", print::mode(key))?;
    plain(&["account", "origin", "name", "note"])?;
    print::field("key", print::masked(key))?;
    plain(&["permissions", "connect_permissions", "ip_allowlist"])?;
    plain(&["created", "expires_at", "restored_at"])?;
    print::field("last_used", print::last_use(key))?;
    print::field("rotation", print::rotation(key))?;
    plain(&["replaces", "replaced_by", "imported", "revision", "actions"])?;
    Ok(Exit::Fine)
}

/// Returns the path of a key, and of what is done with it.
fn path(id: &str, verb: &str) -> String {
    format!("/v2/iam/api_keys/{}{verb}", escaped(id))
}
