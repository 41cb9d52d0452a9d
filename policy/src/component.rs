//! The edge of the component: the rules behind the exports of `wit/`.
//!
//! WebAssembly only. A `cdylib` with these exports does not link natively,
//! because their symbols hold `:` and `@`.

#![expect(unsafe_code, reason = "exports, and the allocator, are unsafe by nature")]

use std::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32,
    cell::Cell,
    ptr,
};

use crate::{
    Storage, authorize,
    catalogue::{self, Endpoint, Found, Permission},
    contract::{
        self, Account, Decision, Denial, Key, Request, catalogue as wit, explain as wit_explain,
        lifecycle::{
            self as wit_lifecycle, Caller, KeyChange, KeyFilter, KeyPlan, KeyRequest, KeyStatus,
            KeyUpdate, RevealPlan, RotationPlan, RotationRequest, RotationSchedule, StoredKey,
        },
        wardkey,
    },
    lifecycle, permission,
};

struct Policy;

contract::export!(Policy with_types_in contract);

/// Storage, through the component's one import.
struct Imported;

impl Storage for Imported {
    fn find_accounts(&self, ids: &[String]) -> Vec<Option<Account>> {
        wardkey::policy::storage::find_accounts(ids)
    }
}

impl contract::exports::wardkey::policy::authorizer::Guest for Policy {
    fn authorize(request: Request, key: Option<Key>) -> Decision {
        authorize::authorize(&request, key.as_ref(), &Imported)
    }
}

impl wit_explain::Guest for Policy {
    fn explain(request: Request, key: Option<Key>) -> wit_explain::Explanation {
        authorize::explain(&request, key.as_ref(), &Imported)
    }
}

impl wit_lifecycle::Guest for Policy {
    fn default_keys(account: String, _now: u64) -> Vec<KeyPlan> {
        lifecycle::default_keys(&account)
    }

    fn create(caller: Caller, request: KeyRequest, now: u64) -> Result<KeyPlan, Denial> {
        lifecycle::create(&caller, &request, now)
    }

    fn import_key(
        caller: Caller,
        request: KeyRequest,
        prefix: String,
        now: u64,
    ) -> Result<KeyPlan, Denial> {
        lifecycle::import_key(&caller, &request, &prefix, now)
    }

    fn visible(caller: Caller, wanted: KeyFilter) -> Result<KeyFilter, Denial> {
        lifecycle::visible(&caller, &wanted)
    }

    fn describe(current: StoredKey, now: u64) -> KeyStatus {
        lifecycle::describe(&current, now)
    }

    fn update(
        caller: Caller,
        current: StoredKey,
        change: KeyChange,
        now: u64,
    ) -> Result<KeyUpdate, Denial> {
        lifecycle::update(&caller, &current, &change, now)
    }

    fn expire(caller: Caller, current: StoredKey, now: u64) -> Result<u64, Denial> {
        lifecycle::expire(&caller, &current, now)
    }

    fn rotate(
        caller: Caller,
        current: StoredKey,
        request: RotationRequest,
        now: u64,
    ) -> Result<RotationPlan, Denial> {
        lifecycle::rotate(&caller, &current, &request, now)
    }

    fn schedule_rotation(
        caller: Caller,
        current: StoredKey,
        wanted: RotationSchedule,
        now: u64,
    ) -> Result<RotationSchedule, Denial> {
        lifecycle::schedule_rotation(&caller, &current, &wanted, now)
    }

    fn cancel_rotation(caller: Caller, current: StoredKey, now: u64) -> Result<(), Denial> {
        lifecycle::cancel_rotation(&caller, &current, now)
    }

    fn reveal(caller: Caller, current: StoredKey, now: u64) -> Result<RevealPlan, Denial> {
        lifecycle::reveal(&caller, &current, now)
    }

    fn restore(caller: Caller, current: StoredKey, now: u64) -> Result<u64, Denial> {
        lifecycle::restore(&caller, &current, now)
    }
}

impl wit::Guest for Policy {
    fn permissions() -> Vec<wit::Permission> {
        Permission::all()
            .iter()
            .map(|one| wit::Permission {
                name: one.name().to_owned(),
                title: one.title().to_owned(),
                category: one.category().to_owned(),
                implies: permission::join(one.implies().map(Permission::name)),
            })
            .collect()
    }

    fn find_endpoint(method: String, path: String) -> Option<wit::Endpoint> {
        let Found { endpoint, template } = catalogue::find_endpoint(&method, &path)?;
        let &Endpoint { publishable, money_movement, sandbox_only, any_key, .. } = endpoint;
        Some(wit::Endpoint {
            method,
            path: template,
            permissions: permission::join(endpoint.permissions().map(Permission::name)),
            publishable,
            money_movement,
            sandbox_only,
            any_key,
        })
    }
}

/// Hands out the memory behind the tables, and never takes any back.
///
/// Memory is put back after each request, so nothing needs to be freed. What
/// is left of the page that the instance starts with is enough for nearly every
/// request. Larger ones (a key with hundreds of permissions, the whole
/// catalogue) grow the memory, which costs the host a new instance; too
/// large ones find the host's limit, which is a trap and so a refusal.
struct Arena {
    /// The first free address; 0 before the first use.
    free: Cell<usize>,
}

// SAFETY: a component has one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena { free: Cell::new(0) };

/// A page of WebAssembly memory, in bytes.
const PAGE_BYTES: usize = 64 * 1024;

unsafe extern "C" {
    /// Where the linker's own data ends.
    static __heap_base: u8;
}

impl Arena {
    fn free(&self) -> usize {
        match self.free.get() {
            0 => (&raw const __heap_base).addr(),
            free => free,
        }
    }

    /// Takes everything below `end`, growing the memory if need be.
    fn take(&self, end: usize) -> bool {
        let there = wasm32::memory_size::<0>() * PAGE_BYTES;
        let fits = end <= there || {
            let pages = (end - there).div_ceil(PAGE_BYTES);
            wasm32::memory_grow::<0>(pages) != usize::MAX
        };
        if fits {
            self.free.set(end);
        }
        fits
    }
}

// SAFETY: every block handed out lies behind the linker's data and within the
// memory, is aligned as asked, and is handed out once: `free` only grows, but
// for the last block being resized in place.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.free().next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if self.take(end) => ptr::with_exposed_provenance_mut(start),
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let start = old.addr();
        // The last block grows in place: a string that is pushed to would
        // otherwise leave a copy behind for each doubling.
        if start + layout.size() == self.free() {
            return match start.checked_add(new_size) {
                Some(end) if self.take(end) => old,
                _ => ptr::null_mut(),
            };
        }
        // SAFETY: the caller's promises for `realloc` are those for `alloc`.
        let new =
            unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both blocks are ours, at least this long, and apart.
            unsafe { ptr::copy_nonoverlapping(old, new, layout.size().min(new_size)) };
        }
        new
    }
}
