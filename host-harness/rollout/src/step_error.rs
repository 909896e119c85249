//! A step of a rollout that failed: which step, why, and what is at fault.

use imagewatch_abi::Fault;
use imagewatch_engine::EngineError;

use super::fault::{Step, classify_fault};

/// Why a rollout does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    /// A lowercase fragment that names the step.
    pub reason: String,
    /// What is at fault. `None` when nothing can be said, for example while the engine is away.
    pub fault: Option<Fault>,
    /// The engine is away, so the next container would fail as well.
    pub engine_unreachable: bool,
    /// The last log lines of the failed container.
    pub log: Vec<String>,
}

impl StepError {
    /// A failure whose fault is known.
    pub fn of(fault: Fault, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fault: Some(fault), engine_unreachable: false, log: Vec::new() }
    }

    /// The container cannot be replaced as it is.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::of(Fault::Refused, reason)
    }

    /// The engine failed at `what`, which reads after "failed to ".
    pub fn engine(what: &str, error: &EngineError) -> Self {
        Self::at(Step::Other, what, error)
    }

    /// The engine did not create the new container.
    pub fn create(error: &EngineError) -> Self {
        Self::at(Step::Create, "create the new container", error)
    }

    /// The engine did not start the new container.
    pub fn start(error: &EngineError) -> Self {
        Self::at(Step::Start, "start the new container", error)
    }

    /// The engine did not remove a container that its strategy removes.
    pub fn remove(error: &EngineError) -> Self {
        Self::at(Step::Remove, "remove it", error)
    }

    fn at(step: Step, what: &str, error: &EngineError) -> Self {
        Self {
            reason: format!("failed to {what}: {error}"),
            fault: classify_fault(step, error),
            engine_unreachable: error.is_unavailable(),
            log: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f06_a_call_that_a_filter_refuses_is_named_and_postponed() {
        let forbidden = EngineError::Forbidden { call: "POST /networks/*/disconnect".to_owned(), status: 403 };
        let error = StepError::engine("connect the new container to its networks", &forbidden);
        assert_eq!((error.fault, error.engine_unreachable), (Some(Fault::Postponed), false));
        assert!(error.reason.contains("POST /networks/*/disconnect was refused"), "{}", error.reason);
    }
}
