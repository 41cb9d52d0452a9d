//! What a component may ask of the compiler.
//!
//! Compiling cannot be interrupted, and what it takes does not follow from the
//! number of bytes: a function of 5 KB can take more than a minute, and a few
//! kilobytes of nested components can stand for more instances than can be counted.
//! So a component is measured before it is compiled, in one walk over its bytes,
//! and what is beyond these limits is refused.
//!
//! Measured 2026-11 by `cargo bench --bench heaviest` on two cores: the heaviest
//! component that was found within these limits takes 11 s of processor time, and
//! the largest 245 MB beside what the host has; the standard policy takes 0.2 s and
//! 14 MB. As tests are compiled it is 13 s. Several limits can be reached at once:
//! by their sum, that is less than 25 s.
//!
//! # Invariants
//!
//! - What is compiled was walked over to the last instruction. Bytes that cannot
//!   be read here are refused here, so that nothing reaches the compiler by being
//!   read in another way.

use wasmparser::{
    BinaryReaderError, BlockType, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, ContType, ElementItems, Encoding, FrameKind,
    FuncType, FunctionBody, ModuleArity, Operator, Parser, Payload, RefType, SubType, TypeRef,
};

use super::{LoadError, MAX_MEMORY_BYTES, MAX_PARTS, MAX_TABLE_ELEMENTS};

/// The custom section that holds a policy's own cases.
const CASES_SECTION: &str = "wardkey:cases";

/// The largest section of cases, in bytes. The standard policy's is a tenth of it.
const MAX_CASES_BYTES: u64 = 256 * 1024;

/// The most core modules and components that a component may be made of. Each
/// takes memory beside its code. The standard policy has eight.
const MAX_NESTED: u64 = 64;

/// The most functions. Each is compiled by itself, and one that is called by
/// address another time to be called from outside. QuickJS has 1 300.
const MAX_FUNCTIONS: u64 = 10_000;

/// The most bytes of one function. QuickJS's largest has 29 KB.
const MAX_FUNCTION_BYTES: u64 = 256 * 1024;

/// The most bytes of all functions. QuickJS has a tenth of it.
const MAX_CODE_BYTES: u64 = 4 * 1024 * 1024;

/// The most bytes of types, imports, exports, and whatever else is neither code
/// nor data. Those of a component that is instantiated more than once count as
/// often, as they are gone through as often: components that instantiate each
/// other twice double them with every few bytes. The standard policy has 13 KB.
const MAX_DECLARED_BYTES: u64 = 256 * 1024;

/// The most functions that are lifted or lowered, and instances, counted in the
/// same way. Each compares or converts a type that may stand for a million others.
/// The standard policy has 27.
const MAX_LINKS: u64 = 100;

/// The most elements of all segments together: each takes kilobytes while it is
/// compiled. As many as a table may have.
const MAX_ELEMENTS: u64 = MAX_TABLE_ELEMENTS as u64;

/// The memory that all modules together may begin with, in bytes: as much as two
/// memories may grow to. Where data lies is laid out before anything runs.
const MAX_BEGIN_MEMORY_BYTES: u64 = 2 * MAX_MEMORY_BYTES as u64;

/// The same for the elements of tables.
const MAX_BEGIN_TABLE_ELEMENTS: u64 = MAX_PARTS as u64 * MAX_TABLE_ELEMENTS as u64;

/// The most loops that may lie in each other: what is carried into the innermost
/// is carried through all of them. The deepest of QuickJS has six.
const MAX_OPEN_LOOPS: u64 = 64;

/// The most steps that compiling one function may take; [`Effort::of`] says what a
/// step is. One function is compiled by one thread, and takes time by the square
/// of them at worst. The interpreter of QuickJS, in one function, has 144 000.
const MAX_FUNCTION_STEPS: u64 = 200_000;

/// The most steps that all functions may take. The standard policy has 240 000 of
/// them, QuickJS 680 000.
const MAX_STEPS: u64 = 2_500_000;

