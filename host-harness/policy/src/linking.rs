//! Defines the functions that a policy can import: Extism's functions over the [`Kernel`], the four WASI functions that
//! Rust's standard library needs, and the host functions.
//!
//! The kernel checks every number that a policy passes.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmtime::{Caller, Engine, Extern, Linker, ResourceLimiter, Result, Trap};

use super::fault::{Fault, FaultKind};
use super::functions::{self, Context};
use super::inspect::{EXTISM_NAMESPACE, WASI_NAMESPACE};
use super::kernel::Kernel;

/// Fuel for one allocation, release or look-up. So a loop of them costs the policy as much as the host.
const FUEL_OF_A_LOOKUP: u64 = 200;

/// Number of bytes that the host copies for one unit of fuel.
const BYTES_FOR_FUEL: u64 = 8;

/// Bytes that each table element takes from the budget.
const TABLE_ELEMENT_BYTES: usize = 16;

/// The data of one call.
pub(super) struct Guest {
    pub(super) kernel: Kernel,
    pub(super) context: Context,
    pub(super) config: Arc<BTreeMap<String, String>>,
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        self.growing(current, desired, maximum, 1)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        self.growing(current, desired, maximum, TABLE_ELEMENT_BYTES)
    }
}

impl Guest {
    /// Growth over the module's own maximum fails as WebAssembly specifies. Growth over the budget aborts the call.
    fn growing(&mut self, current: usize, desired: usize, maximum: Option<usize>, size: usize) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.kernel.budget.take(desired.saturating_sub(current).saturating_mul(size))?;
        Ok(true)
    }
}

/// Creates a linker with everything that a policy may import.
///
/// # Errors
/// A name is defined twice, which is a bug.
pub(super) fn linker(engine: &Engine) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    link_blocks(&mut linker)?;
    link_exchange(&mut linker)?;
    link_wasi(&mut linker)?;
    functions::link(&mut linker)?;
    Ok(linker)
}

type Called<'a> = Caller<'a, Guest>;

fn link_blocks(linker: &mut Linker<Guest>) -> Result<()> {
    let extism = EXTISM_NAMESPACE;
    linker.func_wrap(extism, "alloc", |mut caller: Called<'_>, length: u64| -> Result<u64> {
        // The budget limits the length. Charge after the allocation, so that only real work costs fuel.
        let offset = caller.data_mut().kernel.alloc(length)?;
        charge(&mut caller, length)?;
        Ok(offset)
    })?;
    linker.func_wrap(extism, "free", |mut caller: Called<'_>, offset: u64| -> Result<()> {
        charge(&mut caller, 0)?;
        caller.data_mut().kernel.free(offset);
        Ok(())
    })?;
    for name in ["length", "length_unsafe"] {
        linker.func_wrap(extism, name, |mut caller: Called<'_>, offset: u64| -> Result<u64> {
            charge(&mut caller, 0)?;
            Ok(caller.data().kernel.length(offset))
        })?;
    }
    linker.func_wrap(extism, "load_u8", |caller: Called<'_>, offset: u64| -> Result<u32> {
        Ok(u8::from_le_bytes(caller.data().kernel.load(offset)?).into())
    })?;
    linker.func_wrap(extism, "load_u64", |caller: Called<'_>, offset: u64| -> Result<u64> {
        Ok(u64::from_le_bytes(caller.data().kernel.load(offset)?))
    })?;
    linker.func_wrap(extism, "store_u8", |mut caller: Called<'_>, offset: u64, byte: u32| -> Result<()> {
        let [low, ..] = byte.to_le_bytes();
        Ok(caller.data_mut().kernel.store(offset, [low])?)
    })?;
    linker.func_wrap(extism, "store_u64", |mut caller: Called<'_>, offset: u64, number: u64| -> Result<()> {
        Ok(caller.data_mut().kernel.store(offset, number.to_le_bytes())?)
    })?;
    Ok(())
}

