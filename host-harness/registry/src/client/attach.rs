//! Finds the stored credential that a permit allows, and explains why a request cannot be sent with it. This module
//! sends nothing. `egress` decides which hosts may receive a credential.

use imagewatch_abi::{Failure, Method};

use super::failure;
use crate::credentials::store::CredentialStore;
use crate::egress::{CredentialPermit, Permit};
use imagewatch_base::secret::Credential;

/// Selects the credential to attach. Without a credential, the request fails unless the permit allows an anonymous
/// request. The credential with the id `rejected_credential_id` is not used, because the registry rejected it before.
pub(super) async fn select_credential(
    permit: &Permit,
    rejected_credential_id: Option<&str>,
    credentials: &CredentialStore,
) -> Result<Option<Credential>, Failure> {
    if let Some((denied_credential, failure)) = &permit.denied_credential
        && look_up(denied_credential, credentials).await?.is_some()
    {
        return Err(failure.clone());
    }
    let Some(permitted) = &permit.credential else { return Ok(None) };
    let registry = &permitted.registry;
    let mut found = look_up(permitted, credentials).await?;
    if let (Some(credential), Some(rejected_credential_id)) = (&found, rejected_credential_id)
        && credential.id() == rejected_credential_id
    {
        if credentials.renew(registry, rejected_credential_id) {
            found = look_up(permitted, credentials).await?;
        }
        if found.as_ref().is_some_and(|credential| credential.id() == rejected_credential_id) {
            return Err(failure::rejected(registry));
        }
    }
    match found {
        Some(Credential::IdentityToken(_)) if permit.method != Method::Post => Err(failure::identity_token(registry)),
        None if !permit.allow_anonymous => Err(failure::no_credential(registry, &credentials.sources_for(registry))),
        found => Ok(found),
    }
}

async fn look_up(permit: &CredentialPermit, credentials: &CredentialStore) -> Result<Option<Credential>, Failure> {
    let CredentialPermit { registry, repository, is_realm } = permit;
    if repository.is_none() && credentials.is_per_repository(registry) {
        return Err(failure::per_repository(registry));
    }
    let found = credentials.find(registry, repository.as_deref()).await;
    let found = found.map_err(|error| failure::unreadable_credential(registry, &error))?;
    // A registry token is only for the registry itself. It must not be sent to a realm.
    Ok(found.filter(|credential| !(*is_realm && matches!(credential, Credential::RegistryToken(_)))))
}
