//! Asking whoever sits at the terminal.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use super::{Exit, print};

/// Says yes in advance.
#[derive(Args, Debug)]
pub(super) struct YesArgs {
    /// Goes on without asking. Needed where nobody sits at a terminal and it
    /// cannot be undone.
    #[arg(long)]
    pub(super) yes: bool,
}

/// Tells whether somebody is there to be asked.
pub(super) fn is_there() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks for a line. `None`: they would rather not say.
///
/// Asks on the standard error: the standard output is what a command is for,
/// and may go into a variable.
pub(super) async fn ask(question: &str) -> Result<Option<String>> {
    let mut err = std::io::stderr().lock();
    let asked = err.write_all(question.as_bytes()).and_then(|()| err.flush());
    drop(err);
    asked.context("asking at the terminal")?;
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = read.await?.context("reading from the terminal")?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

/// Refuses what cannot be undone where nobody can be asked and nobody has said
/// yes: before the host is asked for anything.
pub(super) fn refuse_unasked(yes: &YesArgs, what: &str) -> Option<Exit> {
    if yes.yes || is_there() {
        return None;
    }
    print::note(format_args!(
        "error: {what} cannot be undone: run it in a terminal, where it asks first, or add `--yes`"
    ));
    Some(Exit::Misused)
}

/// Says which key something is about to be done to, and asks whether to go on.
pub(super) async fn agrees_about(key: &Value, what: &str) -> Result<bool> {
    let last_used = match print::last_use(key).as_str() {
        "never" => "never used".to_owned(),
        last_use => format!("last used {last_use}"),
    };
    let [id, name] = ["id", "name"].map(|field| print::text(key, field));
    let masked = print::masked(key);
    agrees(&format!("{what}\n\n  {id}  {name}\n  {masked}\n  {last_used}\n")).await
}

/// Says what is about to be done, and asks whether to go on.
pub(super) async fn agrees(what: &str) -> Result<bool> {
    print::note(what);
    let answer = ask("Go on? [y/N] ").await?;
    let agrees = matches!(answer.as_deref(), Some("y" | "Y" | "yes"));
    if !agrees {
        print::note("Nothing was changed.");
    }
    Ok(agrees)
}