fn link_exchange(linker: &mut Linker<Guest>) -> Result<()> {
    let extism = EXTISM_NAMESPACE;
    linker.func_wrap(extism, "input_offset", |caller: Called<'_>| caller.data().kernel.input())?;
    linker.func_wrap(extism, "input_length", |caller: Called<'_>| {
        let kernel = &caller.data().kernel;
        kernel.length(kernel.input())
    })?;
    linker.func_wrap(extism, "input_load_u8", |caller: Called<'_>, at: u64| -> Result<u32> {
        Ok(u8::from_le_bytes(caller.data().kernel.load_input(at)?).into())
    })?;
    linker.func_wrap(extism, "input_load_u64", |caller: Called<'_>, at: u64| -> Result<u64> {
        Ok(u64::from_le_bytes(caller.data().kernel.load_input(at)?))
    })?;
    linker.func_wrap(extism, "output_set", |mut caller: Called<'_>, offset: u64, length: u64| -> Result<()> {
        Ok(caller.data_mut().kernel.set_output(offset, length)?)
    })?;
    linker.func_wrap(extism, "error_set", |mut caller: Called<'_>, offset: u64| -> Result<()> {
        Ok(caller.data_mut().kernel.set_error(offset)?)
    })?;
    linker.func_wrap(extism, "config_get", |mut caller: Called<'_>, offset: u64| -> Result<u64> {
        let guest = caller.data_mut();
        let key = std::str::from_utf8(guest.kernel.block(offset)?).ok();
        let value = key.and_then(|key| guest.config.get(key)).cloned().unwrap_or_default();
        // As in Extism, the block of the key is freed.
        guest.kernel.free(offset);
        charge(&mut caller, value.len() as u64)?;
        Ok(caller.data_mut().kernel.put(value.as_bytes())?)
    })?;
    Ok(())
}

/// WASI for a policy: no environment variables, output is discarded, and an exit is a fault.
fn link_wasi(linker: &mut Linker<Guest>) -> Result<()> {
    const SUCCESS: i32 = 0;
    let wasi = WASI_NAMESPACE;
    linker.func_wrap(wasi, "environ_get", |_: u32, _: u32| SUCCESS)?;
    linker.func_wrap(wasi, "environ_sizes_get", |mut caller: Called<'_>, count: u32, size: u32| -> Result<i32> {
        write_number(&mut caller, count, 0)?;
        write_number(&mut caller, size, 0)?;
        Ok(SUCCESS)
    })?;
    linker.func_wrap(
        wasi,
        "fd_write",
        |mut caller: Called<'_>, _: u32, parts: u32, count: u32, written: u32| -> Result<i32> {
            charge(&mut caller, u64::from(count) * BYTES_FOR_FUEL)?;
            let mut total = 0_u32;
            for part in 0..count {
                // Each part is a pointer, followed by a length at offset 4.
                let length = u64::from(parts) + u64::from(part) * 8 + 4;
                total = total.saturating_add(read_number(&mut caller, length)?);
            }
            write_number(&mut caller, written, total)?;
            Ok(SUCCESS)
        },
    )?;
    linker.func_wrap(wasi, "proc_exit", |code: i32| -> Result<()> {
        Err(Fault::new(FaultKind::Trap, format!("exits with code {code}; a policy must return instead")).into())
    })?;
    Ok(())
}

fn linear_memory(caller: &mut Called<'_>) -> Result<wasmtime::Memory> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    memory.ok_or_else(|| Fault::new(FaultKind::Trap, "calls WASI but exports no memory".to_owned()).into())
}

fn read_number(caller: &mut Called<'_>, at: u64) -> Result<u32> {
    let mut bytes = [0; 4];
    let at = usize::try_from(at).map_err(|_| Trap::MemoryOutOfBounds)?;
    linear_memory(caller)?.read(&caller, at, &mut bytes).map_err(|_| Trap::MemoryOutOfBounds)?;
    Ok(u32::from_le_bytes(bytes))
}

fn write_number(caller: &mut Called<'_>, at: u32, number: u32) -> Result<()> {
    let at = usize::try_from(at).map_err(|_| Trap::MemoryOutOfBounds)?;
    linear_memory(caller)?.write(caller, at, &number.to_le_bytes()).map_err(|_| Trap::MemoryOutOfBounds)?;
    Ok(())
}

/// Charges fuel for the work of the host: one look-up, and copying `bytes`.
fn charge(caller: &mut Called<'_>, bytes: u64) -> Result<()> {
    let left = caller.get_fuel()?.checked_sub(FUEL_OF_A_LOOKUP + bytes / BYTES_FOR_FUEL);
    caller.set_fuel(left.unwrap_or_default())?;
    if left.is_none() { Err(Trap::OutOfFuel.into()) } else { Ok(()) }
}
