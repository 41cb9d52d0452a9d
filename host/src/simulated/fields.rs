//! What parameters do to an object: their types, what they refer to, and how
//! they are merged into what is there.

use serde_json::{Map, Value, json};

use super::{
    answer::{Refused, SimulatedError, invalid},
    resources::Collection,
};

/// Parameters that are whole numbers. SDKs calculate with these fields, so that
/// the answer must not hold them as text.
const INTEGERS: &[&str] = &[
    "amount",
    "amount_off",
    "amount_to_capture",
    "application_fee_amount",
    "days_until_due",
    "duration_in_months",
    "exp_month",
    "exp_year",
    "interval_count",
    "max_redemptions",
    "quantity",
    "trial_period_days",
    "unit_amount",
];

/// Fields that are the API's to set.
const OURS: &[&str] = &["client_secret", "created", "id", "livemode", "object"];

/// What a caller that has only the client secret may change: how it pays, and
/// never how much or on whose behalf.
const FRONT_END_CHANGES: &[&str] = &[
    "mandate_data",
    "payment_method",
    "payment_method_data",
    "payment_method_options",
    "receipt_email",
    "return_url",
    "setup_future_usage",
    "shipping",
    "use_stripe_sdk",
];

/// What such a caller sees: what a payment page shows.
const FRONT_END_FIELDS: &[&str] = &[
    "amount",
    "capture_method",
    "client_secret",
    "created",
    "currency",
    "description",
    "id",
    "livemode",
    "next_action",
    "object",
    "payment_method",
    "payment_method_types",
    "receipt_email",
    "setup_future_usage",
    "shipping",
    "status",
    "usage",
];

/// Objects that one request may refer to. Each is a read of storage; a request
/// with more is refused.
const MAX_REFERENCES: usize = 100;

/// The size of an object as JSON. Updates add up, so that the bound on a body
/// does not bound it; an update beyond is refused.
const MAX_OBJECT_BYTES: usize = 64 * 1024;

/// A parameter that names an object.
pub(super) struct Reference {
    pub(super) collection: Collection,
    pub(super) id: String,
    /// The parameter as the caller wrote it: `items[0][price]`.
    pub(super) param: String,
}

/// Gives parameters their types, and refuses those that are not the caller's to
/// set.
pub(super) fn typed(params: Map<String, Value>, is_front_end: bool) -> Refused<Map<String, Value>> {
    params
        .into_iter()
        .map(|(name, value)| {
            if OURS.contains(&name.as_str())
                || (is_front_end && !FRONT_END_CHANGES.contains(&name.as_str()))
            {
                return Err(SimulatedError::Invalid {
                    code: Some("parameter_unknown"),
                    message: format!("Received unknown parameter: {name}"),
                    param: Some(name),
                });
            }
            let value = typed_value(&name, &name, value)?;
            Ok((name, value))
        })
        .collect()
}

fn typed_value(name: &str, param: &str, value: Value) -> Refused<Value> {
    match value {
        // The empty text unsets a field of any type.
        Value::String(text) if text.is_empty() => Ok(Value::String(text)),
        value if name == "metadata" => match &value {
            Value::Object(entries) if entries.values().all(Value::is_string) => Ok(value),
            _ => Err(invalid(Some(param), "Metadata is a hash of texts.")),
        },
        value if INTEGERS.contains(&name) => integer(param, &value).map(Value::from),
        Value::String(text) => Ok(match text.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => Value::String(text),
        }),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = typed_value(&name, &format!("{param}[{name}]"), value)?;
                Ok((name, value))
            })
            .collect::<Refused<Map<_, _>>>()
            .map(Value::Object),
        Value::Array(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| typed_value("", &format!("{param}[{index}]"), item))
            .collect(),
        other => Ok(other),
    }
}

/// Returns a parameter as a whole number.
pub(super) fn integer(param: &str, value: &Value) -> Refused<i64> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| SimulatedError::Invalid {
        code: Some("parameter_invalid_integer"),
        param: Some(param.to_owned()),
        message: "Invalid integer".to_owned(),
    })
}

/// Returns the objects that parameters refer to.
pub(super) fn references(params: &Map<String, Value>) -> Refused<Vec<Reference>> {
    let mut found = Vec::new();
    for (name, value) in params {
        collect_references(name, name, value, &mut found);
    }
    if found.len() > MAX_REFERENCES {
        return Err(invalid(
            None,
            format!("The request refers to more than {MAX_REFERENCES} objects."),
        ));
    }
    Ok(found)
}

fn collect_references(name: &str, param: &str, value: &Value, found: &mut Vec<Reference>) {
    match value {
        Value::String(id) if !id.is_empty() => {
            found.extend(Collection::referenced_by(name).map(|collection| Reference {
                collection,
                id: id.clone(),
                param: param.to_owned(),
            }));
        }
        // The caller's own words, whatever they are called.
        Value::Object(_) if name == "metadata" => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                collect_references(name, &format!("{param}[{name}]"), value, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_references("", &format!("{param}[{index}]"), item, found);
            }
        }
        _ => {}
    }
}

/// Puts parameters into an object: hashes key by key, all else whole. The empty
/// text unsets a field and removes a metadata key.
///
/// # Errors
///
/// Refuses what would make the object larger than an object may be.
pub(super) fn merge(object: &mut Map<String, Value>, params: Map<String, Value>) -> Refused<()> {
    merge_fields(object, params);
    let size = serde_json::to_vec(object).map_or(usize::MAX, |text| text.len());
    if size > MAX_OBJECT_BYTES {
        return Err(invalid(
            None,
            format!("The object would be larger than {MAX_OBJECT_BYTES} bytes."),
        ));
    }
    Ok(())
}

fn merge_fields(object: &mut Map<String, Value>, params: Map<String, Value>) {
    for (name, value) in params {
        match value {
            Value::String(text) if text.is_empty() => {
                let unset = if name == "metadata" { json!({}) } else { Value::Null };
                object.insert(name, unset);
            }
            Value::Object(changes) => {
                let is_metadata = name == "metadata";
                let field = object.entry(name).or_insert_with(|| json!({}));
                if !field.is_object() {
                    *field = json!({});
                }
                let Value::Object(field) = field else {
                    continue;
                };
                if is_metadata {
                    field.extend(changes);
                    field.retain(|_, value| *value != "");
                } else {
                    merge_fields(field, changes);
                }
            }
            value => {
                object.insert(name, value);
            }
        }
    }
}

/// Returns what a caller that has only the client secret sees of an object.
pub(super) fn for_front_end(mut object: Map<String, Value>) -> Map<String, Value> {
    object.retain(|name, _| FRONT_END_FIELDS.contains(&name.as_str()));
    object
}