/// The most that the steps of one function times its values may be. QuickJS's
/// interpreter has 9 million.
const MAX_FUNCTION_WORK: u64 = 10_000_000;

/// The same for all functions. The standard policy has 9 million, QuickJS 21.
const MAX_WORK: u64 = 64_000_000;

/// The steps of an instruction that the compiler makes a call of, with checks
/// around it.
const CALL_STEPS: u64 = 32;

/// How many ways may lead to one label until each costs as much again: where they
/// meet, each value is looked for among all of them.
const WAYS_AT_ONCE: u64 = 64;

/// Walks over a component, and returns its cases if it has a section of them.
///
/// # Errors
///
/// [`LoadError`]: it is beyond a limit, or cannot be read.
pub(super) fn check(bytes: &[u8]) -> Result<Option<Vec<u8>>, LoadError> {
    let mut walk = Walk::default();
    for payload in Parser::new(0).parse_all(bytes) {
        walk.meet(payload.map_err(invalid)?)?;
    }
    Ok(walk.cases)
}

fn invalid(err: BinaryReaderError) -> LoadError {
    LoadError::Invalid(wasmtime::Error::new(err))
}

/// Refuses what is beyond its limit.
fn at_most(limit: u64, count: u64, what: &'static str) -> Result<(), LoadError> {
    if count > limit { Err(LoadError::Beyond { what, count, limit }) } else { Ok(()) }
}

/// What was met so far.
#[derive(Default)]
struct Walk {
    nested: u64,
    functions: u64,
    declared_bytes: u64,
    links: u64,
    code_bytes: u64,
    steps: u64,
    work: u64,
    memory_bytes: u64,
    table_elements: u64,
    elements: u64,
    cases: Option<Vec<u8>>,
    /// The component or module that is being read, the innermost last.
    open: Vec<Part>,
}

/// A component or a module.
#[derive(Default)]
struct Part {
    is_component: bool,
    /// What it declares, with what it instantiates.
    declared: Declared,
    /// The components that it can name, by their index. `None`: one that it gets
    /// from elsewhere.
    components: Vec<Option<Declared>>,
    /// The types that a module has.
    types: Vec<SubType>,
    /// The type of each of its functions.
    functions: Vec<u32>,
    /// The next function whose code comes.
    next_body: usize,
}

#[derive(Clone, Copy, Default)]
struct Declared {
    bytes: u64,
    /// What connects its parts: functions that are lifted or lowered, and instances.
    links: u64,
}

impl Declared {
    fn add(&mut self, more: Self) -> Result<(), LoadError> {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.links = self.links.saturating_add(more.links);
        at_most(MAX_DECLARED_BYTES, self.bytes, "bytes of declarations")?;
        at_most(MAX_LINKS, self.links, "links between its parts")
    }
}

