//! Finds the stored credential that a permit is for, and says why a request cannot go out with it.
//! Sends nothing; where a credential may go was decided before.

use imagewatch_abi::{Failure, Method};

use super::failure;
use crate::credentials::store::CredentialStore;
use crate::egress::{CredentialPermit, Permit};
use imagewatch_base::secret::Credential;

/// What is to be attached. A registry is not asked in vain without its credential, nor with the one whose id is
/// `unless`, which it refused; for tokens the guest says that it can do without.
pub(super) async fn find(
    permit: &Permit,
    unless: Option<&str>,
    credentials: &CredentialStore,
) -> Result<Option<Credential>, Failure> {
    if let Some((withheld, failure)) = &permit.withheld
        && look_up(withheld, credentials).await?.is_some()
    {
        return Err(failure.clone());
    }
    let Some(permitted) = &permit.credential else { return Ok(None) };
    let registry = &permitted.registry;
    let mut found = look_up(permitted, credentials).await?;
    if let (Some(credential), Some(unless)) = (&found, unless)
        && credential.id() == unless
    {
        if credentials.renew(registry, unless) {
            found = look_up(permitted, credentials).await?;
        }
        if found.as_ref().is_some_and(|credential| credential.id() == unless) {
            return Err(failure::rejected(registry));
        }
    }
    match found {
        Some(Credential::IdentityToken(_)) if permit.method != Method::Post => Err(failure::identity_token(registry)),
        None if !permit.or_anonymous => Err(failure::no_credential(registry, &credentials.sources_for(registry))),
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
    // It is for the registry itself: a realm would learn what it has no use for.
    Ok(found.filter(|credential| !(*is_realm && matches!(credential, Credential::RegistryToken(_)))))
}
