//! The memory in which a policy and the host exchange data. It replaces the Extism kernel with safe Rust.
//!
//! A policy names blocks by number. The kernel looks up every number, so no invented number reaches memory of the host.
//! `docs/adr/0001-guest-memory.md` explains why imagewatch has its own kernel.

use std::collections::BTreeMap;

use super::fault::{Fault, FaultKind};

/// The first block starts above 0, because 0 means "no block". The gap ensures that the end of a block is never the
/// start of the next one.
const FIRST: u64 = 64;
const GAP: u64 = 64;

/// Bytes that each block takes from the budget in addition to its content, for its map entry.
const ENTRY_BYTES: usize = 96;

/// Maximum number of bytes read from an error text. The rest would not be shown.
const MAX_ERROR_BYTES: usize = 8 * 1024;

/// The memory budget of one call. Linear memories, tables and blocks share it.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    /// Takes `bytes` from the budget.
    ///
    /// # Errors
    /// A fault of kind [`FaultKind::Memory`] if fewer bytes are left.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Fault::new(FaultKind::Memory, "oom: it needs more memory than the manifest's `memory.max_pages` allows")
        })?;
        Ok(())
    }
}

/// The blocks of one call.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) budget: Budget,
    blocks: BTreeMap<u64, Vec<u8>>,
    next: u64,
    input: u64,
    /// Block, first byte and number of bytes. They are within the block at the time of the call.
    output: Option<(u64, usize, usize)>,
    error: u64,
}

impl Kernel {
    /// Creates a kernel with a budget of `max_bytes`, and puts `input` into a block.
    ///
    /// # Errors
    /// The input does not fit.
    pub(super) fn new(max_bytes: usize, input: &[u8]) -> Result<Self, Fault> {
        let mut kernel = Self {
            budget: Budget { left: max_bytes },
            blocks: BTreeMap::new(),
            next: FIRST,
            input: 0,
            output: None,
            error: 0,
        };
        kernel.input = kernel.put(input)?;
        Ok(kernel)
    }

    /// Allocates a block of `length` zeros and returns its number. Returns 0 if `length` is 0.
    ///
    /// # Errors
    /// The budget is too small.
    pub(super) fn alloc(&mut self, length: u64) -> Result<u64, Fault> {
        if length == 0 {
            return Ok(0);
        }
        let bytes = self.reserve(length)?;
        Ok(self.add(vec![0; bytes]))
    }

