//! The description of the management routes, and the check that an answer is as
//! it describes.
//!
//! Every answer to `TestHost::manage` and its kin goes through [`check`], so that
//! a field, status or header that nobody described is found by whichever suite
//! meets it first.

use std::sync::OnceLock;

use serde_json::Value;
use wardkey::api::admin::OPENAPI;

use super::Answer;

/// Returns the document.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::from_str(OPENAPI).unwrap())
}

/// An operation of the document.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// The method, in capitals.
    pub method: &'static str,
    /// The path, with `{id}` for what varies.
    pub path: &'static str,
    /// What is shared by the operations of its path.
    pub item: &'static Value,
    /// What is said of it.
    pub value: &'static Value,
}

/// Returns every operation of the document.
pub fn operations() -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in members(&document()["paths"]) {
        for (name, method) in [
            ("get", "GET"),
            ("post", "POST"),
            ("put", "PUT"),
            ("patch", "PATCH"),
            ("delete", "DELETE"),
        ] {
            if let Some(value) = item.get(name) {
                found.push(Operation { method, path, item, value });
            }
        }
    }
    found
}

impl Operation {
    /// Returns its name, which client generators use.
    pub fn id(&self) -> &'static str {
        self.value["operationId"].as_str().unwrap()
    }

    /// Returns its parameters, those of its path included.
    pub fn parameters(&self) -> Vec<&'static Value> {
        let lists = [&self.item["parameters"], &self.value["parameters"]];
        lists.into_iter().filter_map(Value::as_array).flatten().map(resolved).collect()
    }

    /// Returns the schema of its request body, if that is JSON.
    pub fn request_schema(&self) -> Option<&'static Value> {
        let body = self.value.get("requestBody")?;
        Some(resolved(&body["content"].get("application/json")?["schema"]))
    }

    /// Returns what is said of its responses with this status.
    pub fn response(&self, status: u16) -> Option<&'static Value> {
        self.value["responses"].get(status.to_string()).map(resolved)
    }

    fn fits(&self, method: &str, path: &str) -> bool {
        let path = path.split('?').next().unwrap_or_default();
        self.method == method
            && self.path.split('/').count() == path.split('/').count()
            && self
                .path
                .split('/')
                .zip(path.split('/'))
                .all(|(told, sent)| told == sent || told.starts_with('{'))
    }
}

/// Returns the operation that a request is for. What has a name of its own comes
/// before what varies, as in the router.
pub fn find(method: &str, path: &str) -> Option<Operation> {
    let mut found: Vec<_> =
        operations().into_iter().filter(|operation| operation.fits(method, path)).collect();
    found.sort_by_key(|operation| operation.path.matches('{').count());
    found.first().copied()
}

/// Checks that an answer is as it is described: its status, its body to the last
/// field, and its headers.
#[track_caller]
pub fn check(method: &str, path: &str, answer: &Answer) {
    // A host that is being stopped may close the connection.
    if answer.status == 0 {
        return;
    }
    let told = format!("{method} {path}: {answer:?}");
    assert!(answer.headers.contains_key("request-id"), "without `Request-Id`: {told}");
    assert_eq!(answer.headers["content-type"], "application/json", "{told}");
    assert_eq!(answer.headers["cache-control"], "no-store", "{told}");
    let Some(operation) = find(method, path) else {
        // Strangers are not told which paths there are.
        let is_refused = matches!(answer.status, 401 | 404);
        let faults = validate_as("Error", &answer.json());
        assert!(is_refused && faults.is_empty(), "no such operation: {told}");
        return;
    };
    let Some(response) = operation.response(answer.status) else {
        panic!("`{}` has no status {}: {told}", operation.id(), answer.status);
    };
    let faults = validate(operation.id(), answer.status, &answer.json());
    assert!(faults.is_empty(), "not as described: {faults:#?}\n{told}");
    for name in ["ETag", "Idempotent-Replayed", "Retry-After", "WWW-Authenticate"] {
        let described = response["headers"].get(name).is_some();
        let there = answer.headers.contains_key(&name.to_ascii_lowercase());
        assert!(described || !there, "`{name}` is not described: {told}");
    }
    let replayed = answer.headers.contains_key("idempotent-replayed");
    if response["headers"].get("ETag").is_some() && !replayed {
        let revision = answer.json()["revision"].to_string();
        assert_eq!(answer.headers["etag"], format!("\"{revision}\""), "{told}");
    }
}

