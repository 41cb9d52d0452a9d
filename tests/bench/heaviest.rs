//! What compiling takes at most: components that are nearly all that the limits of
//! `engine/bounds.rs` let through, each heavy in another way.
//!
//! `cargo bench --bench heaviest`. Processor time of all threads, and the most
//! memory that there was beside what there was before; the standard policy, by
//! which to judge the machine, comes first. What is heavy was found by trying: a
//! row that is heavier than all others belongs here.

use std::{fs, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use wardkey::{
    active_policy::STANDARD_POLICY,
    engine::{Engine, LoadError},
};
use wasm_encoder::{
    BlockType, CodeSection, Component, ConstExpr, ElementSection, Elements, Function,
    FunctionSection, InstructionSink, MemArg, MemorySection, MemoryType, Module, ModuleSection,
    RefType, TableSection, TableType, TypeSection, ValType,
};

/// How many values go through a call of [`calls`].
const VALUES: usize = 100;

fn main() {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let engine = Engine::new().expect("the engine starts");
    println!("{:<40} {:>9} {:>8} {:>8} {:>8}", "", "bytes", "CPU s", "wall s", "MB");
    let rows: [(&str, &dyn Fn() -> Vec<u8>); 9] = [
        ("the standard policy", &|| STANDARD_POLICY.to_vec()),
        ("calls with a hundred values", &|| copies(6, &calls(960))),
        ("calls by address", &|| copies(12, &indirect(5_690))),
        ("copies of memory", &|| copies(12, &copies_of_memory(5_240))),
        ("loads by what was loaded", &|| copies(16, &loads(87_000))),
        ("conversions that may fail", &|| copies(14, &conversions(43_000))),
        ("tables of branches", &|| copies(12, &tables(43))),
        ("functions of many types, by address", &|| addressed(10_000)),
        ("conversions of a large type", &|| adapters(40, 17)),
    ];
    for (name, make) in rows.into_iter().take(if is_test { 1 } else { usize::MAX }) {
        let bytes = make();
        // Forgets what the most was so far.
        let _ = fs::write("/proc/self/clear_refs", "5");
        let (memory, cpu, wall) = (memory_kb("VmRSS"), cpu_secs(), Instant::now());
        match engine.load(&bytes) {
            // It is compiled, and then found to be no policy.
            Ok(_) | Err(LoadError::Contract(_)) => {}
            Err(err) => panic!("{name}: {err}"),
        }
        println!(
            "{name:<40} {:>9} {:>8.2} {:>8.2} {:>8}",
            bytes.len(),
            cpu_secs() - cpu,
            wall.elapsed().as_secs_f64(),
            memory_kb("VmHWM").saturating_sub(memory) / 1024,
        );
    }
}

fn cpu_secs() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn memory_kb(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// A component of one module in which a function, from one number to another,
/// stands so many times.
fn copies(count: u32, function: &Function) -> Vec<u8> {
    let (mut types, mut functions, mut code) =
        (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    let many = || [ValType::I32; VALUES];
    types.ty().function([ValType::I32], [ValType::I32]);
    types.ty().function(many(), many());
    types.ty().function([], many());
    // What is called: the first two functions.
    for ty in [1, 2] {
        functions.function(ty);
        code.function(&body([], |to| {
            to.unreachable();
        }));
    }
    for _ in 0..count {
        functions.function(0);
        code.function(function);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions);
    module.section(TableSection::new().table(table(10)));
    module.section(MemorySection::new().memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    }));
    module.section(&code);
    component(&module)
}

fn component(module: &Module) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(module));
    component.finish()
}

fn table(elements: u64) -> TableType {
    TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: elements,
        maximum: None,
        shared: false,
    }
}

