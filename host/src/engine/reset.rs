//! Putting an instance back into the state in which it began.
//!
//! To make an instance and to throw it away takes longer than the rules do. So the host
//! adds to a component a function that puts its instance back: the next request then
//! finds what it would find in a new one. It does so only where it knows all that an
//! instance may keep. Other components stay as they are, and every request gets a new
//! instance.
//!
//! The function takes the place of the component's own post-return function: the one
//! that a host calls once it has lifted an answer, for the component to free what it
//! has handed over. Nothing needs to be freed that is filled anew. A call of its own
//! would cost as much again as the function itself (measured 2026-11 by the benchmark
//! `gate-cost`).
//!
//! What an instance of WebAssembly 2.0 keeps between two calls (in the specification:
//! Runtime Structure, Store), and what is done about it:
//!
//! - its memory: filled as it was at first. Memory cannot shrink: an instance whose
//!   memory has grown is not used again, which the engine sees to. A component of which
//!   several modules write to memory as they begin is left as it is;
//! - its mutable globals: set to what they were at first;
//! - its tables, and which segments it has dropped: a component with an instruction
//!   that changes them is left as it is;
//! - resources, and whatever else the component model gives it to hold: a component
//!   that does more with its functions than to lift and to lower them is left as it is.
//!
//! A guest that puts itself back would not do: it could forget to, or pretend to. What
//! is added here is the host's, and no part of what a policy's digest is of.

use std::{collections::BTreeSet, ops::Range};

use wasm_encoder::{
    Component, ConstExpr, Encode, ExportSection, Function, Instruction, Module, ModuleSection,
    RawSection, SectionId,
    reencode::{Reencode as _, RoundtripReencoder},
};
use wasmparser::{
    BinaryReader, BinaryReaderError, CanonicalFunction, CanonicalOption, ComponentAlias, DataKind,
    DataSectionReader, ExportSectionReader, ExternalKind, Instance, Operator, Parser, Payload,
    TypeRef, Validator, WasmFeatures,
};

use super::{KEPT_MEMORY_BYTES, bounds};

const PAGE_BYTES: u64 = 64 * 1024;

/// Returns the component with the function in the place of its post-return functions:
/// after each call that was answered, its instance is as it was at first, unless its
/// memory has grown.
///
/// # Errors
///
/// [`Unresettable`]: it cannot have one. Also for what is no valid component.
pub(super) fn with_reset(bytes: &[u8]) -> Result<Vec<u8>, Unresettable> {
    // Whoever adds to these has to look through what later versions let an instance
    // keep, and which of their instructions change it.
    let known = WasmFeatures::WASM2 | WasmFeatures::COMPONENT_MODEL;
    let types = Validator::new_with_features(known).validate_all(bytes)?;
    let parts = Parts::of(bytes)?;
    if types.as_ref().module_count() as usize != parts.modules.len() {
        // Some come from elsewhere.
        return Err(Unresettable::Composed);
    }
    let (keeper, kept) = parts.keeper(bytes)?;
    let instance = parts.instance_of(keeper).ok_or(Unresettable::Composed)?;
    let post_returns = parts.post_returns_of(instance)?;
    let place = &parts.modules[keeper];

    let mut rewritten = Component::new();
    for (id, range) in &parts.sections {
        if range == place {
            let module = kept.with_function(&bytes[place.clone()], &post_returns)?;
            rewritten.section(&ModuleSection(&module));
        } else {
            rewritten.section(&RawSection { id: *id, data: &bytes[range.clone()] });
        }
    }
    let rewritten = rewritten.finish();
    // It is compiled in place of what was checked.
    Validator::new_with_features(known)
        .validate_all(&rewritten)
        .map_err(|_| Unresettable::Unfit)?;
    bounds::check(&rewritten).map_err(|_| Unresettable::Unfit)?;
    Ok(rewritten)
}

