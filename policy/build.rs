//! Turns a catalogue (`catalogue.toml`) into static tables.
//!
//! The catalogue is what is particular to one API. `WARDKEY_CATALOGUE` names
//! another file than the one that lies beside this script, for a policy for
//! another API; nothing else in this crate changes.
//!
//! The tables are flat arrays of small numbers and one block of text, because
//! they lie in the component's memory, and a fresh instance for each request
//! pays for every byte of it.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::PathBuf, process};

use serde::Deserialize;

/// Wardkey's own endpoints, which are there whatever the API: the management of
/// keys by keys. Each with the permission that it needs; none: any key.
///
/// What only the operator may do is not here, and so refused to every key.
const OWN_ENDPOINTS: &[(&str, Option<&str>)] = &[
    ("GET /v2/iam/api_keys", Some(READ)),
    ("POST /v2/iam/api_keys", Some(WRITE)),
    ("GET /v2/iam/api_keys/self", None),
    ("GET /v2/iam/api_keys/:id", Some(READ)),
    ("POST /v2/iam/api_keys/:id", Some(WRITE)),
    ("POST /v2/iam/api_keys/:id/cancel_rotation", Some(WRITE)),
    ("POST /v2/iam/api_keys/:id/expire", Some(WRITE)),
    ("POST /v2/iam/api_keys/:id/restore", Some(WRITE)),
    // To see a secret is worth as much as to make one.
    ("POST /v2/iam/api_keys/:id/reveal", Some(WRITE)),
    ("POST /v2/iam/api_keys/:id/rotate", Some(WRITE)),
    ("POST /v2/iam/api_keys/:id/schedule_rotation", Some(WRITE)),
    ("GET /v2/iam/permissions", None),
    ("POST /v2/iam/permissions/resolve", None),
    ("GET /v2/request_logs", Some(READ)),
];

