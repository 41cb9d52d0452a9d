//! Takes the shim out of a component that `wit-component` has made.
//!
//! A function that hands over texts is lowered with the memory of the module
//! that calls it, so after that module is instantiated; and a module wants its
//! imports before. `wit-component` breaks the circle by two modules beside the
//! policy: a shim, whose functions call through a table, and a fixup, which
//! puts the lowered functions into that table at last.
//!
//! All of them are instantiated for each request. But the policy's module has
//! a table of its own, with room for two more, and can call through it itself.
//! Without the shim, a fresh instance takes 0.5 µs less.

use std::{error::Error as StdError, fmt};

use anyhow::{Context as _, Result, ensure};
use wasm_encoder::{
    CodeSection, Component, ComponentAliasSection, ConstExpr, ElementSection, Elements, ExportKind,
    ExportSection, Function, FunctionSection, ImportSection, InstanceSection, Module,
    ModuleSection, RawSection, TableSection, TableType,
    reencode::{Error, Reencode, ReencodeComponent, component_utils},
};
use wasmparser::{
    ComponentAlias, ComponentAliasSectionReader, CustomSectionReader, ElementItems, ElementKind,
    ExternalKind, Instance, Parser, Payload, TypeRef, Validator,
};

// The core modules and core instances of a component, in the order in which
// `wit-component` makes them. Between the shim and the policy is what bundles
// the shim's functions as the policy's imports.
const POLICY: u32 = 0;
const SHIM: u32 = 1;
const FIXUP: u32 = 2;
const SHIM_INSTANCE: u32 = 0;
const BUNDLE_INSTANCE: u32 = 1;
const POLICY_INSTANCE: u32 = 2;

/// What the fixup knows the table as.
const TABLE: &str = "$imports";

/// Returns the component without its shim.
pub(crate) fn without_shim(component: &[u8]) -> Result<Vec<u8>> {
    let mut rewriter = Rewriter::default();
    let mut rewritten = Component::new();
    rewriter.parse_component(&mut rewritten, Parser::new(0), component)?;
    let rewritten = rewritten.finish();
    // Were `wit-component` to make components of another form, nothing would
    // fit any more.
    Validator::new().validate_all(&rewritten).context("the rewritten component is invalid")?;
    Ok(rewritten)
}

#[derive(Default)]
struct Rewriter {
    modules: u32,
    instances: u32,
    /// The names of the policy's imports, in order.
    imports: Vec<String>,
    /// The policy's table with a slot for each import, and the first of them.
    table: Option<(TableType, i32)>,
}

/// The component is not as it is known.
#[derive(Debug)]
struct Unexpected(anyhow::Error);

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl StdError for Unexpected {}

fn unexpected(err: anyhow::Error) -> Error<Unexpected> {
    Error::UserError(Unexpected(err))
}

impl Reencode for Rewriter {
    type Error = Unexpected;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Unexpected>> {
        // The shim's were the first.
        Ok(function - self.imports.len() as u32)
    }
}

impl ReencodeComponent for Rewriter {
    fn module_index(&mut self, module: u32) -> u32 {
        if module == FIXUP { 1 } else { 0 }
    }

    fn instance_index(&mut self, instance: u32) -> u32 {
        // What was the shim's, the table, is the policy's.
        instance.saturating_sub(POLICY_INSTANCE)
    }

    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        _: Parser,
        module: &[u8],
    ) -> Result<(), Error<Unexpected>> {
        let number = self.modules;
        self.modules += 1;
        let module = match number {
            POLICY => self.policy(module),
            SHIM => return Ok(()),
            _ => self.fixup(module),
        };
        component.section(&ModuleSection(&module.map_err(unexpected)?));
        Ok(())
    }

    fn parse_instance(
        &mut self,
        instances: &mut InstanceSection,
        instance: Instance<'_>,
    ) -> Result<(), Error<Unexpected>> {
        let number = self.instances;
        self.instances += 1;
        match (number, instance) {
            (SHIM_INSTANCE, _) => {}
            (BUNDLE_INSTANCE, Instance::FromExports(exports)) => {
                // The shim's functions, and so the slots, have the order of the
                // policy's imports.
                let bundled = exports.iter().map(|export| (export.name, export.index));
                let imports = self.imports.iter().map(String::as_str).zip(0..);
                if !bundled.eq(imports) {
                    return Err(unexpected(anyhow::anyhow!("the imports have another order")));
                }
            }
            (POLICY_INSTANCE, _) => {
                instances.instantiate::<_, &str>(POLICY, []);
            }
            (_, instance) => component_utils::parse_instance(self, instances, instance)?,
        }
        Ok(())
    }

    fn parse_component_alias_section(
        &mut self,
        aliases: &mut ComponentAliasSection,
        section: ComponentAliasSectionReader<'_>,
    ) -> Result<(), Error<Unexpected>> {
        for alias in section {
            let alias = alias?;
            let is_shim_function = matches!(
                alias,
                ComponentAlias::CoreInstanceExport {
                    kind: ExternalKind::Func,
                    instance_index: SHIM_INSTANCE,
                    ..
                }
            );
            if !is_shim_function {
                aliases.alias(self.component_alias(alias)?);
            }
        }
        Ok(())
    }

    fn parse_component_custom_section(
        &mut self,
        _: &mut Component,
        _: CustomSectionReader<'_>,
    ) -> Result<(), Error<Unexpected>> {
        // Names of what is no longer there, for debuggers.
        Ok(())
    }
}

