//! Form-encoded parameters to JSON: `items[0][price]=x`, `metadata[k]=v`,
//! `expand[]=x`.
//!
//! Written by hand because the crates for it guess where this must refuse:
//! `serde_qs` makes a list of a key that is given twice, folds what is too deep
//! into one name, keeps a broken `%zz` as text, and cannot read `metadata[1]=x`.
//! Here the empty text deletes a field, so that half a body read kindly would
//! destroy data.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::answer::{Refused, invalid};

/// Parameters in one request. The longest real ones, checkout sessions with
/// many lines, stay in the hundreds; beyond, the request is refused.
const MAX_PARAMETERS: usize = 1_000;

/// Names in one key, `a[b][c]` having three. The deepest in Stripe's API is
/// `line_items[0][price_data][product_data][metadata][k]`, with six. It also
/// bounds every recursion over parameters.
const MAX_DEPTH: usize = 8;

/// What a key stands for while the form is read.
enum Node {
    Text(String),
    /// `a[]=…`, in the order given.
    List(Vec<String>),
    Fields(BTreeMap<String, Node>),
}

/// Returns the parameters of a query or a body. Every leaf is a string.
pub(super) fn parse(form: &[u8]) -> Refused<Map<String, Value>> {
    let mut fields = BTreeMap::new();
    let pairs = form.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    for (index, pair) in pairs.enumerate() {
        if index == MAX_PARAMETERS {
            return Err(invalid(None, format!("More than {MAX_PARAMETERS} parameters.")));
        }
        read_pair(&mut fields, pair)?;
    }
    fields
        .into_iter()
        .map(|(name, node)| {
            let value = value_of(&name, node)?;
            Ok((name, value))
        })
        .collect()
}

fn read_pair(fields: &mut BTreeMap<String, Node>, pair: &[u8]) -> Refused<()> {
    let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
        return Err(invalid(None, "A parameter has no `=`; the request seems to be cut off."));
    };
    // Decoded before it is split: some clients encode the brackets.
    let (Some(key), Some(text)) = (decode(&pair[..equals]), decode(&pair[equals + 1..])) else {
        return Err(invalid(None, "A parameter is not percent-encoded UTF-8."));
    };
    let Some(names) = split_key(&key) else {
        return Err(invalid(
            Some(&key),
            format!("The parameter name is malformed or nested deeper than {MAX_DEPTH}."),
        ));
    };
    insert(fields, &names, text).ok_or_else(|| {
        invalid(
            Some(&key),
            "The parameter is given twice, or both as a value and as a hash or array.",
        )
    })
}

/// Returns `a`, `b` and `` for `a[b][]`; `None` if the key is malformed. An
/// empty name can only be last: which element `a[][b]` means is a guess.
fn split_key(key: &str) -> Option<Vec<&str>> {
    let Some((first, nested)) = key.split_once('[') else {
        return (!key.is_empty() && !key.contains(']')).then(|| vec![key]);
    };
    let mut names = vec![first];
    names.extend(nested.strip_suffix(']')?.split("]["));
    let (_, inner) = names.split_last()?;
    let sound = names.len() <= MAX_DEPTH
        && inner.iter().all(|name| !name.is_empty())
        && names.iter().all(|name| !name.contains(['[', ']']));
    sound.then_some(names)
}

/// Returns `None`, and refuses to choose, if the place is taken.
fn insert(fields: &mut BTreeMap<String, Node>, names: &[&str], text: String) -> Option<()> {
    let (name, rest) = names.split_first()?;
    let name = (*name).to_owned();
    match rest {
        [] if fields.contains_key(&name) => None,
        [] => {
            fields.insert(name, Node::Text(text));
            Some(())
        }
        [""] => match fields.entry(name).or_insert(Node::List(Vec::new())) {
            Node::List(items) => {
                items.push(text);
                Some(())
            }
            _ => None,
        },
        _ => match fields.entry(name).or_insert_with(|| Node::Fields(BTreeMap::new())) {
            Node::Fields(inner) => insert(inner, rest, text),
            _ => None,
        },
    }
}