/// What these endpoints need. A catalogue may say what they are called; that to
/// write includes to read holds whatever it says.
const OWN_PERMISSIONS: &[(&str, &str)] = &[(READ, "API Keys Read"), (WRITE, "API Keys Write")];
const OWN_CATEGORY: &str = "API keys";
const READ: &str = "api_key_read";
const WRITE: &str = "api_key_write";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    permissions: BTreeMap<String, Permission>,
    endpoints: BTreeMap<String, Endpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Permission {
    title: String,
    category: String,
    #[serde(default)]
    implies: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Endpoint {
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    publishable: Publishable,
    #[serde(default)]
    money_movement: bool,
    #[serde(default)]
    sandbox_only: bool,
    #[serde(default)]
    any_key: bool,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Publishable {
    #[default]
    No,
    WithClientSecret,
    Yes,
}

fn main() {
    println!("cargo::rerun-if-env-changed=WARDKEY_CATALOGUE");
    // Relative to the workspace, wherever cargo was called.
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let path = workspace
        .join(env::var_os("WARDKEY_CATALOGUE").unwrap_or_else(|| "policy/catalogue.toml".into()));
    println!("cargo::rerun-if-changed={}", path.display());
    let tables = fs::read_to_string(&path)
        .map_err(|err| err.to_string())
        .and_then(|text| toml::from_str::<Catalogue>(&text).map_err(|err| err.to_string()))
        .and_then(with_own)
        .and_then(|catalogue| tables(&catalogue));
    match tables {
        Ok(tables) => {
            let out = PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("catalogue_tables.rs");
            fs::write(out, tables).unwrap();
        }
        Err(err) => {
            eprintln!("error: the catalogue {}: {err}", path.display());
            process::exit(1);
        }
    }
}

/// Adds what is there whatever the API.
fn with_own(mut catalogue: Catalogue) -> Result<Catalogue, String> {
    for &(name, title) in OWN_PERMISSIONS {
        catalogue.permissions.entry(name.to_owned()).or_insert_with(|| Permission {
            title: title.to_owned(),
            category: OWN_CATEGORY.to_owned(),
            implies: Vec::new(),
        });
    }
    let implies = &mut catalogue.permissions.get_mut(WRITE).expect("just added").implies;
    if !implies.iter().any(|name| name == READ) {
        implies.push(READ.to_owned());
    }
    for &(name, permission) in OWN_ENDPOINTS {
        let endpoint = Endpoint {
            permissions: permission.map(str::to_owned).into_iter().collect(),
            any_key: permission.is_none(),
            ..Endpoint::default()
        };
        // Two of them, and which one is asked would be chance.
        if catalogue.endpoints.insert(name.to_owned(), endpoint).is_some() {
            return Err(format!("`{name}` is an endpoint of Wardkey's own: leave it out"));
        }
    }
    Ok(catalogue)
}

/// One block of text that all names point into.
#[derive(Default)]
struct Text(String);

impl Text {
    /// Returns `text` as an expression of type `Span`.
    fn span(&mut self, text: &str) -> Result<String, String> {
        let start = self.0.find(text).unwrap_or_else(|| {
            self.0.push_str(text);
            self.0.len() - text.len()
        });
        let start = u16::try_from(start).map_err(|_| "is too large: over 64 KiB of names")?;
        let len = u8::try_from(text.len()).map_err(|_| format!("`{text}` is over 255 bytes"))?;
        Ok(format!("Span{{start:{start},len:{len}}}"))
    }
}

/// The lists of permissions that the tables point into.
#[derive(Default)]
struct Lists(Vec<u16>);

impl Lists {
    fn range(&mut self, list: &[u16]) -> Result<String, String> {
        let start =
            self.0.windows(list.len().max(1)).position(|window| window == list).unwrap_or_else(
                || {
                    self.0.extend_from_slice(list);
                    self.0.len() - list.len()
                },
            );
        let start = u16::try_from(start).map_err(|_| "has too many permissions")?;
        let len = u8::try_from(list.len()).map_err(|_| "has a list of over 255 permissions")?;
        Ok(format!("Range{{start:{start},len:{len}}}"))
    }
}

/// A node of the tree of paths.
#[derive(Default)]
struct Node {
    literals: BTreeMap<String, Node>,
    parameter: Option<Box<Node>>,
    endpoints: Vec<usize>,
}

fn tables(catalogue: &Catalogue) -> Result<String, String> {
    let mut text = Text::default();
    let mut lists = Lists::default();
    let names: Vec<&String> = catalogue.permissions.keys().collect();
    let find = |name: &String, user: &str| {
        names
            .binary_search(&name)
            .map(|index| index as u16)
            .map_err(|_| format!("`{user}` names the permission `{name}`, which is not defined"))
    };
    let find_all = |wanted: &[String], user: &str| {
        let mut found =
            wanted.iter().map(|name| find(name, user)).collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable();
        found.dedup();
        Ok::<_, String>(found)
    };

    let mut covered_by: Vec<Vec<u16>> = (0..names.len() as u16).map(|index| vec![index]).collect();
    let mut implied = Vec::new();
    for (index, (name, permission)) in catalogue.permissions.iter().enumerate() {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'*') {
            return Err(format!("`{name}` is no name for a permission: no blanks and no `*`"));
        }
        let implies = find_all(&permission.implies, name)?;
        for &other in &implies {
            if usize::from(other) == index {
                return Err(format!("`{name}` implies itself"));
            }
            covered_by[usize::from(other)].push(index as u16);
        }
        implied.push(implies);
    }

    let mut permissions = String::new();
    for (index, (name, permission)) in catalogue.permissions.iter().enumerate() {
        covered_by[index][1..].sort_unstable();
        writeln!(
            permissions,
            "Permission{{name:{},title:{},category:{},implies:{},covered_by:{}}},",
            text.span(name)?,
            text.span(&permission.title)?,
            text.span(&permission.category)?,
            lists.range(&implied[index])?,
            lists.range(&covered_by[index])?,
        )
        .unwrap();
    }

    let mut methods: Vec<String> = Vec::new();
    let mut root = Node::default();
    let mut endpoints = Vec::new();
    for (name, endpoint) in &catalogue.endpoints {
        let (method, path) = name
            .split_once(' ')
            .ok_or_else(|| format!("endpoint `{name}` is not a method, a blank and a path"))?;
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(format!("endpoint `{name}`: the method is not in capital letters"));
        }
        if !endpoint.any_key && endpoint.permissions.is_empty() {
            return Err(format!(
                "endpoint `{name}`: name its permissions, or say `any-key = true`"
            ));
        }
        let segments = path
            .strip_prefix('/')
            .ok_or_else(|| format!("endpoint `{name}`: the path does not begin with `/`"))?;
        let mut node = &mut root;
        for segment in segments.split('/') {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
            node = if segment == ":id" {
                node.parameter.get_or_insert_default()
            } else if !segment.is_empty() && segment.bytes().all(plain) {
                node.literals.entry(segment.to_owned()).or_default()
            } else {
                return Err(format!("endpoint `{name}`: `{segment}` is no path segment"));
            };
        }
        let method = methods.iter().position(|known| known == method).unwrap_or_else(|| {
            methods.push(method.to_owned());
            methods.len() - 1
        });
        node.endpoints.push(endpoints.len());
        endpoints.push((method, name, endpoint));
    }

    // Children of a node lie side by side, and so do its endpoints: a node
    // then needs no more than where they start and how many there are.
    let mut nodes = String::new();
    let mut endpoint_rows = String::new();
    let mut endpoint_count = 0;
    let mut node_count = 1;
    let mut queue = std::collections::VecDeque::from([("", &root)]);
    while let Some((segment, node)) = queue.pop_front() {
        let children = node_count;
        node_count += node.literals.len();
        queue.extend(node.literals.iter().map(|(segment, node)| (segment.as_str(), node)));
        let parameter = match &node.parameter {
            Some(parameter) => {
                queue.push_back((":id", parameter));
                node_count += 1;
                node_count - 1
            }
            None => 0,
        };
        writeln!(
            nodes,
            "Node{{segment:{},children:{children},child_count:{},parameter:{parameter},\
             endpoints:{endpoint_count},endpoint_count:{}}},",
            text.span(segment)?,
            node.literals.len(),
            node.endpoints.len(),
        )
        .unwrap();
        for &index in &node.endpoints {
            let (method, name, endpoint) = &endpoints[index];
            writeln!(
                endpoint_rows,
                "Endpoint{{method:{method},publishable:Publishable::{},money_movement:{},\
                 sandbox_only:{},any_key:{},permissions:{}}},",
                match endpoint.publishable {
                    Publishable::No => "No",
                    Publishable::WithClientSecret => "WithClientSecret",
                    Publishable::Yes => "Yes",
                },
                endpoint.money_movement,
                endpoint.sandbox_only,
                endpoint.any_key,
                lists.range(&find_all(&endpoint.permissions, name)?)?,
            )
            .unwrap();
            endpoint_count += 1;
        }
    }

    Ok(format!(
        "static TEXT: &str = {:?};\n\
         static METHODS: &[&str] = &{methods:?};\n\
         static LISTS: &[u16] = &{:?};\n\
         static PERMISSIONS: &[Permission] = &[\n{permissions}];\n\
         static ENDPOINTS: &[Endpoint] = &[\n{endpoint_rows}];\n\
         static NODES: &[Node] = &[\n{nodes}];\n",
        text.0, lists.0,
    ))
}
