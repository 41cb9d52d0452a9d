//! `wardkey accounts …` and `wardkey organizations …`: who owns keys.

use anyhow::Result;
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use serde_json::{Value, json};

use super::{
    Exit, HostArgs,
    operator::{Filter, Operator, escaped},
    print,
};

/// What people are shown of an account.
const FIELDS: [&str; 5] = ["id", "name", "organization", "platform", "created"];

#[derive(Subcommand, Debug)]
pub(super) enum AccountsCommand {
    /// Lists accounts, oldest first.
    List {
        #[command(flatten)]
        host: HostArgs,
    },
    /// Makes an account with the keys that new ones have.
    Create {
        /// What to call it.
        #[arg(long)]
        name: String,
        /// The organization to be a member of.
        #[arg(long, value_name = "ID")]
        organization: Option<String>,
        /// The account to be connected to.
        #[arg(long, value_name = "ID")]
        platform: Option<String>,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Shows an account.
    Show {
        /// The account's id, `acct_…`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Makes an account a member of an organization, or of none.
    Update {
        /// The account's id, `acct_…`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        membership: MembershipArgs,
        #[command(flatten)]
        host: HostArgs,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct MembershipArgs {
    /// The organization to be a member of.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
    /// Ends its membership. Organization keys no longer reach it.
    #[arg(long)]
    no_organization: bool,
}

#[derive(Subcommand, Debug)]
pub(super) enum OrganizationsCommand {
    /// Makes an organization.
    Create {
        /// What to call it.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        host: HostArgs,
    },
}

pub(super) async fn run(command: AccountsCommand) -> Result<Exit> {
    match command {
        AccountsCommand::List { host } => list(&host).await,
        AccountsCommand::Create { name, organization, platform, host } => {
            let wanted =
                json!({ "name": name, "organization": organization, "platform": platform });
            made(&host, Operator::connect(&host).await?.post("/v2/accounts", &wanted).await?)
        }
        AccountsCommand::Show { id, host } => {
            show(&host, &Operator::connect(&host).await?.get(&path(&id)).await?)
        }
        AccountsCommand::Update { id, membership, host } => {
            let wanted = json!({ "organization": membership.organization });
            show(&host, &Operator::connect(&host).await?.post(&path(&id), &wanted).await?)
        }
    }
}

pub(super) async fn run_organizations(command: OrganizationsCommand) -> Result<Exit> {
    let OrganizationsCommand::Create { name, host } = command;
    let wanted = json!({ "name": name });
    made(&host, Operator::connect(&host).await?.post("/v2/organizations", &wanted).await?)
}

async fn list(args: &HostArgs) -> Result<Exit> {
    let operator = Operator::connect(args).await?;
    let accounts = operator.list("/v2/accounts", Filter::default(), "id", usize::MAX).await?;
    if args.json {
        print::json(&Value::Array(accounts))?;
        return Ok(Exit::Fine);
    }
    let row = |account: &Value| FIELDS.iter().map(|field| print::text(account, field)).collect();
    let rows: Vec<Vec<String>> = accounts.iter().map(row).collect();
    print::table(&["ID", "NAME", "ORGANIZATION", "PLATFORM", "CREATED"], &rows)?;
    Ok(Exit::Fine)
}

/// Prints the id of what was made, for a script's variable.
fn made(args: &HostArgs, answer: Value) -> Result<Exit> {
    if args.json {
        print::json(&answer)?;
    } else {
        print::note(format_args!("Made {}.", print::text(&answer, "name")));
        print::line(print::text(&answer, "id"))?;
    }
    Ok(Exit::Fine)
}

fn show(args: &HostArgs, account: &Value) -> Result<Exit> {
    if args.json {
        print::json(account)?;
        return Ok(Exit::Fine);
    }
    for field in FIELDS {
        print::field(field, print::text(account, field))?;
    }
    Ok(Exit::Fine)
}

fn path(id: &str) -> String {
    format!("/v2/accounts/{}", escaped(id))
}
