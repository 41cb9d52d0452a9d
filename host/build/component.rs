//! From `policy/` to a component.
//!
//! The target is `wasm32-unknown-unknown`, so that the component asks for no
//! WASI interface; `wit-component` then wraps the core module by the WIT that
//! the bindings left in it. In order, the first that works:
//!
//! 1. a ready component, named by `WARDKEY_POLICY_WASM`;
//! 2. the toolchain's own target, if it is installed;
//! 3. the same, after `rustup target add`;
//! 4. Debian's compiler for the web, unpacked under the target directory. It
//!    needs no root and leaves the user's `rustc` alone.
//!
//! 3 and 4 download, say so, and are off with `WARDKEY_OFFLINE=1` or cargo's
//! own `--offline`.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use wasm_encoder::{ComponentSection as _, CustomSection};
use wit_component::ComponentEncoder;

/// The environment variables that a build depends on.
pub(crate) const VARIABLES: &[&str] =
    &["WARDKEY_POLICY_WASM", "WARDKEY_CATALOGUE", "WARDKEY_OFFLINE"];

/// The catalogue of a policy that is built without another.
const STANDARD_CATALOGUE: &str = "policy/catalogue.toml";

/// The custom section in which a policy carries cases of its own.
const CASES_SECTION: &str = "wardkey:cases";

const TARGET: &str = "wasm32-unknown-unknown";

/// The component's stack, in bytes. The linker's own choice of 1 MiB would be
/// memory that is put back after each request. The rules go three calls deep
/// and keep their data in the arena; running out is a trap, and so a refusal.
const STACK_BYTES: usize = 8 * 1024;

/// The memory that the component starts with, in bytes: one page of
/// WebAssembly, for the stack, the tables, and what a request allocates. All of it
/// is put back after each request, so a second page would cost every request
/// half a microsecond and more. Data that outgrows it fails the build.
const INITIAL_MEMORY_BYTES: usize = 64 * 1024;

/// Returns the ready component that `WARDKEY_POLICY_WASM` names, if it is set.
/// `root` is the workspace.
pub(crate) fn ready(root: &Path) -> Result<Option<PathBuf>> {
    let Some(ready) = env::var_os("WARDKEY_POLICY_WASM") else { return Ok(None) };
    let ready = root.join(ready);
    if !ready.is_file() {
        bail!("WARDKEY_POLICY_WASM names no file");
    }
    Ok(Some(ready))
}

/// Builds the component into `out` and returns its path. `root` is the
/// workspace; `catalogue` is relative to it, and Stripe's where it is left out.
pub(crate) fn build(root: &Path, out: &Path, catalogue: Option<&OsStr>) -> Result<PathBuf> {
    let core = core_module(root, out, catalogue)?;
    let bytes = fs::read(&core).context("reading the core module")?;
    let mut component = ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .context("the core module holds no WIT")?
        .encode()
        .context("wrapping the core module as a component")?;
    if let Some(cases) = cases(root, catalogue) {
        let data = fs::read(&cases).with_context(|| format!("reading `{}`", cases.display()))?;
        let section = CustomSection { name: CASES_SECTION.into(), data: data.into() };
        section.append_to_component(&mut component);
    }
    let path = out.join("policy.wasm");
    fs::write(&path, component).context("writing the component")?;
    Ok(path)
}

/// Returns the file of the cases that belong to a catalogue: `cases.json` beside
/// it, if there is one.
pub(crate) fn cases(root: &Path, catalogue: Option<&OsStr>) -> Option<PathBuf> {
    let catalogue = root.join(catalogue.unwrap_or(STANDARD_CATALOGUE.as_ref()));
    Some(catalogue.with_file_name("cases.json")).filter(|cases| cases.is_file())
}

/// Builds a policy that is a package of its own in `folder`, such as an example, as
/// its author would, and returns its component.
pub(crate) fn build_package(root: &Path, out: &Path, folder: &str) -> Result<Vec<u8>> {
    let mut cargo = cargo(root, out);
    cargo.arg("--manifest-path").arg(root.join(folder).join("Cargo.toml"));
    run_cargo(cargo, out)?;
    let name = Path::new(folder).file_name().unwrap_or_default().to_string_lossy();
    let core = module(out, &name.replace('-', "_"));
    let bytes = fs::read(core).context("reading the core module")?;
    let mut encoder = ComponentEncoder::default().validate(true).module(&bytes)?;
    encoder.encode().context("wrapping the core module as a component")
}

/// Compiles `policy/` to a core module and returns its path.
fn core_module(root: &Path, out: &Path, catalogue: Option<&OsStr>) -> Result<PathBuf> {
    let mut cargo = cargo(root, out);
    cargo.args(["--package", "wardkey-policy"]);
    match catalogue {
        Some(catalogue) => cargo.env("WARDKEY_CATALOGUE", catalogue),
        None => cargo.env_remove("WARDKEY_CATALOGUE"),
    };
    run_cargo(cargo, out)?;
    Ok(module(out, "wardkey_policy"))
}

/// Returns the path of the core module of a package.
fn module(out: &Path, name: &str) -> PathBuf {
    out.join("wasm").join(TARGET).join("release").join(format!("{name}.wasm"))
}

