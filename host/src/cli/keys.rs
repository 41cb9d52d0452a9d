//! `wardkey keys …`.

use anyhow::Result;
use serde_json::Value;

use super::{CreateArgs, Exit, HostArgs, operator::Operator, print};
use crate::keys::CreateKey;

pub(super) async fn list(
    operator: &Operator,
    args: &HostArgs,
    account: Option<String>,
    live: Option<bool>,
    include_expired: bool,
) -> Result<Exit> {
    let mut keys: Vec<Value> = Vec::new();
    let mut filter = format!("include_expired={include_expired}&limit=100");
    if let Some(account) = account {
        filter.push_str(&format!("&account={}", query(&account)));
    }
    if let Some(live) = live {
        filter.push_str(&format!("&livemode={live}"));
    }
    loop {
        let after = keys.last().map(|key| format!("&starting_after={}", print::text(key, "id")));
        let path = format!("/v2/iam/api_keys?{filter}{}", after.unwrap_or_default());
        let page = operator.get(&path).await?;
        keys.extend(page["data"].as_array().cloned().unwrap_or_default());
        if page["has_more"] != true {
            break;
        }
    }
    if args.json {
        print::json(&Value::Array(keys))?;
        return Ok(Exit::Fine);
    }
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let mode = if key["livemode"] == true { "live" } else { "test" };
            let cell = |field| print::text(key, field);
            let last_used = cell("last_used");
            vec![
                cell("id"),
                cell("kind"),
                mode.to_owned(),
                cell("status"),
                masked(key).to_owned(),
                cell("name"),
                if last_used.is_empty() { "never".to_owned() } else { last_used },
            ]
        })
        .collect();
    print::table(&["ID", "KIND", "MODE", "STATUS", "KEY", "NAME", "LAST USED"], &rows)?;
    Ok(Exit::Fine)
}

pub(super) async fn create(operator: &Operator, args: CreateArgs) -> Result<Exit> {
    let wanted = CreateKey {
        account: args.account,
        livemode: args.live,
        kind: args.kind,
        name: args.name,
        note: args.note,
        permissions: args.permissions,
        connect_permissions: args.connect_permissions,
        ip_allowlist: args.ip_allowlist,
        expires_at: args.expires_at,
    };
    let key = operator.post("/v2/iam/api_keys", &wanted).await?;
    operator.finish().await?;
    if args.host.json {
        print::json(&key)?;
    } else {
        eprintln!("Made {} ({}).", print::text(&key, "id"), print::text(&key, "name"));
        if key["livemode"] == true && key["type"] == "secret_key" {
            eprintln!("Keep the secret now: it is not shown again.");
        }
        print::line(token(&key))?;
    }
    Ok(Exit::Fine)
}

pub(super) async fn show(operator: &Operator, args: &HostArgs, id: &str) -> Result<Exit> {
    let key = operator.get(&format!("/v2/iam/api_keys/{}", query(id))).await?;
    if args.json {
        print::json(&key)?;
        return Ok(Exit::Fine);
    }
    for field in [
        "id",
        "kind",
        "status",
        "livemode",
        "account",
        "name",
        "note",
        "created",
        "expires_at",
        "last_used",
        "ip_allowlist",
        "permissions",
        "connect_permissions",
    ] {
        print::line(format_args!("{field:<20} {}", print::text(&key, field)))?;
    }
    print::line(format_args!("{:<20} {}", "key", masked(&key)))?;
    Ok(Exit::Fine)
}

pub(super) async fn reveal(operator: &Operator, args: &HostArgs, id: &str) -> Result<Exit> {
    let path = format!("/v2/iam/api_keys/{}/reveal", query(id));
    let key = operator.post(&path, &Value::Null).await?;
    if args.json {
        print::json(&key)?;
    } else {
        print::line(token(&key))?;
    }
    Ok(Exit::Fine)
}

fn masked(key: &Value) -> &str {
    shape(key)["secret_token_redacted"].as_str().unwrap_or_default()
}

fn token(key: &Value) -> &str {
    shape(key)["token"].as_str().unwrap_or_default()
}

fn shape(key: &Value) -> &Value {
    if key["type"] == "publishable_key" { &key["publishable_key"] } else { &key["secret_key"] }
}

/// Writes text so that it stands in a path or query as it is.
fn query(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