impl Rewriter {
    /// Returns the policy's module with a function in place of each import,
    /// which calls what the fixup will have put into the table.
    fn policy(&mut self, module: &[u8]) -> Result<Module> {
        let mut rewritten = Module::new();
        let mut parameters = Vec::new();
        let mut types = Vec::new();
        let mut code = CodeSection::new();
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload?;
            match &payload {
                Payload::ImportSection(imports) => {
                    for import in imports.clone().into_imports() {
                        let import = import?;
                        let TypeRef::Func(ty) = import.ty else {
                            anyhow::bail!("`{}` is no function", import.name);
                        };
                        self.imports.push(import.name.to_owned());
                        types.push(ty);
                    }
                    continue;
                }
                Payload::FunctionSection(functions) => {
                    let mut section = FunctionSection::new();
                    for &ty in &types {
                        section.function(ty);
                    }
                    for ty in functions.clone() {
                        section.function(ty?);
                    }
                    rewritten.section(&section);
                    continue;
                }
                Payload::TableSection(tables) => {
                    ensure!(tables.count() == 1, "the policy has not one table");
                    for table in tables.clone() {
                        let mut ty = TableType::try_from(table?.ty)?;
                        let first_slot = i32::try_from(ty.minimum)?;
                        ty.minimum += types.len() as u64;
                        ty.maximum = Some(ty.minimum);
                        rewritten.section(TableSection::new().table(ty));
                        self.table = Some((ty, first_slot));
                    }
                    continue;
                }
                Payload::ExportSection(exports) => {
                    let mut section = ExportSection::new();
                    for export in exports.clone() {
                        let export = export?;
                        section.export(export.name, export.kind.into(), export.index);
                    }
                    rewritten.section(section.export(TABLE, ExportKind::Table, 0));
                    continue;
                }
                Payload::CodeSectionStart { .. } => {
                    let (_, first_slot) = self.table.context("the policy has no table")?;
                    for (&ty, slot) in types.iter().zip(first_slot..) {
                        code.function(&detour(parameters[ty as usize], ty, slot));
                    }
                    continue;
                }
                Payload::CodeSectionEntry(body) => {
                    code.raw(&module[body.range()]);
                    continue;
                }
                Payload::TypeSection(section) => {
                    for ty in section.clone().into_iter_err_on_gc_types() {
                        parameters.push(ty?.params().len() as u32);
                    }
                }
                Payload::DataSection(_) => {
                    rewritten.section(&code);
                }
                _ => {}
            }
            if let Some((id, range)) = payload.as_section() {
                rewritten.section(&RawSection { id, data: &module[range] });
            }
        }
        Ok(rewritten)
    }

    /// Returns the fixup's module with the policy's table in place of the shim's.
    fn fixup(&self, module: &[u8]) -> Result<Module> {
        let (table, first_slot) = self.table.context("the policy has no table")?;
        let mut rewritten = Module::new();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(imports) => {
                    let mut section = ImportSection::new();
                    for import in imports.into_imports() {
                        let import = import?;
                        match import.ty {
                            TypeRef::Table(_) => section.import(import.module, import.name, table),
                            ty => section.import(
                                import.module,
                                import.name,
                                wasm_encoder::EntityType::try_from(ty)?,
                            ),
                        };
                    }
                    rewritten.section(&section);
                }
                Payload::ElementSection(elements) => {
                    let mut section = ElementSection::new();
                    for element in elements {
                        let element = element?;
                        let (ElementKind::Active { .. }, ElementItems::Functions(functions)) =
                            (element.kind, element.items)
                        else {
                            anyhow::bail!("the fixup puts no functions into the table");
                        };
                        let functions = functions.into_iter().collect::<Result<Vec<_>, _>>()?;
                        section.active(
                            None,
                            &ConstExpr::i32_const(first_slot),
                            Elements::Functions(functions.into()),
                        );
                    }
                    rewritten.section(&section);
                }
                payload => {
                    if let Some((id, range)) = payload.as_section() {
                        rewritten.section(&RawSection { id, data: &module[range] });
                    }
                }
            }
        }
        Ok(rewritten)
    }
}

/// Returns a function that hands its arguments to the one in a slot of the
/// table.
fn detour(parameters: u32, ty: u32, slot: i32) -> Function {
    let mut function = Function::new([]);
    let mut instructions = function.instructions();
    for parameter in 0..parameters {
        instructions.local_get(parameter);
    }
    instructions.i32_const(slot).call_indirect(0, ty).end();
    function
}