/// Compiles for the target, with a compiler that has it.
fn run_cargo(mut cargo: Command, out: &Path) -> Result<()> {
    if !target_is_installed()? {
        if offline() {
            bail!("the target {TARGET} is missing, and downloads are off. Run: {MEND}");
        }
        note(&format!("running `rustup target add {TARGET}` (WARDKEY_OFFLINE=1 forbids it)"));
        let added = Command::new("rustup")
            .args(["target", "add", TARGET])
            .status()
            .is_ok_and(|status| status.success());
        if !added || !target_is_installed()? {
            debian_compiler(out)
                .with_context(|| format!("the target {TARGET} is missing. Run: {MEND}"))?
                .apply(&mut cargo);
        }
    }
    let output = cargo.output().context("running cargo")?;
    if !output.status.success() {
        bail!("cargo failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

const MEND: &str = "rustup target add wasm32-unknown-unknown";

/// The cargo call, cleared of what the outer build set for itself.
fn cargo(root: &Path, out: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        // Flags and wrappers are meant for the outer target, and everything
        // with `CARGO_` in front describes the outer package.
        let text = name.to_string_lossy();
        let inherited = ["RUSTFLAGS", "RUSTDOCFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
        let kept = ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "CARGO_HTTP_CAINFO"];
        if inherited.contains(&&*text) || (text.starts_with("CARGO_") && !kept.contains(&&*text)) {
            // Registry settings are the user's, not the outer package's.
            if !text.starts_with("CARGO_REGISTR") && !text.starts_with("CARGO_SOURCE") {
                cargo.env_remove(&name);
            }
        }
    }
    let flags = [
        "-Clink-arg=-z".to_owned(),
        format!("-Clink-arg=stack-size={STACK_BYTES}"),
        format!("-Clink-arg=--initial-memory={INITIAL_MEMORY_BYTES}"),
        // The same component wherever it is built: its digest is its name.
        format!("--remap-path-prefix={}=policy", root.display()),
        format!("--remap-path-prefix={}=cargo", cargo_home().display()),
    ];
    cargo
        .current_dir(root)
        .args(["build", "--lib", "--release"])
        .args(["--target", TARGET])
        // A directory of its own: the outer cargo holds the lock of its.
        .arg("--target-dir")
        .arg(out.join("wasm"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    if offline() {
        cargo.arg("--offline");
    }
    cargo
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

fn offline() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| value == "1" || value == "true");
    set("WARDKEY_OFFLINE") || set("CARGO_NET_OFFLINE")
}

/// Says what is going on, where a person sees it in the middle of a build.
fn note(text: &str) {
    println!("cargo::warning={text}");
}

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

fn print(what: &[&str]) -> Result<PathBuf> {
    let output = Command::new(rustc()).args(what).output().context("running rustc")?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

fn target_is_installed() -> Result<bool> {
    Ok(print(&["--print", "target-libdir", "--target", TARGET])?.is_dir())
}

/// A compiler that builds the standard library itself.
struct Compiler {
    rustc: PathBuf,
    /// Where this toolchain keeps the linker.
    linker_dir: PathBuf,
    /// Where the compiler finds its own shared libraries.
    library_dir: PathBuf,
}

impl Compiler {
    fn apply(&self, cargo: &mut Command) {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(
            std::iter::once(self.linker_dir.clone()).chain(env::split_paths(&path)),
        )
        .unwrap_or(path);
        cargo
            .env("RUSTC", &self.rustc)
            .env("PATH", path)
            .env("LD_LIBRARY_PATH", &self.library_dir)
            // The target's standard library comes as source, which only an
            // unstable option builds; Debian's compiler is a release.
            .env("RUSTC_BOOTSTRAP", "1")
            .arg("-Zbuild-std=std,panic_abort");
    }
}

/// Unpacks Debian's `rustc-web` and `rust-web-src` under `out`, with the
/// libraries they need.
fn debian_compiler(out: &Path) -> Result<Compiler> {
    let root = out.join("debian");
    let rustc = root.join("usr/bin/rustc");
    if !rustc.is_file() {
        note("downloading Debian's rustc-web and rust-web-src (WARDKEY_OFFLINE=1 forbids it)");
        let packages = root.join("packages");
        fs::create_dir_all(&packages)?;
        let mut names = vec!["rustc-web".to_owned(), "rust-web-src".to_owned()];
        names.extend(libraries()?);
        let mut download = Command::new("apt-get");
        run(download.current_dir(&packages).arg("download").args(&names))?;
        for package in fs::read_dir(&packages)? {
            let mut unpack = Command::new("dpkg-deb");
            run(unpack.arg("-x").arg(package?.path()).arg(&root))?;
        }
    }
    let host = print(&["--print", "host-tuple"])?;
    let sysroot = print(&["--print", "sysroot"])?;
    let library_dir = fs::read_dir(root.join("usr/lib"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .context("Debian's compiler came without libraries")?;
    Ok(Compiler {
        rustc,
        linker_dir: sysroot.join("lib/rustlib").join(host).join("bin"),
        library_dir,
    })
}

/// Returns what `rustc-web` depends on and this machine may lack.
fn libraries() -> Result<Vec<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"])
        .args(["--no-breaks", "--no-replaces", "--no-enhances", "rustc-web"])
        .output()
        .context("running apt-cache: this is no Debian")?;
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .filter(|line| !line.starts_with([' ', '|', '<']))
        .filter(|name| name.starts_with("libllvm") || name.starts_with("libstd-rust-web"))
        .map(str::to_owned)
        .collect())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
