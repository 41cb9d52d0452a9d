//! The types of `wit/`, generated.
//!
//! Generated for every target and not only for the component, so that the rules
//! are written once, against one set of types, and tested natively. What makes
//! a component of them is in `component.rs`.

#![expect(missing_docs, reason = "written by wit-bindgen; the documentation is in `wit/`")]

wit_bindgen::generate!({
    path: "../wit",
    world: "policy",
    additional_derives: [PartialEq, Eq],
    pub_export_macro: false,
});

pub use self::{
    exports::wardkey::policy::{catalogue, explain, lifecycle},
    wardkey::policy::types::*,
};