fn body<const N: usize>(
    locals: [(u32, ValType); N],
    write: impl FnOnce(&mut InstructionSink<'_>),
) -> Function {
    let mut function = Function::new(locals);
    let mut instructions = function.instructions();
    write(&mut instructions);
    instructions.end();
    function
}

/// Each call takes what the one before has returned.
fn calls(count: u32) -> Function {
    body([], |to| {
        to.call(1);
        (0..count).for_each(|_| {
            to.call(0);
        });
        to.unreachable();
    })
}

fn indirect(count: u32) -> Function {
    body([], |to| {
        to.local_get(0);
        (0..count).for_each(|_| {
            to.local_get(0).call_indirect(0, 0);
        });
    })
}

fn copies_of_memory(count: u32) -> Function {
    body([], |to| {
        (0..count).for_each(|_| {
            to.local_get(0).local_get(0).local_get(0).memory_copy(0, 0);
        });
        to.local_get(0);
    })
}

fn loads(count: u32) -> Function {
    body([], |to| {
        to.local_get(0);
        (0..count).for_each(|_| {
            to.i32_load(MemArg { offset: 0, align: 0, memory_index: 0 });
        });
    })
}

fn conversions(count: u32) -> Function {
    body([(1, ValType::F64)], |to| {
        (0..count).for_each(|_| {
            to.local_get(1).i64_trunc_f64_u().f64_convert_i64_u().local_set(1);
        });
        to.local_get(0);
    })
}

/// So many tables of so many branches to two places each, with other values in
/// each.
fn tables(count: u32) -> Function {
    const LOCALS: u32 = 10;
    body([(LOCALS, ValType::I32)], |to| {
        to.block(BlockType::Empty).block(BlockType::Empty).local_get(0).br_if(0);
        for local in 1..=LOCALS {
            to.local_get(0).i32_const(local as i32).i32_add().local_set(local);
        }
        for _ in 0..count {
            let branches = (0..count).map(|n| n % 2 + 1);
            to.local_get(0).if_(BlockType::Empty).local_get(0).br_table(branches, 1).end();
            to.local_get(1).i32_const(1).i32_add().local_set(1);
        }
        to.end().end().i32_const(0);
        for local in 1..=LOCALS {
            to.local_get(local).i32_xor();
        }
    })
}

/// So many functions, each of another type, and each in the table.
fn addressed(count: u32) -> Vec<u8> {
    const TYPES: [ValType; 4] = [ValType::I32, ValType::I64, ValType::F32, ValType::F64];
    let (mut types, mut functions, mut code) =
        (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    for n in 0..count {
        // The digits of its number, to the base of four.
        let digits = std::iter::successors(Some(n), |n| Some(n / 4)).take_while(|&n| n > 0);
        let parameters: Vec<ValType> = digits.map(|n| TYPES[(n % 4) as usize]).collect();
        types.ty().function(parameters, []);
        functions.function(n);
        code.function(&body([], |_| {}));
    }
    let mut elements = ElementSection::new();
    let all: Vec<u32> = (0..count).collect();
    elements.active(None, &ConstExpr::i32_const(0), Elements::Functions(all.into()));
    let mut module = Module::new();
    module.section(&types).section(&functions);
    module.section(TableSection::new().table(table(count.into())));
    module.section(&elements).section(&code);
    component(&module)
}

/// Two components, of which the one calls the other by so many functions with a
/// value of two to the power of `depth` numbers.
fn adapters(count: u32, depth: u32) -> Vec<u8> {
    let twice = |n: u32| format!("(type $t{n} (tuple $t{0} $t{0}))", n - 1);
    let types: String = (1..=depth).map(twice).collect();
    let types = format!("(type $t0 u32) {types}");
    let of = format!("(param \"a\" $t{depth})");
    let memory = "(memory (export \"m\") 1)
        (func (export \"r\") (param i32 i32 i32 i32) (result i32) unreachable)";
    let options = "(memory $i \"m\") (realloc (func $i \"r\"))";
    let lowered: String = (0..count)
        .map(|n| format!("(core func $l{n} (canon lower (func $f) {options}))"))
        .collect();
    let given: String = (0..count).map(|n| format!("(export \"{n}\" (func $l{n}))")).collect();
    let taken: String =
        (0..count).map(|n| format!("(import \"\" \"{n}\" (func (param i32)))")).collect();
    let text = format!(
        "(component
            (component $a {types}
                (core module $m {memory} (func (export \"f\") (param i32)))
                (core instance $i (instantiate $m))
                (func (export \"f\") {of} (canon lift (core func $i \"f\") {options})))
            (component $b {types}
                (import \"f\" (func $f {of}))
                (core module $m {memory})
                (core module $n {taken})
                (core instance $i (instantiate $m))
                {lowered}
                (core instance (instantiate $n (with \"\" (instance {given})))))
            (instance $ia (instantiate $a))
            (instance (instantiate $b (with \"f\" (func $ia \"f\")))))"
    );
    wat::parse_str(&text).expect("it is written well")
}
