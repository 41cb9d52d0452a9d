//! What commands print for people.

use std::{
    fmt::{Display, Write as _},
    io::{ErrorKind, Write as _},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::duration::Minutes;

/// Prints a line. Unlike `println!` it does not panic where nobody reads any
/// more, as in `wardkey keys list | head -1`, or the disk is full.
pub(super) fn line(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(err) if err.kind() != ErrorKind::BrokenPipe => {
            Err(err).context("writing to the standard output")
        }
        _ => Ok(()),
    }
}

/// Prints a line for the person who looks on, on the standard error: what is on
/// the standard output is for whoever reads on.
pub(super) fn note(text: impl Display) {
    // There is nowhere left to say that it failed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints a value as JSON, for programs.
pub(super) fn json(value: &Value) -> Result<()> {
    line(format_args!("{value:#}"))
}

/// Prints rows in columns as wide as their widest cell. Nothing is cut.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    print(&mut header.iter().copied())?;
    rows.iter().try_for_each(|row| print(&mut row.iter().map(String::as_str)))
}

/// Prints a name and a value.
pub(super) fn field(name: &str, value: impl Display) -> Result<()> {
    line(format_args!("{name:<20} {value}").to_string().trim_end())
}

/// Returns a field of an object as text; empty where it is missing. Control
/// characters are spelled out: some of what is listed is the word of whoever
/// was refused, and must not move the cursor of whoever reads it.
pub(super) fn text(value: &Value, field: &str) -> String {
    let text = match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars().fold(String::new(), |mut shown, char| {
        let _ = match char.is_control() {
            true => write!(shown, "{}", char.escape_default()),
            false => shown.write_char(char),
        };
        shown
    })
}

/// Returns `live` or `test`.
pub(super) fn mode(object: &Value) -> &'static str {
    if object["livemode"] == true { "live" } else { "test" }
}

/// Returns the masked form of a key's secret.
pub(super) fn masked(key: &Value) -> String {
    text(shape(key), "secret_token_redacted")
}

/// Returns a key's secret, where the answer has it.
pub(super) fn token(key: &Value) -> Option<&str> {
    shape(key)["token"].as_str()
}

fn shape(key: &Value) -> &Value {
    if key["type"] == "publishable_key" { &key["publishable_key"] } else { &key["secret_key"] }
}

/// Says when, for what and from where a key was last used.
pub(super) fn last_use(key: &Value) -> String {
    if key["last_used"].is_null() {
        return "never".to_owned();
    }
    let [at, endpoint, source] =
        ["last_used", "last_used_endpoint", "last_used_source"].map(|field| text(key, field));
    format!("{at}, {endpoint} from {source}")
}

/// Says when a key is rotated, and how; empty if that is not scheduled.
pub(super) fn rotation(key: &Value) -> String {
    let rotation = &key["rotation"];
    if rotation.is_null() {
        return String::new();
    }
    let again = match rotation["every_days"].as_u64() {
        Some(days) => format!(", and every {days} days"),
        None => String::new(),
    };
    let beside = match rotation["expire_current_key_in_minutes"].as_u64() {
        Some(minutes @ 1..) => {
            let minutes = Minutes(u32::try_from(minutes).unwrap_or(u32::MAX));
            format!("; the old key works for another {minutes}")
        }
        _ => String::new(),
    };
    format!("{}{again}{beside}", text(rotation, "at"))
}
