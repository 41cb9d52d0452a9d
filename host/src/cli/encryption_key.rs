//! `wardkey key-encryption-key …`: what kept secrets are sealed under.

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use super::{
    Exit, HostArgs,
    operator::Operator,
    person::{self, YesArgs},
    print,
};

#[derive(Subcommand, Debug)]
pub(super) enum EncryptionKeyCommand {
    /// Seals all kept secrets under a new key, and puts that in the place of the
    /// old one. Keys go on working.
    Replace {
        #[command(flatten)]
        yes: YesArgs,
        #[command(flatten)]
        host: HostArgs,
    },
}

pub(super) async fn run(command: EncryptionKeyCommand) -> Result<Exit> {
    let EncryptionKeyCommand::Replace { yes, host } = command;
    if let Some(exit) = person::refuse_unasked(&yes, "replacing the key-encryption key") {
        return Ok(exit);
    }
    if !yes.yes {
        let agrees = person::agrees(
            "This replaces `key-encryption.key`, and the old one is gone then. Copies of the \
             database from before need it: keep it with them.",
        );
        if !agrees.await? {
            return Ok(Exit::Failed);
        }
    }
    let operator = Operator::connect(&host).await?;
    let answer = operator.post("/v2/key_encryption_key/replace", &Value::Null).await?;
    if host.json {
        print::json(&answer)?;
    } else {
        let resealed = print::text(&answer, "secrets_resealed");
        print::line(format_args!("{resealed} secrets were sealed under a new key."))?;
    }
    Ok(Exit::Fine)
}
