//! Estimates the work to compile a module, from its code, before the compilation.
//!
//! The compiler cannot be interrupted, and its time and memory cannot be limited from outside. So modules that need too
//! much are refused before.

use wasmparser::{FuncToValidate, FuncValidatorAllocations, FunctionBody, Operator, ValidatorResources};

/// Maximum size of a module file in bytes. The default policy has 400 KB.
pub(super) const MAX_MODULE_BYTES: u64 = 4 * 1024 * 1024;

/// Maximum number of functions. The default policy has 1,110.
const MAX_FUNCTIONS: u64 = 20_000;

/// Maximum effort of one function. The most complex function of the default policy has 479,000. Cranelift takes up to
/// 1.2 µs and 170 bytes for one unit, measured in an unoptimised build. So a function takes at most 1.5 s and 210 MB.
const MAX_FUNCTION_EFFORT: u64 = 1_200_000;

/// Maximum effort of all functions in total. The default policy has 1,690,000.
const MAX_MODULE_EFFORT: u64 = 5_000_000;

/// Additional effort of each operator. Code without branches is translated too, and each of its values needs a
/// register. Number conversions take longest, 2.5 µs each.
const OPERATOR_EFFORT: u64 = 2;

/// The total effort of the functions that were added.
#[derive(Default)]
pub(super) struct Effort {
    functions: u64,
    total: u64,
    allocations: FuncValidatorAllocations,
}