impl Walk {
    fn meet(&mut self, payload: Payload<'_>) -> Result<(), LoadError> {
        match &payload {
            Payload::Version { encoding, .. } => {
                self.nested += 1;
                at_most(MAX_NESTED, self.nested, "modules and components in it")?;
                let is_component = *encoding == Encoding::Component;
                self.open.push(Part { is_component, ..Part::default() });
                return Ok(());
            }
            Payload::End(_) => {
                if let (Some(ended), Some(around)) = (self.open.pop(), self.open.last_mut())
                    && ended.is_component
                {
                    around.components.push(Some(ended.declared));
                }
                return Ok(());
            }
            Payload::CustomSection(custom) => {
                if custom.name() == CASES_SECTION {
                    // Linkers put sections of one name behind each other, too.
                    let cases = self.cases.get_or_insert_default();
                    let len = cases.len() + custom.data().len();
                    at_most(MAX_CASES_BYTES, len as u64, "bytes of cases")?;
                    cases.extend_from_slice(custom.data());
                }
                return Ok(());
            }
            Payload::CodeSectionEntry(body) => return self.body(body),
            Payload::CodeSectionStart { .. }
            | Payload::ModuleSection { .. }
            | Payload::ComponentSection { .. } => return Ok(()),
            _ => {}
        }
        let mut declared = Declared::default();
        if let Some((_, range)) = payload.as_section() {
            declared.bytes = range.len() as u64;
        }
        match &payload {
            Payload::FunctionSection(functions) => {
                self.functions += u64::from(functions.count());
                at_most(MAX_FUNCTIONS, self.functions, "functions")?;
            }
            Payload::ComponentCanonicalSection(links) => declared.links = links.count().into(),
            Payload::InstanceSection(links) => declared.links = links.count().into(),
            Payload::ComponentInstanceSection(links) => declared.links = links.count().into(),
            Payload::DataSection(segments) => {
                for segment in segments.clone() {
                    let segment = segment.map_err(invalid)?;
                    declared.bytes -= segment.data.len() as u64;
                }
            }
            Payload::ElementSection(segments) => {
                for segment in segments.clone() {
                    self.elements += match segment.map_err(invalid)?.items {
                        ElementItems::Functions(items) => u64::from(items.count()),
                        ElementItems::Expressions(_, items) => u64::from(items.count()),
                    };
                }
                at_most(MAX_ELEMENTS, self.elements, "elements for tables")?;
            }
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    let memory = memory.map_err(invalid)?;
                    let page_bytes = 1_u64 << memory.page_size_log2.unwrap_or(16).min(16);
                    let bytes = memory.initial.saturating_mul(page_bytes);
                    self.memory_bytes = self.memory_bytes.saturating_add(bytes);
                }
                let what = "bytes of memory to begin with";
                at_most(MAX_BEGIN_MEMORY_BYTES, self.memory_bytes, what)?;
            }
            Payload::TableSection(tables) => {
                for table in tables.clone() {
                    let elements = table.map_err(invalid)?.ty.initial;
                    self.table_elements = self.table_elements.saturating_add(elements);
                }
                let what = "elements of tables to begin with";
                at_most(MAX_BEGIN_TABLE_ELEMENTS, self.table_elements, what)?;
            }
            _ => {}
        }
        self.declared_bytes += declared.bytes;
        at_most(MAX_DECLARED_BYTES, self.declared_bytes, "bytes of declarations")?;
        self.links += declared.links;
        at_most(MAX_LINKS, self.links, "links between its parts")?;
        let Some((part, around)) = self.open.split_last_mut() else { return Ok(()) };
        part.declared.add(declared)?;
        part.meet(&payload, around)
    }

    /// Adds up what compiling a function takes.
    fn body(&mut self, body: &FunctionBody<'_>) -> Result<(), LoadError> {
        let Some(module) = self.open.last_mut() else { return Ok(()) };
        let bytes = body.range().len() as u64;
        at_most(MAX_FUNCTION_BYTES, bytes, "bytes in one function")?;
        self.code_bytes += bytes;
        at_most(MAX_CODE_BYTES, self.code_bytes, "bytes of code")?;
        let ty = module.functions.get(module.next_body).copied().unwrap_or(u32::MAX);
        module.next_body += 1;
        let effort = Effort::of(body, ty, module).map_err(invalid)?;
        at_most(MAX_OPEN_LOOPS, effort.loops, "loops in each other")?;
        at_most(MAX_FUNCTION_STEPS, effort.steps, "steps of compilation in one function")?;
        at_most(MAX_FUNCTION_WORK, effort.work, "steps times values in one function")?;
        self.steps += effort.steps;
        self.work += effort.work;
        at_most(MAX_STEPS, self.steps, "steps of compilation")?;
        at_most(MAX_WORK, self.work, "steps times values")
    }
}

