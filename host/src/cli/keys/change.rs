//! Commands that change a key, or end it.

use anyhow::Result;
use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::Value;

use super::{OneKeyArgs, path, show};
use crate::{
    cli::{
        Exit, HostArgs,
        operator::{Conditions, Operator},
        person::{self, YesArgs},
    },
    keys::UpdateKey,
};

#[derive(Args, Debug)]
pub(in crate::cli) struct UpdateArgs {
    /// The key's id, `key_…`.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    change: ChangeArgs,
    /// Only if the key is at this revision: that of `keys show`.
    #[arg(long, value_name = "NUMBER")]
    if_revision: Option<u64>,
    #[command(flatten)]
    host: HostArgs,
}

/// What is to be changed. What is left out stays.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct ChangeArgs {
    /// What to call it from now on.
    #[arg(long)]
    name: Option<String>,
    /// Where it is kept.
    #[arg(long)]
    note: Option<String>,
    /// A permission that it shall have: name all of them. Repeat it, or separate
    /// with commas.
    #[arg(long = "permission", value_name = "NAME", value_delimiter = ',')]
    permissions: Option<Vec<String>>,
    /// Takes all permissions off it.
    #[arg(long, conflicts_with = "permissions")]
    no_permissions: bool,
    /// A permission for acting on connected accounts: name all of them.
    #[arg(long = "connect-permission", value_name = "NAME", value_delimiter = ',')]
    connect_permissions: Option<Vec<String>>,
    /// Takes all permissions for acting on connected accounts off it.
    #[arg(long, conflicts_with = "connect_permissions")]
    no_connect_permissions: bool,
    /// An IPv4 address or range from which it may be used: name all of them.
    #[arg(long = "allow-ip", value_name = "CIDR", value_delimiter = ',')]
    ip_allowlist: Option<Vec<String>>,
    /// Lets it be used from every address.
    #[arg(long, conflicts_with = "ip_allowlist")]
    any_ip: bool,
}

impl From<ChangeArgs> for UpdateKey {
    fn from(args: ChangeArgs) -> Self {
        let list = |list: Option<Vec<String>>, none: bool| list.or_else(|| none.then(Vec::new));
        Self {
            name: args.name,
            note: args.note,
            permissions: list(args.permissions, args.no_permissions),
            connect_permissions: list(args.connect_permissions, args.no_connect_permissions),
            ip_allowlist: list(args.ip_allowlist, args.any_ip),
        }
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ExpireArgs {
    /// The key's id, `key_…`.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    yes: YesArgs,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) async fn update(args: UpdateArgs) -> Result<Exit> {
    let operator = Operator::connect(&args.host).await?;
    let conditions = Conditions { if_revision: args.if_revision, ..Conditions::default() };
    let change = UpdateKey::from(args.change);
    let key = operator.post_if(&path(&args.id, ""), &change, conditions).await?;
    show(&args.host, &key)
}

pub(super) async fn expire(args: ExpireArgs) -> Result<Exit> {
    if let Some(exit) = person::refuse_unasked(&args.yes, "ending a key") {
        return Ok(exit);
    }
    let operator = Operator::connect(&args.host).await?;
    let agreed =
        agreed(&operator, &args.yes, &args.id, "This ends a key. It cannot be brought back:")
            .await?;
    let Some(if_revision) = agreed else { return Ok(Exit::Failed) };
    let conditions = Conditions { if_revision, ..Conditions::default() };
    let key = operator.post_if(&path(&args.id, "/expire"), &Value::Null, conditions).await?;
    show(&args.host, &key)
}

/// Has a person say yes, if they have not already. `None`: they said no. Else
/// the revision that they were shown: what is done is done to that one only.
pub(super) async fn agreed(
    operator: &Operator,
    yes: &YesArgs,
    id: &str,
    what: &str,
) -> Result<Option<Option<u64>>> {
    if yes.yes {
        return Ok(Some(None));
    }
    let key = operator.get(&path(id, "")).await?;
    let agrees = person::agrees_about(&key, what).await?;
    Ok(agrees.then(|| key["revision"].as_u64()))
}

/// Does what needs nothing but the key's id.
pub(super) async fn plainly(args: OneKeyArgs, verb: &str) -> Result<Exit> {
    let operator = Operator::connect(&args.host).await?;
    let key = operator.post(&path(&args.id, verb), &Value::Null).await?;
    show(&args.host, &key)
}
