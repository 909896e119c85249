//! Whether the image or the machine is at fault when a call to the engine fails. The step and the kind of the error decide.
//! The text of an error decides only where an engine uses one status for both: when it does not start a container.

use imagewatch_abi::Fault;
use imagewatch_engine::EngineError;

/// The steps whose failures mean something of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The new container is created.
    Create,
    /// The new container is started.
    Start,
    /// A container is removed because its strategy says so. No new image is involved.
    Remove,
    /// Any other call.
    Other,
}

/// Parts of texts that say that the program of the image cannot run. Docker answers with status 400 and Podman with 500; both
/// use the same status for a mount or a device that is missing. From runc 1.1, crun 1.8 and moby `translateContainerdStartErr`.
const PROGRAM_CANNOT_RUN: [&str; 4] = [
    "executable file not found",
    "exec format error",
    "no such file or directory: unknown",
    "permission denied: unknown",
];

/// What is at fault when `step` fails with `error`. `None`: nothing can be said.
pub fn classify_fault(step: Step, error: &EngineError) -> Option<Fault> {
    match (step, error) {
        // It works as soon as the access filter allows the call.
        (_, EngineError::Forbidden { .. }) => Some(Fault::Postponed),
        (_, EngineError::Unavailable { .. }) | (Step::Remove, _) => None,
        // The engine does not accept the container as it is. A retry does not change that.
        (Step::Create, EngineError::Refused { .. } | EngineError::NotFound { .. }) => Some(Fault::Refused),
        (Step::Start, EngineError::Refused { message, .. } | EngineError::NotFound { message }) => {
            Some(if is_program_at_fault(message) { Fault::Image } else { Fault::Host })
        }
        _ => Some(Fault::Host),
    }
}

/// Whether the text says that the image's program cannot run. A mount that fails contains the same words.
fn is_program_at_fault(message: &str) -> bool {
    let is_about_program = message.contains("exec") && !message.contains("mount");
    is_about_program && PROGRAM_CANNOT_RUN.iter().any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(message: &str) -> EngineError {
        EngineError::Refused { status: 400, message: message.to_owned() }
    }

    #[test]
    fn the_step_and_the_kind_of_error_decide_the_fault() {
        let away = EngineError::Unavailable { host: "unix:///x".to_owned(), reason: "refused".to_owned() };
        let forbidden = EngineError::Forbidden { call: "POST /containers/*/start".to_owned(), status: 403 };
        let missing = EngineError::NotFound { message: "no such network".to_owned() };
        let taken = EngineError::Conflict { message: "the name is in use".to_owned() };
        let slow = EngineError::Timeout { action: "stop it".to_owned(), limit: Duration::from_secs(1) };
        let (image, host) = (Some(Fault::Image), Some(Fault::Host));
        let (turned_down, later) = (Some(Fault::Refused), Some(Fault::Postponed));
        for (name, error, [create, start, remove, other]) in [
            ("engine away", away, [None, None, None, None]),
            ("call forbidden", forbidden, [later, later, later, later]),
            ("not found", missing, [turned_down, host, None, host]),
            ("conflict", taken, [host, host, None, host]),
            ("no answer in time", slow, [host, host, None, host]),
            ("refused", refused("no such option"), [turned_down, host, None, host]),
            ("refused, program", refused("exec /a: exec format error"), [turned_down, image, None, host]),
        ] {
            let steps = [Step::Create, Step::Start, Step::Remove, Step::Other];
            assert_eq!(steps.map(|step| classify_fault(step, &error)), [create, start, remove, other], "{name}");
        }
    }

    #[test]
    fn each_text_about_the_program_blames_the_image_unless_it_is_about_a_mount() {
        for text in PROGRAM_CANNOT_RUN {
            let start = |message: String| classify_fault(Step::Start, &refused(&message));
            assert_eq!(start(format!("OCI runtime error: exec: \"serve\": {text}")), Some(Fault::Image), "{text}");
            assert_eq!(start(format!("error mounting \"/exec\" to \"/b\": {text}")), Some(Fault::Host), "{text}");
        }
        for text in [
            "driver failed programming external connectivity: port is already allocated",
            "error gathering device information while adding custom device \"/dev/x\": no such file or directory: unknown",
        ] {
            assert_eq!(classify_fault(Step::Start, &refused(text)), Some(Fault::Host), "{text}");
        }
    }
}
