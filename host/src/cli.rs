//! The command line: `<noun> <verb>`, and `serve`, which is the default.
//!
//! Every command but `serve` and `policies try` speaks HTTP to the routes of the
//! admin listener: over the socket of the host that runs, or, where none runs, to
//! a host of its own without listeners. So there is one implementation of each.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use self::operator::Refused;

mod accounts;
mod audit;
mod backup;
mod duration;
mod encryption_key;
mod keys;
mod logs;
mod operator;
mod person;
mod policies;
mod print;
mod rules;
mod serve;
mod trial;
mod trust;
mod watch;

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
    /// A person has to confirm it with a verification code, and nobody sits at a
    /// terminal. The same command with `--verification ID:CODE` goes on.
    CodeNeeded = 4,
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
/// Exit codes: 0 fine, 1 failed, 2 used wrongly, 3 denied (`verify`), 4 a
/// verification code is needed.
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
    Serve(Box<serve::ServeArgs>),
    /// Makes, shows, changes, replaces and ends keys.
    Keys {
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Asks the rules in force whether a request would be let through.
    Verify(rules::VerifyArgs),
    /// Says what permissions there are and which ones are needed.
    Permissions {
        #[command(subcommand)]
        command: rules::PermissionsCommand,
    },
    /// Says what keys were used for.
    Logs {
        #[command(subcommand)]
        command: logs::LogsCommand,
    },
    /// Says what was done with keys, by whom, and whether that is all of it.
    Audit {
        #[command(subcommand)]
        command: audit::AuditCommand,
    },
    /// Makes and shows accounts.
    Accounts {
        #[command(subcommand)]
        command: accounts::AccountsCommand,
    },
    /// Makes organizations.
    Organizations {
        #[command(subcommand)]
        command: accounts::OrganizationsCommand,
    },
    /// Keeps the rules, and puts others in force while the host runs.
    Policies {
        #[command(subcommand)]
        command: policies::PoliciesCommand,
    },
    /// Copies the database, also while the host runs.
    Backup(backup::BackupArgs),
    /// Replaces the key that kept secrets are sealed under.
    KeyEncryptionKey {
        #[command(subcommand)]
        command: encryption_key::EncryptionKeyCommand,
    },
}

/// Flags of every command that asks a host.
#[derive(Args, Debug)]
struct HostArgs {
    /// The folder in which the host keeps everything.
    #[arg(long, env = "WARDKEY_DATA_DIR", default_value = serve::DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// The policy to ask if no host runs [default: the one in force].
    #[arg(long, env = "WARDKEY_POLICY", value_name = "FILE.wasm")]
    policy: Option<PathBuf>,
    /// The mark before every secret, if no host runs that knows it.
    #[arg(long, env = "WARDKEY_BRAND", value_name = "WORD")]
    brand: Option<crate::secret::Brand>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Which of the two modes.
#[derive(Args, Debug)]
struct ModeArgs {
    /// Only what is live.
    #[arg(long, conflicts_with = "test")]
    live: bool,
    /// Only what is a test.
    #[arg(long)]
    test: bool,
}

impl ModeArgs {
    /// Returns whether live or test was asked for, if either was.
    fn live(&self) -> Option<bool> {
        (self.live || self.test).then_some(self.live)
    }
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
            print::note(format_args!("error: cannot start: {err}"));
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit.into(),
        Err(err) => {
            print::note(format_args!("error: {err:#}"));
            err.downcast_ref::<Refused>().map_or(Exit::Failed, |refused| refused.exit).into()
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        // Bare `wardkey` is for a first look: it makes what is missing. Whoever
        // writes `serve` has said where the data is, and must find it there.
        None => serve::serve(cli.serve.init_if_missing()).await,
        Some(Command::Serve(args)) => serve::serve(*args).await,
        Some(Command::Keys { command }) => keys::run(command).await,
        Some(Command::Verify(args)) => rules::verify(args).await,
        Some(Command::Permissions { command }) => rules::permissions(command).await,
        Some(Command::Logs { command }) => logs::run(command).await,
        Some(Command::Audit { command }) => audit::run(command).await,
        Some(Command::Accounts { command }) => accounts::run(command).await,
        Some(Command::Organizations { command }) => accounts::run_organizations(command).await,
        Some(Command::Policies { command }) => policies::run(command).await,
        Some(Command::Backup(args)) => backup::run(args).await,
        Some(Command::KeyEncryptionKey { command }) => encryption_key::run(command).await,
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