/// Returns what is wrong with a body, as a response of this operation (by its
/// `operationId`) with this status.
pub fn validate(operation_id: &str, status: u16, body: &Value) -> Vec<String> {
    let operation = operations().into_iter().find(|operation| operation.id() == operation_id);
    let operation = operation.unwrap_or_else(|| panic!("no operation `{operation_id}`"));
    match operation.response(status) {
        Some(response) => faults(&response["content"]["application/json"]["schema"], body),
        None => vec![format!("`{operation_id}` has no status {status}")],
    }
}

/// Returns what is wrong with a value, as one of this schema (by its name).
pub fn validate_as(schema: &str, value: &Value) -> Vec<String> {
    faults(&document()["components"]["schemas"][schema], value)
}

/// Returns what is wrong with a value, as one of this schema.
pub fn faults(schema: &'static Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(schema, value, "the body", &mut found);
    found
}

/// Follows a reference, if it is one.
pub fn resolved(value: &'static Value) -> &'static Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap_or_default();
            let found = document().pointer(pointer);
            found.unwrap_or_else(|| panic!("`{reference}` leads nowhere"))
        }
        None => value,
    }
}

/// Returns the members of an object.
pub fn members(value: &'static Value) -> impl Iterator<Item = (&'static str, &'static Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// The part of JSON Schema that the document uses. A word that is not known here
/// is a panic: a check that is passed over in silence would look like one that
/// was made.
fn collect(schema: &'static Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let mut fault = |what: String| found.push(format!("{at}: {what}"));
    let count = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    let bound = |limit: &Value| usize::try_from(limit.as_u64().unwrap()).unwrap();
    for (word, limit) in members(schema) {
        match word {
            "description" | "examples" | "default" => {}
            // What has several words is checked below.
            "$ref" | "oneOf" | "properties" | "items" => {}
            "type" => {
                let types = limit.as_array().map_or(std::slice::from_ref(limit), Vec::as_slice);
                if !types.iter().any(|name| is_of_type(value, name.as_str().unwrap())) {
                    fault(format!("{value} is not of the type {limit}"));
                }
            }
            "const" if value != limit => fault(format!("{value} is not {limit}")),
            "enum" if !limit.as_array().unwrap().contains(value) => {
                fault(format!("{value} is none of {limit}"));
            }
            "format" => {
                assert_eq!(limit, "date-time", "a format that is not checked");
                if let Value::String(text) = value
                    && text.parse::<jiff::Timestamp>().is_err()
                {
                    fault(format!("{value} is no time"));
                }
            }
            "minimum" if value.as_f64() < limit.as_f64() && value.is_number() => {
                fault(format!("{value} is less than {limit}"));
            }
            "maximum" if value.as_f64() > limit.as_f64() && value.is_number() => {
                fault(format!("{value} is more than {limit}"));
            }
            "minLength" if value.is_string() && count < bound(limit) => {
                fault(format!("{value} is shorter than {limit}"));
            }
            "maxLength" if value.is_string() && count > bound(limit) => {
                fault(format!("{value} is longer than {limit}"));
            }
            "minItems" if value.is_array() && count < bound(limit) => {
                fault(format!("{value} has fewer items than {limit}"));
            }
            "maxItems" if value.is_array() && count > bound(limit) => {
                fault(format!("{value} has more items than {limit}"));
            }
            "required" => {
                for name in limit.as_array().unwrap().iter().filter_map(Value::as_str) {
                    if value.is_object() && value.get(name).is_none() {
                        fault(format!("`{name}` is missing"));
                    }
                }
            }
            "additionalProperties" => {
                let known = schema["properties"].as_object();
                for name in value.as_object().into_iter().flat_map(|value| value.keys()) {
                    let is_known = known.is_some_and(|known| known.contains_key(name));
                    if !is_known && !limit.as_bool().unwrap() {
                        fault(format!("`{name}` is not described"));
                    }
                }
            }
            "const" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems"
            | "maxItems" => {}
            unknown => panic!("`{unknown}` is not known to this validator"),
        }
    }
    if schema.get("$ref").is_some() {
        collect(resolved(schema), value, at, found);
    }
    for (name, schema) in members(&schema["properties"]) {
        if let Some(value) = value.get(name) {
            collect(schema, value, &format!("{at}.{name}"), found);
        }
    }
    if let (Some(schema), Value::Array(items)) = (schema.get("items"), value) {
        for (index, item) in items.iter().enumerate() {
            collect(schema, item, &format!("{at}[{index}]"), found);
        }
    }
    if let Some(Value::Array(choices)) = schema.get("oneOf") {
        let faults: Vec<_> = choices.iter().map(|choice| faults(choice, value)).collect();
        if faults.iter().filter(|faults| faults.is_empty()).count() != 1 {
            found.push(format!("{at}: not exactly one of the choices fits: {faults:?}"));
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        unknown => panic!("`{unknown}` is a type that is not known to this validator"),
    }
}
