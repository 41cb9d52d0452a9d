//! Commands that show a secret, or take one in.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, builder::NonEmptyStringValueParser};
use jiff::Timestamp;
use serde_json::Value;
use zeroize::Zeroizing;

use super::{path, show};
use crate::{
    cli::{
        Exit, HostArgs,
        operator::{Conditions, Operator},
        print,
    },
    keys::{CreateKey, ImportKey},
    secret::{Digest, Presented},
};

/// The longest file that is read for a secret, in bytes. A secret has about 50,
/// and issuers' that are signed texts some hundreds.
const MAX_SECRET_FILE_BYTES: u64 = 4096;

/// What a new key shall be.
#[derive(Args, Debug)]
struct WantedArgs {
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
}

impl From<WantedArgs> for CreateKey {
    fn from(args: WantedArgs) -> Self {
        Self {
            account: args.account,
            livemode: args.live,
            kind: args.kind,
            name: args.name,
            note: args.note,
            permissions: args.permissions,
            connect_permissions: args.connect_permissions,
            ip_allowlist: args.ip_allowlist,
            expires_at: args.expires_at,
        }
    }
}

/// The code of a person, for where nobody sits at a terminal.
#[derive(Args, Debug)]
pub(super) struct VerificationArgs {
    /// The verification code that this very command has asked for before. In a
    /// terminal leave it out: there the command asks for the code.
    #[arg(long, value_name = "ID:CODE")]
    pub(super) verification: Option<String>,
}

/// What keeps a repeated command from making a second key.
#[derive(Args, Debug)]
pub(super) struct OnceArgs {
    /// A text of your choice: with the same one, the same command makes nothing
    /// twice within 24 hours. What it made is shown without its secret.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct CreateArgs {
    #[command(flatten)]
    wanted: WantedArgs,
    #[command(flatten)]
    once: OnceArgs,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ImportArgs {
    /// The file that holds the secret; `-` for standard input. Read here: what
    /// goes to the host is its digest and its masked form.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "digest",
        required_unless_present = "digest"
    )]
    secret_file: Option<PathBuf>,
    /// SHA-256 of the whole secret, in hexadecimal, where the secret itself is
    /// not at hand. Of a text that is not random, such as a password, it gives
    /// the text away.
    #[arg(long, value_name = "HEX", requires = "redacted")]
    digest: Option<String>,
    /// The secret as it may be shown, such as `sk_live_****abcd` [default: made
    /// of the secret].
    #[arg(long, value_name = "TEXT")]
    redacted: Option<String>,
    #[command(flatten)]
    wanted: WantedArgs,
    #[command(flatten)]
    once: OnceArgs,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct RevealArgs {
    /// The key's id, `key_…`.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) async fn create(args: CreateArgs) -> Result<Exit> {
    let operator = Operator::connect(&args.host).await?;
    let conditions = conditions(args.once, args.verification);
    let wanted = CreateKey::from(args.wanted);
    let key = operator.post_if("/v2/iam/api_keys", &wanted, conditions).await?;
    made(&args.host, &key)
}

/// Prints a key that was made now, or by an earlier request that this one
/// repeats.
pub(super) fn made(args: &HostArgs, key: &Value) -> Result<Exit> {
    let (id, name) = (print::text(key, "id"), print::text(key, "name"));
    if args.json {
        print::json(key)?;
    } else if let Some(token) = print::token(key) {
        print::note(format_args!("Made {id} ({name})."));
        if key["livemode"] == true && key["type"] == "secret_key" {
            print::note("Keep the secret now: it is not shown again.");
        }
        print::line(token)?;
    } else {
        // A script that puts the secret into a variable must not go on with an
        // empty one.
        bail!(
            "{id} ({name}) was made before under this idempotency key, and its secret was shown \
             then. If that was lost, rotate the key"
        );
    }
    Ok(Exit::Fine)
}

pub(super) fn conditions(once: OnceArgs, verification: VerificationArgs) -> Conditions {
    Conditions {
        idempotency_key: once.idempotency_key,
        verification: verification.verification,
        ..Conditions::default()
    }
}

pub(super) async fn import(args: ImportArgs) -> Result<Exit> {
    let (digest, masked) = match (args.digest, &args.secret_file) {
        (None, Some(file)) => {
            let secret = read_secret(file)?;
            let (Presented::Malformed { masked, .. } | Presented::WellFormed { masked, .. }) =
                Presented::parse(&secret, args.host.brand.as_ref());
            (Digest::of(&secret).to_hex(), masked.as_str().to_owned())
        }
        // Then clap has seen to it that there is a redacted form, too.
        (digest, _) => (digest.unwrap_or_default(), String::new()),
    };
    let redacted = args.redacted.unwrap_or(masked);
    let operator = Operator::connect(&args.host).await?;
    let wanted = ImportKey { digest, redacted, key: args.wanted.into() };
    let conditions = conditions(args.once, args.verification);
    let key = operator.post_if("/v2/iam/api_keys/import", &wanted, conditions).await?;
    show(&args.host, &key)
}

fn read_secret(file: &Path) -> Result<Zeroizing<String>> {
    // Room for all of it: growing would leave a copy behind that is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_FILE_BYTES as usize + 1));
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(MAX_SECRET_FILE_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(file)
            .and_then(|file| file.take(MAX_SECRET_FILE_BYTES + 1).read_to_end(&mut bytes))
    };
    let read = read.with_context(|| format!("reading the secret from `{}`", file.display()))?;
    let text = str::from_utf8(&bytes).ok().map(str::trim).filter(|text| !text.is_empty());
    match text {
        // Cut off it would be another secret.
        Some(text) if read as u64 <= MAX_SECRET_FILE_BYTES => Ok(Zeroizing::new(text.to_owned())),
        _ => bail!("`{}` does not hold a secret: one line of text", file.display()),
    }
}

pub(super) async fn reveal(args: RevealArgs) -> Result<Exit> {
    let operator = Operator::connect(&args.host).await?;
    let conditions =
        Conditions { verification: args.verification.verification, ..Conditions::default() };
    let key = operator.post_if(&path(&args.id, "/reveal"), &Value::Null, conditions).await?;
    if args.host.json {
        print::json(&key)?;
    } else {
        print::line(print::token(&key).context("the host's answer holds no secret")?)?;
    }
    Ok(Exit::Fine)
}
