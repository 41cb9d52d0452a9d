//! What commands print for people.

use std::{
    fmt::Display,
    io::{ErrorKind, Write as _},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

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

/// Returns a field of an object as text; empty where it is missing.
pub(super) fn text(value: &Value, field: &str) -> String {
    match &value[field] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
