//! Where this machine has keys for AWS, in AWS's order; finding them is the library's. Keeps them no longer than they
//! count.

use std::fmt;

use reqsign_aws_core::{
    AssumeRoleWithWebIdentityCredentialProvider, Credential as Keys, ECSCredentialProvider, EnvCredentialProvider,
    IMDSv2CredentialProvider, ProfileCredentialProvider,
};
use reqsign_core::{Context, ErrorKind, ProvideCredentialDyn};

type Source = Box<dyn ProvideCredentialDyn<Credential = Keys>>;

/// The places where keys are looked for. Not the library's own chain: that one logs what a place answered, keys and all.
pub(super) struct KeyChain(Vec<(&'static str, Source)>);

impl fmt::Debug for KeyChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the places: the library's Debug of the last one shows its token.
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

    /// The keys of the first place that has some. Fails with what the places said that have none.
    pub(super) async fn find(&self, context: &Context) -> Result<Keys, String> {
        let mut reasons = Vec::new();
        for (name, source) in &self.0 {
            match source.provide_credential_dyn(context).await {
                Ok(Some(keys)) => return Ok(keys),
                Ok(None) => {}
                // Its kind alone: messages quote what was answered.
                Err(error) if error.kind() == ErrorKind::Unexpected => reasons.push(format!("{name}: no good answer")),
                Err(error) => reasons.push(format!("{name}: {}", error.kind())),
            }
        }
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
        Err(format!("this machine has no keys for it{reasons}"))
    }
}