fn value_of(name: &str, node: Node) -> Refused<Value> {
    match node {
        Node::Text(text) => Ok(Value::String(text)),
        Node::List(items) => Ok(items.into_iter().map(Value::String).collect()),
        // The names in metadata are the caller's own words: `metadata[0]` is a
        // key and not a place in an array.
        Node::Fields(fields) if name != "metadata" && fields.keys().any(|key| is_index(key)) => {
            array_of(name, fields)
        }
        Node::Fields(fields) => fields
            .into_iter()
            .map(|(name, node)| {
                let value = value_of(&name, node)?;
                Ok((name, value))
            })
            .collect::<Refused<Map<_, _>>>()
            .map(Value::Object),
    }
}

fn array_of(name: &str, mut fields: BTreeMap<String, Node>) -> Refused<Value> {
    (0..fields.len())
        .map(|index| match fields.remove(&index.to_string()) {
            Some(node) => value_of("", node),
            None => {
                Err(invalid(Some(name), "An array's elements are numbered from 0 without a gap."))
            }
        })
        .collect()
}

fn is_index(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns `None` for a broken escape and for what is not UTF-8.
fn decode(encoded: &[u8]) -> Option<String> {
    let mut bytes = encoded.iter();
    let mut decoded = Vec::with_capacity(encoded.len());
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex(bytes.next())? << 4 | hex(bytes.next())?,
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    let value = char::from(*digit?).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one place that parses. Every test below is a row.
    #[track_caller]
    fn check(form: &str, expected: &str) {
        let read = match parse(form.as_bytes()) {
            Ok(fields) => Value::Object(fields).to_string(),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(read, expected, "`{form}`");
    }

    #[test]
    fn keys_nest_into_hashes_and_arrays() {
        check("", "{}");
        check("a=1&", r#"{"a":"1"}"#);
        check("a=", r#"{"a":""}"#);
        check("a=b+c%26&d=%c3%a9", r#"{"a":"b c&","d":"é"}"#);
        check("a%5Bb%5D=1", r#"{"a":{"b":"1"}}"#);
        check("expand[]=x&expand[]=y", r#"{"expand":["x","y"]}"#);
        check("items[1][price]=y&items[0][price]=x", r#"{"items":[{"price":"x"},{"price":"y"}]}"#);
    }

    #[test]
    fn a_number_in_metadata_is_a_name() {
        check("metadata[7]=x", r#"{"metadata":{"7":"x"}}"#);
        check("a[metadata][0]=x&a[metadata][k]=y", r#"{"a":{"metadata":{"0":"x","k":"y"}}}"#);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for form in [
            "a=1&a=2",
            "a[b]=1&a[b]=2",
            "a=1&a[b]=2",
            "a[b]=1&a=2",
            "a[]=1&a[0]=2",
            "a[0]=1&a[x]=2",
            "a[][b]=1&a[][c]=2",
            "a[7]=x",
            "a[00]=x",
            "a[4000000000]=x",
        ] {
            check(form, "refused");
        }
    }

    #[test]
    fn what_is_broken_is_refused() {
        for form in [
            "a",
            "=x",
            "a[=x",
            "a[b=x",
            "a]=x",
            "a[b]c=1",
            "[a]=1",
            "a[b[c]]=1",
            "a=%",
            "a=%4",
            "a=%zz",
            "a=%ff",
            "a=%e2%82",
        ] {
            check(form, "refused");
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        check("a[b][c][d][e][f][g][h]=1", r#"{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":"1"}}}}}}}}"#);
        check("a[b][c][d][e][f][g][h][i]=1", "refused");
        let form = |count: usize| (0..count).map(|n| format!("k{n}=v&")).collect::<String>();
        assert!(parse(form(MAX_PARAMETERS).as_bytes()).is_ok());
        check(&form(MAX_PARAMETERS + 1), "refused");
    }
}
