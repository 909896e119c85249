//! Finds the machine's AWS keys in AWS's order of sources, with the library's providers.

use std::fmt;

use reqsign_aws_core::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential as Keys, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProfileCredentialProvider,
};
use reqsign_core::{Context, ErrorKind, ProvideCredentialDyn};

type Source = Box<dyn ProvideCredentialDyn<Credential = Keys>>;

/// The sources of keys, in order. The library's own chain is not used, because it logs the answers of sources,
/// including keys.
pub(super) struct KeyChain(Vec<(&'static str, Source)>);

impl fmt::Debug for KeyChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the sources: the library's `Debug` of the last one shows its token.
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl KeyChain {
    pub(super) fn new() -> Self {
        Self(vec![
            ("the environment", Box::new(EnvCredentialProvider::new())),
            ("the shared configuration", Box::new(ProfileCredentialProvider::new())),
            ("the web identity", Box::new(AssumeRoleWithWebIdentityCredentialProvider::default())),
            ("the container's metadata", Box::new(ECSCredentialProvider::new())),
            ("the instance's metadata", Box::new(IMDSv2CredentialProvider::new())),
        ])
    }

    /// The keys of the first source that has some. If no source has keys, the error contains the reasons of the sources
    /// that failed.
    pub(super) async fn find(&self, context: &Context) -> Result<Keys, String> {
        let mut reasons = Vec::new();
        for (name, source) in &self.0 {
            match source.provide_credential_dyn(context).await {
                Ok(Some(keys)) => return Ok(keys),
                Ok(None) => {}
                // Only the kind of the error, because messages quote the answer.
                Err(error) if error.kind() == ErrorKind::Unexpected => reasons.push(format!("{name}: invalid answer")),
                Err(error) => reasons.push(format!("{name}: {}", error.kind())),
            }
        }
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
        Err(format!("this machine has no AWS keys{reasons}"))
    }
}