/// Why a component cannot have the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresettable {
    #[error("it needs more than WebAssembly 2.0")]
    Unknown,
    #[error("its memory begins with more than {KEPT_MEMORY_BYTES} bytes")]
    LargeMemory,
    #[error("it has instructions that change a table or drop a segment")]
    Changes,
    #[error("it has a start function")]
    Start,
    #[error("a global or segment of it depends on more than a number")]
    Computed,
    #[error("it has resources")]
    Resources,
    #[error("it is made of several modules, and not one of them alone keeps something")]
    Composed,
    #[error("it keeps nothing that could be put back")]
    Nothing,
    #[error("not each of its functions has a post-return function, for nothing else")]
    NoPostReturn,
    #[error("with the function that puts it back it would be beyond a limit")]
    Unfit,
}

impl From<BinaryReaderError> for Unresettable {
    fn from(_: BinaryReaderError) -> Self {
        Self::Unknown
    }
}

/// The sections of a component.
#[derive(Default)]
struct Parts<'a> {
    /// All but custom ones: their number and where they lie.
    sections: Vec<(u8, Range<usize>)>,
    /// Where the core modules lie.
    modules: Vec<Range<usize>>,
    /// Which core module each core instance is one of. `None`: it bundles what others
    /// export.
    instances: Vec<Option<u32>>,
    /// Which export of which core instance each core function is. `None`: it is lowered.
    functions: Vec<Option<(u32, &'a str)>>,
    /// Those that are called once an answer was lifted, by their number; one for each
    /// function that is lifted. `None`: it has none.
    post_returns: Vec<Option<u32>>,
    /// Those that are called otherwise, or may be.
    otherwise: Vec<u32>,
    /// Core instances of which others get all that they export.
    shared: Vec<u32>,
}

