//! The types of `wit/`, as the host sees them. Generated.

#![expect(missing_docs, reason = "written by wasmtime's bindgen; the documentation is in `wit/`")]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "policy",
    // What the host hands over is borrowed: a request's texts are lowered into
    // the component from where they lie. What goes both ways, as a key does, is
    // one owned type and not two that look alike.
    ownership: Borrowing { duplicate_if_necessary: false },
    additional_derives: [PartialEq],
});

pub use self::{
    exports::wardkey::policy::{authorizer, catalogue, explain, lifecycle},
    wardkey::policy::types::*,
};
