//! Replacing keys, now and at set times.

use anyhow::Result;
use clap::{Args, builder::NonEmptyStringValueParser};
use jiff::Timestamp;

use super::{
    change::agreed,
    make::{OnceArgs, VerificationArgs, conditions, made},
    path, show,
};
use crate::{
    cli::{
        Exit, HostArgs,
        duration::Minutes,
        operator::{Conditions, Operator},
        person::{self, YesArgs},
        print,
    },
    keys::{RotateKey, ScheduleRotation},
};

#[derive(Args, Debug)]
pub(in crate::cli) struct RotateArgs {
    /// The key's id, `key_…`.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    #[command(flatten)]
    overlap: OverlapArgs,
    /// Where the new key will be kept [default: the note of the old one].
    #[arg(long)]
    note: Option<String>,
    #[command(flatten)]
    yes: YesArgs,
    #[command(flatten)]
    once: OnceArgs,
    #[command(flatten)]
    verification: VerificationArgs,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Args, Debug)]
struct OverlapArgs {
    /// How long the old key works beside the new one, such as 30m, 12h or 7d. 0:
    /// it ends at once.
    #[arg(long, value_name = "DURATION", default_value = "0")]
    expire_in: Minutes,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ScheduleArgs {
    /// The key's id, `key_…`.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    id: String,
    /// When to rotate it, such as 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    at: Timestamp,
    /// Rotates the new key after so many days, and so on [default: once].
    #[arg(long, value_name = "DAYS")]
    every_days: Option<u32>,
    #[command(flatten)]
    overlap: OverlapArgs,
    #[command(flatten)]
    host: HostArgs,
}

pub(super) async fn rotate(args: RotateArgs) -> Result<Exit> {
    let Minutes(minutes) = args.overlap.expire_in;
    // What works on for a while can still be put in place, or ended early.
    let is_final = minutes == 0;
    if is_final && let Some(exit) = person::refuse_unasked(&args.yes, "ending the old key at once")
    {
        return Ok(exit);
    }
    let operator = Operator::connect(&args.host).await?;
    let mut if_revision = None;
    if is_final {
        let what = "This puts another key in the place of one, which ends at once:";
        match agreed(&operator, &args.yes, &args.id, what).await? {
            Some(revision) => if_revision = revision,
            None => return Ok(Exit::Failed),
        }
    }
    let wanted = RotateKey { expire_current_key_in_minutes: minutes, note: args.note };
    let conditions = Conditions { if_revision, ..conditions(args.once, args.verification) };
    let key = operator.post_if(&path(&args.id, "/rotate"), &wanted, conditions).await?;
    let exit = made(&args.host, &key)?;
    if !args.host.json {
        print::note(match minutes {
            0 => format!("{} has ended.", args.id),
            _ => format!("{} works for another {}.", args.id, args.overlap.expire_in),
        });
    }
    Ok(exit)
}

pub(super) async fn schedule(args: ScheduleArgs) -> Result<Exit> {
    let operator = Operator::connect(&args.host).await?;
    let wanted = ScheduleRotation {
        at: args.at,
        every_days: args.every_days,
        expire_current_key_in_minutes: args.overlap.expire_in.0,
    };
    let key = operator.post(&path(&args.id, "/schedule_rotation"), &wanted).await?;
    if !args.host.json {
        print::note(
            "Then `wardkey keys show` names the new key as `replaced_by`, and `wardkey keys reveal` \
             shows its secret.",
        );
    }
    show(&args.host, &key)
}