impl<'a> Parts<'a> {
    /// Returns the parts of a component that does nothing with core instances but to
    /// lift and to lower their functions.
    fn of(bytes: &'a [u8]) -> Result<Self, Unresettable> {
        let mut parts = Self::default();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            match &payload {
                Payload::Version { .. } => {
                    depth += 1;
                    continue;
                }
                Payload::End(_) => {
                    depth -= 1;
                    continue;
                }
                Payload::ModuleSection { .. }
                | Payload::InstanceSection(_)
                | Payload::ComponentCanonicalSection(_)
                | Payload::ComponentStartSection { .. }
                    if depth > 1 =>
                {
                    // What lies in it has instances of its own.
                    return Err(Unresettable::Composed);
                }
                _ if depth > 1 => continue,
                // Not to be met: start functions of components need values, which are
                // not among the known features.
                Payload::ComponentStartSection { .. } => return Err(Unresettable::Start),
                Payload::CustomSection(_) => continue,
                Payload::ModuleSection { unchecked_range, .. } => {
                    parts.modules.push(unchecked_range.clone());
                }
                Payload::InstanceSection(instances) => {
                    for instance in instances.clone() {
                        parts.note_instance(&instance?);
                    }
                }
                Payload::ComponentAliasSection(aliases) => {
                    for alias in aliases.clone() {
                        if let ComponentAlias::CoreInstanceExport {
                            kind: ExternalKind::Func,
                            instance_index,
                            name,
                        } = alias?
                        {
                            parts.functions.push(Some((instance_index, name)));
                        }
                    }
                }
                Payload::ComponentCanonicalSection(functions) => {
                    for function in functions.clone() {
                        parts.note_function(function?)?;
                    }
                }
                _ => {}
            }
            if let Some(section) = payload.as_section() {
                parts.sections.push(section);
            }
        }
        Ok(parts)
    }

    fn note_instance(&mut self, instance: &Instance<'_>) {
        self.instances.push(match instance {
            Instance::Instantiate { module_index, args } => {
                self.shared.extend(args.iter().map(|arg| arg.index));
                Some(*module_index)
            }
            Instance::FromExports(exports) => {
                let functions = exports.iter().filter(|export| export.kind == ExternalKind::Func);
                self.otherwise.extend(functions.map(|export| export.index));
                None
            }
        });
    }

    fn note_function(&mut self, function: CanonicalFunction) -> Result<(), Unresettable> {
        let options = match function {
            CanonicalFunction::Lift { core_func_index, options, .. } => {
                self.otherwise.push(core_func_index);
                self.post_returns.push(options.iter().find_map(|option| match option {
                    CanonicalOption::PostReturn(function) => Some(*function),
                    _ => None,
                }));
                options
            }
            CanonicalFunction::Lower { options, .. } => {
                self.functions.push(None);
                options
            }
            _ => return Err(Unresettable::Resources),
        };
        self.otherwise.extend(options.iter().filter_map(|option| match option {
            CanonicalOption::Realloc(function) | CanonicalOption::Callback(function) => {
                Some(*function)
            }
            _ => None,
        }));
        Ok(())
    }

    /// Returns what a core instance exports its post-return functions as, if each
    /// function of the component has one of them, and they are called as nothing else.
    fn post_returns_of(&self, instance: u32) -> Result<BTreeSet<&'a str>, Unresettable> {
        let export = |function: u32| self.functions.get(function as usize).copied().flatten();
        let post_return = |function: &Option<u32>| match export((*function)?) {
            Some((of, name)) if of == instance => Some(name),
            _ => None,
        };
        let names: Option<BTreeSet<&str>> = self.post_returns.iter().map(post_return).collect();
        let names = names.ok_or(Unresettable::NoPostReturn)?;
        let is_one = |function: &u32| {
            export(*function).is_some_and(|(of, name)| of == instance && names.contains(name))
        };
        if self.otherwise.iter().any(is_one) || self.shared.contains(&instance) {
            return Err(Unresettable::NoPostReturn);
        }
        Ok(names)
    }

    /// Returns the one module that keeps something, by its number.
    fn keeper(&self, bytes: &'a [u8]) -> Result<(usize, Kept<'a>), Unresettable> {
        let mut keeper = None;
        for (number, range) in self.modules.iter().enumerate() {
            let kept = Kept::by(&bytes[range.clone()])?;
            // One that writes to another's memory as it begins is as good as a keeper.
            if kept.memory_pages.is_some() || !kept.globals.is_empty() || !kept.active.is_empty() {
                // Of several, each could need what another puts back.
                if keeper.is_some() {
                    return Err(Unresettable::Composed);
                }
                keeper = Some((number, kept));
            }
        }
        keeper.ok_or(Unresettable::Nothing)
    }

    /// Returns the core instance of a module that is instantiated once.
    fn instance_of(&self, module: usize) -> Option<u32> {
        let mut instances =
            (0..).zip(&self.instances).filter(|(_, of)| of.is_some_and(|of| of as usize == module));
        let (instance, _) = instances.next()?;
        if instances.next().is_some() { None } else { Some(instance) }
    }
}

/// What an instance of a module keeps between two calls, and what there is to count of
/// the module.
#[derive(Default)]
struct Kept<'a> {
    /// The memory that it begins with, if it has one.
    memory_pages: Option<u64>,
    /// Its mutable globals, and what they begin with.
    globals: Vec<(u32, ConstExpr)>,
    /// What is written to memory as it begins, in this order, and where.
    active: Vec<(u32, &'a [u8])>,
    /// The type of each function, imported ones first.
    functions: Vec<u32>,
    segments: u32,
}

