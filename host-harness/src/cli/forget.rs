//! The command that clears what a policy has seen: needs the state folder to itself, and neither manifests nor an engine.

use crate::daemon::AppError;
use crate::daemon::state_folder::StateFolder;
use crate::store::state_dir;

/// Forgets what the policy of `manifest` has seen; its next poll sees all for the first time. What is in quarantine stays.
///
/// # Errors
/// When a `run` works on the folder, which has it in memory; nothing is kept; or the store cannot be written.
pub fn forget(state: &StateFolder, manifest: &str) -> Result<(), AppError> {
    let _alone = state_dir::lock(&state.path)?;
    if state.store.forget_policy_state(manifest)? { Ok(()) } else { Err(AppError::NothingKept(manifest.to_owned())) }
}
