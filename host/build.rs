//! Builds the standard policy, so that `cargo run` is all a newcomer types.

// Tests build components for other catalogues, and examples, by the same steps.
#[expect(dead_code, reason = "what only tests need of it")]
#[path = "build/component.rs"]
mod component;

use std::{env, path::PathBuf, process};

fn main() {
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    for folder in ["policy/src", "policy/build.rs", "policy/Cargo.toml", "policy/catalogue.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
    }
    println!("cargo::rerun-if-changed={}", root.join("wit").display());
    for variable in component::VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let catalogue = env::var_os("WARDKEY_CATALOGUE");
    if let Some(catalogue) = &catalogue {
        println!("cargo::rerun-if-changed={}", root.join(catalogue).display());
    }
    if let Some(cases) = component::cases(&root, catalogue.as_deref()) {
        println!("cargo::rerun-if-changed={}", cases.display());
    }
    let component = match component::ready(&root) {
        Ok(None) => component::build(&root, &out, catalogue.as_deref()),
        Ok(Some(ready)) => Ok(ready),
        Err(err) => Err(err),
    };
    match component {
        Ok(component) => {
            println!("cargo::rustc-env=WARDKEY_STANDARD_POLICY={}", component.display())
        }
        Err(err) => {
            // Cargo shows what is written to standard error; a panic would bury
            // the one line that tells how to mend it.
            eprintln!("error: the policy component could not be built: {err:#}");
            process::exit(1);
        }
    }
}