impl Part {
    /// Keeps what is needed to understand what comes: what is called, and what is
    /// instantiated. `around` are the components that this one lies in.
    fn meet(&mut self, payload: &Payload<'_>, around: &[Self]) -> Result<(), LoadError> {
        match payload {
            Payload::TypeSection(types) => {
                for ty in types.clone().into_iter_err_on_gc_types() {
                    self.types.push(SubType::func(ty.map_err(invalid)?, false));
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import.map_err(invalid)?.ty
                    {
                        self.functions.push(ty);
                    }
                }
                self.next_body = self.functions.len();
            }
            Payload::FunctionSection(functions) => {
                for ty in functions.clone() {
                    self.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    if let ComponentTypeRef::Component(_) = import.map_err(invalid)?.ty {
                        self.components.push(None);
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports.clone() {
                    let export = export.map_err(invalid)?;
                    if export.kind == ComponentExternalKind::Component {
                        self.components.push(self.component(export.index));
                    }
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases.clone() {
                    match alias.map_err(invalid)? {
                        ComponentAlias::InstanceExport {
                            kind: ComponentExternalKind::Component,
                            ..
                        } => self.components.push(None),
                        ComponentAlias::Outer {
                            kind: ComponentOuterAliasKind::Component,
                            count,
                            index,
                        } => {
                            let aliased = match count.checked_sub(1) {
                                None => self.component(index),
                                Some(out) => around
                                    .iter()
                                    .nth_back(out as usize)
                                    .and_then(|part| part.component(index)),
                            };
                            self.components.push(aliased);
                        }
                        _ => {}
                    }
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances.clone() {
                    if let ComponentInstance::Instantiate { component_index, .. } =
                        instance.map_err(invalid)?
                    {
                        // One that is handed in may be handed in to itself.
                        let declared = self.component(component_index).ok_or_else(|| {
                            let why = "it instantiates a component that does not lie in it";
                            LoadError::Contract(wasmtime::Error::msg(why))
                        })?;
                        self.declared.add(declared)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn component(&self, index: u32) -> Option<Declared> {
        self.components.get(index as usize).copied().flatten()
    }
}

/// What compiling a function takes.
#[derive(Clone, Copy, Debug, Default)]
struct Effort {
    steps: u64,
    work: u64,
    loops: u64,
}

impl Effort {
    /// Measures a function of a module by its instructions.
    ///
    /// A step is about what a simple instruction takes. A call takes one for each
    /// value that goes in or comes out. Where control parts or joins, each value
    /// that is carried there may be another on each way, locals included: it takes
    /// one for each of them.
    ///
    /// The work is the steps times the values that there are at once: each is held
    /// against the others to find a register for it.
    fn of(body: &FunctionBody<'_>, ty: u32, module: &Part) -> Result<Self, BinaryReaderError> {
        let mut function = Function::new(ty, module);
        for declared in body.get_locals_reader()? {
            function.locals += u64::from(declared?.0);
        }
        let mut steps = function.locals;
        let mut operators = body.get_operators_reader()?;
        // Beyond its limit, how far does not matter.
        while !operators.eof() && steps <= MAX_FUNCTION_STEPS {
            steps = steps.saturating_add(function.meet(&operators.read()?)?);
        }
        let work = steps.saturating_mul(1 + function.locals + function.highest);
        Ok(Self { steps, work, loops: function.most_loops })
    }
}

/// A function, as far as it was read.
struct Function<'a> {
    module: &'a Part,
    locals: u64,
    /// The values on the stack.
    height: u64,
    highest: u64,
    /// Those of the blocks that are open, the innermost last.
    labels: Vec<Label>,
    /// How many of them are loops.
    loops: u64,
    most_loops: u64,
}

struct Label {
    kind: FrameKind,
    block: BlockType,
    /// How high the stack is below the block's parameters.
    below: u64,
    /// How many ways have led here so far.
    ways: u64,
}

impl<'a> Function<'a> {
    fn new(ty: u32, module: &'a Part) -> Self {
        let block = BlockType::FuncType(ty);
        let label = Label { kind: FrameKind::Block, block, below: 0, ways: 0 };
        let mut function = Self {
            module,
            locals: 0,
            height: 0,
            highest: 0,
            labels: vec![label],
            loops: 0,
            most_loops: 0,
        };
        function.locals = function.params(block);
        function
    }

    /// Returns the steps of an instruction.
    fn meet(&mut self, operator: &Operator<'_>) -> Result<u64, BinaryReaderError> {
        let (pops, pushes) = operator.operator_arity(self).unwrap_or_default();
        let carried = u64::from(pops.max(pushes));
        let way = 1 + self.locals;
        let steps = match operator {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::Else => way + carried,
            Operator::Br { relative_depth }
            | Operator::BrIf { relative_depth }
            | Operator::BrOnNull { relative_depth }
            | Operator::BrOnNonNull { relative_depth }
            | Operator::BrOnCast { relative_depth, .. }
            | Operator::BrOnCastFail { relative_depth, .. } => self.way(*relative_depth, carried),
            Operator::TryTable { try_table } => {
                (way + carried).saturating_mul(1 + try_table.catches.len() as u64)
            }
            Operator::BrTable { targets } => {
                let mut all = self.way(targets.default(), carried);
                for target in targets.targets() {
                    all = all.saturating_add(self.way(target?, carried));
                }
                all
            }
            Operator::Call { .. } | Operator::ReturnCall { .. } | Operator::Return => 1 + carried,
            Operator::CallIndirect { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCallRef { .. }
            | Operator::MemoryInit { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryFill { .. }
            | Operator::MemoryGrow { .. }
            | Operator::TableInit { .. }
            | Operator::TableCopy { .. }
            | Operator::TableFill { .. }
            | Operator::TableGrow { .. }
            | Operator::TableGet { .. }
            | Operator::TableSet { .. }
            | Operator::RefFunc { .. } => CALL_STEPS + carried,
            _ => 1,
        };
        self.height = self.height.saturating_sub(pops.into()) + u64::from(pushes);
        match operator {
            Operator::Block { blockty } => self.open(FrameKind::Block, *blockty, pops),
            Operator::Loop { blockty } => self.open(FrameKind::Loop, *blockty, pops),
            Operator::If { blockty } => self.open(FrameKind::If, *blockty, pushes),
            Operator::TryTable { try_table } => self.open(FrameKind::TryTable, try_table.ty, pops),
            Operator::Else => {
                if let Some(&Label { block, below, .. }) = self.labels.last() {
                    self.height = below + self.params(block);
                }
            }
            Operator::End => {
                if let Some(Label { kind, block, below, .. }) = self.labels.pop() {
                    self.loops -= u64::from(kind == FrameKind::Loop);
                    let results = self.block_type_arity(block).map_or(0, |(_, results)| results);
                    self.height = below + u64::from(results);
                }
            }
            _ => {}
        }
        self.highest = self.highest.max(self.height);
        Ok(steps)
    }

    /// Returns the steps of a way to a label.
    fn way(&mut self, depth: u32, carried: u64) -> u64 {
        let Some(label) = self.labels.iter_mut().nth_back(depth as usize) else { return 1 };
        label.ways += 1;
        (1 + self.locals + carried).saturating_mul(1 + label.ways / WAYS_AT_ONCE)
    }

    fn open(&mut self, kind: FrameKind, block: BlockType, params: u32) {
        self.loops += u64::from(kind == FrameKind::Loop);
        self.most_loops = self.most_loops.max(self.loops);
        let below = self.height.saturating_sub(params.into());
        self.labels.push(Label { kind, block, below, ways: 0 });
    }

    fn params(&self, block: BlockType) -> u64 {
        self.block_type_arity(block).map_or(0, |(params, _)| params.into())
    }
}

impl ModuleArity for Function<'_> {
    fn sub_type_at(&self, ty: u32) -> Option<&SubType> {
        self.module.types.get(ty as usize)
    }

    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }

    fn type_index_of_function(&self, function: u32) -> Option<u32> {
        self.module.functions.get(function as usize).copied()
    }

    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }

    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }

    fn control_stack_height(&self) -> u32 {
        self.labels.len() as u32
    }

    fn label_block(&self, depth: u32) -> Option<(BlockType, FrameKind)> {
        self.labels.iter().nth_back(depth as usize).map(|label| (label.block, label.kind))
    }
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        BlockType as Block, CodeSection, Component, CustomSection, Function as Body,
        FunctionSection, InstructionSink, Module, ModuleSection, TypeSection, ValType,
    };

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap_or_else(|err| panic!("{err}\n{text}"))
    }

    /// A component of one module with these functions, of no parameters and no
    /// results.
    fn functions(bodies: &[Body]) -> Vec<u8> {
        let mut module = Module::new();
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
        for body in bodies {
            functions.function(0);
            code.function(body);
        }
        module.section(&types).section(&functions).section(&code);
        let mut component = Component::new();
        component.section(&ModuleSection(&module));
        component.finish()
    }

    /// A function that begins with so many locals.
    fn body(locals: u32, write: impl FnOnce(&mut Body)) -> Body {
        let mut body = Body::new((locals > 0).then_some((locals, ValType::I32)));
        write(&mut body);
        body.instructions().end();
        body
    }

    fn repeat(
        body: &mut Body,
        count: u64,
        write: impl for<'a, 'b> Fn(&'a mut InstructionSink<'b>) -> &'a mut InstructionSink<'b>,
    ) {
        for _ in 0..count {
            write(&mut body.instructions());
        }
    }

    /// A function of so many bytes, most of which are numbers.
    fn long(bytes: u64) -> Body {
        const NUMBER_BYTES: u64 = 10;
        // How many locals there are, and the end.
        let bytes = bytes - 2;
        body(0, |body| {
            repeat(body, bytes / NUMBER_BYTES, |to| to.f64_const(1.0.into()).drop());
            repeat(body, bytes % NUMBER_BYTES, |to| to.nop());
        })
    }

    /// A function of so many steps: its end is one.
    fn steps(steps: u64) -> Body {
        body(0, |body| repeat(body, steps - 1, |to| to.nop()))
    }

    /// A function of so much work: a hundred locals, which are steps too.
    fn work(work: u64) -> Body {
        const LOCALS: u32 = 100;
        let steps = work / u64::from(LOCALS + 1) - u64::from(LOCALS);
        body(LOCALS, |body| repeat(body, steps - 1, |to| to.nop()))
    }

    #[track_caller]
    fn check_limit(inside: &[u8], outside: &[u8], says: &str) {
        check(inside).unwrap_or_else(|err| panic!("{says}: {err}"));
        let refusal = check(outside).expect_err(says);
        assert_eq!(refusal.to_string(), format!("the component has {says} are accepted"));
    }

    #[test]
    fn parts_are_counted() {
        let modules = |count| text(&format!("(component {})", "(core module) ".repeat(count)));
        let says = "65 modules and components in it, and at most 64";
        check_limit(&modules(63), &modules(64), says);
        let nested = |depth| text(&format!("{}{}", "(component ".repeat(depth), ")".repeat(depth)));
        check_limit(&nested(64), &nested(65), says);
    }

    #[test]
    fn functions_are_counted_over_all_modules() {
        let modules = |counts: [usize; 2]| {
            let module = |count| format!("(core module {})", "(func) ".repeat(count));
            text(&format!("(component {})", counts.map(module).concat()))
        };
        let says = "10001 functions, and at most 10000";
        check_limit(&modules([10_000, 0]), &modules([10_000, 1]), says);
    }

    #[test]
    fn code_is_measured_in_bytes() {
        let most = MAX_FUNCTION_BYTES;
        check_limit(
            &functions(&[long(most)]),
            &functions(&[long(most + 1)]),
            "262145 bytes in one function, and at most 262144",
        );
        let all = vec![long(most); 16];
        let more = [&all[..], &[long(2)]].concat();
        let says = "4194306 bytes of code, and at most 4194304";
        check_limit(&functions(&all), &functions(&more), says);
    }

    #[test]
    fn steps_are_counted_by_function_and_over_all() {
        let most = MAX_FUNCTION_STEPS;
        check_limit(
            &functions(&[steps(most)]),
            &functions(&[steps(most + 1)]),
            "200001 steps of compilation in one function, and at most 200000",
        );
        let all: Vec<Body> = (0..12).map(|_| steps(most)).chain([steps(100_000)]).collect();
        let more = [&all[..], &[steps(1)]].concat();
        let says = "2500001 steps of compilation, and at most 2500000";
        check_limit(&functions(&all), &functions(&more), says);
    }

    #[test]
    fn work_is_counted_by_function_and_over_all() {
        // A multiple of what one step is worth, as near to the limit as there is.
        let most = MAX_FUNCTION_WORK / 101 * 101;
        check_limit(
            &functions(&[work(most)]),
            &functions(&[work(most + 101)]),
            "10000010 steps times values in one function, and at most 10000000",
        );
        let all = vec![work(most); 6];
        let more = [&all[..], &[work(4_000_610)]].concat();
        let says = "64000064 steps times values, and at most 64000000";
        check_limit(&functions(&all), &functions(&more), says);
    }

    /// What looks small and is not: each of these functions kept the compiler busy
    /// for a minute and more.
    #[test]
    fn ways_count_as_much_as_what_is_carried_on_them() {
        #[track_caller]
        fn check_steps(body: &Body, expected: &str) {
            let refusal = check(&functions(std::slice::from_ref(body))).expect_err(expected);
            assert!(refusal.to_string().contains(expected), "{refusal}");
        }
        let loops = body(300, |body| {
            repeat(body, 300, |to| to.loop_(Block::Empty));
            repeat(body, 300, |to| to.local_get(0).br_if(0).end());
        });
        check_steps(&loops, "300 loops in each other, and at most 64");
        let tables = body(50, |body| {
            body.instructions().block(Block::Empty).block(Block::Empty);
            for _ in 0..100 {
                let targets = (0..100).map(|n| n % 2);
                body.instructions().i32_const(0).if_(Block::Empty).i32_const(0);
                body.instructions().br_table(targets, 1).end();
            }
            body.instructions().end().end();
        });
        check_steps(&tables, "steps of compilation in one function");
        let live = body(0, |body| {
            repeat(body, 10_000, |to| to.i32_const(1));
            repeat(body, 10_000, |to| to.drop());
        });
        check_steps(&live, "200030001 steps times values in one function");
    }

    #[test]
    fn loops_in_each_other_are_counted() {
        let loops = |count| {
            let body = body(0, |body| {
                repeat(body, count, |to| to.loop_(Block::Empty));
                repeat(body, count, |to| to.end());
                // Behind each other, there may be more.
                repeat(body, 100, |to| to.loop_(Block::Empty).end());
            });
            functions(&[body])
        };
        check_limit(&loops(64), &loops(65), "65 loops in each other, and at most 64");
    }

    #[test]
    fn what_a_module_begins_with_is_measured() {
        let memories = |pages| {
            let modules = format!("(core module (memory 64)) (core module (memory {pages}))");
            text(&format!("(component {modules})"))
        };
        let says = "8454144 bytes of memory to begin with, and at most 8388608";
        check_limit(&memories(64), &memories(65), says);
        let tables = |count| text(&format!("(component (core module (table {count} funcref)))"));
        let says = "160001 elements of tables to begin with, and at most 160000";
        check_limit(&tables(160_000), &tables(160_001), says);
        let elements = |count| {
            let segments = format!("(elem func {}) (elem func $f)", "$f ".repeat(count));
            text(&format!("(component (core module (func $f) {segments}))"))
        };
        let says = "20001 elements for tables, and at most 20000";
        check_limit(&elements(19_999), &elements(20_000), says);
    }

    /// Declarations are what is neither code nor data, however it is called.
    #[test]
    fn declarations_are_measured_in_bytes() {
        let of = |fields: String| text(&format!("(component (core module {fields}))"));
        let globals = |count: usize| of("(global i32 (i32.const 0))".repeat(count));
        check(&globals(50_000)).unwrap();
        for component in [
            globals(60_000),
            of((0..40_000).map(|n| format!(r#"(import "" "{n}" (global i32))"#)).collect()),
            of("(type (func)) ".repeat(100_000)),
            of("(data) ".repeat(140_000)),
            of(format!("(data \"{}\") (data \"\")", "a".repeat(1_000)) + &"(data)".repeat(140_000)),
        ] {
            let refusal = check(&component).unwrap_err().to_string();
            let says = "bytes of declarations, and at most 262144 are accepted";
            assert!(refusal.contains(says), "{refusal}");
        }
        // Data is none.
        check(&of(format!("(data \"{}\")", "a".repeat(1_000_000)))).unwrap();
    }

    /// Each of these instantiates the one before it twice.
    #[test]
    fn components_count_as_often_as_they_are_instantiated() {
        let doubling = |count: usize| {
            let one = |n: usize| {
                let alias = format!("(alias outer 1 $c{} (component $x))", n - 1);
                let twice = "(instance (instantiate $x)) ".repeat(2);
                format!("(component $c{n} {alias} {twice})")
            };
            let all: String = (1..=count).map(one).collect();
            text(&format!("(component (component $c0) {all} (instance (instantiate $c{count})))"))
        };
        // Two, six, and so on: the fifth stands for 62, the next one for 126.
        let says = "links between its parts, and at most 100 are accepted";
        check(&doubling(5)).unwrap();
        for count in [6, 60] {
            let refusal = check(&doubling(count)).unwrap_err().to_string();
            assert!(refusal.ends_with(says), "{refusal}");
        }
        // One that is handed in, or handed out, may be any.
        for of in [
            "(component (import \"c\" (component $c)) (instance (instantiate $c)))",
            "(component (import \"i\" (instance $i (export \"c\" (component))))
                (alias export $i \"c\" (component $c)) (instance (instantiate $c)))",
        ] {
            let refusal = check(&text(of)).unwrap_err().to_string();
            assert!(refusal.contains("does not lie in it"), "{refusal}");
        }
        // One that has got another name is the same.
        let renamed = "(component (component $c) (export $d \"d\" (component $c))
            (instance (instantiate $d)))";
        check(&text(renamed)).unwrap();
    }

    #[test]
    fn links_are_counted() {
        let instances = |count: usize| {
            let instances = "(core instance (instantiate $m)) ".repeat(count);
            text(&format!("(component (core module $m) {instances})"))
        };
        let says = "101 links between its parts, and at most 100";
        check_limit(&instances(100), &instances(101), says);
    }

    fn with_cases(sections: &[&[u8]]) -> Vec<u8> {
        let mut component = Component::new();
        for data in sections {
            component.section(&CustomSection { name: CASES_SECTION.into(), data: (*data).into() });
        }
        component.finish()
    }

    #[test]
    fn cases_are_found_and_measured() {
        assert_eq!(check(&with_cases(&[])).unwrap(), None);
        assert_eq!(check(&with_cases(&[b""])).unwrap(), Some(Vec::new()));
        assert_eq!(check(&with_cases(&[b"[]", b"[]"])).unwrap(), Some(b"[][]".to_vec()));
        // Where a linker leaves them.
        let mut module = Module::new();
        module.section(&CustomSection { name: CASES_SECTION.into(), data: b"[]".into() });
        let mut component = Component::new();
        component.section(&ModuleSection(&module));
        assert_eq!(check(&component.finish()).unwrap(), Some(b"[]".to_vec()));
        let most = vec![b' '; MAX_CASES_BYTES as usize];
        let says = "262145 bytes of cases, and at most 262144";
        check_limit(&with_cases(&[&most]), &with_cases(&[&most, b" "]), says);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bytes in [
            &b""[..],
            b"\0asm",
            b"\0asm\x0d\0\x01\0\x01",
            // Types of the proposal for garbage collection, which no policy gets.
            &text("(component (core module (type (struct))))"),
            // A function without code.
            b"\0asm\x0d\0\x01\0\x01\x12\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0",
        ] {
            let refusal = check(bytes);
            assert!(matches!(refusal, Err(LoadError::Invalid(_))), "{refusal:?}");
        }
    }
}
