//! The command line: `<noun> <verb>`, and `serve`, which is the default.
//!
//! Every command but `serve` speaks HTTP to the routes of the admin listener:
//! over the socket of the host that runs, or, where none runs, to a host of its
//! own without listeners. So there is one implementation of each.

use std::{io::IsTerminal as _, net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};
use jiff::Timestamp;

use self::operator::Operator;

mod keys;
mod operator;
mod print;
mod rules;
mod serve;

/// How a command ended, for whoever calls it from a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Fine = 0,
    /// It failed.
    Failed = 1,
    /// It was asked wrongly. Clap's own number for it, too.
    Misused = 2,
    /// The answer is no: `verify` of a request that would be refused.
    Denied = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Stripe-grade API keys for any HTTP API, with the rules in a hot-swappable
/// WebAssembly component.
///
/// Without a command it serves, and makes a data directory if there is none.
///
/// Exit codes: 0 fine, 1 failed, 2 used wrongly, 3 denied.
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serves the gate, the admin API and the internal API.
    Serve(serve::ServeArgs),
    /// Makes and shows keys.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Asks the rules in force whether a request would be let through.
    Verify(VerifyArgs),
    /// Says what permissions there are and which ones are needed.
    Permissions {
        #[command(subcommand)]
        command: PermissionsCommand,
    },
}

/// Flags of every command that asks a host.
#[derive(Args, Debug)]
struct HostArgs {
    /// The folder in which the host keeps everything.
    #[arg(long, env = "WARDKEY_DATA_DIR", default_value = serve::DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The policy to ask if no host runs [default: the standard policy].
    #[arg(long, env = "WARDKEY_POLICY", value_name = "FILE.wasm")]
    policy: Option<PathBuf>,
    /// The mark before every secret, if no host runs that knows it.
    #[arg(long, env = "WARDKEY_BRAND", value_name = "WORD")]
    brand: Option<crate::secret::Brand>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum KeysCommand {
    /// Lists keys, newest first. Never shows a secret.
    List {
        #[command(flatten)]
        host: HostArgs,
        /// Only keys of this account or organization.
        #[arg(long)]
        account: Option<String>,
        /// Only live keys.
        #[arg(long, conflicts_with = "test")]
        live: bool,
        /// Only test keys.
        #[arg(long)]
        test: bool,
        /// Keys that have ended, too.
        #[arg(long)]
        include_expired: bool,
    },
    /// Makes a key and shows its secret. The secret of a live secret or restricted key
    /// is shown this once.
    Create(Box<CreateArgs>),
    /// Shows a key, without its secret.
    Show {
        /// The key's id, `key_…`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Shows a key's secret, if it was kept.
    Reveal {
        /// The key's id, `key_…`.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        host: HostArgs,
    },
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// What to call it.
    #[arg(long)]
    name: String,
    /// What kind of key: restricted, secret, publishable, organization or
    /// managed.
    #[arg(long, default_value = "restricted")]
    kind: String,
    /// A live key. Without it, a test key.
    #[arg(long)]
    live: bool,
    /// The owner, if there are several accounts.
    #[arg(long)]
    account: Option<String>,
    /// Where it will be kept.
    #[arg(long, default_value = "")]
    note: String,
    /// A permission. Repeat it, or separate with commas.
    #[arg(long = "permission", value_name = "NAME", value_delimiter = ',')]
    permissions: Vec<String>,
    /// A permission for acting on connected accounts.
    #[arg(long = "connect-permission", value_name = "NAME", value_delimiter = ',')]
    connect_permissions: Vec<String>,
    /// An IPv4 address or range from which it may be used.
    #[arg(long = "allow-ip", value_name = "CIDR", value_delimiter = ',')]
    ip_allowlist: Vec<String>,
    /// When it shall end, such as 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Args, Debug)]
struct VerifyArgs {
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
enum PermissionsCommand {
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

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("WARDKEY_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        // What is not a terminal is a log, and wants no colours.
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => {
            eprintln!("error: cannot start: {err}");
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit.into(),
        Err(err) => {
            eprintln!("error: {err:#}");
            Exit::Failed.into()
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        // Bare `wardkey` is for a first look: it makes what is missing. Whoever
        // writes `serve` has said where the data is, and must find it there.
        None => serve::serve(cli.serve.init_if_missing()).await,
        Some(Command::Serve(args)) => serve::serve(args).await,
        Some(Command::Keys { command }) => match command {
            KeysCommand::List { host, account, live, test, include_expired } => {
                let mode = if live || test { Some(live) } else { None };
                let operator = Operator::connect(&host).await?;
                keys::list(&operator, &host, account, mode, include_expired).await
            }
            KeysCommand::Create(args) => {
                let operator = Operator::connect(&args.host).await?;
                keys::create(&operator, *args).await
            }
            KeysCommand::Show { id, host } => {
                keys::show(&Operator::connect(&host).await?, &host, &id).await
            }
            KeysCommand::Reveal { id, host } => {
                keys::reveal(&Operator::connect(&host).await?, &host, &id).await
            }
        },
        Some(Command::Verify(args)) => {
            rules::verify(&Operator::connect(&args.host).await?, args).await
        }
        Some(Command::Permissions { command }) => match command {
            PermissionsCommand::For { requests, host } => {
                rules::permissions_for(&Operator::connect(&host).await?, &host, requests).await
            }
            PermissionsCommand::List { host } => {
                rules::list_permissions(&Operator::connect(&host).await?, &host).await
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