impl<'a> Kept<'a> {
    /// Fails if it is more than can be put back.
    fn by(module: &'a [u8]) -> Result<Self, Unresettable> {
        let mut kept = Self::default();
        let mut globals = 0;
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import?.ty {
                            TypeRef::Func(of) => kept.functions.push(of),
                            TypeRef::Global(_) => globals += 1,
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(functions) => {
                    for function in functions {
                        kept.functions.push(function?);
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        let pages = memory?.initial;
                        if pages * PAGE_BYTES > KEPT_MEMORY_BYTES as u64 {
                            // Slower to fill than to give back to the system.
                            return Err(Unresettable::LargeMemory);
                        }
                        kept.memory_pages = Some(pages);
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        let global = global?;
                        if global.ty.mutable {
                            kept.globals.push((globals, number(&global.init_expr)?));
                        }
                        globals += 1;
                    }
                }
                // It may do anything, once.
                Payload::StartSection { .. } => return Err(Unresettable::Start),
                Payload::CodeSectionEntry(body) => {
                    let mut operators = body.get_operators_reader()?;
                    while !operators.eof() {
                        if changes_for_good(&operators.read()?) {
                            return Err(Unresettable::Changes);
                        }
                    }
                }
                Payload::DataSection(segments) => {
                    kept.segments = segments.count();
                    kept.active = active(segments)?;
                }
                _ => {}
            }
        }
        Ok(kept)
    }

    /// Returns the memory that it begins with, without the zeros around it, and where
    /// that lies.
    fn image(&self) -> Result<(usize, Vec<u8>), Unresettable> {
        let bytes = self.memory_pages.unwrap_or_default() * PAGE_BYTES;
        // At most `KEPT_MEMORY_BYTES`.
        let mut image = vec![0; bytes as usize];
        for &(start, data) in &self.active {
            let start = start as usize;
            // Otherwise it has another's memory, or cannot be instantiated at all.
            let place = image.get_mut(start..start + data.len()).ok_or(Unresettable::Composed)?;
            place.copy_from_slice(data);
        }
        let end = image.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        image.truncate(end);
        let start = image.iter().position(|byte| *byte != 0).unwrap_or_default();
        Ok((start, image.split_off(start)))
    }

    /// Returns the module with the function that puts back what it keeps, exported in the
    /// place of these.
    ///
    /// What it needs stands behind all that there is, so that nothing is counted anew:
    /// the function, once for each type that those have, and a segment to be copied from.
    fn with_function(
        &self,
        module: &[u8],
        post_returns: &BTreeSet<&str>,
    ) -> Result<Module, Unresettable> {
        const FUNCTION: u8 = SectionId::Function as u8;
        const DATA_COUNT: u8 = SectionId::DataCount as u8;
        const CODE: u8 = SectionId::Code as u8;
        const DATA: u8 = SectionId::Data as u8;

        let (start, image) = self.image()?;
        let types = self.types_of(module, post_returns)?;
        let mut rewritten = Module::new();
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload?;
            if let Payload::ExportSection(exports) = payload {
                rewritten.section(&self.exports(exports, post_returns, &types)?);
                continue;
            }
            let Some((id, range)) = payload.as_section() else { continue };
            let section = &module[range];
            let added = match id {
                FUNCTION => types.iter().map(encoded).collect(),
                // Written anew before the code.
                DATA_COUNT if !image.is_empty() => continue,
                CODE => {
                    if !image.is_empty() {
                        let data = encoded(self.segments + 1);
                        rewritten.section(&RawSection { id: DATA_COUNT, data: &data });
                    }
                    vec![encoded(self.function(start, image.len())); types.len()]
                }
                DATA if !image.is_empty() => {
                    // A passive one.
                    let mut segment = vec![1];
                    image.as_slice().encode(&mut segment);
                    vec![segment]
                }
                _ => Vec::new(),
            };
            let longer = with(section, &added)?;
            let data = longer.as_deref().unwrap_or(section);
            rewritten.section(&RawSection { id, data });
        }
        Ok(rewritten)
    }

    /// Returns the types that these exports have.
    fn types_of(
        &self,
        module: &[u8],
        post_returns: &BTreeSet<&str>,
    ) -> Result<Vec<u32>, Unresettable> {
        let mut types = BTreeSet::new();
        for payload in Parser::new(0).parse_all(module) {
            let Payload::ExportSection(exports) = payload? else { continue };
            for export in exports {
                let export = export?;
                if post_returns.contains(export.name) {
                    types.extend(self.functions.get(export.index as usize));
                }
            }
        }
        Ok(types.into_iter().collect())
    }

    /// Returns the exports, with the added functions of these types in the place of those.
    fn exports(
        &self,
        exports: ExportSectionReader<'_>,
        post_returns: &BTreeSet<&str>,
        types: &[u32],
    ) -> Result<ExportSection, Unresettable> {
        let mut rewritten = ExportSection::new();
        for export in exports {
            let export = export?;
            let index = match self.functions.get(export.index as usize) {
                Some(of) if post_returns.contains(export.name) => {
                    let place = types.iter().position(|one| one == of);
                    // Less than there are functions by far.
                    (self.functions.len() + place.ok_or(Unresettable::Unfit)?) as u32
                }
                _ => export.index,
            };
            rewritten.export(export.name, export.kind.into(), index);
        }
        Ok(rewritten)
    }

    /// Returns the function. The memory's image lies at `start`, and is the last segment.
    fn function(&self, start: usize, len: usize) -> Function {
        // All addresses are within `KEPT_MEMORY_BYTES`.
        let number = |number: usize| Instruction::I32Const(number as i32);
        let mut function = Function::new([]);
        for (global, initial) in &self.globals {
            let mut bytes = encoded(initial);
            // The constant without its end.
            bytes.pop();
            function.raw(bytes).instruction(&Instruction::GlobalSet(*global));
        }
        let end = (self.memory_pages.unwrap_or_default() * PAGE_BYTES) as usize;
        for zeros in [0..start, start + len..end] {
            if !zeros.is_empty() {
                function
                    .instruction(&number(zeros.start))
                    .instruction(&number(0))
                    .instruction(&number(zeros.len()))
                    .instruction(&Instruction::MemoryFill(0));
            }
        }
        if len > 0 {
            function
                .instruction(&number(start))
                .instruction(&number(0))
                .instruction(&number(len))
                .instruction(&Instruction::MemoryInit { mem: 0, data_index: self.segments });
        }
        function.instruction(&Instruction::End);
        function
    }
}

