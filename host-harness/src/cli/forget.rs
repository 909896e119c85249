//! `imagewatch forget`: clears what a policy has seen. It locks the state folder; it reads no manifest and uses no
//! engine.

use crate::daemon::AppError;
use crate::daemon::state_folder::StateFolder;
use crate::store::state_dir;

/// Deletes the stored state of the policy of `manifest`. Its next poll then treats every image as seen for the first
/// time. The quarantine does not change.
///
/// # Errors
/// - A running `imagewatch run` uses the state folder. It keeps the state in memory, so deleting it would have no
///   effect.
/// - The store has no state for `manifest`.
/// - The store cannot be written.
pub fn forget(state: &StateFolder, manifest: &str) -> Result<(), AppError> {
    let _alone = state_dir::lock(&state.path)?;
    if state.store.forget_policy_state(manifest)? { Ok(()) } else { Err(AppError::NothingKept(manifest.to_owned())) }
}