impl Effort {
    /// Validates a function and adds its effort.
    ///
    /// # Errors
    /// A fragment: the function is invalid, or a limit is exceeded.
    pub(super) fn add(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> Result<(), String> {
        let index = function.index;
        let effort = self.validate(function, body).map_err(|error| super::inspect::broken(&error))?;
        self.functions += 1;
        self.total = self.total.saturating_add(effort);
        let too_much = |what: &str, is: u64, most: u64| {
            Err(format!("{what}: {is}, more than {most}; use smaller functions with fewer branches"))
        };
        if effort > MAX_FUNCTION_EFFORT {
            return too_much(&format!("its function {index} is too complex to compile"), effort, MAX_FUNCTION_EFFORT);
        }
        if self.total > MAX_MODULE_EFFORT {
            return too_much("its functions together are too complex to compile", self.total, MAX_MODULE_EFFORT);
        }
        if self.functions > MAX_FUNCTIONS {
            return Err(format!("it has more than {MAX_FUNCTIONS} functions, the limit for a policy"));
        }
        Ok(())
    }

    /// Validates a function and returns its effort.
    ///
    /// Register allocation looks at each value that is live at each branch, and other passes compare branches with each
    /// other. So the effort is a product.
    fn validate(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
    ) -> wasmparser::Result<u64> {
        let mut validator = function.into_validator(std::mem::take(&mut self.allocations));
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        let locals = u64::from(validator.len_locals());
        let (mut branches, mut deepest, mut plain, mut effort) = (0, 0, 0, 0);
        let mut operators = body.get_operators_reader()?;
        // A function over the limit is refused, so its remaining operators need no validation.
        while !operators.eof() && effort <= MAX_FUNCTION_EFFORT {
            let (operator, offset) = operators.read_with_offset()?;
            validator.op(offset, &operator)?;
            branches += branches_of(&operator);
            deepest = deepest.max(u64::from(validator.operand_stack_height()));
            plain += OPERATOR_EFFORT;
            effort = (branches + deepest) * (locals + deepest + branches / 16) + plain;
        }
        if operators.eof() {
            operators.finish()?;
        }
        self.allocations = validator.into_allocations();
        Ok(effort)
    }
}

/// The number of branches that `operator` adds. A call counts as one, because the fuel is checked after it. An operator
/// that the runtime implements as a function counts as a call.
fn branches_of(operator: &Operator<'_>) -> u64 {
    match operator {
        Operator::Block { .. }
        | Operator::Loop { .. }
        | Operator::If { .. }
        | Operator::Else
        | Operator::Br { .. }
        | Operator::BrIf { .. }
        | Operator::Return
        | Operator::Call { .. }
        | Operator::ReturnCall { .. }
        | Operator::RefFunc { .. }
        | Operator::MemoryGrow { .. }
        | Operator::MemoryFill { .. }
        | Operator::MemoryCopy { .. }
        | Operator::MemoryInit { .. }
        | Operator::DataDrop { .. }
        | Operator::TableGrow { .. }
        | Operator::TableSet { .. }
        | Operator::TableFill { .. }
        | Operator::TableCopy { .. }
        | Operator::TableInit { .. }
        | Operator::ElemDrop { .. } => 1,
        // A table entry is initialised when it is first read.
        Operator::TableGet { .. } | Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => 3,
        Operator::BrTable { targets } => u64::from(targets.len()) + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use crate::inspect;

    fn module(locals: usize, functions: usize, body: &str) -> Vec<u8> {
        let function =
            format!("(func (param i32) (result i32) (local {}) {body} (local.get 0))", "i32 ".repeat(locals));
        let around = "(memory 1) (table 1 1 funcref) (elem func) (elem declare func 0) (data \"\")";
        wat::parse_str(format!("(module {around} {})", function.repeat(functions))).expect("well formed")
    }

    const BR_IF: &str = "(br_if 0 (local.get 0))";
    const ZERO: &str = "(i32.const 0)";
    /// 7 bytes of code. Repeating it fills a module.
    const ADD: &str = "(local.set 0 (i32.add (local.get 0) (local.get 0)))";

    /// A function with 2,000 repetitions of `operator`, and 500 locals that are live at each of them.
    fn with_locals(operator: &str) -> Vec<u8> {
        module(500, 1, &operator.replace('Z', ZERO).repeat(2_000))
    }

    #[rstest]
    #[case::many_branches(&module(1, 1, &format!("(block {})", BR_IF.repeat(436_000))), "function 0 is too complex")]
    #[case::many_loops(&module(1, 1, &"(loop (br_if 0 (local.get 0)))".repeat(10_000)), "function 0 is too complex")]
    #[case::many_nested_blocks(&module(1, 1, &format!("{}{}", "(block ".repeat(5_000), ")".repeat(5_000))), "function 0 is too complex")]
    #[case::branches_and_locals(&module(2_000, 1, &format!("(block {})", BR_IF.repeat(1_000))), "function 0 is too complex")]
    #[case::a_large_branch_table(&module(1, 1, &format!("(block (br_table {} (local.get 0)))", "0 ".repeat(50_000))), "function 0 is too complex")]
    #[case::many_values_at_once(&module(1, 1, &format!("{}{}(drop)", "(local.get 0)".repeat(2_000), "i32.add ".repeat(1_999))), "function 0 is too complex")]
    #[case::many_calls(&module(500, 1, &"(drop (call 0 (local.get 0)))".repeat(2_000)), "function 0 is too complex")]
    #[case::growths_of_the_memory(&with_locals("(drop (memory.grow Z))"), "function 0 is too complex")]
    #[case::fills(&with_locals("(memory.fill Z Z Z)"), "function 0 is too complex")]
    #[case::copies(&with_locals("(memory.copy Z Z Z)"), "function 0 is too complex")]
    #[case::initialisations(&with_locals("(memory.init 0 Z Z Z)"), "function 0 is too complex")]
    #[case::drops_of_data(&with_locals("(data.drop 0)"), "function 0 is too complex")]
    #[case::growths_of_a_table(&with_locals("(drop (table.grow 0 (ref.null func) Z))"), "function 0 is too complex")]
    #[case::reads_of_a_table(&with_locals("(drop (table.get 0 Z))"), "function 0 is too complex")]
    #[case::writes_to_a_table(&with_locals("(table.set 0 Z (ref.null func))"), "function 0 is too complex")]
    #[case::fills_of_a_table(&with_locals("(table.fill 0 Z (ref.null func) Z)"), "function 0 is too complex")]
    #[case::copies_of_a_table(&with_locals("(table.copy 0 0 Z Z Z)"), "function 0 is too complex")]
    #[case::initialisations_of_a_table(&with_locals("(table.init 0 0 Z Z Z)"), "function 0 is too complex")]
    #[case::drops_of_elements(&with_locals("(elem.drop 0)"), "function 0 is too complex")]
    #[case::references(&with_locals("(drop (ref.func 0))"), "function 0 is too complex")]
    #[case::a_long_straight_line(&module(1, 1, &ADD.repeat(550_000)), "function 0 is too complex")]
    #[case::many_straight_lines(&module(1, 100, &"(drop (local.get 0))".repeat(13_500)), "functions together")]
    #[case::many_heavy_functions(&module(1_000, 12, &format!("(block {})", BR_IF.repeat(500))), "functions together")]
    #[case::many_small_functions(&module(1, 20_001, ""), "more than 20000 functions")]
    fn s3_modules_that_compile_too_slowly_are_refused_before(#[case] wasm: &[u8], #[case] part: &str) {
        let start = std::time::Instant::now();
        let error = inspect(wasm).expect_err("too complex");
        assert!(error.contains(part), "{error}");
        assert!(start.elapsed().as_secs() < 20, "it is refused before the compilation: {:?}", start.elapsed());
    }

    #[rstest]
    #[case::default_policy(env!("IMAGEWATCH_PLUGIN_WASM"))]
    fn s3_the_built_in_policy_uses_less_than_half_of_the_limits(#[case] path: &str) {
        let wasm = std::fs::read(path).expect("it is built");
        inspect(&wasm).expect("a policy");
        let mut effort = super::Effort::default();
        let mut validator = wasmparser::Validator::new();
        let mut hardest = 0;
        for payload in wasmparser::Parser::new(0).parse_all(&wasm) {
            let payload = payload.expect("valid");
            if let wasmparser::ValidPayload::Func(function, body) = validator.payload(&payload).expect("valid") {
                let before = effort.total;
                effort.add(function, &body).expect("within the limits");
                hardest = hardest.max(effort.total - before);
            }
        }
        println!("hardest function {hardest}, together {}", effort.total);
        assert!(hardest * 2 < super::MAX_FUNCTION_EFFORT && effort.total * 2 < super::MAX_MODULE_EFFORT);
    }
}