/// Returns a constant that is a number. Others depend on something.
fn number(expression: &wasmparser::ConstExpr<'_>) -> Result<ConstExpr, Unresettable> {
    let mut operators = expression.get_operators_reader();
    let is_number = matches!(
        operators.read()?,
        Operator::I32Const { .. }
            | Operator::I64Const { .. }
            | Operator::F32Const { .. }
            | Operator::F64Const { .. }
    );
    let ends = matches!(operators.read()?, Operator::End) && operators.eof();
    if !is_number || !ends {
        return Err(Unresettable::Computed);
    }
    RoundtripReencoder.const_expr(expression.clone()).map_err(|_| Unresettable::Computed)
}

/// Returns the segments that are written to memory at the start.
fn active(section: DataSectionReader<'_>) -> Result<Vec<(u32, &[u8])>, Unresettable> {
    let mut segments = Vec::new();
    for segment in section {
        let segment = segment?;
        if let DataKind::Active { offset_expr, .. } = segment.kind {
            number(&offset_expr)?;
            let Operator::I32Const { value } = offset_expr.get_operators_reader().read()? else {
                return Err(Unresettable::Computed);
            };
            segments.push((value.cast_unsigned(), segment.data));
        }
    }
    Ok(segments)
}

/// Tells whether an instruction of WebAssembly 2.0 changes something that is not
/// put back.
fn changes_for_good(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::TableSet { .. }
            | Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. }
            | Operator::ElemDrop { .. }
            | Operator::DataDrop { .. }
    )
}

fn encoded(what: impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    what.encode(&mut bytes);
    bytes
}

/// Returns a section that is a list, with more behind it; `None`: there is no more.
fn with(section: &[u8], added: &[Vec<u8>]) -> Result<Option<Vec<u8>>, BinaryReaderError> {
    if added.is_empty() {
        return Ok(None);
    }
    let mut reader = BinaryReader::new(section, 0);
    // What was read has fewer by far than could be counted.
    let count = reader.read_var_u32()?.saturating_add(added.len() as u32);
    let mut longer = encoded(count);
    longer.extend_from_slice(&section[reader.original_position()..]);
    longer.extend(added.iter().flatten());
    Ok(Some(longer))
}

