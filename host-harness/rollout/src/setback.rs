//! A step of a transaction that did not come off: which, why, and whose fault that is.

use imagewatch_abi::Fault;

use imagewatch_engine::EngineError;

/// Why a transaction does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setback {
    /// A lowercase fragment that names the step.
    pub reason: String,
    /// Whose fault it is; none when nothing can be said, as when the engine is away.
    pub fault: Option<Fault>,
    /// The engine is away, so the next container would fare no better.
    pub is_engine_away: bool,
    /// What the failed container logged last.
    pub log: Vec<String>,
}

impl Setback {
    /// With a known fault.
    pub fn of(fault: Fault, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fault: Some(fault), is_engine_away: false, log: Vec::new() }
    }

    /// The container cannot be replaced as it is.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::of(Fault::Refused, reason)
    }

    /// The engine did not do `step`. A call that a filter in front of it refuses works as soon as that is allowed, so it
    /// is only put off; the error names the call.
    pub fn engine(step: &str, error: &EngineError) -> Self {
        let is_engine_away = error.is_unavailable();
        let fault = match error {
            EngineError::Forbidden { .. } => Some(Fault::Postponed),
            _ => (!is_engine_away).then_some(Fault::Host),
        };
        Self { reason: format!("failed to {step}: {error}"), fault, is_engine_away, log: Vec::new() }
    }

    /// The engine did not start the new container. A program that is not there, or is none, is the image's fault;
    /// a port, a device or a mount that cannot be had is the machine's.
    pub fn start(error: &EngineError) -> Self {
        let text = error.to_string();
        let is_about_exec = text.contains("exec") && !text.contains("mount");
        let is_program = is_about_exec
            && [
                "executable file not found",
                "exec format error",
                "no such file or directory: unknown",
                "permission denied: unknown",
            ]
            .iter()
            .any(|sign| text.contains(sign));
        let setback = Self::engine("start the new container", error);
        if is_program { Self { fault: Some(Fault::Image), ..setback } } else { setback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails_is_the_images_fault_or_the_machines() {
        let refused = |message: &str| EngineError::Refused { status: 400, message: message.to_owned() };
        let away = EngineError::Unavailable { host: "unix:///x".to_owned(), reason: "refused".to_owned() };
        for (error, fault) in [
            (
                refused("OCI runtime create failed: exec: \"serve\": executable file not found in $PATH: unknown"),
                Some(Fault::Image),
            ),
            (refused("exec /serve: exec format error"), Some(Fault::Image)),
            (refused("driver failed programming external connectivity: port is already allocated"), Some(Fault::Host)),
            (refused("error gathering device information: no such file or directory"), Some(Fault::Host)),
            (
                refused("error mounting \"/x\" to rootfs at \"/y\": no such file or directory: unknown"),
                Some(Fault::Host),
            ),
            (forbidden(), Some(Fault::Postponed)),
            (away, None),
        ] {
            let setback = Setback::start(&error);
            assert_eq!(setback.fault, fault, "{}", setback.reason);
        }
    }

    fn forbidden() -> EngineError {
        EngineError::Forbidden { call: "POST /networks/*/disconnect".to_owned(), status: 403 }
    }

    #[test]
    fn f06_a_call_that_a_filter_refuses_postpones_and_is_named() {
        let setback = Setback::engine("connect the new container to its networks", &forbidden());
        assert_eq!((setback.fault, setback.is_engine_away), (Some(Fault::Postponed), false));
        assert!(setback.reason.contains("POST /networks/*/disconnect was refused"), "{}", setback.reason);
    }
}
