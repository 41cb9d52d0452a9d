//! `wardkey backup`: a copy of the database, while the host runs.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use super::{Exit, HostArgs, operator::Operator, print, serve::absolute};

/// What is not in the copy, and what is lost with it.
const NOT_INCLUDED: &[(&str, &str)] = &[
    ("key-encryption.key", "without it, secrets that were kept cannot be revealed"),
    ("operator.secret", "the operator credential of the admin API"),
    ("audit.key", "without it, the audit log cannot be verified"),
];

#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// The file to write. It must not be there yet.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) async fn run(args: BackupArgs) -> Result<Exit> {
    // The host that writes it may have been started elsewhere.
    let to = std::path::absolute(&args.to)
        .with_context(|| format!("`{}` is no name for a file", args.to.display()))?;
    let operator = Operator::connect(&args.host).await?;
    let mut answer = operator.post("/v2/backup", &json!({ "to": to })).await?;
    let folder = absolute(&args.host.data_dir);
    if args.host.json {
        let files: Vec<PathBuf> = NOT_INCLUDED.iter().map(|(name, _)| folder.join(name)).collect();
        answer["not_included"] = json!(files);
        print::json(&answer)?;
        return Ok(Exit::Fine);
    }
    print::line(to.display())?;
    print::note(
        "\nThis is a copy of the database. Not in it, and to be kept apart from it, so that whoever \
         has the one has not the other:\n",
    );
    for (name, why) in NOT_INCLUDED {
        print::note(format_args!("  {}  ({why})", folder.join(name).display()));
    }
    print::note(
        "\nTo go back to it: stop the host, remove `wardkey.db-wal` and `wardkey.db-shm`, put the \
         copy in the place of `wardkey.db`, beside these files, and start with `--accept-backup`. \
         Keys that were ended in between are good again then.",
    );
    Ok(Exit::Fine)
}