#[cfg(test)]
mod tests {
    use wasmtime::{
        Engine, Store,
        component::{Component, Linker},
    };

    use super::*;

    const KEEPS: &str = "(memory 1) (global $g (mut i32) (i32.const 0))";
    const TABLE: &str = "(table 4 funcref) (elem $e func) (data $d \"x\")";

    /// Returns a component around one module, of which one function is lifted.
    fn around(module: &str) -> String {
        around_lifting(module, LIFTED)
    }

    fn around_lifting(module: &str, lifted: &str) -> String {
        format!(
            "(component (core module $m {module} (func (export \"f\")) (func (export \"p\")))
               (core instance $i (instantiate $m)) {lifted})"
        )
    }

    const LIFTED: &str =
        r#"(func (export "f") (canon lift (core func $i "f") (post-return (func $i "p"))))"#;

    #[track_caller]
    fn check(component: &str, expected: Option<Unresettable>) {
        let bytes = wat::parse_str(component).unwrap();
        assert_eq!(with_reset(&bytes).err(), expected, "{component}");
    }

    /// A function with these instructions, beside what there is to change.
    #[track_caller]
    fn check_code(code: &str, expected: Option<Unresettable>) {
        check(&around(&format!("{KEEPS} {TABLE} (func $code {code})")), expected);
    }

    #[test]
    fn a_component_with_an_instruction_that_is_not_undone_is_left_as_it_is() {
        let changes = Some(Unresettable::Changes);
        check_code("(table.set (i32.const 0) (ref.null func))", changes);
        check_code("(drop (table.grow (ref.null func) (i32.const 1)))", changes);
        check_code("(table.fill (i32.const 0) (ref.null func) (i32.const 1))", changes);
        check_code("(table.copy (i32.const 0) (i32.const 1) (i32.const 1))", changes);
        check_code("(table.init $e (i32.const 0) (i32.const 0) (i32.const 0))", changes);
        check_code("(elem.drop $e)", changes);
        check_code("(data.drop $d)", changes);
        check_code("(return_call $code)", Some(Unresettable::Unknown));

        check_code("(memory.init $d (i32.const 0) (i32.const 0) (i32.const 1))", None);
        check_code("(memory.fill (i32.const 0) (i32.const 1) (i32.const 1))", None);
        check_code("(drop (memory.grow (i32.const 1)))", None);
        check_code("(drop (table.get (i32.const 0)))", None);
        check_code("(global.set $g (i32.const 1))", None);
        check_code("(i32.store (i32.const 0) (i32.const 1))", None);
    }

    #[test]
    fn a_component_of_which_not_all_is_known_is_left_as_it_is() {
        let computed = Some(Unresettable::Computed);
        check(&around(KEEPS), None);
        check(&around("(global (mut i32) (i32.const 0))"), None);
        check(&around("(memory 2)"), None);
        check(&around("(memory 3)"), Some(Unresettable::LargeMemory));
        check(&around(""), Some(Unresettable::Nothing));
        check(&around("(global i32 (i32.const 0))"), Some(Unresettable::Nothing));
        check(&around("(memory 1) (func $s) (start $s)"), Some(Unresettable::Start));
        check(&around("(memory 1) (memory 1)"), Some(Unresettable::Unknown));
        check(&around("(memory i64 1)"), Some(Unresettable::Unknown));
        check(&around("(global (mut funcref) (ref.null func))"), computed);
        let sum = "(i32.add (i32.const 1) (i32.const 1))";
        check(&around(&format!("(global (mut i32) {sum})")), Some(Unresettable::Unknown));
        let twice = "(core module $m (memory 1) (global (export \"g\") i32 (i32.const 8)))
            (core instance $a (instantiate $m))";
        check(
            &format!("(component {twice} (core instance (instantiate $m)))"),
            Some(Unresettable::Composed),
        );
        let from_another = "(core module $n (import \"a\" \"g\" (global i32))
            (global (mut i32) (global.get 0)))
            (core instance (instantiate $n (with \"a\" (instance $a))))";
        check(&format!("(component {twice} {from_another})"), computed);
        let at_another = "(core module $n (import \"a\" \"g\" (global i32))
            (memory 1) (data (global.get 0) \"x\"))
            (core instance (instantiate $n (with \"a\" (instance $a))))";
        check(&format!("(component {twice} {at_another})"), computed);
        let writes_to_another = "(core module $k (memory (export \"m\") 1) (func (export \"f\")))
            (core module $s (import \"k\" \"m\" (memory 1)) (data (i32.const 7) \"x\"))
            (core instance $k (instantiate $k))
            (core instance (instantiate $s (with \"k\" (instance $k))))";
        check(&format!("(component {writes_to_another})"), Some(Unresettable::Composed));
        let two = "(core module (memory 1)) (core module (memory 1))";
        check(&format!("(component {two})"), Some(Unresettable::Composed));
        let unused = "(component (core module (memory 1) (func (export \"f\"))))";
        check(unused, Some(Unresettable::Composed));
        check("(component (component (core module (memory 1))))", Some(Unresettable::Composed));
        check(
            "(component (type $r (resource (rep i32))) (core func (canon resource.new $r)))",
            Some(Unresettable::Resources),
        );
        check(
            "(component (import \"m\" (core module)) (core module (memory 1)))",
            Some(Unresettable::Composed),
        );
    }

    #[test]
    fn a_component_whose_post_return_functions_are_not_what_they_are_called_is_left_as_it_is() {
        let other = "(core module $o (func (export \"p\"))) (core instance $o (instantiate $o))";
        for more in [
            // One more function, without one.
            r#"(func (export "g") (canon lift (core func $i "f")))"#,
            // With another module's.
            &format!(
                "{other} (func (export \"g\")
                    (canon lift (core func $i \"f\") (post-return (func $o \"p\"))))"
            ),
            // It is called by itself as well, or by another module, under its name or
            // another.
            r#"(func (export "g") (canon lift (core func $i "p") (post-return (func $i "p"))))"#,
            r#"(core instance (export "x" (func $i "p")))"#,
            r#"(core module $n (import "a" "p" (func)))
               (core instance (instantiate $n (with "a" (instance $i))))"#,
        ] {
            let component = around_lifting(KEEPS, &format!("{LIFTED} {more}"));
            check(&component, Some(Unresettable::NoPostReturn));
        }
        // Two functions share one.
        let twice = LIFTED.replace("(export \"f\")", "(export \"g\")");
        check(&around_lifting(KEEPS, &format!("{LIFTED} {twice}")), None);
        check(&around_lifting(KEEPS, ""), None);
    }

    #[test]
    fn a_component_that_would_be_too_large_is_left_as_it_is() {
        let unfit = Some(Unresettable::Unfit);
        // Each takes seven bytes of the function.
        let globals = |count| "(global (mut i32) (i32.const 0))".repeat(count);
        check(&around(&globals(1000)), None);
        check(&around(&globals(60_000)), unfit);
        // However many segments there are, they become one.
        let segments: String =
            (0..20_000).map(|at| format!("(data (i32.const {at}) \"x\")")).collect();
        check(&around(&format!("(memory 1) {segments}")), None);
    }

    /// Two segments lie over each other, one is empty, one ends the memory, and one
    /// that is passive stands between them.
    const STATE: &str = r#"(component
        (core module $m
            (memory (export "memory") 1 4)
            (data (i32.const 100) "abcdef")
            (data $passive "never")
            (data (i32.const 103) "DEFghi")
            (data (i32.const 9) "")
            (data (i32.const 65535) "!")
            (global $a (mut i32) (i32.const -7))
            (global $fixed i64 (i64.const 3))
            (global $b (mut i64) (i64.const 1234567890123))
            (global $c (mut f32) (f32.const 1.5))
            (global $d (mut f64) (f64.const nan:0x123))
            ;; FNV-1a of the memory, and then of the globals.
            (func $sum (export "sum") (result i64)
                (local $at i32) (local $sum i64)
                (local.set $sum (i64.const 0xcbf29ce484222325))
                (loop $on
                    (local.set $sum (i64.mul (i64.const 0x100000001b3)
                        (i64.xor (local.get $sum) (i64.load8_u (local.get $at)))))
                    (local.set $at (i32.add (local.get $at) (i32.const 1)))
                    (br_if $on (i32.lt_u (local.get $at) (i32.const 65536))))
                (local.set $sum (i64.mul (i64.const 0x100000001b3)
                    (i64.xor (local.get $sum) (i64.extend_i32_s (global.get $a)))))
                (local.set $sum (i64.mul (i64.const 0x100000001b3)
                    (i64.xor (local.get $sum) (global.get $b))))
                (local.set $sum (i64.mul (i64.const 0x100000001b3)
                    (i64.xor (local.get $sum)
                        (i64.extend_i32_s (i32.reinterpret_f32 (global.get $c))))))
                (i64.xor (local.get $sum) (i64.reinterpret_f64 (global.get $d))))
            ;; Writes to one of its globals, or a byte to an address.
            (func $change (export "change") (param $what i32)
                (if (i32.eq (local.get $what) (i32.const -1))
                    (then (global.set $a (i32.const 1)) (return)))
                (if (i32.eq (local.get $what) (i32.const -2))
                    (then (global.set $b (i64.const 1)) (return)))
                (if (i32.eq (local.get $what) (i32.const -3))
                    (then (global.set $c (f32.const 1)) (return)))
                (if (i32.eq (local.get $what) (i32.const -4))
                    (then (global.set $d (f64.const 1)) (return)))
                (i32.store8 (local.get $what)
                    (i32.xor (i32.load8_u (local.get $what)) (i32.const 0x55))))
            (func (export "changed") (param $what i32) (result i64)
                (call $change (local.get $what)) (call $sum))
            ;; Each of them would be noticed.
            (func (export "after sum") (param i64) (global.set $a (i32.const 2)))
            (func (export "after change") unreachable))
        (core instance $i (instantiate $m))
        (func (export "sum") (result u64)
            (canon lift (core func $i "sum") (post-return (func $i "after sum"))))
        (func (export "changed") (param "what" s32) (result u64)
            (canon lift (core func $i "changed") (post-return (func $i "after sum"))))
        (func (export "change") (param "what" s32)
            (canon lift (core func $i "change") (post-return (func $i "after change")))))"#;

    #[test]
    fn an_instance_is_put_back_to_the_last_byte_and_bit() {
        let bytes = with_reset(&wat::parse_str(STATE).unwrap()).unwrap();
        let engine = Engine::default();
        let component = Component::from_binary(&engine, &bytes).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
        let sum = instance.get_typed_func::<(), (u64,)>(&mut store, "sum").unwrap();
        let changed = instance.get_typed_func::<(i32,), (u64,)>(&mut store, "changed").unwrap();
        let change = instance.get_typed_func::<(i32,), ()>(&mut store, "change").unwrap();

        let at_first = sum.call(&mut store, ()).unwrap();
        let bytes = [0, 9, 99, 100, 102, 103, 105, 106, 108, 109, 4096, 65534, 65535];
        for what in [-1, -2, -3, -4].into_iter().chain(bytes) {
            let then = changed.call(&mut store, (what,)).unwrap();
            assert_ne!(then, at_first, "{what} is not seen");
            assert_eq!(sum.call(&mut store, ()).unwrap(), at_first, "{what} is left");
            change.call(&mut store, (what,)).unwrap();
            assert_eq!(sum.call(&mut store, ()).unwrap(), at_first, "{what} is left");
        }
    }
}
