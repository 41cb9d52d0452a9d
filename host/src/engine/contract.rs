//! The types of `wit/`, as the host sees them. Generated.

#![expect(missing_docs, reason = "written by wasmtime's bindgen; the documentation is in `wit/`")]

wasmtime::component::bindgen!({
    path: "../wit",
    // What the host hands over is borrowed: a request's texts are lowered into
    // the component from where they lie. A key is one owned type all the same, as
    // what goes both ways is: it is lowered from where the cache has it. So the
    // generator is told of a function that returns one, which nobody has.
    inline: "
        package wardkey:host;
        interface cache {
            use wardkey:policy/types@0.1.0.{key};
            cached: func() -> key;
        }
        world host {
            import cache;
            include wardkey:policy/policy@0.1.0;
        }
    ",
    world: "wardkey:host/host",
    ownership: Borrowing { duplicate_if_necessary: false },
    additional_derives: [PartialEq],
});

pub use self::{
    exports::wardkey::policy::{catalogue, explain, lifecycle},
    wardkey::policy::types::*,
};
