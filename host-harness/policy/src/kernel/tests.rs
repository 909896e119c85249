use rstest::rstest;

use super::*;

const INPUT: &[u8] = b"the input";

fn kernel() -> Kernel {
    Kernel::new(100_000, INPUT).expect("it fits")
}

#[test]
fn stored_bytes_can_be_loaded_and_returned_as_output() {
    let mut kernel = kernel();
    let block = kernel.alloc(10).expect("it fits");
    kernel.store(block, *b"ninebyte").expect("in the block");
    kernel.store(block + 9, *b"!").expect("the last byte");
    assert_eq!(kernel.load(block + 4), Ok(*b"byte"));
    assert_eq!((kernel.length(block), kernel.length(block + 1)), (10, 0));
    assert_eq!(kernel.block(block), Ok(&b"ninebyte\0!"[..]));
    kernel.set_output(block + 1, 7).expect("in the block");
    assert_eq!(kernel.output(), b"inebyte");
    kernel.set_output(0, 0).expect("an empty output is allowed");
    assert_eq!(kernel.output(), b"");
}

#[test]
fn the_input_can_be_read_directly_and_as_a_block() {
    let kernel = kernel();
    assert_eq!(kernel.load_input(1), Ok(*b"he input"));
    assert_eq!(kernel.block(kernel.input()), Ok(INPUT));
    let empty = Kernel::new(0, b"").expect("nothing fits");
    assert_eq!((empty.input(), empty.load_input::<1>(0).is_err()), (0, true));
}

/// Each case is an offset from the start of a block of ten bytes.
#[rstest]
#[case::where_extism_keeps_the_length(-4)]
#[case::just_before(-1)]
#[case::the_end(10)]
#[case::a_page_on(65_536)]
#[case::four_gibibytes_on(1 << 32)]
#[case::largest_offset(i64::MAX)]
#[case::smallest_offset(i64::MIN)]
fn an_offset_outside_all_blocks_reads_and_writes_nothing(#[case] from_block: i64) {
    let mut kernel = kernel();
    let block = kernel.alloc(10).expect("it fits");
    let offset = block.wrapping_add_signed(from_block);
    assert!(kernel.load::<1>(offset).is_err() && kernel.load::<8>(offset).is_err());
    assert!(kernel.store(offset, [0xff; 4]).is_err() && kernel.load_input::<1>(offset).is_err());
    assert!(kernel.block(offset).is_err() && kernel.set_error(offset).is_err());
    assert!(kernel.set_output(offset, 1).is_err());
    assert_eq!((kernel.length(offset), kernel.length(block)), (0, 10), "nothing changes");
    kernel.free(offset);
    assert_eq!((kernel.block(block), kernel.output(), kernel.error()), (Ok(&[0; 10][..]), &[][..], None));
}

#[rstest]
#[case::one_too_many(0, 11)]
#[case::over_the_end(9, 2)]
#[case::a_word(0, 1 << 32)]
#[case::wraps_around(0, u64::MAX)]
#[case::wraps_around_to_the_start(5, u64::MAX - 4)]
fn an_output_that_is_not_in_one_block_is_a_fault(#[case] at: u64, #[case] length: u64) {
    let mut kernel = kernel();
    let block = kernel.alloc(10).expect("it fits");
    let fault = kernel.set_output(block + at, length).expect_err("not in the block");
    assert!(fault.kind == FaultKind::Trap && fault.reason.contains(&length.to_string()), "{fault}");
    assert_eq!(kernel.output(), b"");
}

#[test]
fn access_across_the_end_of_a_block_fails_completely() {
    let mut kernel = kernel();
    let (block, next) = (kernel.alloc(10).expect("it fits"), kernel.alloc(10).expect("it fits"));
    for at in 3..10 {
        assert!(kernel.load::<8>(block + at).is_err() && kernel.store(block + at, [0xff; 8]).is_err(), "{at}");
    }
    assert_eq!((kernel.block(block), kernel.block(next)), (Ok(&[0; 10][..]), Ok(&[0; 10][..])));
}

#[rstest]
#[case::one_over_the_budget(100_001)]
#[case::a_word(1 << 32)]
#[case::all(u64::MAX)]
fn a_block_over_the_budget_is_a_fault_and_takes_nothing(#[case] length: u64) {
    let mut kernel = kernel();
    let left = kernel.budget.left;
    assert_eq!(kernel.alloc(length).expect_err("too much").kind, FaultKind::Memory);
    assert_eq!(kernel.budget.left, left);
}

#[test]
fn small_blocks_are_limited_and_freed_blocks_return_their_budget() {
    let mut kernel = kernel();
    let blocks: Vec<u64> = std::iter::from_fn(|| kernel.alloc(1).ok()).collect();
    assert!((100..2_000).contains(&blocks.len()), "{}", blocks.len());
    for block in &blocks {
        kernel.free(*block);
        kernel.free(*block);
    }
    assert!(blocks.iter().all(|block| kernel.block(*block).is_err() && kernel.load::<1>(*block).is_err()));
    let again: Vec<u64> = std::iter::from_fn(|| kernel.alloc(1).ok()).collect();
    assert_eq!(again.len(), blocks.len(), "freeing a block twice returns its budget once");
    assert!(again.iter().all(|block| !blocks.contains(block)), "a number is never used again");
}

#[test]
fn input_output_and_error_stay_readable_after_free() {
    let mut kernel = kernel();
    let (output, error) = (kernel.put(b"answer").expect("it fits"), kernel.put(b"no \xff good").expect("it fits"));
    kernel.set_output(output, 6).expect("in the block");
    kernel.set_error(error).expect("a block");
    for block in [output, error, kernel.input()] {
        kernel.free(block);
    }
    assert_eq!((kernel.output(), kernel.error().as_deref()), (&b"answer"[..], Some("no \u{fffd} good")));
    assert_eq!(kernel.load_input(0), Ok(*b"the"));
    kernel.set_error(0).expect("0 clears the error");
    assert_eq!(kernel.error(), None);
}

#[test]
fn only_the_start_of_a_long_error_is_read() {
    let mut kernel = kernel();
    let error = kernel.put("x".repeat(50_000).as_bytes()).expect("it fits");
    kernel.set_error(error).expect("a block");
    assert_eq!(kernel.error().expect("an error").len(), MAX_ERROR_BYTES);
}