    /// Allocates a block with the content `bytes` and returns its number. Returns 0 if `bytes` is empty.
    ///
    /// # Errors
    /// The budget is too small.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<u64, Fault> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.reserve(bytes.len() as u64)?;
        Ok(self.add(bytes.to_vec()))
    }

    fn reserve(&mut self, length: u64) -> Result<usize, Fault> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        self.budget.take(bytes.saturating_add(ENTRY_BYTES))?;
        Ok(bytes)
    }

    fn add(&mut self, block: Vec<u8>) -> u64 {
        let offset = self.next;
        // Numbers are never reused. The budget is far too small to run out of them.
        self.next = (offset + block.len() as u64 + GAP).next_multiple_of(8);
        self.blocks.insert(offset, block);
        offset
    }

    /// Frees a block. Ignores a number that is not a block, as Extism does.
    ///
    /// The input, the output and the error stay until the call ends, because a PDK may free them before the host reads
    /// them.
    pub(super) fn free(&mut self, offset: u64) {
        let is_output = self.output.is_some_and(|(block, ..)| block == offset);
        if is_output || offset == self.error || offset == self.input {
            return;
        }
        if let Some(block) = self.blocks.remove(&offset) {
            self.budget.left += block.len() + ENTRY_BYTES;
        }
    }

    /// The length of a block; 0 if `offset` is not a block.
    pub(super) fn length(&self, offset: u64) -> u64 {
        self.blocks.get(&offset).map_or(0, |block| block.len() as u64)
    }

    /// The bytes of a block that a policy passes to the host. 0 means empty.
    ///
    /// # Errors
    /// `offset` is not a block.
    pub(super) fn block(&self, offset: u64) -> Result<&[u8], Fault> {
        match self.blocks.get(&offset) {
            Some(block) => Ok(block),
            None if offset == 0 => Ok(&[]),
            None => Err(Fault::new(FaultKind::Trap, format!("passed {offset}, which is not a block of its memory"))),
        }
    }

    /// Reads `N` bytes at `offset`.
    ///
    /// # Errors
    /// They are not all in one block.
    pub(super) fn load<const N: usize>(&self, offset: u64) -> Result<[u8; N], Fault> {
        let (block, at) = self.find(offset).ok_or_else(|| outside(offset, "reads", N))?;
        part(&self.blocks[&block], at).ok_or_else(|| outside(offset, "reads", N))
    }

    /// Reads `N` bytes of the input at `at`.
    ///
    /// # Errors
    /// The input is too short.
    pub(super) fn load_input<const N: usize>(&self, at: u64) -> Result<[u8; N], Fault> {
        let input = self.blocks.get(&self.input).map_or(&[][..], Vec::as_slice);
        let found = usize::try_from(at).ok().and_then(|at| part(input, at));
        found.ok_or_else(|| outside(at, "reads input", N))
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// They do not all fit into one block.
    pub(super) fn store<const N: usize>(&mut self, offset: u64, bytes: [u8; N]) -> Result<(), Fault> {
        let place = self.find(offset).and_then(|(block, at)| {
            let block = self.blocks.get_mut(&block)?;
            block.get_mut(at..at.checked_add(N)?)
        });
        place.ok_or_else(|| outside(offset, "writes", N))?.copy_from_slice(&bytes);
        Ok(())
    }

    /// The block that contains `offset`, and the position in it.
    fn find(&self, offset: u64) -> Option<(u64, usize)> {
        let (start, block) = self.blocks.range(..=offset).next_back()?;
        let at = usize::try_from(offset - start).ok()?;
        (at < block.len()).then_some((*start, at))
    }

    /// The number of the block with the input.
    pub(super) fn input(&self) -> u64 {
        self.input
    }

    /// Sets the output of the policy to these bytes. Their content is read when the call ends.
    ///
    /// # Errors
    /// They are not all in one block.
    pub(super) fn set_output(&mut self, offset: u64, length: u64) -> Result<(), Fault> {
        if length == 0 {
            self.output = None;
            return Ok(());
        }
        let found = self.find(offset).zip(usize::try_from(length).ok());
        let found = found.filter(|((block, at), length)| *length <= self.blocks[block].len() - at);
        let ((block, at), length) = found.ok_or_else(|| {
            Fault::new(
                FaultKind::Trap,
                format!("returns {length} bytes at {offset}, which are not in one block of its memory"),
            )
        })?;
        self.output = Some((block, at, length));
        Ok(())
    }

    /// The output of the policy.
    pub(super) fn output(&self) -> &[u8] {
        let Some((block, at, length)) = self.output else { return &[] };
        self.blocks.get(&block).and_then(|block| block.get(at..at + length)).unwrap_or_default()
    }

    /// Sets the error of the policy to the content of this block. 0 clears the error.
    ///
    /// # Errors
    /// `offset` is not a block.
    pub(super) fn set_error(&mut self, offset: u64) -> Result<(), Fault> {
        self.block(offset)?;
        self.error = offset;
        Ok(())
    }

    /// The error text of the policy, if any, up to [`MAX_ERROR_BYTES`].
    pub(super) fn error(&self) -> Option<String> {
        let text = self.blocks.get(&self.error)?;
        Some(String::from_utf8_lossy(&text[..text.len().min(MAX_ERROR_BYTES)]).into_owned())
    }

    /// The content of all blocks, concatenated.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn dump(&self) -> Vec<u8> {
        self.blocks.values().flatten().copied().collect()
    }
}

fn part<const N: usize>(block: &[u8], at: usize) -> Option<[u8; N]> {
    block.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn outside(offset: u64, does: &str, bytes: usize) -> Fault {
    Fault::new(FaultKind::Trap, format!("{does} {bytes} bytes at {offset}, which are not in one block of its memory"))
}

#[cfg(test)]
mod tests;
